//! Builds the program as one static file: the lab puts the very same binary
//! into a guest that holds nothing else.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command::{cargo, must_succeed, output};

/// Flags meant for a target do not reach build scripts and macros.
pub const FLAGS: &str = "-Ctarget-feature=+crt-static";

/// The target that is named so that [`FLAGS`] are meant for it.
pub fn target() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

/// The path of the release binary, built with the object when there is one.
pub fn build(root: &Path, object: Option<&Path>) -> Result<PathBuf> {
    let target = target();
    let mut command = cargo(root);
    command
        .args(["build", "--release", "--quiet", "--package", "unionbench", "--target", &target])
        .env("UNIONBENCH_EBPF_OBJECT", object.unwrap_or(Path::new("")))
        .envs(commit(root).map(|commit| ("UNIONBENCH_COMMIT", commit)))
        .env("RUSTFLAGS", FLAGS);
    must_succeed(&mut command).context("cannot build unionbench")?;
    let target_folder =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let program = root.join(target_folder).join(&target).join("release/unionbench");
    if !program.is_file() {
        bail!("cargo built no {}: unset build.target-dir", program.display());
    }
    Ok(program)
}

/// The commit that is built, marked if the tree differs from it; none outside
/// a checkout.
fn commit(root: &Path) -> Option<String> {
    let git =
        |arguments: &[&str]| output(Command::new("git").arg("-C").arg(root).args(arguments)).ok();
    let head = git(&["rev-parse", "HEAD"])?;
    let changed = !git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty();
    Some(format!("{}{}", head.trim(), if changed { "-dirty" } else { "" }))
}
