//! Which compiler builds the kernel-side object.
//!
//! It must know the standard library's core for `bpfel-unknown-none`: either
//! prebuilt in its sysroot, or as source it builds itself. Order: the user's
//! word, a nightly with source, a stable with source, a compiler with the
//! target prebuilt (Debian's `rustc-web`).

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command::{on_path, output};

/// A compiler that can build for `bpfel-unknown-none`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toolchain {
    pub rustc: PathBuf,
    /// Whether cargo must build `core` from source first.
    pub build_std: bool,
    /// The shared library of the LLVM inside this compiler: bpf-linker must
    /// use the same one, or it cannot read the bitcode.
    pub llvm: PathBuf,
}

const TARGET_FOLDER: &str = "lib/rustlib/bpfel-unknown-none";
const SOURCE_FOLDER: &str = "lib/rustlib/src/rust/library/core";

/// The first usable compiler, or none.
pub fn find() -> Result<Option<Toolchain>> {
    if let Some(named) = std::env::var_os("UNIONBENCH_RUSTC") {
        let rustc = PathBuf::from(named);
        return match inspect(&rustc) {
            Some(toolchain) => Ok(Some(toolchain)),
            None => bail!(
                "UNIONBENCH_RUSTC={} has neither a prebuilt bpfel-unknown-none nor rust-src: name another, or unset it",
                rustc.display()
            ),
        };
    }
    Ok(candidates().iter().find_map(|rustc| inspect(rustc)))
}

/// Compilers to try, best first. rustup's own are asked for by name, since
/// the `rustc` on PATH may be rustup's proxy.
fn candidates() -> Vec<PathBuf> {
    let mut found = Vec::new();
    if on_path("rustup").is_some() {
        for channel in ["nightly", "stable"] {
            let asked = Command::new("rustup")
                .args(["which", "--toolchain", channel, "rustc"])
                .env("RUSTUP_AUTO_INSTALL", "0")
                .output();
            if let Ok(answer) = asked
                && answer.status.success()
            {
                found.push(PathBuf::from(String::from_utf8_lossy(&answer.stdout).trim()));
            }
        }
    }
    found.extend(on_path("rustc"));
    found.push(PathBuf::from("/usr/bin/rustc"));
    found
}

fn inspect(rustc: &Path) -> Option<Toolchain> {
    let sysroot = output(Command::new(rustc).args(["--print", "sysroot"])).ok()?;
    let sysroot = Path::new(sysroot.trim());
    let prebuilt = sysroot.join(TARGET_FOLDER).is_dir();
    if !prebuilt && !sysroot.join(SOURCE_FOLDER).is_dir() {
        return None;
    }
    let llvm = llvm_of(&sysroot.join("bin/rustc")).or_else(|_| llvm_of(rustc)).ok()?;
    Some(Toolchain { rustc: rustc.to_path_buf(), build_std: !prebuilt, llvm })
}

/// The LLVM library the dynamic loader gives this compiler.
fn llvm_of(rustc: &Path) -> Result<PathBuf> {
    let listing = output(Command::new("ldd").arg(rustc))?;
    parse_ldd(&listing).with_context(|| format!("{} loads no shared libLLVM", rustc.display()))
}

fn parse_ldd(listing: &str) -> Option<PathBuf> {
    let line = listing.lines().find(|line| line.trim_start().starts_with("libLLVM"))?;
    let (_, right) = line.split_once("=>")?;
    right.split_whitespace().next().map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::parse_ldd;

    #[test]
    fn the_llvm_library_is_read_from_what_ldd_prints() {
        let listing = "\tlinux-vdso.so.1 (0x1)\n\tlibLLVM.so.22.1 => /opt/x/libLLVM.so.22.1 (0x7f)\n\tlibc.so.6 => /lib/libc.so.6 (0x8)\n";
        assert_eq!(parse_ldd(listing), Some("/opt/x/libLLVM.so.22.1".into()));
        assert_eq!(parse_ldd("\tlibc.so.6 => /lib/libc.so.6 (0x8)\n"), None);
    }
}
