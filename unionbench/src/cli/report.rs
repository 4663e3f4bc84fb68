//! `unionbench report`.

use std::path::PathBuf;
use std::process::ExitCode;

use super::run::{Format, print_report};
use crate::report::write_all;
use crate::store;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The record: a record.json or its folder
    record: PathBuf,
    /// What is printed
    #[arg(long, value_enum, default_value_t = Format::Human)]
    format: Format,
    /// Writes summary, figures and plots into this folder as well
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let record = store::read(&args.record)?;
    if let Some(out) = &args.out {
        for path in write_all(&record, out)? {
            eprintln!("unionbench: wrote {}", path.display());
        }
    }
    print_report(args.format, &record)?;
    Ok(ExitCode::SUCCESS)
}
