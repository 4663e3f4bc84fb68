//! `unionbench run`.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use clap::ValueEnum;
use rustix::process::{Pid, Signal, kill_process};
use sha2::{Digest as _, Sha256};

use super::dry_run;
use super::exit::Failure;
use super::image;
use super::image_study;
use super::lab::GuestArgs;
use super::progress::Bar;
use super::run_lab;
use crate::lab;
use crate::plan::{self, Choices, Order, Plan};
use crate::record::ScenarioText;
use crate::record::{Availability, Cell, CellStatus, EngineStatus, Program, Record};
use crate::report::{self, Analysis, Appearance};
use crate::run::{self, Blind, Context, Observer, Probes, SampleSink, Scratch};
use crate::scenario::{self, Scenario};
use crate::store::Writer;
use crate::sys::namespace;
use crate::sys::process::descendants;
use crate::unit::LatencyUnit;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Scenario file; with --image it may be left out
    #[arg(required_unless_present = "image")]
    scenario: Option<PathBuf>,
    /// Takes the layers of an image; without a scenario, a study of it is made
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// Changes a key of the scenario, as in --set stack.layers=8
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Only these backends; the control stays
    #[arg(long = "backend", value_name = "NAME")]
    backends: Vec<String>,
    /// Rounds without probes, and as many with them
    #[arg(long)]
    rounds: Option<u32>,
    /// Seed of every random choice
    #[arg(long)]
    seed: Option<u64>,
    /// Leaves the rounds with probes out
    #[arg(long)]
    no_probes: bool,
    /// Format of what is printed
    #[arg(long, value_enum, default_value = "human")]
    format: Format,
    /// Prints the result and nothing else
    #[arg(long, short)]
    quiet: bool,
    /// Prints what would be done, and does nothing
    #[arg(long)]
    dry_run: bool,
    /// Leaves the scratch folder, with layers or image, in place
    #[arg(long)]
    keep: bool,
    /// Folder for results
    #[arg(long, default_value = "results")]
    results: PathBuf,
    /// Folder for layers and mounts [default: $TMPDIR or /tmp]
    #[arg(long)]
    scratch: Option<PathBuf>,
    /// Measures in a virtual machine instead of on this kernel
    #[arg(long)]
    lab: bool,
    /// count (figures are instructions) or plain
    #[arg(long, default_value = "count", requires = "lab")]
    mode: lab::Mode,
    #[command(flatten)]
    guest: GuestArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Human,
    Json,
    Csv,
    Md,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let (scenario, text) = load(args)?;
    let choices = Choices {
        backends: args.backends.clone(),
        rounds: args.rounds,
        seed: args.seed,
        probes: args.no_probes.then_some(false),
        order: match latency_unit() {
            LatencyUnit::Instructions => Order::ProbesLast,
            LatencyUnit::Nanoseconds => Order::InTurns,
        },
    };
    let plan = plan::expand(&scenario, &choices).map_err(|e| Failure::Usage(with_causes(&e)))?;
    if args.dry_run {
        dry_run::print(&plan);
        return Ok(ExitCode::SUCCESS);
    }
    if args.keep {
        can_be_kept(&plan)?;
    }
    if args.lab {
        return run_in_lab(args, &plan, &text);
    }
    let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let started = jiff::Timestamp::now().to_string();
    let writer = Writer::create(&args.results, &text.name, &started, &hostname)?;
    let (record, folder) = measure(args, &plan, text, writer)?;
    // A guest's record is reported on outside, together with those of others.
    if !lab::init::is_guest() {
        report::write_all(&record, &folder)?;
    }
    print_result(args, &record, &folder)?;
    print_findings(args, &record)?;
    verdict(&record)
}

/// What the study of an image says in words.
fn print_findings(args: &Args, record: &Record) -> anyhow::Result<()> {
    if args.scenario.is_none() && args.format == Format::Human {
        println!("\n{}", image_study::findings(&Analysis::of(record)?).trim_end());
    }
    Ok(())
}

/// A tmpfs goes with the run's mount namespace, whatever becomes of its folder.
fn can_be_kept(plan: &Plan) -> Result<(), Failure> {
    let in_memory = |stack: &plan::StackPlan| stack.backing.kind == plan::BackingKind::Tmpfs;
    if plan.stacks.iter().any(in_memory) {
        return Err(Failure::Usage(
            "cannot keep layers that lie on tmpfs, which ends with the run: add \
             --set backing.fs=dir (or ext4, xfs, btrfs, which keep an image)"
                .to_owned(),
        ));
    }
    Ok(())
}

