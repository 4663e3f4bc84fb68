//! `unionbench lab run|kernels|shell`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use comfy_table::Table;

use super::lab_selftest::PROBE_COST;
use crate::lab::{
    Accel, Exit, Guest, GuestFile, GuestOutcome, Kernel, LabError, LabIdentity, Mode,
};
use crate::probe::PairCost;
use crate::unit::Bytes;

#[derive(Debug, Parser)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a command in a guest of every kernel given
    Run(RunArgs),
    /// Lists the kernels at hand and what each can do
    Kernels {
        /// Further kernels to describe: a series, a .deb, an extracted package, a
        /// build folder or a bzImage
        #[arg(value_name = "KERNEL")]
        further: Vec<String>,
    },
    /// Opens a shell in a guest
    Shell(ShellArgs),
    /// Measures what a pair of probes costs on every kernel given, in instructions
    ProbeCost(ProbeCostArgs),
}

/// What `lab run`, `lab shell` and `run --lab` say about the guest.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Lab")]
pub struct GuestArgs {
    /// Kernel: a series (6.1), a Debian release, a .deb, an extracted package, a
    /// build folder or a bzImage; repeat it for a matrix
    #[arg(long = "kernel", value_name = "KERNEL", default_value = "6.1")]
    pub kernels: Vec<String>,
    /// Memory of the guest
    #[arg(long, default_value = "2GiB")]
    pub memory: Bytes,
    /// CPUs of the guest [default: 1 in count mode, 2 in plain mode]
    #[arg(long)]
    pub cpus: Option<u32>,
    /// Accelerator of plain mode: auto, tcg or kvm
    #[arg(long, default_value = "auto")]
    pub accel: Accel,
    /// Seconds the guest may take once it has booted
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub timeout: u64,
    /// Seconds the guest may take to boot
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub boot_timeout: u64,
    /// Further kernel module to load, such as xfs or btrfs
    #[arg(long = "module", value_name = "NAME")]
    pub modules: Vec<String>,
    /// File to put into the guest; a program brings its libraries along
    #[arg(long = "file", value_name = "GUEST=HOST")]
    pub files: Vec<String>,
    /// Further kernel parameters
    #[arg(long, default_value = "")]
    pub append: String,
}

#[derive(Debug, clap::Args)]
struct RunArgs {
    #[command(flatten)]
    guest: GuestArgs,
    /// count (figures are instructions) or plain
    #[arg(long, default_value = "count")]
    mode: Mode,
    /// Folder for the guest's output, one folder per kernel, with the console
    /// log and what was run on
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Program and arguments; `unionbench` is there, and what it leaves in /out
    /// comes back
    #[arg(last = true, required = true)]
    argv: Vec<String>,
}

#[derive(Debug, clap::Args)]
struct ProbeCostArgs {
    #[command(flatten)]
    guest: GuestArgs,
}

#[derive(Debug, clap::Args)]
struct ShellArgs {
    #[command(flatten)]
    guest: GuestArgs,
    /// Shell of the host to put into the guest
    #[arg(long, default_value = "/bin/bash")]
    shell: PathBuf,
}

/// Runs the subcommand. The exit code of `run` is the guest command's own, the
/// first failing one of a matrix.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Run(args) => run_matrix(&args),
        Command::Kernels { further } => {
            print_kernels(&further)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Shell(args) => shell(&args),
        Command::ProbeCost(args) => probe_cost(&args.guest),
    }
}

