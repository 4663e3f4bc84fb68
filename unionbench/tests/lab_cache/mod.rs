//! Where the tests of the lab find their kernels, and whether they can run.

use std::path::{Path, PathBuf};
use std::process::Command;

use unionbench::lab::Kernel;

use super::skip::skipped;

/// Kernels are kept beside the build.
pub fn cache() -> PathBuf {
    match std::env::var_os("UNIONBENCH_LAB_CACHE") {
        Some(dir) => dir.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/lab"),
    }
}

/// The kernel to test on, or nothing after saying why the test is skipped.
pub fn kernel(release: &str, test: &str) -> Option<Kernel> {
    if Command::new("qemu-system-x86_64").arg("--version").output().is_err() {
        skipped(test, "QEMU is not installed (package qemu-system-x86)");
        return None;
    }
    match Kernel::resolve_in(release, &cache()) {
        Ok(kernel) => Some(kernel),
        Err(error) => {
            skipped(test, error);
            None
        }
    }
}
