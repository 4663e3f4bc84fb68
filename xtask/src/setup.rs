//! Finds or installs what building the kernel-side object needs.
//!
//! Everything this project installs for itself lies under `target/tools`; a
//! stamp there names what was settled, so that a second run only reads it.
//! Each step says what it does, why, and about how long it takes.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command::{cargo, must_succeed, on_path, output, say};
use crate::toolchain::{self, Toolchain};

/// A program that cargo installs into `target/tools`.
pub struct CargoTool {
    pub name: &'static str,
    pub version: &'static str,
    /// Why it is needed, and about how long it takes.
    pub purpose: &'static str,
}

const BPF_LINKER: CargoTool = CargoTool {
    name: "bpf-linker",
    version: "0.10.3",
    purpose: "only it writes BPF objects from Rust (about 2 to 4 minutes, once)",
};

pub const CARGO_DENY: CargoTool = CargoTool {
    name: "cargo-deny",
    version: "0.20.2",
    purpose: "it holds deny.toml against the dependencies (about 3 to 6 minutes, once)",
};

const DEBIAN_LINE: &str =
    "apt-get install --no-install-recommends rustc-web libstd-rust-web-dev-bpf";
const RUSTUP_LINE: &str =
    "rustup toolchain install nightly && rustup component add rust-src --toolchain nightly";

/// What the object is built with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tools {
    pub toolchain: Toolchain,
    /// The wrapper that starts bpf-linker with the compiler's own LLVM.
    pub linker: PathBuf,
}

/// The tools, installed first when they are missing.
pub fn ready(root: &Path) -> Result<Tools> {
    let folder = root.join("target/tools");
    if let Some(tools) = read_stamp(&folder) {
        return Ok(tools);
    }
    fs::create_dir_all(&folder)
        .with_context(|| format!("cannot create {}: make it writable", folder.display()))?;
    let toolchain = match toolchain::find()? {
        Some(found) => found,
        None => install_debian_toolchain()?,
    };
    say(&format!(
        "the probes are built by {}{}",
        toolchain.rustc.display(),
        if toolchain.build_std { ", core from its source" } else { ", core prebuilt" }
    ));
    let bpf_linker = install_tool(root, &BPF_LINKER)?;
    let linker = write_wrapper(&folder, &bpf_linker, &toolchain.llvm)?;
    let tools = Tools { toolchain, linker };
    write_stamp(&folder, &tools)?;
    Ok(tools)
}

fn install_debian_toolchain() -> Result<Toolchain> {
    let lines = format!("either `{DEBIAN_LINE}` (Debian, as root) or `{RUSTUP_LINE}`");
    if on_path("apt-get").is_none() || !running_as_root() {
        bail!("no compiler here knows bpfel-unknown-none: type {lines}");
    }
    say(
        "no compiler here knows the kernel's target: installing Debian's rustc-web beside yours (about 20 s)",
    );
    install_packages(DEBIAN_LINE)
        .with_context(|| format!("cannot install the compiler: type {lines}"))?;
    toolchain::find()?.with_context(|| {
        format!("the installed compiler does not know bpfel-unknown-none: type {lines}")
    })
}

/// QEMU, in which the lab measures. Without it the lab's tests are skipped and
/// say so, hence no error.
pub fn lab() {
    const PROGRAM: &str = "qemu-system-x86_64";
    const LINE: &str = "apt-get install --no-install-recommends qemu-system-x86";
    if on_path(PROGRAM).is_some() {
        return;
    }
    if on_path("apt-get").is_none() || !running_as_root() {
        say(&format!("the lab needs QEMU: type `{LINE}` (Debian) or install {PROGRAM}"));
        return;
    }
    say("installing QEMU for the lab (about 30 s)");
    if let Err(error) = install_packages(LINE) {
        say(&format!("no QEMU for the lab ({error:#}): type {LINE}"));
    }
}

/// A Prometheus that scrapes the exporter in a test. Debian's package is
/// unpacked beside the other tools and never installed: its service would start.
/// Without it that test is skipped and says so, hence no error.
pub fn prometheus(root: &Path) {
    let folder = root.join("target/tools/prometheus");
    if folder.join("usr/bin/prometheus").is_file() || on_path("prometheus").is_some() {
        return;
    }
    if on_path("apt-get").is_none() || on_path("dpkg").is_none() {
        say("the exporter is tested with Prometheus where UNIONBENCH_PROMETHEUS names one");
        return;
    }
    say("unpacking Debian's Prometheus into target/tools, for a test of the exporter (19 MB)");
    let unpacked = fs::create_dir_all(&folder).map_err(Into::into).and_then(|()| {
        must_succeed(
            Command::new("apt-get")
                .args(["download", "-qq", "prometheus"])
                .current_dir(&folder)
                .stderr(std::process::Stdio::null()),
        )?;
        let package = fs::read_dir(&folder)?.filter_map(|entry| entry.ok().map(|e| e.path()));
        let package = package
            .into_iter()
            .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .context("apt-get left no package")?;
        must_succeed(Command::new("dpkg").arg("-x").arg(&package).arg(&folder))?;
        fs::remove_file(&package).context("cannot remove the package")
    });
    if let Err(error) = unpacked {
        say(&format!("no Prometheus for the test ({error:#}): try `apt-get update` first"));
    }
}

