//! `unionbench advise`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use serde_json::{Value, json};

use super::Failure;
use super::scenario::Backing;
use crate::record::{Cell, Record};
use crate::stats::hdr;
use crate::store;
use crate::trace::Recording;
use crate::trace::advise::{self, Advice, Findings, Watcher};
use crate::trace::replay::{Gatherer, Names, Replay};
use crate::trace::summary::printable;
use crate::unit::{LatencyUnit, Nanos};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// A recording of `unionbench trace`, or a result of `unionbench run`
    subject: PathBuf,
    /// Measures what can be: a recording is replayed with and without each
    /// change of mount options; a result is asked for a backend that has it
    #[arg(long)]
    verify: bool,
    /// The file system under the layers of the replay
    #[arg(long, value_enum, default_value = "ext4")]
    backing: Backing,
    /// Further arguments of the replay's `unionbench run`, as in
    /// --run-with="--lab --kernel 6.12"
    #[arg(long, value_name = "ARGUMENTS", default_value = "", allow_hyphen_values = true)]
    run_with: String,
    #[arg(long, value_enum, default_value = "human")]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Human,
    Json,
}

/// A saving that was measured.
struct Measured {
    unit: LatencyUnit,
    /// One pass over the workload.
    without: f64,
    with: f64,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let is_result = args.subject.is_dir() || store::is_record(&args.subject);
    let (all, measure): (Vec<Findings>, Measure) = if is_result {
        let record = store::read(&args.subject)?;
        let facts = advise::of_record(&record);
        (facts.into_iter().map(advise::findings).collect(), Measure::Record(Box::new(record)))
    } else {
        let (facts, replay) = of_recording(&args.subject)?;
        (facts.into_iter().map(advise::findings).collect(), Measure::Replay(replay))
    };
    if all.is_empty() {
        let message = "cannot advise: no copy-up and no lookup was seen; trace `copyup,lookup`, or run a scenario with probes";
        return Err(Failure::Unsupported(message.to_owned()).into());
    }
    let mut told = Vec::new();
    for findings in &all {
        let mut verified = Vec::new();
        for advice in &findings.advice {
            verified.push(match args.verify {
                true => Some(measure.measure(findings, advice, args)?),
                false => None,
            });
        }
        match args.format {
            Format::Human => print_human(findings, &verified),
            Format::Json => told.push(as_json(findings, &verified)),
        }
    }
    if args.format == Format::Json {
        println!("{}", serde_json::to_string_pretty(&told)?);
    }
    Ok(ExitCode::SUCCESS)
}

fn of_recording(path: &Path) -> anyhow::Result<(Vec<advise::Facts>, Vec<Replay>)> {
    let mut recording = Recording::open(path)?;
    let (mut watcher, mut gatherer) = (Watcher::default(), Gatherer::default());
    let mut too_many = None;
    for event in recording.by_ref() {
        let event = event?;
        watcher.add(&event);
        // Advice rests on all events, a replay on as many as a scenario holds.
        if too_many.is_none() {
            too_many = gatherer.add(&event).err();
        }
    }
    let facts = watcher.facts(recording.header(), LatencyUnit::Nanoseconds);
    let replays = facts
        .iter()
        .filter_map(|facts| gatherer.replay(recording.header(), Some(&facts.source)).ok())
        .collect();
    Ok((facts, replays))
}

/// What a saving can be measured with.
enum Measure {
    Record(Box<Record>),
    Replay(Vec<Replay>),
}

type Verified = Result<Measured, String>;

impl Measure {
    fn measure(
        &self,
        findings: &Findings,
        advice: &Advice,
        args: &Args,
    ) -> anyhow::Result<Verified> {
        if advice.options.is_empty() {
            return Ok(Err("no mount option makes this change".to_owned()));
        }
        match self {
            Self::Record(record) => Ok(beside(record, &findings.facts.source, advice)),
            Self::Replay(replays) => {
                match replays.iter().find(|replay| replay.mount == findings.facts.source) {
                    Some(found) => replay(found, advice, args),
                    None => Ok(Err("this union's copy-ups cannot be replayed".to_owned())),
                }
            }
        }
    }
}