impl GuestArgs {
    /// A guest of `kernel` with what was asked for and no command yet.
    pub fn guest(&self, kernel: &str, mode: Mode) -> anyhow::Result<Guest> {
        let mut guest = Guest::new(Kernel::resolve(kernel)?, mode);
        guest.memory = self.memory;
        guest.cpus = self.cpus.unwrap_or(guest.cpus);
        guest.accel = self.accel;
        guest.timeout = Duration::from_secs(self.timeout);
        guest.boot_timeout = Duration::from_secs(self.boot_timeout);
        guest.required_modules.extend(self.modules.iter().cloned());
        guest.append.clone_from(&self.append);
        for file in &self.files {
            let Some((path, host)) = file.split_once('=') else {
                bail!("cannot put {file:?} into the guest: write --file /path/in/guest=host/file");
            };
            guest.files.push(GuestFile::host(path, host));
        }
        // What makes this program talk makes it talk in the guest.
        if let Ok(filter) = std::env::var("RUST_LOG") {
            guest.env.push(("RUST_LOG".into(), filter));
        }
        guest.stop = stop_on_signal();
        Ok(guest)
    }
}

fn run_matrix(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for name in &args.guest.kernels {
        let mut guest = args.guest.guest(name, args.mode)?;
        guest.argv.clone_from(&args.argv);
        let outcome = match guest.run() {
            Err(LabError::Interrupted) => return Ok(ExitCode::from(130)),
            other => other.with_context(|| format!("kernel {name}"))?,
        };
        if let Some(dir) = &args.out {
            save(&outcome, &dir.join(&outcome.identity.kernel_release))?;
        }
        print_outcome(&outcome);
        if !outcome.exit.success() && code == ExitCode::SUCCESS {
            code = exit_code(outcome.exit);
        }
    }
    Ok(code)
}

/// A signal is told as shells tell it: 128 and its number.
fn exit_code(exit: Exit) -> ExitCode {
    let number = match exit {
        Exit::Code(code) => code,
        Exit::Signal(signal) => 128 + signal,
    };
    ExitCode::from(u8::try_from(number).unwrap_or(1))
}

fn print_outcome(outcome: &GuestOutcome) {
    let LabIdentity { kernel_release, mode, accel, .. } = &outcome.identity;
    let seconds = outcome.wall.as_secs_f64();
    eprintln!("kernel {kernel_release}, mode {mode}, {accel}: {seconds:.1} s");
    for (name, to_stderr) in [("stdout", false), ("stderr", true)] {
        let text = String::from_utf8_lossy(outcome.file(name).unwrap_or_default());
        if to_stderr {
            eprint!("{text}");
        } else {
            print!("{text}");
        }
    }
}

fn save(outcome: &GuestOutcome, dir: &Path) -> anyhow::Result<()> {
    let write = |path: PathBuf, bytes: &[u8]| -> anyhow::Result<()> {
        let parent = path.parent().unwrap_or(dir);
        fs::create_dir_all(parent)
            .and_then(|()| fs::write(&path, bytes))
            .with_context(|| format!("cannot write {}", path.display()))
    };
    for file in &outcome.files {
        write(dir.join(&file.path), &file.bytes)?;
    }
    write(dir.join("console.log"), outcome.console.as_bytes())?;
    write(dir.join("lab.json"), &serde_json::to_vec_pretty(&outcome.identity)?)
}

fn print_kernels(further: &[String]) -> anyhow::Result<()> {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header([
        "KERNEL",
        "BTF",
        "KPROBES",
        "OVERLAY",
        "FUSE",
        "AUFS",
        "FUSE PASSTHROUGH",
        "IMAGE",
    ]);
    let mut kernels = Kernel::cached();
    for name in further {
        let kernel = Kernel::resolve(name)?;
        if kernels.iter().all(|other| other.image != kernel.image) {
            kernels.push(kernel);
        }
    }
    for kernel in &kernels {
        let can = &kernel.capabilities;
        let mut row = vec![kernel.release.clone()];
        for feature in [can.btf, can.kprobes, can.overlay, can.fuse, can.aufs, can.fuse_passthrough]
        {
            row.push(feature.to_string());
        }
        row.push(kernel.image.display().to_string());
        table.add_row(row);
    }
    if kernels.is_empty() {
        println!(
            "no kernel is at hand; `unionbench lab run --kernel 6.1 -- unionbench doctor` fetches Debian's 6.1"
        );
    } else {
        println!("{table}");
    }
    Ok(())
}

