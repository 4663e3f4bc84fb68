//! `unionbench lab-selftest`: what the lab's own tests run in a guest.
//!
//! Not for users: it mounts over the guest's folders and, on request, brings
//! the guest down.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clap::{Parser, ValueEnum};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde::{Deserialize, Serialize};

use super::trace_selftest;
use crate::lab::OUT_DIR;

#[derive(Debug, Parser)]
pub struct Args {
    #[arg(value_enum)]
    what: What,
    /// Lower layers of `lookup`
    #[arg(long, default_value_t = 8)]
    depth: usize,
    /// The control group that a part of `trace` enters
    #[arg(long)]
    cgroup: Option<PathBuf>,
    /// Exit code of `exit`
    #[arg(long, default_value_t = 0)]
    code: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// Time of 100 cold lookups in the bottom layer, one a line, in
    /// /out/lookups
    Lookup,
    /// What a pair of probes costs by each engine, as JSON in /out/probe-cost
    ProbeCost,
    /// Runs this program with each of the arguments in /batch.json, in order
    Batch,
    /// Exit with --code
    Exit,
    /// Never end
    Hang,
    /// Panic the kernel
    Oops,
    /// Take memory until there is none
    FillMemory,
    /// Power off without a report
    PowerOff,
    /// Copy-ups in two control groups under `unionbench trace`
    Trace,
    TraceContainer,
    TraceService,
    TraceNested,
    TraceFiltered,
    TraceFilteredOut,
    TraceBurst,
    /// Odd cases under `unionbench trace`, replays and advice
    TraceCases,
    TraceOdd,
    TraceInsideShared,
    TraceInsideOwn,
    TraceWaitingIn,
    TraceWaitingOut,
    TraceAgain,
    TraceOwned,
    TraceClone,
    /// What tracing costs a lookup and a copy-up, in /out/trace-cost
    TraceCost,
    TraceCostPart,
    /// Copy-ups on aufs under `unionbench trace`
    TraceAufs,
    TraceAufsPart,
}

const N_LOOKUPS: usize = 100;

/// The file in which `batch` finds what to run.
pub(super) const BATCH: &str = "/batch.json";

/// One run of a batch.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct BatchRun {
    pub argv: Vec<String>,
    pub env: Vec<(String, String)>,
    /// Virtual time the guest idles before it.
    pub idle_ms: u64,
    /// Files that are made before it; a fifth of them stays.
    pub files: u32,
    /// Processes that are started and end before it.
    pub processes: u32,
}

