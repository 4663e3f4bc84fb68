//! Builds `unionbench-ebpf` into `target/ebpf/unionbench-ebpf`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::command::{cargo, must_succeed};
use crate::program::{SEPARATOR, remap_flags};
use crate::setup::Tools;

const TARGET: &str = "bpfel-unknown-none";

/// The path of the object, rebuilt when its source changed.
pub fn build(root: &Path, tools: &Tools) -> Result<PathBuf> {
    let package = root.join("unionbench-ebpf");
    let folder = root.join("target/ebpf");
    let mut options = vec![
        // aya-ebpf picks the register layout of function arguments by this.
        format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH),
        "-Cdebuginfo=2".to_owned(),
        // Arithmetic on halves of registers (Linux 5.1): without it each
        // 32-bit value costs two shifts, in programs that run at every call.
        "-Ctarget-cpu=v3".to_owned(),
        "-Clink-arg=--btf".to_owned(),
    ];
    // Its type information names source files, and the program holds it whole.
    options.extend(remap_flags(root));
    let mut command = cargo(root);
    command
        .current_dir(&package)
        .args(["build", "--release", "--quiet", "--locked", "--target", TARGET])
        .arg("--target-dir")
        .arg(folder.join("build"))
        .env("RUSTC", &tools.toolchain.rustc)
        // bpfel-unknown-none is a tier-3 target: its features are unstable.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", options.join(SEPARATOR))
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &tools.linker)
        // rustup's proxy exports these; they would lead cargo back to its own compiler.
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTFLAGS");
    if tools.toolchain.build_std {
        command.args(["-Z", "build-std=core"]);
    }
    must_succeed(&mut command).context("cannot build the kernel-side object")?;
    let built = folder.join("build").join(TARGET).join("release/unionbench-ebpf");
    let object = folder.join("unionbench-ebpf");
    publish(&built, &object)?;
    Ok(object)
}

/// Copies only what changed: the program embeds the object, and a fresh
/// modification time would rebuild it every time.
fn publish(built: &Path, object: &Path) -> Result<()> {
    let bytes = fs::read(built).with_context(|| format!("cannot read {}", built.display()))?;
    if fs::read(object).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    fs::write(object, bytes).with_context(|| format!("cannot write {}", object.display()))
}