fn probe_cost(guests: &GuestArgs) -> anyhow::Result<ExitCode> {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header([
        "KERNEL",
        "ENGINE",
        "ON",
        "CALL WITHOUT",
        "ENGINE ALONE",
        "OUR PROGRAMS",
        "IN ALL",
        "OTHER THREADS",
    ]);
    for name in &guests.kernels {
        let mut guest = guests.guest(name, Mode::Count)?;
        guest.argv = ["unionbench", "lab-selftest", "probe-cost"].map(str::to_owned).into();
        let outcome = match guest.run() {
            Err(LabError::Interrupted) => return Ok(ExitCode::from(130)),
            other => other.with_context(|| format!("kernel {name}"))?,
        };
        let Some(text) = outcome.file(PROBE_COST) else {
            let said = String::from_utf8_lossy(outcome.file("stderr").unwrap_or_default());
            bail!("cannot measure probes on kernel {name}: {}", said.trim_end());
        };
        let costs: Vec<PairCost> =
            serde_json::from_slice(text).context("cannot read the guest's figures")?;
        for cost in costs {
            let mut row = vec![guest.kernel.release.clone(), cost.engine.clone()];
            if cost.reason.is_empty() {
                row.push(cost.symbol.clone());
                row.push(cost.bare.to_string());
                row.push(format!("+{}", cost.engine_alone.saturating_sub(cost.bare)));
                row.push(format!("{:+}", cost.programs()));
                row.push(format!("+{}", cost.watched.saturating_sub(cost.bare)));
                row.push(format!("+{}", cost.unwatched.saturating_sub(cost.bare)));
            } else {
                row.push(format!("unsupported: {}", cost.reason));
            }
            table.add_row(row);
        }
    }
    println!("instructions for each pair of probes\n{table}");
    Ok(ExitCode::SUCCESS)
}

/// What a shell is of little use without, where this host has it.
const SHELL_PROGRAMS: [&str; 18] = [
    "ls", "cat", "mount", "umount", "dmesg", "stat", "mkdir", "rm", "ps", "cp", "mv", "ln",
    "touch", "grep", "head", "sleep", "uname", "stty",
];

fn shell(args: &ShellArgs) -> anyhow::Result<ExitCode> {
    let Some(name) = args.guest.kernels.first() else { bail!("give --kernel") };
    let mut guest = args.guest.guest(name, Mode::Plain)?;
    guest.files.push(GuestFile::host("/bin/sh", &args.shell));
    for program in SHELL_PROGRAMS {
        let host = Path::new("/bin").join(program);
        if host.exists() {
            guest.files.push(GuestFile::host(format!("/bin/{program}"), host));
        }
    }
    guest.argv = vec!["/bin/sh".into(), "-i".into()];
    guest.interactive = true;
    match guest.run() {
        Err(LabError::Interrupted) => Ok(ExitCode::from(130)),
        other => Ok(exit_code(other?.exit)),
    }
}

/// Set by whatever politely asks a program to end, upon which a guest is
/// stopped and the exit code says so. Without the listener, QEMU would still
/// die with this process.
fn stop_on_signal() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&stop);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        if let Ok(runtime) = runtime
            && runtime.block_on(first_signal()).is_ok()
        {
            set.store(true, Ordering::Relaxed);
        }
    });
    stop
}

async fn first_signal() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    // Under nohup, hanging up shall not end it.
    let heeded = !is_ignored(SignalKind::hangup().as_raw_value());
    let mut hangup = if heeded { Some(signal(SignalKind::hangup())?) } else { None };
    let hung_up = async {
        match &mut hangup {
            Some(hangup) => hangup.recv().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hung_up => {}
    }
    Ok(())
}

fn is_ignored(signal: i32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & (1 << (signal - 1)) != 0)
}
