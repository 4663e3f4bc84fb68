//! `unionbench list`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;

use super::Failure;
use crate::scenario;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder with scenario files
    #[arg(default_value = "scenarios")]
    folder: PathBuf,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if !args.folder.is_dir() {
        return Err(Failure::Usage(format!(
            "there is no folder {} here: name one with scenario files, as in `unionbench list DIR`; those shipped are in `scenarios` of unionbench's sources",
            args.folder.display()
        ))
        .into());
    }
    let entries = std::fs::read_dir(&args.folder).with_context(|| {
        format!("cannot list {}: name a folder with scenario files", args.folder.display())
    })?;
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    paths.sort();
    for path in paths {
        match scenario::load(&path, &[]) {
            Ok((scenario, _)) => println!("{:<44} {}", path.display(), scenario.title),
            Err(error) => println!("{:<44} invalid: {error}", path.display()),
        }
    }
    Ok(ExitCode::SUCCESS)
}
