//! The command line: one file per subcommand. What is printed is printed here
//! and in the modules below, nowhere else: results on stdout, talk on stderr.

/// The standard macros end the program by a panic where stdout is closed.
macro_rules! print {
    ($($text:tt)*) => { $crate::cli::out::text(format_args!($($text)*)) };
}
macro_rules! println {
    () => { println!("") };
    ($($text:tt)*) => { $crate::cli::out::line(format_args!($($text)*)) };
}

mod advise;
mod clean;
mod compare;
mod conformance;
mod doctor;
mod dry_run;
mod events;
mod exit;
mod export;
mod gate;
mod gate_selftest;
mod gate_top_up;
mod image;
mod image_study;
mod keep;
pub mod lab;
mod lab_image;
pub mod lab_selftest;
mod list;
mod mount;
mod mount_helper;
mod out;
mod progress;
mod report;
mod run;
mod run_lab;
mod scenario;
mod selftest_bench;
mod signal;
mod step_summary;
mod summary;
mod top;
mod trace;
mod trace_selftest;
mod validate;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::{Args as _, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

pub use exit::Failure;

/// Measures what a union file system costs, where and why.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measures a scenario on this kernel and keeps the record
    Run(Box<run::Args>),
    /// Lists the scenarios in a folder
    List(list::Args),
    /// Checks scenario files without running them
    Validate(validate::Args),
    /// Tells what can be measured on this machine, and how to get the rest
    Doctor(doctor::Args),
    /// Removes what killed runs left behind, and nothing else
    Clean(clean::Args),
    /// Prints the report of records again, or writes it as one HTML page
    Report(report::Args),
    /// Tells which cells of two records became slower or faster
    Compare(compare::Args),
    /// Holds results against a baseline: exit code 3 if anything became worse
    Gate(Box<gate::Args>),
    /// Boots a kernel and runs a command in it, counted to the instruction
    Lab(lab::Args),
    /// Checks union semantics, case by case, on each union that is here
    Conformance(conformance::Args),
    /// Mounts the bundled union
    Mount(mount::Args),
    /// Shows copy-ups, lookups, fsyncs and requests of this machine's unions as they happen
    Trace(trace::Args),
    /// Looks into an OCI or docker image, or unpacks it into layers
    Image(image::Args),
    /// Tells Prometheus what happens in the unions of this host
    Export(export::Args),
    /// Shows what happens in the unions of this host, on the full screen
    Top(top::Args),
    /// Tells what would help, and how much, from a recording or a result
    Advise(advise::Args),
    /// Makes a scenario of a recording
    Scenario(scenario::Args),
    /// Sums a recording of `unionbench trace --record` up
    Summary(summary::Args),
    #[command(hide = true)]
    Keep(keep::Args),
    #[command(hide = true)]
    LabSelftest(lab_selftest::Args),
}

/// Parses the command line, runs the subcommand and gives its exit code: 0
/// done, 1 error, 2 usage, 3 regression, 4 inconclusive, 5 unsupported here, 130
/// interrupted.
pub fn main() -> ExitCode {
    start_log();
    let words = match mount_helper::asked(std::env::args_os()) {
        mount_helper::Asked::Words(words) => words,
        mount_helper::Asked::Nothing => return ExitCode::SUCCESS,
    };
    let matches = command().get_matches_from(words);
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let result = match cli.command {
        Command::Run(args) => run::run(&args),
        Command::List(args) => list::run(&args),
        Command::Validate(args) => validate::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Clean(args) => clean::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Gate(args) => gate::run(&args),
        Command::Lab(args) => lab::run(args),
        Command::Conformance(args) => conformance::run(&args),
        Command::Mount(args) => mount::run(&args),
        Command::Trace(args) => trace::run(&args),
        Command::Image(args) => image::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Top(args) => top::run(&args),
        Command::Advise(args) => advise::run(&args),
        Command::Scenario(args) => scenario::run(&args),
        Command::Summary(args) => summary::run(&args),
        Command::Keep(args) => keep::run(&args),
        Command::LabSelftest(args) => lab_selftest::run(&args),
    };
    let code = result.unwrap_or_else(|error| {
        eprintln!("unionbench: {error:#}");
        exit::of(&error)
    });
    if code == ExitCode::SUCCESS && out::failed() { ExitCode::FAILURE } else { code }
}

/// The command line as it is typed. What describes a guest means something to
/// `run` only with `--lab`, and is refused without rather than ignored.
fn command() -> clap::Command {
    let of_guest = lab::GuestArgs::augment_args(clap::Command::new("guest"));
    let ids: Vec<_> = of_guest.get_arguments().map(|argument| argument.get_id().clone()).collect();
    Cli::command().mut_subcommand("run", |run| {
        ids.into_iter().fold(run, |run, id| run.mut_arg(id, |argument| argument.requires("lab")))
    })
}

/// Diagnostics, those of the probes included, go to stderr as `RUST_LOG` asks.
fn start_log() {
    // fuser warns when a mount was already gone as its daemon ends, which is
    // how every `umount` ends one.
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn,fuser::session=error"));
    let coloured = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(coloured)
        .with_writer(std::io::stderr)
        .init();
}