/// The scenario of the command line: a file, or the study of an image.
fn load(args: &Args) -> anyhow::Result<(Scenario, ScenarioText)> {
    let usage = |error: scenario::ScenarioError| Failure::Usage(with_causes(&error));
    let mut changes = args.set.clone();
    match (&args.scenario, &args.image) {
        (Some(path), image) => {
            if let Some(image) = image {
                changes.push(format!("stack.image={image:?}"));
            }
            Ok(scenario::load(path, &changes).map_err(usage)?)
        }
        (None, image) => {
            let reference = image.as_deref().unwrap_or_default();
            let text = image_study::scenario(reference, &image::open(reference, None)?);
            let name = Path::new("image-study.toml");
            Ok(scenario::parse(name, text.as_bytes(), &changes).map_err(usage)?)
        }
    }
}

/// Runs the scenario in a guest of each kernel, for one record of them all.
fn run_in_lab(
    args: &Args,
    plan: &Plan,
    scenario: &crate::record::ScenarioText,
) -> anyhow::Result<ExitCode> {
    let order = run_lab::Order {
        plan,
        scenario,
        arguments: guest_arguments(args),
        results: &args.results,
        quiet: args.quiet,
    };
    let (record, folder) = run_lab::run(&args.guest, args.mode, &order)?;
    print_result(args, &record, &folder)?;
    print_findings(args, &record)?;
    verdict(&record)
}

/// What the guest's own `run` has to be told of this one's choices.
fn guest_arguments(args: &Args) -> Vec<String> {
    let mut words = Vec::new();
    for change in &args.set {
        words.extend(["--set".to_owned(), change.clone()]);
    }
    for backend in &args.backends {
        words.extend(["--backend".to_owned(), backend.clone()]);
    }
    if let Some(rounds) = args.rounds {
        words.extend(["--rounds".to_owned(), rounds.to_string()]);
    }
    if let Some(seed) = args.seed {
        words.extend(["--seed".to_owned(), seed.to_string()]);
    }
    if args.no_probes {
        words.push("--no-probes".to_owned());
    }
    words
}

/// Runs the plan in a mount namespace of its own and stores the record.
fn measure(
    args: &Args,
    plan: &Plan,
    scenario: crate::record::ScenarioText,
    mut writer: Writer,
) -> anyhow::Result<(Record, PathBuf)> {
    // Before any thread is made: a user namespace wants a single one.
    let entered = namespace::enter_private().context(
        "cannot make a mount namespace: run as root, or allow user namespaces \
         (`sysctl user.max_user_namespaces`)",
    )?;
    let base = args.scratch.clone().unwrap_or_else(std::env::temp_dir);
    for path in run::scratch::stale(&base)? {
        run::scratch::remove(&path)?;
    }
    let cancel = Arc::new(AtomicBool::new(false));
    let runtime = cancel_on_signal(&cancel)?;
    let scratch = Scratch::create(&base, args.keep)?;
    let mut observer = observer(plan, entered.user_namespace);
    let mut bar = Bar::new(args.quiet);
    if !args.quiet {
        eprintln!(
            "unionbench: {}: {} steps in {}",
            scenario.name,
            plan.steps.len(),
            scratch.path().display()
        );
    }
    let result = run::execute(
        plan,
        &mut Context {
            scenario,
            program: program()?,
            lab: None,
            latency_unit: latency_unit(),
            entered,
            scratch: scratch.path(),
            keep: args.keep,
            cancel: &cancel,
            observer: observer.as_mut(),
            samples: &mut Stored(&mut writer),
            progress: &mut bar,
        },
    );
    bar.finish();
    if args.keep {
        eprintln!("unionbench: the scratch folder {} stays", scratch.path().display());
    }
    drop(scratch);
    runtime.shutdown_background();
    let record = result?;
    let folder = writer.finish(&record)?;
    Ok((record, folder))
}

struct Stored<'a>(&'a mut Writer);

impl SampleSink for Stored<'_> {
    fn append(
        &mut self,
        cell: &str,
        round: u32,
        probes: bool,
        samples: &[u64],
    ) -> std::io::Result<()> {
        self.0.samples(cell, round, probes, samples).map_err(std::io::Error::other)
    }
}

/// SIGINT and SIGTERM ask the run to end; its guards then undo everything.
fn cancel_on_signal(cancel: &Arc<AtomicBool>) -> anyhow::Result<tokio::runtime::Runtime> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("cannot start the signal handler")?;
    let cancel = Arc::clone(cancel);
    let guard = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot catch SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot catch SIGTERM")?;
    drop(guard);
    runtime.spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            cancel.store(true, Ordering::Relaxed);
            tokio::time::sleep(PATIENCE).await;
            end_children();
        }
    });
    Ok(runtime)
}

