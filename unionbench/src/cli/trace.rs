//! `unionbench trace`: a line for each event, as it happens.

use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::ValueEnum;

use super::signal::stop_on_signal;
use super::{Failure, run, summary};
use crate::trace::summary::Losses;
use crate::trace::{
    COLUMNS, DEFAULT_BUFFER, End, Event, Kind, Line, Request, Summary, Tracer, csv_row,
    human_heading, human_line,
};
use crate::unit::{Bytes, Nanos};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to show; several are separated by commas
    #[arg(value_enum, required = true, value_delimiter = ',')]
    kinds: Vec<Kind>,
    #[command(flatten)]
    filter: Filter,
    /// End after this time, as in 10s; without, at Ctrl-C
    #[arg(long, value_name = "TIME")]
    duration: Option<Nanos>,
    #[arg(long, value_enum, default_value_t = Format::Human)]
    format: Format,
    /// Also keep the events in this file, as lines of JSON
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Print no events but what they come to, at the end
    #[arg(long)]
    summary: bool,
}

/// What is left out. All of it but a container that does not run yet is left
/// out in the kernel.
#[derive(Debug, Clone, clap::Args)]
pub struct Filter {
    /// Only the union that this path lies on
    #[arg(long, value_name = "PATH", conflicts_with = "all")]
    mount: Option<PathBuf>,
    /// Every union of the machine, which is what happens without --mount
    #[arg(long)]
    all: bool,
    /// Only the process with this id
    #[arg(long, value_name = "N")]
    pid: Option<u32>,
    /// Only processes of this name (its first 15 bytes)
    #[arg(long, value_name = "NAME")]
    comm: Option<String>,
    /// Only processes in this control group or below it
    #[arg(long, value_name = "PATH", conflicts_with = "container")]
    cgroup: Option<String>,
    /// Only processes of the container whose id begins so
    #[arg(long, value_name = "ID")]
    container: Option<String>,
    /// Only what took at least this long, as in 1ms
    #[arg(long, value_name = "TIME", default_value = "0ns")]
    min_latency: Nanos,
    /// Room in the kernel for events that were not read yet
    #[arg(long, value_name = "BYTES", default_value_t = DEFAULT_BUFFER)]
    buffer: Bytes,
}

impl Filter {
    /// The request for these kinds.
    pub fn request(&self, kinds: &[Kind]) -> Request {
        let mut kinds = kinds.to_vec();
        kinds.sort();
        kinds.dedup();
        Request {
            kinds,
            mount: self.mount.clone(),
            pid: self.pid,
            comm: self.comm.clone(),
            cgroup: self.cgroup.clone(),
            container: self.container.clone(),
            min_latency: self.min_latency,
            buffer: self.buffer,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Human,
    Json,
    Csv,
    /// Only with --summary
    Md,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if args.format == Format::Md && !args.summary {
        return Err(Failure::Usage("events are not printed as md: add --summary".into()).into());
    }
    if let Some(path) = &args.record {
        refuse_taken(path)?;
    }
    let (stop, _listener) = stop_on_signal()?;
    let mut tracer = Tracer::open(&args.filter.request(&args.kinds))?;
    for reason in tracer.unseen() {
        eprintln!("unionbench: not seen here: {reason}");
    }
    let mut sinks = Sinks::open(args, &tracer)?;
    // Who starts this program and then a workload waits for this line.
    let kinds: Vec<&str> = tracer.header().kinds.iter().map(|kind| kind.name()).collect();
    eprintln!("unionbench: tracing {}", kinds.join(", "));
    let outcome = follow(&mut tracer, &stop, args.duration, &mut |event| sinks.take(event))?;
    let end = tracer.end()?;
    sinks.finish(end)?;
    tell(&end, outcome);
    Ok(match outcome {
        Outcome::Interrupted if args.duration.is_some() => ExitCode::from(130),
        _ => ExitCode::SUCCESS,
    })
}

/// Why a trace ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Its time was over.
    Elapsed,
    Interrupted,
    /// Nobody reads what is printed.
    Unread,
}

/// Hands every event over until the time is over, a signal came or nobody
/// wants more; then what was on its way.
pub fn follow(
    tracer: &mut Tracer,
    stop: &AtomicBool,
    duration: Option<Nanos>,
    take: &mut dyn FnMut(&Event) -> anyhow::Result<Taken>,
) -> anyhow::Result<Outcome> {
    /// How long a signal may wait for its effect.
    const PATIENCE: Duration = Duration::from_millis(250);
    let deadline = duration.map(|time| Instant::now() + Duration::from_nanos(time.0));
    let outcome = loop {
        if stop.load(Ordering::Relaxed) {
            break Outcome::Interrupted;
        }
        let left = deadline.map(|end| end.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            break Outcome::Elapsed;
        }
        let Some(event) = tracer.next(left.map_or(PATIENCE, |left| left.min(PATIENCE)))? else {
            continue;
        };
        if take(&event)? == Taken::Unread {
            return Ok(Outcome::Unread);
        }
    };
    tracer.stop();
    while let Some(event) = tracer.next(Duration::ZERO)? {
        if take(&event)? == Taken::Unread {
            return Ok(Outcome::Unread);
        }
    }
    Ok(outcome)
}

/// What became of an event that was handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    Read,
    Unread,
}

