//! `unionbench gate`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Subcommand;

use super::compare::{Compared, Form, exit_code, print};
use super::{Failure, gate_selftest, gate_top_up, step_summary};
use crate::compare::{Comparison, Figure, RATIOS, Subject, Verdict};
use crate::gate::{Baseline, Budget, judge, trend};
use crate::record::Record;
use crate::report::comparison_md;
use crate::stats::signed_rank::fewest_for;
use crate::store;
use crate::unit::{LatencyUnit, so_many};

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Results to judge: record.json files, their folders, or folders of those
    #[arg(required = true)]
    results: Vec<PathBuf>,
    /// The baseline, or a folder of baselines
    #[arg(long, value_name = "FILE-OR-DIR", default_value = "results/baselines")]
    baseline: PathBuf,
    /// Tolerances other than the defaults
    #[arg(long, value_name = "FILE")]
    budget: Option<PathBuf>,
    /// Writes the results down as baselines instead of judging them; several of
    /// one scenario and kernel make one, which then knows what moves for nothing
    #[arg(long, conflicts_with_all = ["accept", "top_up"])]
    save_baseline: bool,
    /// Takes a change for the worse over into the baseline: a metric or
    /// "CELL METRIC", as the gate printed it
    #[arg(long, value_name = "METRIC", requires = "because")]
    accept: Vec<String>,
    /// Why it is accepted
    #[arg(long, value_name = "REASON")]
    because: Option<String>,
    /// Measures up to so many further rounds where wall time is inconclusive
    #[arg(long, value_name = "ROUNDS", default_value_t = 0)]
    top_up: u32,
    /// Older results, looked through for slow change; it only warns
    #[arg(long, value_name = "DIR")]
    history: Option<PathBuf>,
    /// The kernel is what is under test: it may be another than the baseline's
    #[arg(long)]
    across_kernels: bool,
    /// Also lists what passed and what was left out
    #[arg(long)]
    all: bool,
    /// What is printed
    #[arg(long, value_enum, default_value_t = Form::Human)]
    format: Form,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measures how often the gate alarms where nothing changed, and how small a
    /// slowdown it finds
    Selftest(gate_selftest::Args),
}

/// A baseline with the file it came from.
type Kept = (PathBuf, Baseline);

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if let Some(Command::Selftest(args)) = &args.command {
        return gate_selftest::run(args);
    }
    let records = records(&args.results)?;
    if args.save_baseline {
        return save(args, &records);
    }
    let budget = match &args.budget {
        Some(path) => {
            Budget::from_text(&read(path)?).with_context(|| format!("budget {}", path.display()))?
        }
        None => Budget::default(),
    };
    let mut baselines = baselines(&args.baseline)?;
    let mut judged = Vec::new();
    for (path, record) in &records {
        let mut subject = Subject::of(record).with_context(|| path.display().to_string())?;
        let kept = find(&mut baselines, &subject, &args.baseline)?;
        let verdict =
            |subject: &Subject, kept: &Kept| judge(&kept.1, subject, &budget, args.across_kernels);
        let mut comparison = verdict(&subject, kept)?;
        if args.top_up > 0 && comparison.verdict() == Verdict::Inconclusive {
            gate_top_up::top_up(record, &mut subject, &kept.1.subject, args.top_up)?;
            comparison = verdict(&subject, kept)?;
        }
        if !args.accept.is_empty() {
            accept(args, kept, &comparison, &subject)?;
            comparison = verdict(&subject, kept)?;
        }
        judged.push(Compared {
            base: kept.0.display().to_string(),
            new: path.display().to_string(),
            comparison,
        });
        warn_of_trend(args.history.as_deref(), subject)?;
    }
    print(args.format, &judged, args.all)?;
    let page: String =
        judged.iter().map(|c| comparison_md(&c.base, &c.new, &c.comparison)).collect();
    // The verdict stands whether or not it can be told there.
    if let Err(error) = step_summary::append(&page) {
        eprintln!("unionbench: {error:#}");
    }
    Ok(exit_code(judged.iter().map(|judged| judged.comparison.verdict())))
}

