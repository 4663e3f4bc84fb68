//! The project's own build driver: `cargo xtask <subcommand>`.
//!
//! cargo cannot build the kernel-side object by itself: it needs a compiler
//! whose standard library covers `bpfel-unknown-none`, and a linker that
//! writes BPF. This program finds or installs both, says aloud what it does
//! and why, and then does the ordinary thing with cargo.

mod browser;
mod check;
mod command;
mod gate;
mod object;
mod program;
mod setup;
mod suite;
mod suites;
mod toolchain;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

const USAGE: &str = "\
usage: cargo xtask <subcommand>

  setup                     find or install what building the probes needs
  build-ebpf                build the kernel-side object into target/ebpf/
  build                     build the object and the program, and print its path
  run -- SCENARIO [FLAGS]   set up, build, and run `unionbench run SCENARIO [FLAGS]`;
                            with a subcommand instead of a file, that subcommand
  test [ARGS]               set up, build, and run every test; ARGS go to cargo test
  test --suites [NAME...]   pjdfstest, fsx and real work on a mount of the bundled union
  gate [save] [SCENARIO...] judge this tree by the lab's baselines, or make them anew
  check                     format, lints, import direction, unsafe, file length, licences
  bench [ARGS]              the criterion benches; ARGS go to cargo bench";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(arguments: &[String]) -> Result<ExitCode> {
    let root = workspace_root()?;
    let Some((subcommand, rest)) = arguments.split_first() else {
        eprintln!("{USAGE}");
        return Ok(ExitCode::from(2));
    };
    // `cargo xtask run -- x.toml` and `cargo xtask run x.toml` mean the same.
    let rest = match rest.split_first() {
        Some((first, tail)) if first == "--" => tail,
        _ => rest,
    };
    // An argument that nothing reads is an error, not passed over.
    if let Some(first) = rest.first()
        && ["setup", "build-ebpf", "build", "check"].contains(&subcommand.as_str())
    {
        if ["--help", "-h"].contains(&first.as_str()) {
            println!("{USAGE}");
            return Ok(ExitCode::SUCCESS);
        }
        bail!("cannot use {first:?}: `cargo xtask {subcommand}` takes no arguments");
    }
    match subcommand.as_str() {
        "setup" => {
            setup::ready(&root)?;
            command::say("set-up is complete");
        }
        "build-ebpf" => {
            let tools = setup::ready(&root)?;
            let object = object::build(&root, &tools)?;
            command::say(&format!("the object is {}", object.display()));
        }
        "build" => {
            let object = object_or_none(&root);
            println!("{}", program::build(&root, object.as_deref())?.display());
        }
        "run" => return run(&root, rest),
        "test" if rest.first().is_some_and(|first| first == "--suites") => {
            return suites::run(&root, &rest[1..]);
        }
        "test" => {
            setup::lab();
            setup::prometheus(&root);
            browser::ready(&root);
            let object = object_or_none(&root);
            let mut command = cargo_with(&root, "test", object.as_deref(), &[]);
            return suite::run(command.arg("--no-fail-fast").args(rest));
        }
        "bench" => {
            let object = object_or_none(&root);
            let mut command = cargo_with(&root, "bench", object.as_deref(), rest);
            // What is timed is built as the program is, and shares its dependencies.
            command.env("CARGO_BUILD_TARGET", program::target()).envs(program::environment(&root));
            return command::status(&mut command);
        }
        "gate" => {
            setup::lab();
            let object = object_or_none(&root);
            return gate::run(&root, object.as_deref(), rest);
        }
        "check" => return check::all(&root),
        "help" | "--help" | "-h" => println!("{USAGE}"),
        other => bail!("no subcommand is called {other:?}\n{USAGE}"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds what is out of date and becomes the program. A first argument that
/// is not a subcommand of the program is taken for a scenario file.
fn run(root: &Path, arguments: &[String]) -> Result<ExitCode> {
    if arguments.iter().any(|word| word == "--lab") || arguments.first().is_some_and(|w| w == "lab")
    {
        setup::lab();
    }
    let object = object_or_none(root);
    let program = program::build(root, object.as_deref())?;
    let mut command = Command::new(&program);
    if names_a_scenario(arguments) {
        command.arg("run");
    }
    command.args(arguments);
    let failure = command::replace_this_process(&mut command);
    Err(failure).with_context(|| format!("cannot start {}", program.display()))
}

fn names_a_scenario(arguments: &[String]) -> bool {
    arguments.first().is_some_and(|first| {
        Path::new(first).extension().is_some_and(|extension| extension == "toml")
            || Path::new(first).is_file()
    })
}

/// The object, or none after saying why: measuring without probes is worth
/// more than not measuring, and the program says so itself in its record.
fn object_or_none(root: &Path) -> Option<PathBuf> {
    match setup::ready(root).and_then(|tools| object::build(root, &tools)) {
        Ok(object) => Some(object),
        Err(error) => {
            command::say(&format!("building without probes: {error:#}"));
            None
        }
    }
}

fn cargo_with(root: &Path, verb: &str, object: Option<&Path>, arguments: &[String]) -> Command {
    let mut command = command::cargo(root);
    command.args([verb, "--workspace"]).args(arguments);
    command.env("UNIONBENCH_EBPF_OBJECT", object.unwrap_or(Path::new("")));
    command
}

fn workspace_root() -> Result<PathBuf> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = manifest.parent().context("xtask stands in no workspace")?;
    if !root.join("Cargo.toml").is_file() {
        bail!(
            "the workspace this xtask was built in is gone from {}: build it again",
            root.display()
        );
    }
    Ok(root.to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::names_a_scenario;

    #[test]
    fn a_toml_file_is_a_scenario_and_a_word_is_a_subcommand() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert!(names_a_scenario(&words("scenarios/x.toml --rounds 3")));
        assert!(!names_a_scenario(&words("doctor --format json")));
        assert!(!names_a_scenario(&[]));
    }
}
