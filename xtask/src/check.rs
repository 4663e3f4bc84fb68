//! `cargo xtask check`: every rule of CONVENTIONS.md that a tool can hold.

mod flow;
mod source;
mod unsafety;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;

use crate::command::{cargo, must_succeed, on_path, say};

/// Runs every check, also after one failed, and names those that did.
pub fn all(root: &Path) -> Result<ExitCode> {
    let sources = source::all(root)?;
    let checks: [(&str, Result<Outcome>); 6] = [
        ("format", format(root)),
        ("lints", lints(root)),
        ("import direction", verdict(flow::violations(&sources))),
        ("unsafe only where allowed", verdict(unsafety::violations(&sources))),
        ("file length", verdict(source::report_lengths(&sources))),
        ("licences and advisories", deny(root)),
    ];
    let mut failed = 0;
    for (name, result) in checks {
        match result {
            Ok(Outcome::Holds) => say(&format!("{name}: holds")),
            Ok(Outcome::NotChecked(why)) => say(&format!("{name}: NOT CHECKED, {why}")),
            Err(error) => {
                failed += 1;
                say(&format!("{name}: does not hold\n{error:#}"));
            }
        }
    }
    say(&format!("{failed} of 6 checks failed"));
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What a check that did not fail came to.
enum Outcome {
    Holds,
    NotChecked(&'static str),
}

fn verdict(violations: Vec<String>) -> Result<Outcome> {
    if violations.is_empty() {
        Ok(Outcome::Holds)
    } else {
        Err(anyhow::anyhow!(violations.join("\n")))
    }
}

fn format(root: &Path) -> Result<Outcome> {
    must_succeed(cargo(root).args(["fmt", "--all", "--check"]))?;
    let mut kernel_side = cargo(root);
    kernel_side.args(["fmt", "--check", "--manifest-path", "unionbench-ebpf/Cargo.toml"]);
    must_succeed(&mut kernel_side)?;
    Ok(Outcome::Holds)
}

/// The kernel-side crate is not linted: clippy must be of the same release as
/// the compiler that knows its target, and Debian's has none.
fn lints(root: &Path) -> Result<Outcome> {
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
    Ok(Outcome::Holds)
}

fn deny(root: &Path) -> Result<Outcome> {
    let installed = root.join("target/tools/bin/cargo-deny");
    let Some(program) = installed.is_file().then_some(installed).or_else(|| on_path("cargo-deny"))
    else {
        return Ok(Outcome::NotChecked(
            "cargo-deny is not here: type `cargo install --locked --root target/tools cargo-deny`",
        ));
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
    Ok(Outcome::Holds)
}
