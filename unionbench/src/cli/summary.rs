//! `unionbench summary`, and what `unionbench trace --summary` prints.

use std::path::PathBuf;
use std::process::ExitCode;

use super::Failure;
use super::run::Format;
use crate::trace::{Recording, Summary, summary};

/// Rows of each table, unless asked otherwise.
pub const TOP: usize = 10;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Recordings, which are summed; `-` is standard input
    #[arg(required = true)]
    recordings: Vec<PathBuf>,
    #[arg(long, value_enum, default_value = "human")]
    format: Format,
    /// Rows of each table
    #[arg(long, default_value_t = TOP, value_name = "N")]
    top: usize,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut whole: Option<Summary> = None;
    for (n, path) in args.recordings.iter().enumerate() {
        if args.recordings[..n].contains(path) {
            let path = path.display();
            return Err(Failure::Usage(format!("{path} is named twice: name it once")).into());
        }
        let mut recording = Recording::open(path)?;
        let summary = whole.get_or_insert_with(|| Summary::new(recording.header()));
        summary.take_in(&mut recording)?;
    }
    let Some(summary) = whole else { return Ok(ExitCode::SUCCESS) };
    print(&summary, args.format, args.top)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints a summary with `top` rows in each table.
pub fn print(summary: &Summary, format: Format, top: usize) -> anyhow::Result<()> {
    let text = match format {
        Format::Human => summary::human(summary, top),
        Format::Md => summary::md(summary, top),
        Format::Csv => summary::csv(summary, top)?,
        Format::Json => serde_json::to_string_pretty(&summary::json(summary, top))?,
    };
    println!("{}", text.trim_end());
    Ok(())
}