fn tell(end: &End, outcome: Outcome) {
    let seconds = end.duration_ns.0 as f64 / 1e9;
    eprintln!("unionbench: {} events in {seconds:.1} s", end.n_events);
    if end.n_lost > 0 {
        eprintln!(
            "unionbench: {} more happened and were lost: give --buffer more bytes, or ask for less",
            end.n_lost
        );
    }
    if outcome == Outcome::Unread {
        tracing::debug!("the reader of stdout is gone");
    }
}

/// Where events go.
struct Sinks {
    format: Format,
    summary: Option<Summary>,
    record: Option<Recording>,
}

impl Sinks {
    fn open(args: &Args, tracer: &Tracer) -> anyhow::Result<Self> {
        let record = match &args.record {
            Some(path) => Some(Recording::create(path, tracer)?),
            None => None,
        };
        let summary = args.summary.then(|| Summary::new(tracer.header()));
        let sinks = Self { format: args.format, summary, record };
        if args.summary {
            return Ok(sinks);
        }
        let _ = match args.format {
            Format::Md => Ok(Taken::Read),
            Format::Human => print(|out| writeln!(out, "{}", human_heading())),
            Format::Csv => print(|out| csv_line(out, COLUMNS)),
            Format::Json => print(|out| json_line(out, &Line::Header(tracer.header().clone()))),
        }?;
        Ok(sinks)
    }

    fn take(&mut self, event: &Event) -> anyhow::Result<Taken> {
        if let Some(record) = &mut self.record {
            record.write(&Line::Event(Box::new(event.clone())))?;
        }
        if let Some(summary) = &mut self.summary {
            summary.add(event);
            return Ok(Taken::Read);
        }
        match self.format {
            Format::Md => Ok(Taken::Read),
            Format::Human => print(|out| writeln!(out, "{}", human_line(event))),
            Format::Csv => print(|out| csv_line(out, csv_row(event))),
            Format::Json => print(|out| json_line(out, &Line::Event(Box::new(event.clone())))),
        }
    }

    fn finish(self, end: End) -> anyhow::Result<()> {
        if let Some(mut summary) = self.summary {
            summary.set_losses(Losses { n_lost: end.n_lost, ..Losses::default() });
            let format = match self.format {
                Format::Human => run::Format::Human,
                Format::Json => run::Format::Json,
                Format::Csv => run::Format::Csv,
                Format::Md => run::Format::Md,
            };
            summary::print(&summary, format, summary::TOP)?;
        } else if self.format == Format::Json {
            print(|out| json_line(out, &Line::End(end)))?;
        }
        match self.record {
            Some(record) => record.finish(end),
            None => Ok(()),
        }
    }
}

/// Writes to stdout and sees to it that a reader gets it now. A reader that has
/// gone is no error.
fn print(write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> anyhow::Result<Taken> {
    let mut out = BufWriter::new(stdout().lock());
    match write(&mut out).and_then(|()| out.flush()) {
        Ok(()) => Ok(Taken::Read),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Taken::Unread),
        Err(error) => Err(error).context("cannot print an event"),
    }
}

fn json_line(out: &mut dyn Write, line: &Line) -> std::io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.write_all(b"\n")
}

fn csv_line<const N: usize>(
    out: &mut dyn Write,
    fields: [impl AsRef<[u8]>; N],
) -> std::io::Result<()> {
    let mut writer = csv::Writer::from_writer(out);
    writer.write_record(fields)?;
    writer.flush()
}

/// A recording that grows with the trace: what is in it when the program is
/// killed can still be read.
struct Recording {
    path: PathBuf,
    file: BufWriter<File>,
}

/// A recording of before is not lost; a pipe or a terminal is taken as it is.
fn refuse_taken(path: &Path) -> anyhow::Result<()> {
    let taken = std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() > 0);
    anyhow::ensure!(
        !taken,
        "cannot record to {}: the file is there already; remove it, or give another name",
        path.display()
    );
    Ok(())
}

impl Recording {
    fn create(path: &Path, tracer: &Tracer) -> anyhow::Result<Self> {
        let file =
            File::create(path).with_context(|| format!("cannot record to {}", path.display()))?;
        let mut recording = Self { path: path.to_owned(), file: BufWriter::new(file) };
        recording.write(&Line::Header(tracer.header().clone()))?;
        Ok(recording)
    }

    fn write(&mut self, line: &Line) -> anyhow::Result<()> {
        json_line(&mut self.file, line)
            .and_then(|()| self.file.flush())
            .with_context(|| self.failed())
    }

    fn finish(mut self, end: End) -> anyhow::Result<()> {
        self.write(&Line::End(end))
    }

    fn failed(&self) -> String {
        format!("cannot record to {}", self.path.display())
    }
}
