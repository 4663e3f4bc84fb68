//! The project's own gate: `scenarios/gate.toml` in the lab on Debian's kernels,
//! held against the baselines in `results/baselines`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::command::{must_succeed, say};

const SCENARIO: &str = "scenarios/gate.toml";
const BASELINES: &str = "results/baselines";
const KERNELS: [&str; 2] = ["6.1", "6.12"];
/// Runs that a baseline is made of: they differ in what should not matter, so
/// that it knows what moves for nothing.
const RUNS: &str = "6";

/// Judges this tree; `save` makes the baselines anew instead. Its exit code is
/// that of `unionbench gate`: 3 a regression, 5 baselines that do not hold here.
pub fn run(root: &Path, program: &Path, arguments: &[String]) -> Result<ExitCode> {
    match arguments {
        [] => judge(root, program),
        [word] if word == "save" => save(root, program),
        _ => {
            bail!("cannot read {arguments:?}: write `cargo xtask gate` or `cargo xtask gate save`")
        }
    }
}

fn judge(root: &Path, program: &Path) -> Result<ExitCode> {
    let results = fresh(root, "judged")?;
    for kernel in KERNELS {
        say(&format!("gate: {SCENARIO} in the lab on Debian's {kernel}"));
        let mut run = unionbench(root, program);
        run.args(["run", SCENARIO, "--lab", "--kernel", kernel, "--rounds", "1"]);
        run.args(["--quiet", "--format", "csv", "--results"]).arg(&results);
        run.stdout(std::process::Stdio::null());
        must_succeed(&mut run)?;
    }
    let mut gate = unionbench(root, program);
    gate.args(["gate", "--baseline", BASELINES]).arg(&results);
    let status = gate.status().context("cannot start the gate")?;
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    if code == 5 {
        say(
            "gate: the baselines do not hold for this machine's QEMU or kernels; nothing was judged",
        );
    }
    Ok(ExitCode::from(code))
}

fn save(root: &Path, program: &Path) -> Result<ExitCode> {
    for kernel in KERNELS {
        say(&format!("gate: {RUNS} perturbed runs on Debian's {kernel} make a baseline"));
        let out = fresh(root, &format!("saved-{kernel}"))?;
        let mut runs = unionbench(root, program);
        runs.args(["gate", "selftest", SCENARIO, "--lab", "--kernel", kernel, "--rounds", "1"]);
        runs.args(["--keep-seed", "--runs", RUNS, "--base-runs", "5", "--out"]).arg(&out);
        // A run that would alarm against the five others is told, and is in the
        // baseline all the same: it is what moves for nothing.
        runs.status().context("cannot start the runs")?;
        let mut gate = unionbench(root, program);
        gate.args(["gate", "--save-baseline", "--baseline", BASELINES]).arg(&out);
        must_succeed(&mut gate)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn unionbench(root: &Path, program: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root);
    command
}

/// An empty folder of this name below the target folder.
fn fresh(root: &Path, name: &str) -> Result<PathBuf> {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let folder = root.join(target).join("gate").join(name);
    if folder.exists() {
        fs::remove_dir_all(&folder)
            .with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}