/// Every record under `paths`, by path. A path without any is refused: nothing
/// measured is no pass.
pub(super) fn records(paths: &[PathBuf]) -> anyhow::Result<Vec<(PathBuf, Record)>> {
    let mut found = Vec::new();
    for path in paths {
        let before = found.len();
        if path.is_dir() && !holds_record(path) {
            for file in record_files(path)? {
                found.push((file.clone(), store::read(&file)?));
            }
            if found.len() == before {
                bail!(
                    "cannot read {}: no record lies in it; name a results folder",
                    path.display()
                );
            }
        } else {
            found.push((path.clone(), store::read(path)?));
        }
    }
    Ok(found)
}

/// The records under `folder`, in path order; folders of unfinished runs are
/// passed over.
fn record_files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        let entries =
            fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
        for entry in entries {
            let path = entry?.path();
            let hidden = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
            if path.is_dir() && !hidden {
                open.push(path);
            } else if store::is_record(&path) {
                found.push(path);
            }
        }
    }
    found.sort();
    // A folder holds one record, be it there twice.
    found.dedup_by(|second, first| second.parent() == first.parent());
    Ok(found)
}

fn holds_record(folder: &Path) -> bool {
    [store::RECORD, store::PACKED].iter().any(|name| folder.join(name).exists())
}

fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn baselines(path: &Path) -> anyhow::Result<Vec<Kept>> {
    if !path.exists() {
        bail!(
            "cannot gate without a baseline: {} is not there; make it from results that are right with `unionbench gate --save-baseline --baseline {} RESULT...`",
            path.display(),
            path.display()
        );
    }
    let mut files = Vec::new();
    if path.is_dir() {
        let entries =
            fs::read_dir(path).with_context(|| format!("cannot list {}", path.display()))?;
        for entry in entries {
            files.push(entry?.path());
        }
        files.retain(|file| file.extension().is_some_and(|e| e == "toml"));
        files.sort();
    } else {
        files.push(path.to_owned());
    }
    let load = |file: PathBuf| {
        let baseline = Baseline::from_text(&read(&file)?)
            .with_context(|| format!("baseline {}", file.display()))?;
        Ok((file, baseline))
    };
    files.into_iter().map(load).collect()
}

/// The baseline of the same scenario and kind of figure; in the lab that of the
/// same kernel, else of the same series.
fn find<'a>(
    baselines: &'a mut [Kept],
    subject: &Subject,
    path: &Path,
) -> anyhow::Result<&'a mut Kept> {
    let fit = |baseline: &Baseline| {
        let own = &baseline.subject;
        let same = own.identity.scenario == subject.identity.scenario
            && own.identity.unit == subject.identity.unit
            && own.identity.lab.is_some() == subject.identity.lab.is_some();
        match same {
            false => 0,
            true if own.place.kernel_sha256 == subject.place.kernel_sha256 => 3,
            true if series(&own.place.kernel) == series(&subject.place.kernel) => 2,
            true => 1,
        }
    };
    let alone = baselines.len() == 1;
    baselines
        .iter_mut()
        .max_by_key(|(_, baseline)| fit(baseline))
        .filter(|(_, baseline)| alone || fit(baseline) > 0)
        .with_context(|| {
            format!(
                "no baseline of {} in {} fits: save one with --save-baseline",
                place(subject),
                path.display()
            )
        })
}

/// `6.1` of `6.1.0-56-amd64`.
fn series(release: &str) -> String {
    release.split('.').take(2).collect::<Vec<_>>().join(".")
}

/// `deep-layers.lab-6.1`, `deep-layers.native`: names a baseline.
fn place(subject: &Subject) -> String {
    let name = &subject.identity.scenario;
    match &subject.identity.lab {
        Some(lab) if lab.mode == "count" => format!("{name}.lab-{}", series(&subject.place.kernel)),
        Some(lab) => format!("{name}.lab-{}-{}", lab.mode, series(&subject.place.kernel)),
        None => format!("{name}.native"),
    }
}

