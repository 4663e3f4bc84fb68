//! `unionbench doctor`: every engine, backend and capability, yes or no.

use std::path::Path;
use std::process::ExitCode;

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{ContentArrangement, LineStyle, Table};

use crate::backend;
use crate::probe;
use crate::record::Availability;
use crate::sys::mount::has_file_system;
use crate::sys::{caches, namespace};

/// Columns where there is no terminal.
const READABLE_WIDTH: u16 = 100;

#[derive(Debug, clap::Args)]
pub struct Args {}

struct Finding {
    what: String,
    yes: bool,
    reason: String,
}

pub fn run(_: &Args) -> anyhow::Result<ExitCode> {
    let mut findings = Vec::new();
    let entered = namespace::enter_private();
    findings.push(match &entered {
        Ok(entered) if entered.user_namespace => Finding {
            what: "private mounts".to_owned(),
            yes: true,
            reason:
                "in a user namespace: overlayfs with userxattr, no probes; run as root for both"
                    .to_owned(),
        },
        Ok(_) => found("private mounts", true, ""),
        Err(error) => found(
            "private mounts",
            false,
            &format!("{error}: run as root, or allow user namespaces (user.max_user_namespaces)"),
        ),
    });
    for kind in backend::KINDS {
        let availability = backend::of_kind(kind).map(|backend| backend.availability());
        let (yes, reason) = match availability {
            Some(Availability::Ok) => (true, String::new()),
            Some(Availability::Unsupported { reason }) => (false, reason),
            None => continue,
        };
        findings.push(Finding { what: format!("backend {kind}"), yes, reason });
    }
    let is_root = entered.as_ref().is_ok_and(|entered| !entered.user_namespace);
    for (kind, program, package) in [
        ("ext4", "mkfs.ext4", "e2fsprogs"),
        ("xfs", "mkfs.xfs", "xfsprogs"),
        ("btrfs", "mkfs.btrfs", "btrfs-progs"),
    ] {
        findings.push(backing(kind, program, package, is_root));
    }
    findings.push(file(
        "BTF",
        "/sys/kernel/btf/vmlinux",
        "fentry needs a kernel with CONFIG_DEBUG_INFO_BTF",
    ));
    findings.push(device("loop devices", "/dev/loop-control", "`modprobe loop`"));
    findings.push(device("FUSE", "/dev/fuse", "`modprobe fuse`"));
    findings.push(refusable(
        "dropping caches",
        caches::can_drop(),
        "cold means freshly mounted only: run as root, outside a container",
    ));
    findings.push(refusable(
        "tracefs",
        probe::tracefs_is_readable(),
        "no FUSE requests by name: run as root, or mount tracefs at /sys/kernel/tracing",
    ));
    let qemu = on_path("qemu-system-x86_64");
    findings.push(refusable(
        "lab",
        qemu,
        "no qemu-system-x86_64: `apt-get install qemu-system-x86`",
    ));
    for engine in super::run::engines() {
        findings.push(Finding {
            what: format!("engine {}", engine.engine),
            yes: engine.available,
            reason: [engine.reason, engine.remedy]
                .into_iter()
                .filter(|text| !text.is_empty())
                .collect::<Vec<_>>()
                .join("; "),
        });
    }
    print(&findings);
    Ok(ExitCode::SUCCESS)
}

fn found(what: &str, yes: bool, reason: &str) -> Finding {
    Finding { what: what.to_owned(), yes, reason: reason.to_owned() }
}

fn refusable(what: &str, yes: bool, remedy: &str) -> Finding {
    found(what, yes, if yes { "" } else { remedy })
}

fn on_path(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).exists()))
}

fn file(what: &str, path: &str, remedy: &str) -> Finding {
    let yes = Path::new(path).exists();
    found(what, yes, &if yes { String::new() } else { format!("no {path}: {remedy}") })
}

/// A device that is used by whoever may open it.
fn device(what: &str, path: &str, remedy: &str) -> Finding {
    let opened = std::fs::File::options().read(true).write(true).open(path);
    let reason = match &opened {
        Ok(_) => String::new(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            format!("no {path}: {remedy}")
        }
        Err(error) => format!("cannot open {path}: {error}; run as root"),
    };
    Finding { what: what.to_owned(), yes: opened.is_ok(), reason }
}

fn backing(kind: &str, program: &str, package: &str, is_root: bool) -> Finding {
    let in_kernel = has_file_system(kind);
    let tool = on_path(program) || Path::new("/sbin").join(program).exists();
    let reason = match (in_kernel, tool, is_root) {
        (true, true, true) => String::new(),
        (false, _, _) => format!("this kernel has no {kind} loaded: `modprobe {kind}`"),
        (true, false, _) => format!("no {program}: `apt-get install {package}`"),
        (true, true, false) => "its image is mounted by root alone: run as root".to_owned(),
    };
    Finding { what: format!("backing {kind}"), yes: in_kernel && tool && is_root, reason }
}

fn print(findings: &[Finding]) {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY.row_separator(LineStyle::none())).force_no_tty();
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_width(super::run::appearance().width.unwrap_or(READABLE_WIDTH));
    table.set_header(["", "works", "reason and remedy"]);
    for finding in findings {
        table.add_row([
            finding.what.as_str(),
            if finding.yes { "yes" } else { "no" },
            &finding.reason,
        ]);
    }
    println!("{}", table.trim_fmt());
}
