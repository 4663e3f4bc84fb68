//! `unionbench summary`, and what `unionbench trace --summary` prints.

use std::path::PathBuf;
use std::process::ExitCode;

use super::run::Format;
use crate::trace::{Recording, Summary, summary};

/// Rows of each table, unless asked otherwise.
pub const TOP: usize = 10;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// A recording; `-` is standard input
    recording: PathBuf,
    #[arg(long, value_enum, default_value = "human")]
    format: Format,
    /// Rows of each table
    #[arg(long, default_value_t = TOP, value_name = "N")]
    top: usize,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let summary = Summary::of(&mut Recording::open(&args.recording)?)?;
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
