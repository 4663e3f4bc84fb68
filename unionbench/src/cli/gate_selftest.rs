//! `unionbench gate selftest`: runs that should not alarm and runs that should.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use super::Failure;
use super::lab::GuestArgs;
use super::selftest_bench::{Bench, Change, Perturbation};
use crate::compare::Subject;
use crate::gate::{
    Budget, Class, Injection, Outcome, Pairing, SelftestReport, apart, draws, outcome, spreads,
};
use crate::report::{selftest_svg, selftest_text};
use crate::scenario;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Scenario that is measured
    pub(super) scenario: PathBuf,
    /// Changes a key of the scenario, as in --set stack.layers=8
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(super) set: Vec<String>,
    /// Measures in the lab, where runs differ in what should not matter
    #[arg(long)]
    pub(super) lab: bool,
    /// Runs in which nothing was slowed down
    #[arg(long, default_value_t = 16)]
    runs: u32,
    /// Runs that a base is made of, drawn from the others; 0 compares pairs of
    /// their own, as is usual natively [default: 10 in the lab, 0 else]
    #[arg(long)]
    base_runs: Option<usize>,
    /// Takes one base evenly from the runs and compares each other run with it
    /// once, instead of drawing bases again and again
    #[arg(long)]
    apart: bool,
    /// Runs in one boot of the lab; they share the program and the initial file
    /// system
    #[arg(long, default_value_t = 1)]
    per_boot: u32,
    /// Another build of this program, which boots of the lab take turns with: that
    /// it was built again should not matter
    #[arg(long = "program", value_name = "FILE")]
    pub(super) programs: Vec<PathBuf>,
    /// Comparisons to draw
    #[arg(long, default_value_t = 100)]
    comparisons: usize,
    /// Keeps the seed in perturbed runs, so that they can be a baseline
    #[arg(long)]
    pub(super) keep_seed: bool,
    /// Judges the records of an earlier selftest in --out again
    #[arg(long)]
    again: bool,
    /// A slowdown as SIZE%:TARGET:KEY=VALUE, as in
    /// 1%:cold-bottom:stack.layers=101; TARGET is a part of the cells' ids
    #[arg(long = "inject", value_name = "SIZE%:TARGET:KEY=VALUE")]
    injections: Vec<String>,
    /// Runs of each slowdown
    #[arg(long, default_value_t = 4)]
    trials: u32,
    /// Rounds of each run [default: the scenario's]
    #[arg(long)]
    pub(super) rounds: Option<u32>,
    /// Only these backends, and the control
    #[arg(long = "backend", value_name = "NAME")]
    pub(super) backends: Vec<String>,
    /// Leaves the rounds with probes out: no counters
    #[arg(long)]
    pub(super) no_probes: bool,
    /// Tolerances other than the defaults
    #[arg(long, value_name = "FILE")]
    budget: Option<PathBuf>,
    /// Folder for selftest.json, selftest.svg and the records
    #[arg(long, value_name = "DIR")]
    pub(super) out: PathBuf,
    #[command(flatten)]
    pub(super) guest: GuestArgs,
}

/// Exit code 0 if no A/A comparison alarmed, 3 if one did.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let (_, text) =
        scenario::load(&args.scenario, &args.set).map_err(|e| Failure::Usage(format!("{e}")))?;
    let injections =
        args.injections.iter().map(|text| injection(text)).collect::<Result<Vec<_>, _>>()?;
    let budget = match &args.budget {
        Some(path) => Budget::from_text(
            &fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?,
        )?,
        None => Budget::default(),
    };
    fs::create_dir_all(&args.out).with_context(|| format!("cannot make {}", args.out.display()))?;
    let bench = Bench::new(args)?;
    let Measured { same, injected, walls } = measure(args, &bench, &injections)?;
    let base_runs = args.base_runs.unwrap_or(if args.lab { 10 } else { 0 });
    let pairing = match base_runs {
        0 => Pairing::Disjoint,
        base_runs if args.apart => Pairing::Apart { base_runs },
        base_runs => Pairing::Drawn { base_runs },
    };
    let mut outcomes = same_outcomes(&same, pairing, args.comparisons, &budget)?;
    for (index, (injection, subject, before)) in injected.iter().enumerate() {
        // Each injected run has a base of its own as far as there are enough.
        let base: Vec<usize> = match pairing {
            // The run before it: what a machine's mood does to wall time within
            // minutes is as large as what is to be found.
            Pairing::Disjoint => vec![*before],
            Pairing::Apart { base_runs } => {
                let all = apart(same.len(), base_runs);
                all.into_iter().next().map(|(base, _)| base).unwrap_or_default()
            }
            Pairing::Drawn { base_runs } => {
                let drawn = draws(same.len(), base_runs, index + 1, SEED);
                drawn.into_iter().next_back().map(|(base, _)| base).unwrap_or_default()
            }
        };
        let base = merged(&same, &base)?;
        outcomes.push(outcome(&base, subject, Class::Injected(injection.clone()), &budget));
    }
    let report = SelftestReport {
        scenario: text.name.clone(),
        place: same.first().map_or(String::new(), |(_, subject)| match &subject.identity.lab {
            Some(lab) => format!("lab, Linux {}, QEMU {}", subject.place.kernel, lab.qemu),
            None => format!("native, Linux {}", subject.place.kernel),
        }),
        pairing,
        n_runs: same.len(),
        outcomes,
        verdict_ms: median(walls),
        spreads: spreads(&same.iter().map(|(_, subject)| subject).collect::<Vec<_>>()),
    };
    store(&args.out, &report)?;
    print!("{}", selftest_text(&report));
    let alarmed = report.false_alarms().successes > 0;
    Ok(if alarmed { ExitCode::from(3) } else { ExitCode::SUCCESS })
}

