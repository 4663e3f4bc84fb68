//! `unionbench compare`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::ValueEnum;
use serde::Serialize;

use super::Failure;
use crate::compare::{Comparison, Uniform, Verdict, compare};
use crate::report::comparison_md;
use crate::store;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The record that the others are measured against: a record.json or its
    /// folder
    base: PathBuf,
    /// Records that may have become slower
    #[arg(required = true)]
    new: Vec<PathBuf>,
    /// Smallest change of wall time that matters, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 10.0)]
    min_effect: f64,
    /// Change of instructions that is allowed, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 0.5)]
    tolerance: f64,
    /// Also lists what passed and what was left out
    #[arg(long)]
    all: bool,
    /// What is printed
    #[arg(long, value_enum, default_value_t = Form::Human)]
    format: Form,
}

/// A comparison with what its sides are called.
#[derive(Debug, Serialize)]
pub(super) struct Compared {
    pub base: String,
    pub new: String,
    #[serde(flatten)]
    pub comparison: Comparison,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Form {
    Human,
    Md,
    Json,
}

/// Exit code 3 if anything became worse, 4 if nothing did but some cannot be
/// told.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let share = |name: &str, percent: f64| {
        if percent.is_finite() && percent >= 0.0 {
            Ok(percent / 100.0)
        } else {
            Err(Failure::Usage(format!("{name} takes a percentage from 0 upwards")))
        }
    };
    let policy = Uniform {
        instructions: share("--tolerance", args.tolerance)?,
        min_effect: share("--min-effect", args.min_effect)?,
    };
    let base = store::read(&args.base)?;
    let mut comparisons = Vec::new();
    for path in &args.new {
        comparisons.push(Compared {
            base: args.base.display().to_string(),
            new: path.display().to_string(),
            comparison: compare(&base, &store::read(path)?, &policy)?,
        });
    }
    print(args.format, &comparisons, args.all)?;
    Ok(exit_code(comparisons.iter().map(|compared| compared.comparison.verdict())))
}

/// Prints comparisons with what each was of; for people what passed is listed if
/// `all`.
pub(super) fn print(form: Form, comparisons: &[Compared], all: bool) -> anyhow::Result<()> {
    match form {
        Form::Human => {
            for Compared { base, new, comparison } in comparisons {
                print!("base  {base}\nnew   {new}\n{}", comparison.text(all));
            }
        }
        Form::Md => {
            for Compared { base, new, comparison } in comparisons {
                print!("{}", comparison_md(base, new, comparison));
            }
        }
        Form::Json => println!("{}", serde_json::to_string_pretty(comparisons)?),
    }
    Ok(())
}

/// 3 if any failed, else 4 if any is inconclusive.
pub(super) fn exit_code(verdicts: impl Iterator<Item = Verdict>) -> ExitCode {
    match verdicts.min() {
        Some(Verdict::Fail) => ExitCode::from(3),
        Some(Verdict::Inconclusive) | None => ExitCode::from(4),
        Some(Verdict::Better | Verdict::Pass) => ExitCode::SUCCESS,
    }
}
