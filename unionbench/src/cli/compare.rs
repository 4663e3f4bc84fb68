//! `unionbench compare`.

use std::path::PathBuf;
use std::process::ExitCode;

use super::Failure;
use crate::compare::{Verdict, compare};
use crate::store;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The record that the other is measured against: a record.json or its folder
    base: PathBuf,
    /// The record that may have become slower
    new: PathBuf,
    /// Smallest change that matters, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 10.0)]
    min_effect: f64,
}

/// Exit code 3 if a cell became slower, 4 if none did but some cannot be told.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if !(args.min_effect.is_finite() && args.min_effect >= 0.0) {
        return Err(Failure::Usage("--min-effect takes a percentage from 0 upwards".into()).into());
    }
    let (base, new) = (store::read(&args.base)?, store::read(&args.new)?);
    let comparison = compare(&base, &new, args.min_effect / 100.0)?;
    print!("{comparison}");
    let any = |verdict| comparison.changes.iter().any(|change| change.verdict == verdict);
    Ok(if any(Verdict::Slower) {
        ExitCode::from(3)
    } else if any(Verdict::Inconclusive) || comparison.changes.is_empty() {
        ExitCode::from(4)
    } else {
        ExitCode::SUCCESS
    })
}