fn save(args: &Args, records: &[(PathBuf, Record)]) -> anyhow::Result<ExitCode> {
    let mut places: Vec<(String, Vec<Subject>)> = Vec::new();
    for (path, record) in records {
        let subject = Subject::of(record).with_context(|| path.display().to_string())?;
        let name = place(&subject);
        match places.iter_mut().find(|(known, _)| *known == name) {
            Some((_, subjects)) => subjects.push(subject),
            None => places.push((name, vec![subject])),
        }
    }
    let one_file = args.baseline.extension().is_some_and(|e| e == "toml");
    if one_file && places.len() > 1 {
        let message =
            "one baseline file holds one scenario on one kernel: name a folder with --baseline";
        return Err(Failure::Usage(message.into()).into());
    }
    for (name, subjects) in places {
        let kernel = &subjects[0].place.kernel_sha256;
        if let Some(other) = subjects.iter().find(|s| s.place.kernel_sha256 != *kernel) {
            bail!(
                "cannot save one baseline of two kernels: {} and {}",
                subjects[0].place.kernel,
                other.place.kernel
            );
        }
        let subject = Subject::merged(&subjects.iter().collect::<Vec<_>>())?;
        warn_of_few_rounds(&subject);
        let file = match one_file {
            true => args.baseline.clone(),
            false => args.baseline.join(format!("{name}.toml")),
        };
        write(&file, &Baseline::new(subject))?;
        println!("saved {} ({})", file.display(), so_many(subjects.len(), "run"));
    }
    Ok(ExitCode::SUCCESS)
}

fn write(file: &Path, baseline: &Baseline) -> anyhow::Result<()> {
    let text = baseline.to_text()?;
    let parent = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent)
        .and_then(|()| fs::write(file, text))
        .with_context(|| format!("cannot write the baseline {}", file.display()))
}

/// A baseline of wall time with too few rounds can never fail anything.
fn warn_of_few_rounds(subject: &Subject) {
    if subject.identity.unit != LatencyUnit::Nanoseconds {
        return;
    }
    let rounds: Vec<usize> = subject
        .cells
        .iter()
        .filter_map(|cell| match cell.metrics.get(RATIOS[0])? {
            Figure::Ratios(ratios) => Some(ratios.len()),
            _ => None,
        })
        .collect();
    let needed = fewest_for(0.05 / rounds.len().max(1) as f64);
    if let Some(fewest) = rounds.iter().min().filter(|n| **n < needed) {
        eprintln!(
            "unionbench: {} of {}: no slowdown can be told by fewer than {needed}; measure with --rounds {needed}",
            so_many(*fewest, "round"),
            so_many(rounds.len(), "ratio")
        );
    }
}

fn accept(
    args: &Args,
    kept: &mut Kept,
    comparison: &Comparison,
    subject: &Subject,
) -> anyhow::Result<()> {
    let because = args.because.as_deref().unwrap_or_default();
    let (who, when) = (who(), jiff::Timestamp::now().to_string());
    for metric in &args.accept {
        let n = kept.1.accept(comparison, subject, metric, &who, &when, because)?;
        eprintln!(
            "unionbench: accepted {metric} in {} of {} for {who}",
            so_many(n, "cell"),
            kept.0.display()
        );
    }
    write(&kept.0, &kept.1)
}

/// Who answers for a change: git's identity, else the account.
fn who() -> String {
    let git = |key: &str| {
        let output = std::process::Command::new("git").args(["config", key]).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        (output.status.success() && !text.is_empty()).then_some(text)
    };
    match (git("user.name"), git("user.email")) {
        (Some(name), Some(email)) => format!("{name} <{email}>"),
        (Some(name), None) => name,
        _ => std::env::var("USER")
            .unwrap_or_else(|_| format!("uid {}", rustix::process::getuid().as_raw())),
    }
}

fn warn_of_trend(history: Option<&Path>, newest: Subject) -> anyhow::Result<()> {
    let Some(folder) = history else { return Ok(()) };
    let mut subjects = Vec::new();
    for file in record_files(folder)? {
        // A record that is damaged or of another schema has no part in a trend;
        // that it was left out is told.
        match store::read(&file).map_err(anyhow::Error::from).and_then(|r| Ok(Subject::of(&r)?)) {
            Ok(subject) => subjects.push(subject),
            Err(error) => eprintln!("unionbench: history: left out {}: {error:#}", file.display()),
        }
    }
    subjects.retain(|subject| subject.place.started != newest.place.started);
    subjects.push(newest);
    subjects.sort_by(|a, b| a.place.started.cmp(&b.place.started));
    for change in trend(&subjects) {
        eprintln!(
            "unionbench: trend: {} {} rose from {:.3} to {:.3} with the record of {} ({}); {} records, p {:.3}",
            change.cell,
            change.metric,
            change.before,
            change.after,
            change.since,
            change.program,
            change.n,
            change.p
        );
    }
    Ok(())
}