/// The file below the output folder in which `probe-cost` leaves its figures.
pub(super) const PROBE_COST: &str = "probe-cost";

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    ensure!(
        crate::lab::init::is_guest(),
        "cannot run the lab's self-test here: it is made for a lab guest; use `unionbench lab run`"
    );
    match args.what {
        What::Lookup => cold_lookups(args.depth)?,
        What::ProbeCost => probe_cost()?,
        What::Batch => batch()?,
        What::Exit => return Ok(ExitCode::from(args.code)),
        What::Hang => loop {
            std::thread::park();
        },
        What::Oops => fs::write("/proc/sysrq-trigger", "c")?,
        What::FillMemory => fill_memory(),
        What::Trace => trace_selftest::run()?,
        What::TraceCases => trace_selftest::run_cases()?,
        What::TraceAufs => trace_selftest::run_aufs()?,
        What::TraceCost => trace_selftest::cost()?,
        What::TraceCostPart => println!("{}", trace_selftest::cost_part(args.depth)?),
        What::TraceContainer
        | What::TraceService
        | What::TraceNested
        | What::TraceFiltered
        | What::TraceFilteredOut
        | What::TraceBurst
        | What::TraceOdd
        | What::TraceInsideShared
        | What::TraceInsideOwn
        | What::TraceWaitingIn
        | What::TraceWaitingOut
        | What::TraceAgain
        | What::TraceOwned
        | What::TraceClone
        | What::TraceAufsPart => {
            if let Some(group) = &args.cgroup {
                trace_selftest::enter(group)?;
            }
            let name = args.what.to_possible_value().context("every part has a name")?;
            trace_selftest::part(name.get_name())?;
        }
        What::PowerOff => {
            rustix::system::reboot(rustix::system::RebootCommand::PowerOff)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Each file lies in the bottom layer only, and all are looked up once, after
/// the caches were dropped: every lookup visits every layer.
fn cold_lookups(depth: usize) -> anyhow::Result<()> {
    let base = Path::new("/scratch/selftest");
    let layers: Vec<PathBuf> = (0..depth).map(|i| base.join(format!("l{i}"))).collect();
    let (upper, work, merged) = (base.join("upper"), base.join("work"), base.join("merged"));
    for dir in layers.iter().chain([&upper, &work, &merged]) {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    let Some(bottom) = layers.last() else {
        bail!("cannot stack 0 layers: give --depth 1 or more")
    };
    for i in 0..N_LOOKUPS {
        fs::write(bottom.join(format!("f{i}")), "x")?;
    }
    // The option string is limited to a page; links keep the names short.
    let mut lowers = Vec::new();
    for (i, layer) in layers.iter().enumerate() {
        let link = format!("/{i}");
        symlink(layer, &link).with_context(|| format!("cannot create {link}"))?;
        lowers.push(link);
    }
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lowers.join(":"),
        upper.display(),
        work.display()
    );
    let data = std::ffi::CString::new(options)?;
    mount("overlay", &merged, "overlay", MountFlags::empty(), data.as_c_str())
        .context("cannot mount overlayfs")?;
    fs::write("/proc/sys/vm/drop_caches", "3")?;
    let mut times = String::new();
    let names: Vec<PathBuf> = (0..N_LOOKUPS).map(|i| merged.join(format!("f{i}"))).collect();
    for name in &names {
        let start = Instant::now();
        let found = rustix::fs::lstat(name);
        let elapsed = start.elapsed().as_nanos();
        found.with_context(|| format!("cannot look up {}", name.display()))?;
        times.push_str(&format!("{elapsed}\n"));
    }
    unmount(&merged, UnmountFlags::empty())?;
    fs::write(Path::new(OUT_DIR).join("lookups"), times)?;
    Ok(())
}

/// A run that fails leaves no record and its words on stderr; the others follow
/// all the same.
fn batch() -> anyhow::Result<()> {
    let text = fs::read(BATCH).with_context(|| format!("cannot read {BATCH}"))?;
    let runs: Vec<BatchRun> =
        serde_json::from_slice(&text).with_context(|| format!("cannot read {BATCH}"))?;
    let program = std::env::current_exe().context("cannot find this program")?;
    for (number, run) in runs.iter().enumerate() {
        unsettle(&program, number, run)?;
        std::thread::sleep(Duration::from_millis(run.idle_ms));
        let mut command = Command::new(&program);
        command.args(&run.argv).envs(run.env.clone()).stdout(Stdio::null());
        command.status().context("cannot start a run of the batch")?;
    }
    Ok(())
}

/// Leaves the kernel's memory and its numbers of processes as another history
/// would: pages and slabs partly in use, some of them freed.
fn unsettle(program: &Path, number: usize, run: &BatchRun) -> anyhow::Result<()> {
    let folder = PathBuf::from(format!("/before-{number}"));
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let files: Vec<PathBuf> = (0..run.files).map(|k| folder.join(format!("f{k}"))).collect();
    for (k, file) in files.iter().enumerate() {
        // From an empty file to several pages.
        let bytes = vec![1u8; (k * 997) % 20_000];
        fs::write(file, bytes).with_context(|| format!("cannot write {}", file.display()))?;
    }
    for (_, file) in files.iter().enumerate().filter(|(k, _)| k % 5 != 0) {
        fs::remove_file(file).with_context(|| format!("cannot remove {}", file.display()))?;
    }
    for _ in 0..run.processes {
        let mut command = Command::new(program);
        let ended = command.arg("--version").stdout(Stdio::null()).status();
        ended.context("cannot start a process before a run")?;
    }
    Ok(())
}

fn probe_cost() -> anyhow::Result<()> {
    let path = "/scratch/synchronised";
    let file = fs::File::create(path).with_context(|| format!("cannot create {path}"))?;
    let costs = crate::probe::pair_costs(&file)?;
    fs::write(Path::new(OUT_DIR).join(PROBE_COST), serde_json::to_vec(&costs)?)?;
    Ok(())
}

fn fill_memory() {
    let mut kept = Vec::new();
    loop {
        // Written, so that the kernel has to find a page for it.
        kept.push(vec![1u8; 16 << 20]);
        std::hint::black_box(&kept);
    }
}
