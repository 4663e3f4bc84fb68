//! `unionbench keep`, which runs start for backends of kind `command`: a mount
//! command and what it leaves behind, until standard input closes.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Context as _;

use crate::backend::keeper;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Program and arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let code = keeper::keep(&args.command).with_context(|| {
        let program = args.command.first().map(|word| word.to_string_lossy()).unwrap_or_default();
        format!("cannot run {program}: check that it is installed and may be run")
    })?;
    Ok(ExitCode::from(code))
}
