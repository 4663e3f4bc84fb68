//! `unionbench conformance`: union semantics, case by case, on each union.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;

use super::Failure;
use crate::conformance::{self, ConformanceError, Outcome, Setting, Verdict};
use crate::sys::namespace;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which unions; all of them if none is named
    #[arg(long = "backend", value_name = "KIND")]
    backends: Vec<String>,
    /// Only cases whose name holds this
    #[arg(long, default_value = "")]
    case: String,
    /// Random sequences of operations
    #[arg(long, default_value_t = 40)]
    random: u32,
    /// Seed of the random sequences
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Folder for layers and mounts [default: $TMPDIR or /tmp]
    #[arg(long)]
    scratch: Option<PathBuf>,
    /// Prints only what differs
    #[arg(long, short)]
    quiet: bool,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if !conformance::case_names().any(|name| name.contains(&args.case)) {
        let all: Vec<_> = conformance::case_names().collect();
        let problem = format!("no case's name holds {:?}; there are {}", args.case, all.join(", "));
        return Err(Failure::Usage(problem).into());
    }
    namespace::enter_private().context("cannot make a mount namespace: run as root")?;
    let base = args.scratch.clone().unwrap_or_else(std::env::temp_dir);
    let scratch = tempfile::Builder::new()
        .prefix("unionbench-conformance-")
        .tempdir_in(&base)
        .with_context(|| format!("cannot make a folder in {}", base.display()))?;
    let path = scratch.path().canonicalize().context("cannot find the scratch folder")?;
    let own_program = std::env::current_exe().context("cannot find this program")?;
    let asked = !args.backends.is_empty();
    let kinds: Vec<&str> = match asked {
        true => args.backends.iter().map(String::as_str).collect(),
        false => conformance::KINDS.to_vec(),
    };
    let (mut n_run, mut n_wrong, mut unsupported) = (0, 0, None);
    for kind in kinds {
        println!("{kind}");
        let setting = Setting {
            kind,
            scratch: &path,
            own_program: &own_program,
            filter: &args.case,
            n_random: args.random,
            seed: args.seed,
        };
        match conformance::run(&setting, &mut |outcome| print(outcome, args.quiet)) {
            Ok(outcomes) => {
                n_run += 1;
                n_wrong += outcomes.iter().filter(|outcome| outcome.verdict.is_error()).count();
            }
            Err(ConformanceError::Unsupported { reason }) => {
                println!("  unsupported: {reason}");
                unsupported = Some(reason);
            }
            Err(error @ ConformanceError::UnknownKind { .. }) => {
                return Err(Failure::Usage(error.to_string()).into());
            }
            Err(error) => return Err(error.into()),
        }
    }
    match (n_wrong, n_run, unsupported) {
        (0, 0, Some(reason)) => Err(Failure::Unsupported(reason).into()),
        (0, ..) => Ok(ExitCode::SUCCESS),
        _ => Ok(ExitCode::FAILURE),
    }
}

fn print(outcome: &Outcome, quiet: bool) {
    let case = outcome.case;
    match &outcome.verdict {
        Verdict::Same if quiet => {}
        Verdict::Same => println!("  same       {case}"),
        Verdict::KnownDifference { reason, seen } => {
            println!("  known      {case}: {reason} ({seen})");
        }
        Verdict::Different { seen } => println!("  DIFFERENT  {case}: {seen}"),
        Verdict::NoLongerDifferent => {
            println!("  DIFFERENT  {case}: it is as on overlayfs now; take it off the list");
        }
        Verdict::Inapplicable { .. } if quiet => {}
        Verdict::Inapplicable { reason } => println!("  -          {case}: {reason}"),
    }
}