/// How long an interrupted run may take before its children are killed.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

/// A daemon that no longer answers holds whoever uses its mount, and a signal
/// does not help that thread out of the kernel. The daemon's end does.
fn end_children() {
    for pid in descendants(std::process::id()).unwrap_or_default() {
        if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
            // It may have ended meanwhile.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// The probes of this run. A user namespace holds no right to any, and who
/// asked for none pays for none.
fn observer(plan: &Plan, user_namespace: bool) -> Box<dyn Observer> {
    if plan.probes && !user_namespace {
        Box::new(match latency_unit() {
            LatencyUnit::Instructions => Probes::without_sampling(),
            LatencyUnit::Nanoseconds => Probes::new(),
        })
    } else {
        Box::new(Blind { engines: engines() })
    }
}

/// Every engine on this machine.
pub(super) fn engines() -> Vec<EngineStatus> {
    crate::probe::engines()
}

/// In the lab's `count` mode the guest's clock counts instructions; the guest's
/// PID 1 says so.
fn latency_unit() -> LatencyUnit {
    match std::env::var("UNIONBENCH_LAB").as_deref() {
        Ok("count") => LatencyUnit::Instructions,
        _ => LatencyUnit::Nanoseconds,
    }
}

fn program() -> anyhow::Result<Program> {
    // A guest holds the loaded part of the program alone, and would take long
    // to hash it: its host fills the digest in.
    let sha256 = if lab::init::is_guest() {
        String::new()
    } else {
        let exe = std::fs::read("/proc/self/exe").context("cannot read this program's own file")?;
        hex(&Sha256::digest(exe))
    };
    Ok(Program {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        commit: option_env!("UNIONBENCH_COMMIT").map(str::to_owned),
        sha256,
        ebpf_sha256: crate::probe::object_bytes().map(|object| hex(&Sha256::digest(object))),
    })
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn print_result(args: &Args, record: &Record, folder: &Path) -> anyhow::Result<()> {
    print_report(args.format, record)?;
    if !args.quiet {
        eprintln!("unionbench: kept in {}", folder.display());
    }
    Ok(())
}

/// Prints the report of a record on stdout.
pub(super) fn print_report(format: Format, record: &Record) -> anyhow::Result<()> {
    let analysis = Analysis::of(record)?;
    let text = match format {
        Format::Human => report::human(&analysis, appearance()),
        Format::Json => report::json(&analysis)?,
        Format::Csv => report::csv(&analysis)?,
        Format::Md => report::md(&analysis),
    };
    println!("{}", text.trim_end());
    Ok(())
}

/// Fits a terminal and uses its styles; a file gets neither.
pub(super) fn appearance() -> Appearance {
    let terminal = std::io::stdout().is_terminal();
    Appearance {
        styled: terminal && std::env::var_os("NO_COLOR").is_none(),
        width: terminal
            .then(|| rustix::termios::tcgetwinsize(std::io::stdout()).ok())
            .flatten()
            .map(|size| size.ws_col),
    }
}

/// 0 if something beside the control was measured, 5 if nothing could be here,
/// 1 if everything that was tried failed.
fn verdict(record: &Record) -> anyhow::Result<ExitCode> {
    let asked: Vec<_> = record.backends.iter().filter(|backend| !backend.control).collect();
    if !asked.is_empty()
        && let Some(reason) = asked
            .iter()
            .map(|backend| match &backend.availability {
                Availability::Ok => None,
                Availability::Unsupported { reason } => Some(reason),
            })
            .collect::<Option<Vec<_>>>()
            .and_then(|reasons| reasons.first().copied())
    {
        return Err(Failure::Unsupported(reason.clone()).into());
    }
    // A run that measured nothing of a union is no success, whatever was in the way.
    let of_unions = || {
        let is_asked = |cell: &&Cell| asked.iter().any(|backend| backend.name == cell.backend);
        record.cells.iter().filter(is_asked)
    };
    let in_the_way = of_unions().map(|cell| match &cell.status {
        CellStatus::Unsupported { reason } => Some(reason),
        _ => None,
    });
    if let Some(reasons) = in_the_way.collect::<Option<Vec<_>>>()
        && let Some(reason) = reasons.first()
    {
        return Err(Failure::Unsupported((*reason).clone()).into());
    }
    let failed = record
        .cells
        .iter()
        .filter(|cell| {
            matches!(cell.status, CellStatus::Failed { .. } | CellStatus::Invalid { .. })
        })
        .count();
    if failed > 0 {
        eprintln!(
            "unionbench: {failed} of {} cells failed; the table says why",
            record.cells.len()
        );
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
