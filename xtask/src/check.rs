//! `cargo xtask check`: every rule of CONVENTIONS.md that a tool can hold.

mod flow;
mod source;
mod unsafety;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;

use crate::command::{cargo, must_succeed, on_path, say};
use crate::setup;

/// Runs every check, also after one failed, and names those that did.
pub fn all(root: &Path) -> Result<ExitCode> {
    let sources = source::all(root)?;
    let checks: [(&str, Result<()>); 6] = [
        ("format", format(root)),
        ("lints", lints(root)),
        ("import direction", verdict(flow::violations(&sources))),
        ("unsafe only where allowed", verdict(unsafety::violations(&sources))),
        ("file length", verdict(source::report_lengths(&sources))),
        ("licences, bans and sources", deny(root)),
    ];
    let mut failed = 0;
    for (name, result) in checks {
        match result {
            Ok(()) => say(&format!("{name}: holds")),
            Err(error) => {
                failed += 1;
                say(&format!("{name}: does not hold\n{error:#}"));
            }
        }
    }
    say(&format!("{failed} of 6 checks failed"));
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn verdict(violations: Vec<String>) -> Result<()> {
    if violations.is_empty() { Ok(()) } else { Err(anyhow::anyhow!(violations.join("\n"))) }
}

fn format(root: &Path) -> Result<()> {
    must_succeed(cargo(root).args(["fmt", "--all", "--check"]))?;
    let mut kernel_side = cargo(root);
    kernel_side.args(["fmt", "--check", "--manifest-path", "unionbench-ebpf/Cargo.toml"]);
    must_succeed(&mut kernel_side)?;
    Ok(())
}

/// The kernel-side crate is not linted: clippy must be of the same release as
/// the compiler that knows its target, and Debian's has none.
fn lints(root: &Path) -> Result<()> {
    say("lints: unionbench-ebpf is left out, no clippy fits its compiler");
    must_succeed(cargo(root).args([
        "clippy",
        "--quiet",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]))?;
    Ok(())
}

/// Advisories are left out: their database cannot be fetched on every machine,
/// and a build must not change its verdict overnight.
fn deny(root: &Path) -> Result<()> {
    let program = match on_path("cargo-deny") {
        Some(program) => program,
        None => setup::install_tool(root, &setup::CARGO_DENY)?,
    };
    let mut command = std::process::Command::new(program);
    command.current_dir(root).args([
        "--log-level",
        "error",
        "check",
        "licenses",
        "bans",
        "sources",
    ]);
    must_succeed(&mut command)?;
    Ok(())
}
