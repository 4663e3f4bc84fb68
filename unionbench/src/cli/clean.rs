//! `unionbench clean`.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::run::scratch;
use crate::store;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder in which runs made their scratch folders [default: $TMPDIR or /tmp]
    #[arg(long)]
    scratch: Option<PathBuf>,
    /// Also those that `run --keep` left
    #[arg(long)]
    kept: bool,
    /// Folder of results
    #[arg(long, default_value = "results")]
    results: PathBuf,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let base = args.scratch.clone().unwrap_or_else(std::env::temp_dir);
    let mut stale = scratch::stale(&base)?;
    if args.kept {
        stale.extend(scratch::kept(&base)?);
    }
    for path in &stale {
        scratch::remove(path)?;
        println!("removed {}", path.display());
    }
    let abandoned =
        if args.results.is_dir() { store::remove_abandoned(&args.results)? } else { Vec::new() };
    for path in &abandoned {
        println!("removed {}", path.display());
    }
    if stale.is_empty() && abandoned.is_empty() {
        println!("nothing was left behind in {} or {}", base.display(), args.results.display());
    }
    Ok(ExitCode::SUCCESS)
}