/// The same phase on a backend of the record that has the option and is
/// otherwise the same.
fn beside(record: &Record, id: &str, advice: &Advice) -> Verified {
    let none = || {
        format!(
            "the record has no backend that differs by {} alone; run the scenario with one",
            advice.change
        )
    };
    let cell = record.cells.iter().find(|cell| cell.id == id).ok_or_else(none)?;
    let options = |cell: &Cell| {
        let backend = record.backends.iter().find(|backend| backend.name == cell.backend);
        backend.map(|b| (b.kind.clone(), b.options_in_force.clone())).unwrap_or_default()
    };
    let plain = |cell: &Cell| {
        let (kind, mut options) = options(cell);
        // Redirects are what metacopy needs, and are not used here.
        options.retain(|o| !o.starts_with("metacopy=") && !o.starts_with("redirect_dir="));
        options.retain(|o| o != "volatile" && !o.starts_with("fsync="));
        (kind, options)
    };
    // Newer kernels show `volatile` as `fsync=volatile`.
    let changes = |cell: &Cell, change: &str| {
        options(cell).1.iter().any(|o| o == change || o.strip_prefix("fsync=") == Some(change))
    };
    let all = ["metacopy=on", "volatile"];
    let other = record.cells.iter().find(|other| {
        other.phase == cell.phase
            && other.params == cell.params
            && other.stack == cell.stack
            && plain(other) == plain(cell)
            && all.iter().all(|change| {
                changes(other, change) == (changes(cell, change) || *change == advice.change)
            })
    });
    let other = other.filter(|other| other.id != cell.id).ok_or_else(none)?;
    measured(record, cell, other)
}

fn measured(record: &Record, without: &Cell, with: &Cell) -> Verified {
    let pass = |cell: &Cell| -> Result<f64, String> {
        let plain: Vec<_> = cell.rounds.iter().filter(|round| !round.probes).collect();
        let mut sum = 0.0;
        for round in &plain {
            let histogram = hdr::decode(&round.histogram).map_err(|error| error.to_string())?;
            sum += histogram.mean() * histogram.len() as f64;
        }
        match plain.len() {
            0 => Err(format!("{} has no round without probes", cell.id)),
            n => Ok(sum / n as f64),
        }
    };
    Ok(Measured { unit: record.latency_unit, without: pass(without)?, with: pass(with)? })
}

/// Runs the replay with both sets of options and reads the record.
fn replay(replay: &Replay, advice: &Advice, args: &Args) -> anyhow::Result<Verified> {
    let folder = tempfile::tempdir().context("cannot make a folder for the replay")?;
    let scenario = folder.path().join("advise.toml");
    let text = replay.clone().renamed(&Names::hashed(0)).toml("advise", args.backing.name());
    let changed: Vec<String> = replay
        .options
        .iter()
        .filter(|(name, _)| !advice.options.iter().any(|(changed, _)| changed == name))
        .map(|(name, value)| (name.as_str(), value.as_deref().unwrap_or("")))
        .chain(advice.options.iter().copied())
        .map(|(name, value)| match value {
            "" => format!("{name} = true"),
            value => format!("{name} = {value:?}"),
        })
        .collect();
    let second = format!(
        "[[backend]]\nkind = \"overlayfs\"\nname = \"changed\"\noptions = {{ {} }}\n\n[[phase]]",
        changed.join(", ")
    );
    let text = text.replacen("[[phase]]", &second, 1);
    std::fs::write(&scenario, text).context("cannot write the replay")?;
    let mut command = std::process::Command::new("/proc/self/exe");
    command.arg("run").arg(&scenario).args(["--quiet", "--format", "json", "--results"]);
    command.arg(folder.path().join("results"));
    let words = shlex::split(&args.run_with).ok_or_else(|| {
        Failure::Usage(format!("cannot read --run-with {:?}: a quote is open", args.run_with))
    })?;
    let output = command.args(words).output().context("cannot start the replay")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("cannot verify: the replay ended with {}: {}", output.status, said.trim());
    }
    let results = folder.path().join("results/advise");
    let kept = std::fs::read_dir(&results).context("the replay left no result")?;
    let kept = kept.filter_map(Result::ok).next().context("the replay left no result")?;
    let record = store::read(&kept.path())?;
    let of = |name: &str| record.cells.iter().find(|cell| cell.backend == name);
    match (of("overlayfs"), of("changed")) {
        (Some(without), Some(with)) => Ok(measured(&record, without, with)),
        _ => Ok(Err("the replay has no such cells".to_owned())),
    }
}

