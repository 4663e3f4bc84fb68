//! The command line: one file per subcommand.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub mod lab;
pub mod lab_selftest;

/// Measures what a union file system costs, where and why.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Boots a kernel and runs a command in it, counted to the instruction
    Lab(lab::Args),
    #[command(hide = true)]
    LabSelftest(lab_selftest::Args),
}

/// Parses the command line, runs the subcommand and gives its exit code.
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Lab(args) => lab::run(args),
        Command::LabSelftest(args) => lab_selftest::run(&args),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
