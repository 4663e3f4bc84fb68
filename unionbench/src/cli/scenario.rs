//! `unionbench scenario`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Subcommand, ValueEnum};

use crate::trace::replay::{Gatherer, Names};
use crate::trace::{Ending, Recording};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Makes a scenario that does again what a recording saw; names are hashed
    FromTrace(FromTrace),
}

#[derive(Debug, clap::Args)]
struct FromTrace {
    /// A recording of `unionbench trace copyup --record FILE`; `-` is standard
    /// input
    recording: PathBuf,
    /// The scenario; standard output without
    #[arg(short, long, value_name = "FILE.toml")]
    out: Option<PathBuf>,
    /// The union, if the recording has several [default: the one with most
    /// copy-ups]
    #[arg(long, value_name = "PATH")]
    mount: Option<String>,
    /// Writes names as they were
    #[arg(long)]
    keep_names: bool,
    /// The file system under the layers, which no recording tells
    #[arg(long, value_enum, default_value = "ext4")]
    backing: Backing,
    #[arg(long, default_value = "from-trace", value_name = "NAME")]
    name: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Backing {
    Tmpfs,
    Ext4,
    Xfs,
    Btrfs,
    Dir,
}

impl Backing {
    pub fn name(self) -> &'static str {
        match self {
            Self::Tmpfs => "tmpfs",
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Dir => "dir",
        }
    }
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let What::FromTrace(args) = &args.what;
    let mut recording = Recording::open(&args.recording)?;
    let mut gatherer = Gatherer::default();
    for event in recording.by_ref() {
        gatherer.add(&event?)?;
    }
    let mut replay = gatherer.replay(recording.header(), args.mount.as_deref())?;
    match recording.ending() {
        Ending::Cut => replay.notes.push("the recording is cut off".to_owned()),
        Ending::Whole(end) if end.n_lost + recording.n_missing() > 0 => {
            let n = end.n_lost + recording.n_missing();
            replay.notes.push(format!("{n} events were lost and are not done again"));
        }
        Ending::Whole(_) | Ending::Open => {}
    }
    let others: Vec<&str> =
        gatherer.mounts().into_iter().map(|(m, _)| m).filter(|m| *m != replay.mount).collect();
    if !others.is_empty() && args.mount.is_none() {
        eprintln!(
            "unionbench: the scenario is of {}; --mount takes another: {}",
            replay.mount,
            others.join(", ")
        );
    }
    for note in &replay.notes {
        eprintln!("unionbench: not as it was: {note}");
    }
    let names = if args.keep_names { Names::kept() } else { Names::hashed(rand::random()) };
    let text = replay.renamed(&names).toml(&args.name, args.backing.name());
    match &args.out {
        Some(path) => {
            std::fs::write(path, text)
                .with_context(|| format!("cannot write {}", path.display()))?;
            eprintln!("unionbench: wrote {}", path.display());
        }
        None => println!("{}", text.trim_end()),
    }
    Ok(ExitCode::SUCCESS)
}
