//! Builds the program as one static file: the lab puts the very same binary
//! into a guest that holds nothing else.
//!
//! The program holds no path of the folder that it is built in: what the lab
//! counts would differ with the length of a path that some message holds. What
//! still differs are hashes in names of symbols of the kernel-side object.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command::{cargo, must_succeed, output};

/// Options to rustc are handed over separated by this character, so that one
/// may hold blanks.
pub const SEPARATOR: &str = "\u{1f}";

/// Names how many bytes `unionbench/src/main.rs` puts before its constants.
const PADDING: &str = "UNIONBENCH_PADDING";

/// What a folder of this machine is called in everything that is built.
const STANDS_FOR: [&str; 3] = ["/unionbench", "/unionbench/target", "/cargo"];

/// The target that is named so that [`environment`] is meant for it: flags for a
/// target do not reach build scripts and macros.
pub fn target() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

/// The path of the release binary, built with the object when there is one.
pub fn build(root: &Path, object: Option<&Path>) -> Result<PathBuf> {
    must_succeed(&mut release(root, object, "build")).context("cannot build unionbench")?;
    let program = built(root);
    if !program.is_file() {
        bail!("cargo built no {}: unset build.target-dir", program.display());
    }
    Ok(program)
}

/// The program built again with so many bytes before its constants, once for each
/// of `sizes`, in `folder`: its functions and constants lie elsewhere, as after any
/// change of its source. What [`build`] made is made anew.
pub fn padded(
    root: &Path,
    object: Option<&Path>,
    folder: &Path,
    sizes: &[usize],
) -> Result<Vec<PathBuf>> {
    let mut programs = Vec::new();
    for size in sizes {
        let mut command = release(root, object, "build");
        command.env(PADDING, size.to_string());
        must_succeed(&mut command).context("cannot build unionbench with padding")?;
        let program = folder.join(format!("padded-{size}"));
        fs::copy(built(root), &program)
            .with_context(|| format!("cannot write {}", program.display()))?;
        programs.push(program);
    }
    build(root, object)?;
    Ok(programs)
}

/// What makes the build independent of where it happens, for any cargo command:
/// flags of rustc and of the C compiler that a dependency calls.
pub fn environment(root: &Path) -> Vec<(&'static str, String)> {
    let folders = folders(root);
    let mut flags = vec!["-Ctarget-feature=+crt-static".to_owned()];
    flags.extend(remapped("--remap-path-prefix=", &folders));
    let mut c_flags: Vec<String> = std::env::var("CFLAGS").into_iter().collect();
    // The crate that calls the compiler splits this at blanks.
    c_flags.extend(remapped("-ffile-prefix-map=", &folders).filter(|flag| !flag.contains(' ')));
    vec![("CARGO_ENCODED_RUSTFLAGS", flags.join(SEPARATOR)), ("CFLAGS", c_flags.join(" "))]
}

/// Flags that put [`STANDS_FOR`] for the folders of this machine.
pub fn remap_flags(root: &Path) -> Vec<String> {
    remapped("--remap-path-prefix=", &folders(root)).collect()
}

fn release(root: &Path, object: Option<&Path>, verb: &str) -> Command {
    let mut command = cargo(root);
    command
        .args([verb, "--release", "--quiet", "--package", "unionbench", "--target", &target()])
        .env("UNIONBENCH_EBPF_OBJECT", object.unwrap_or(Path::new("")))
        .env_remove(PADDING)
        .envs(commit(root).map(|commit| ("UNIONBENCH_COMMIT", commit)))
        .envs(environment(root));
    command
}

fn built(root: &Path) -> PathBuf {
    target_folder(root).join(target()).join("release/unionbench")
}

fn target_folder(root: &Path) -> PathBuf {
    let named = std::env::var_os("CARGO_TARGET_DIR");
    named.map_or_else(|| root.join("target"), |folder| root.join(folder))
}

/// The folders whose names a build holds otherwise, in the order of
/// [`STANDS_FOR`]; of rustc's flags the last that fits counts.
fn folders(root: &Path) -> [Option<PathBuf>; 3] {
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"));
    let cargo_home = std::env::var_os("CARGO_HOME").map(PathBuf::from).or(home);
    [Some(root.to_owned()), Some(target_folder(root)), cargo_home]
}

fn remapped<'a>(
    flag: &'a str,
    folders: &'a [Option<PathBuf>; 3],
) -> impl Iterator<Item = String> + 'a {
    let pairs = folders.iter().zip(STANDS_FOR);
    pairs.filter_map(move |(folder, name)| {
        Some(format!("{flag}{}={name}", folder.as_ref()?.display()))
    })
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
