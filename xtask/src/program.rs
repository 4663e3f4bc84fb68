//! Builds the program as one static file: the lab puts the very same binary
//! into a guest that holds nothing else.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::command::{cargo, must_succeed};

/// The path of the release binary, built with the object when there is one.
pub fn build(root: &Path, object: Option<&Path>) -> Result<PathBuf> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut command = cargo(root);
    command
        .args(["build", "--release", "--quiet", "--package", "unionbench", "--target", &target])
        .env("UNIONBENCH_EBPF_OBJECT", object.unwrap_or(Path::new("")))
        // Flags meant for a target do not reach build scripts and macros.
        .env("RUSTFLAGS", "-Ctarget-feature=+crt-static");
    must_succeed(&mut command).context("cannot build unionbench")?;
    let target_folder =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let program = root.join(target_folder).join(&target).join("release/unionbench");
    if !program.is_file() {
        bail!("cargo built no {}: unset build.target-dir", program.display());
    }
    Ok(program)
}