/// Runs and what they cost.
struct Measured {
    same: Vec<(String, Subject)>,
    /// With the run of `same` that came before it.
    injected: Vec<(Injection, Subject, usize)>,
    walls: Vec<Duration>,
}

/// One run to come.
struct Job<'a> {
    what: String,
    change: Change,
    /// None for a run in which nothing is slowed down.
    injection: Option<&'a Injection>,
}

fn measure(
    args: &Args,
    bench: &Bench<'_>,
    injections: &[(Injection, String)],
) -> anyhow::Result<Measured> {
    let per_boot = if args.lab { args.per_boot.max(1) } else { 1 };
    let mut measured = Measured { same: Vec::new(), injected: Vec::new(), walls: Vec::new() };
    let mut number = 0;
    let groups = jobs(args, injections, per_boot);
    for jobs in groups.iter().flat_map(|group| group.chunks(per_boot as usize)) {
        let began = Instant::now();
        let changes: Vec<Change> = jobs.iter().map(|job| job.change.clone()).collect();
        let records = if args.again {
            let kept = (1..=jobs.len()).map(|n| crate::store::read(&bench.kept(number + n)));
            kept.collect::<Result<Vec<_>, _>>()?
        } else {
            bench.run(&changes).with_context(|| jobs[0].what.clone())?
        };
        let each = began.elapsed() / u32::try_from(jobs.len()).unwrap_or(1);
        for (job, record) in jobs.iter().zip(records) {
            number += 1;
            if args.again {
                let wall = record.lab.as_ref().map_or(record.elapsed_ms, |lab| lab.wall_ms);
                measured.walls.push(Duration::from_millis(wall) / per_boot);
            } else {
                measured.walls.push(each);
                eprintln!("unionbench: {}: {:.1} s", job.what, each.as_secs_f64());
                bench.keep(&record, number)?;
            }
            let subject = Subject::of(&record)?;
            match job.injection {
                None => measured.same.push((job.what.clone(), subject)),
                Some(injection) => {
                    let before = measured.same.len().saturating_sub(1);
                    measured.injected.push((injection.clone(), subject, before));
                }
            }
        }
    }
    Ok(measured)
}

/// Runs in which nothing is slowed down first, then each slowdown's; natively
/// among them.
fn jobs<'a>(
    args: &Args,
    injections: &'a [(Injection, String)],
    per_boot: u32,
) -> Vec<Vec<Job<'a>>> {
    let perturbation = |n| Perturbation::shared(n, per_boot, 1 + args.programs.len());
    let job = |what: String, n: u32, set: Option<String>, injection| Job {
        what: match args.lab {
            true => format!("{what}, changed: {}", perturbation(n)),
            false => what,
        },
        change: Change {
            set,
            perturbation: match args.lab {
                true => perturbation(n),
                false => Perturbation::default(),
            },
        },
        injection,
    };
    let same: Vec<Job<'_>> =
        (0..args.runs).map(|n| job(format!("run {n}"), n, None, None)).collect();
    let slowed = injections.iter().map(|(injection, set)| {
        let trials = 0..args.trials;
        let one = |trial| {
            let what = format!("{}, trial {trial}", injection.what);
            // A boot and a perturbation that no run of the base had.
            let first = args.runs.next_multiple_of(per_boot);
            job(what, first + trial, Some(set.clone()), Some(injection))
        };
        trials.map(one).collect()
    });
    if args.lab {
        return std::iter::once(same).chain(slowed).collect();
    }
    // All of a slowdown's trials in their places, one slowdown after the other.
    let mut after: Vec<Vec<Job<'_>>> = same.into_iter().map(|job| vec![job]).collect();
    for trials in slowed {
        for (trial, job) in (0..).zip(trials) {
            if let Some(place) = after.get_mut(beside(trial, args)) {
                place.push(job);
            }
        }
    }
    after
}