/// Runs the line that a person would type, without questions and without words.
/// A new machine knows no packages, or only those of the day its image was made:
/// where the line fails, the list is fetched and the line is tried once more.
pub fn install_packages(line: &str) -> Result<()> {
    let mut words = line.split(' ');
    let mut install = Command::new(words.next().unwrap_or("apt-get"));
    install
        .args(words)
        .args(["--yes", "-qq"])
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdout(std::process::Stdio::null());
    if output(&mut install).is_ok() {
        return Ok(());
    }
    say("that needs a newer list of packages: apt-get update (about 10 s)");
    must_succeed(
        Command::new("apt-get").args(["update", "-qq"]).stdout(std::process::Stdio::null()),
    )?;
    must_succeed(&mut install)
}

pub fn running_as_root() -> bool {
    output(Command::new("id").arg("-u")).is_ok_and(|uid| uid.trim() == "0")
}

/// The tool's path, installed first when it is missing.
pub fn install_tool(root: &Path, tool: &CargoTool) -> Result<PathBuf> {
    let CargoTool { name, version, purpose } = tool;
    let folder = root.join("target/tools");
    let program = folder.join("bin").join(name);
    if program.is_file() {
        return Ok(program);
    }
    say(&format!("installing {name} {version} into target/tools: {purpose}"));
    let mut install = cargo(root);
    install.args(["install", "--quiet", "--locked", name, "--version", version]);
    install.arg("--root").arg(&folder);
    must_succeed(&mut install).with_context(|| {
        format!(
            "cannot install {name}: type `cargo install --locked --root target/tools {name} --version {version}`"
        )
    })?;
    Ok(program)
}

/// bpf-linker loads the first `libLLVM*` in LD_LIBRARY_PATH. A folder with
/// this one link keeps it from any other LLVM of the machine.
fn write_wrapper(folder: &Path, bpf_linker: &Path, llvm: &Path) -> Result<PathBuf> {
    let private = folder.join("llvm");
    if private.exists() {
        fs::remove_dir_all(&private)
            .with_context(|| format!("cannot empty {}", private.display()))?;
    }
    fs::create_dir_all(&private).with_context(|| format!("cannot create {}", private.display()))?;
    let name = llvm.file_name().context("the LLVM library has no file name")?;
    symlink(llvm, private.join(name))
        .with_context(|| format!("cannot link {} into {}", llvm.display(), private.display()))?;
    let wrapper = folder.join("bpf-linker-with-llvm");
    let script = format!(
        "#!/bin/sh\nLD_LIBRARY_PATH='{}' exec '{}' \"$@\"\n",
        private.display(),
        bpf_linker.display()
    );
    fs::write(&wrapper, script).with_context(|| format!("cannot write {}", wrapper.display()))?;
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("cannot make {} executable", wrapper.display()))?;
    Ok(wrapper)
}

fn stamp_path(folder: &Path) -> PathBuf {
    folder.join("stamp")
}

/// One `key=value` a line; anything that no longer holds makes it stale.
fn write_stamp(folder: &Path, tools: &Tools) -> Result<()> {
    let text = format!(
        "rustc={}\nbuild_std={}\nllvm={}\nlinker={}\nbpf_linker={}\n",
        tools.toolchain.rustc.display(),
        tools.toolchain.build_std,
        tools.toolchain.llvm.display(),
        tools.linker.display(),
        BPF_LINKER.version
    );
    let path = stamp_path(folder);
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn read_stamp(folder: &Path) -> Option<Tools> {
    let text = fs::read_to_string(stamp_path(folder)).ok()?;
    let value = |key: &str| {
        text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=').map(str::to_owned))
    };
    let tools = Tools {
        toolchain: Toolchain {
            rustc: value("rustc")?.into(),
            build_std: value("build_std")? == "true",
            llvm: value("llvm")?.into(),
        },
        linker: value("linker")?.into(),
    };
    let same_wish = std::env::var_os("UNIONBENCH_RUSTC")
        .is_none_or(|wish| Path::new(&wish) == tools.toolchain.rustc);
    let present = tools.toolchain.rustc.is_file()
        && tools.toolchain.llvm.is_file()
        && tools.linker.is_file()
        && folder.join("bin/bpf-linker").is_file();
    (same_wish && present && value("bpf_linker")? == BPF_LINKER.version).then_some(tools)
}