fn amount(value: f64, unit: LatencyUnit) -> String {
    match unit {
        LatencyUnit::Nanoseconds => Nanos(value.max(0.0) as u64).to_string(),
        LatencyUnit::Instructions => format!("{value:.0} instructions"),
    }
}

fn percent(part: f64, of: f64) -> String {
    if of > 0.0 { format!("{:.1} %", 100.0 * part / of) } else { "-".to_owned() }
}

fn print_human(findings: &Findings, verified: &[Option<Verified>]) {
    let facts = &findings.facts;
    let time = amount(facts.copy_up_time as f64, facts.unit);
    println!("{}: {} copy-ups took {time}", printable(&facts.source), facts.n_copy_ups);
    for (advice, verified) in findings.advice.iter().zip(verified) {
        let most = if advice.at_most { "at most " } else { "" };
        let saving = amount(advice.saving as f64, facts.unit);
        let share = percent(advice.saving as f64, advice.of as f64);
        println!("\n  {}: would save {most}{saving}, {share}", printable(&advice.change));
        println!("    by {}", advice.basis);
        println!("    price: {}", advice.price);
        match verified {
            None => {}
            Some(Err(reason)) => println!("    not measured: {reason}"),
            Some(Ok(m)) => {
                let predicted = advice.saving as f64 / facts.n_passes.max(1) as f64;
                let saved = m.without - m.with;
                println!(
                    "    measured: {} without, {} with: saves {}, {} (predicted {})",
                    amount(m.without, m.unit),
                    amount(m.with, m.unit),
                    amount(saved, m.unit),
                    percent(saved, m.without),
                    amount(predicted, facts.unit)
                );
            }
        }
    }
    if !findings.not_judged.is_empty() {
        println!("\n  nothing can be said of");
    }
    for (change, reason) in &findings.not_judged {
        println!("    {change}: {reason}");
    }
    println!();
}

fn as_json(findings: &Findings, verified: &[Option<Verified>]) -> Value {
    let facts = &findings.facts;
    let advice = findings.advice.iter().zip(verified).map(|(advice, verified)| {
        let measured = match verified {
            None => Value::Null,
            Some(Err(reason)) => json!({ "unsupported": reason }),
            Some(Ok(m)) => {
                json!({ "unit": m.unit, "without": m.without, "with": m.with, "saving": m.without - m.with })
            }
        };
        json!({
            "change": advice.change, "predicted_saving": advice.saving / facts.n_passes.max(1),
            "of": advice.of / facts.n_passes.max(1), "at_most": advice.at_most,
            "basis": advice.basis, "price": advice.price, "measured": measured,
        })
    });
    json!({
        "source": facts.source, "unit": facts.unit, "copy_ups": facts.n_copy_ups,
        "copy_up_time": facts.copy_up_time, "passes": facts.n_passes,
        "advice": advice.collect::<Vec<_>>(),
        "not_judged": findings.not_judged.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
    })
}