/// The run in which nothing is slowed down after which a slowdown's trial comes:
/// they are spread evenly.
fn beside(trial: u32, args: &Args) -> usize {
    let after = (trial + 1) * args.runs / args.trials.max(1);
    after.saturating_sub(1) as usize
}

/// Seed of the draws of bases.
const SEED: u64 = 1;

fn same_outcomes(
    same: &[(String, Subject)],
    pairing: Pairing,
    n: usize,
    budget: &Budget,
) -> anyhow::Result<Vec<Outcome>> {
    let pairs: Vec<(Vec<usize>, usize)> = match pairing {
        Pairing::Drawn { base_runs } => draws(same.len(), base_runs, n, SEED),
        Pairing::Apart { base_runs } => apart(same.len(), base_runs),
        Pairing::Disjoint => (0..same.len() / 2).map(|i| (vec![2 * i], 2 * i + 1)).collect(),
    };
    if pairs.is_empty() {
        bail!("{} runs are too few for a comparison: give more --runs", same.len());
    }
    let judged = pairs.into_iter().map(|(base, new)| {
        let perturbed = format!("run {new} by runs {base:?}: {}", same[new].0);
        let base = merged(same, &base)?;
        Ok(outcome(&base, &same[new].1, Class::Same { perturbed }, budget))
    });
    judged.collect()
}

/// The base of these runs, as if they were of one seed and stack.
fn merged(same: &[(String, Subject)], runs: &[usize]) -> anyhow::Result<Subject> {
    let identity = &same[0].1.identity;
    let runs: Vec<Subject> = runs
        .iter()
        .map(|run| Subject { identity: identity.clone(), ..same[*run].1.clone() })
        .collect();
    Ok(Subject::merged(&runs.iter().collect::<Vec<_>>())?)
}

fn injection(text: &str) -> Result<(Injection, String), Failure> {
    let refusal = || {
        Failure::Usage(format!(
            "cannot read {text:?} as a slowdown: write SIZE%:TARGET:KEY=VALUE, as in 5%:cold-bottom:stack.layers=105"
        ))
    };
    let mut parts = text.splitn(3, ':');
    let (Some(size), Some(target), Some(set)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(refusal());
    };
    let size = match size.trim_end_matches('%') {
        "" | "?" => None,
        number => Some(number.parse::<f64>().map_err(|_| refusal())? / 100.0),
    };
    if !set.contains('=') {
        return Err(refusal());
    }
    let what = set.to_owned();
    Ok((Injection { what, size, target: target.to_owned() }, set.to_owned()))
}

fn median(mut walls: Vec<Duration>) -> u64 {
    walls.sort_unstable();
    walls.get(walls.len() / 2).map_or(0, |wall| u64::try_from(wall.as_millis()).unwrap_or(u64::MAX))
}

fn store(out: &Path, report: &SelftestReport) -> anyhow::Result<()> {
    let json = serde_json::to_string_pretty(report).context("cannot encode the selftest")?;
    let files = [("selftest.json", json + "\n"), ("selftest.svg", selftest_svg(report))];
    for (name, text) in files {
        let path = out.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trials_are_spread_over_the_runs() {
        let args = |runs: &str, trials: &str| {
            let words = ["selftest", "s.toml", "--out", "o", "--runs", runs, "--trials", trials];
            let command = <Args as clap::Args>::augment_args(clap::Command::new("selftest"));
            let matches = command.get_matches_from(words);
            <Args as clap::FromArgMatches>::from_arg_matches(&matches).expect("reads")
        };
        let injection = || injection("20%:cold:stack.layers=10").expect("reads");
        let order = |args: &Args| {
            let injections = [injection(), injection()];
            let jobs = jobs(args, &injections, 1);
            let kinds = jobs.iter().flatten().map(|job| job.injection.is_some());
            kinds.map(|slowed| if slowed { 'x' } else { '.' }).collect::<String>()
        };
        assert_eq!(order(&args("6", "2")), "...xx...xx");
        assert_eq!(order(&args("2", "3")), ".xxxx.xx");
    }

    #[test]
    fn slowdowns_are_read_as_written() {
        let (found, set) = injection("5%:cold-bottom:stack.layers=105").expect("reads");
        assert_eq!((found.size, found.target.as_str()), (Some(0.05), "cold-bottom"));
        assert_eq!(set, "stack.layers=105");
        assert_eq!(injection("?:x:a=[1:2]").expect("reads").0.size, None);
        for bad in ["", "5%", "5%:x", "5%:x:y", "much:x:a=b"] {
            assert!(injection(bad).is_err(), "{bad}");
        }
    }
}
