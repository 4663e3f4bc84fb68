//! Union semantics, the same cases on every union. The program runs the cases in
//! a mount namespace of its own; what is not here is told and passed over.

mod skip;

use std::process::{Command, Output};

use skip::skipped;

const PROGRAM: &str = env!("CARGO_BIN_EXE_unionbench");
const UNSUPPORTED: i32 = 5;

fn is_root() -> bool {
    let root = Command::new("id").arg("-u").output().is_ok_and(|id| id.stdout == b"0\n");
    if !root {
        skipped("conformance", "it mounts, which needs root");
    }
    root
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

fn check(kind: &str) {
    if !is_root() {
        return;
    }
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let output = Command::new(PROGRAM)
        .args(["conformance", "--backend", kind, "--scratch"])
        .arg(scratch.path())
        .output()
        .expect("the program starts");
    let said = text(&output);
    if output.status.code() == Some(UNSUPPORTED) {
        skipped("conformance", said);
        return;
    }
    assert!(output.status.success(), "{said}");
    let n_cases = said.lines().filter(|line| line.starts_with("  ")).count();
    assert_eq!(n_cases, unionbench::conformance::case_names().count(), "{said}");
    let left = std::fs::read_dir(scratch.path()).expect("scratch").count();
    assert_eq!(left, 0, "left behind in the scratch folder");
}

#[test]
fn overlayfs_is_the_reference() {
    check("overlayfs");
}

#[test]
fn bundled_union_conforms() {
    check("bundled");
}

#[test]
fn fuse_overlayfs_differs_as_listed() {
    check("fuse-overlayfs");
}

#[test]
fn unionfs_fuse_differs_as_listed() {
    check("unionfs-fuse");
}

#[test]
fn mergerfs_differs_as_listed() {
    check("mergerfs");
}

#[test]
fn aufs_differs_as_listed() {
    check("aufs");
}

#[test]
fn a_case_that_is_not_there_is_refused() {
    let output = Command::new(PROGRAM)
        .args(["conformance", "--case", "no_such_case"])
        .output()
        .expect("the program starts");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output).contains("layers_merge_and_the_topmost_wins"), "{}", text(&output));
}

/// The same in a guest, whose kernel is older than this one's.
#[test]
fn unions_of_a_lab_kernel_conform() {
    if Command::new("qemu-system-x86_64").arg("--version").output().is_err() {
        skipped("conformance on Debian 6.1", "QEMU is not installed (package qemu-system-x86)");
        return;
    }
    let output = Command::new(PROGRAM)
        .args(["lab", "run", "--kernel", "6.1", "--mode", "plain", "--"])
        .args(["unionbench", "conformance", "--quiet", "--random", "3"])
        .args(["--backend", "overlayfs", "--backend", "bundled"])
        .output()
        .expect("the program starts");
    let said = text(&output);
    if !output.status.success() && said.contains("cannot fetch") {
        skipped("conformance on Debian 6.1", said);
        return;
    }
    assert!(output.status.success(), "{said}");
}
