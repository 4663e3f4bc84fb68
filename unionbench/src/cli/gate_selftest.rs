//! `unionbench gate selftest`: runs that should not alarm and runs that should.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use super::Failure;
use super::gate::records;
use super::lab::GuestArgs;
use super::run_lab::{self, Order};
use crate::compare::Subject;
use crate::gate::{
    Budget, Class, Injection, Outcome, Pairing, SelftestReport, draws, outcome, spreads,
};
use crate::lab::{GuestFile, Mode};
use crate::plan::{self, Choices, Plan};
use crate::record::{Record, ScenarioText};
use crate::report::{selftest_svg, selftest_text};
use crate::scenario;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Scenario that is measured
    scenario: PathBuf,
    /// Changes a key of the scenario, as in --set stack.layers=8
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Measures in the lab, where runs differ in what should not matter
    #[arg(long)]
    lab: bool,
    /// Runs in which nothing was slowed down
    #[arg(long, default_value_t = 16)]
    runs: u32,
    /// Runs that a base is made of, drawn from the others; 0 compares pairs of
    /// their own, as is usual natively [default: 10 in the lab, 0 else]
    #[arg(long)]
    base_runs: Option<usize>,
    /// Comparisons to draw
    #[arg(long, default_value_t = 100)]
    comparisons: usize,
    /// Keeps the seed in perturbed runs, so that they can be a baseline
    #[arg(long)]
    keep_seed: bool,
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
    rounds: Option<u32>,
    /// Leaves the rounds with probes out: no counters
    #[arg(long)]
    no_probes: bool,
    /// Tolerances other than the defaults
    #[arg(long, value_name = "FILE")]
    budget: Option<PathBuf>,
    /// Folder for selftest.json, selftest.svg and the records
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    guest: GuestArgs,
}

/// What is run, apart from what is changed in a single run.
struct Bench<'a> {
    args: &'a Args,
    program: PathBuf,
    /// The program with other bytes behind it, for perturbed guests.
    padded: PathBuf,
}

/// What differs in one run.
#[derive(Debug, Clone, Default)]
struct Change {
    /// Further `--set`, from an injection.
    set: Option<String>,
    perturbation: Perturbation,
}

/// What should not matter.
#[derive(Debug, Clone, Copy, Default)]
struct Perturbation {
    /// Added to the seed: sizes, contents and order of the files.
    seed: u64,
    /// Bytes added to the environment.
    environment: usize,
    /// Added to the idle time after boot.
    idle: Duration,
    /// Bytes of the name of the scratch folder.
    name: usize,
    /// The program has other bytes behind it.
    padding: bool,
    /// Bytes of a further file in the guest's memory.
    ballast: usize,
}

impl Perturbation {
    /// The perturbation of run `n`; the first is none. Each takes another
    /// combination, so that no two runs are equal.
    fn of(n: u32) -> Self {
        if n == 0 {
            return Self::default();
        }
        let k = n as usize;
        Self {
            seed: u64::from(n % 4),
            environment: [0, 100, 3_000, 20_000, 64_000][k % 5],
            idle: Duration::from_millis([0, 10, 1_003, 7_777][(k / 2) % 4]),
            name: [0, 5, 40, 120][(k / 3) % 4],
            padding: k % 2 == 1,
            ballast: [0, 4_096, 1_000_000, 5_000_000, 50_000][(k / 5 + k) % 5],
        }
    }
}

impl std::fmt::Display for Perturbation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { seed, environment, idle, name, padding, ballast } = self;
        write!(
            f,
            "seed +{seed}, environment +{environment} bytes, idle +{} ms, name +{name} bytes, {}padded, memory +{ballast} bytes",
            idle.as_millis(),
            if *padding { "" } else { "not " }
        )
    }
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
    let program = std::env::current_exe().context("cannot find this program")?;
    let bench = Bench { args, padded: args.out.join("padded-program"), program };
    if args.lab && !args.again {
        bench.pad()?;
    }
    let measured = measure(&bench, &injections);
    if args.lab && !args.again {
        fs::remove_file(&bench.padded).context("cannot remove the padded program")?;
    }
    let Measured { same, injected, walls } = measured?;
    let base_runs = args.base_runs.unwrap_or(if args.lab { 10 } else { 0 });
    let pairing = match base_runs {
        0 => Pairing::Disjoint,
        base_runs => Pairing::Drawn { base_runs },
    };
    let mut outcomes = same_outcomes(&same, pairing, args.comparisons, &budget)?;
    for (index, (injection, subject)) in injected.iter().enumerate() {
        // Each injected run has a base of its own as far as there are enough.
        let base: Vec<usize> = match pairing {
            Pairing::Disjoint => vec![index % same.len()],
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
    injected: Vec<(Injection, Subject)>,
    walls: Vec<Duration>,
}

fn measure(bench: &Bench<'_>, injections: &[(Injection, String)]) -> anyhow::Result<Measured> {
    let mut measured = Measured { same: Vec::new(), injected: Vec::new(), walls: Vec::new() };
    let mut timed = |what: &str, change: &Change| -> anyhow::Result<Subject> {
        let began = Instant::now();
        let number = measured.walls.len() + 1;
        if bench.args.again {
            let record = crate::store::read(&bench.folder(number))?;
            let wall = record.lab.as_ref().map_or(record.elapsed_ms, |lab| lab.wall_ms);
            measured.walls.push(Duration::from_millis(wall));
            return Ok(Subject::of(&record)?);
        }
        let record = bench.run(change).with_context(|| what.to_owned())?;
        measured.walls.push(began.elapsed());
        eprintln!("unionbench: {what}: {:.1} s", began.elapsed().as_secs_f64());
        bench.keep(&record, number)?;
        Ok(Subject::of(&record)?)
    };
    for n in 0..bench.args.runs {
        let perturbation =
            if bench.args.lab { Perturbation::of(n) } else { Perturbation::default() };
        let change = Change { set: None, perturbation };
        let what = if bench.args.lab { perturbation.to_string() } else { "nothing".to_owned() };
        let subject = timed(&format!("run {n}, changed: {what}"), &change)?;
        measured.same.push((what, subject));
    }
    for (injection, set) in injections {
        for trial in 0..bench.args.trials {
            let change = Change {
                set: Some(set.clone()),
                perturbation: match bench.args.lab {
                    true => Perturbation::of(trial + 1),
                    false => Perturbation::default(),
                },
            };
            let subject = timed(&format!("{}, trial {trial}", injection.what), &change)?;
            measured.injected.push((injection.clone(), subject));
        }
    }
    Ok(measured)
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

impl Bench<'_> {
    /// One run with `change`.
    fn run(&self, change: &Change) -> anyhow::Result<Record> {
        let mut set = self.args.set.clone();
        set.extend(change.set.clone());
        if self.args.lab { self.run_in_lab(&set, change.perturbation) } else { self.run_here(&set) }
    }

    fn run_here(&self, set: &[String]) -> anyhow::Result<Record> {
        let results = tempfile::tempdir().context("cannot make a folder for a record")?;
        let mut command = Command::new(&self.program);
        command.arg("run").arg(&self.args.scenario).arg("--results").arg(results.path());
        command.args(["--quiet", "--format", "json"]).args(self.arguments(set, None));
        let output = command.output().context("cannot start a run")?;
        if !output.status.success() {
            bail!("a run failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let mut found = records(&[results.path().to_owned()])?;
        Ok(found.remove(0).1)
    }

    fn run_in_lab(&self, set: &[String], perturbed: Perturbation) -> anyhow::Result<Record> {
        let (scenario, text): (_, ScenarioText) = scenario::load(&self.args.scenario, set)?;
        let plan: Plan = plan::expand(&scenario, &Choices::default())?;
        let kernel = self.args.guest.kernels.first().context("no kernel was named")?;
        let mut guest = self.args.guest.guest(kernel, Mode::Count)?;
        let seed = if self.args.keep_seed { 0 } else { perturbed.seed };
        let order = Order {
            plan: &plan,
            scenario: &text,
            arguments: self.arguments(set, Some(scenario.seed + seed)),
            results: Path::new(""),
            quiet: true,
        };
        run_lab::equip(&mut guest, &order)?;
        guest.idle += perturbed.idle;
        if perturbed.environment > 0 {
            guest.env.push(("PADDING".into(), "x".repeat(perturbed.environment)));
        }
        if perturbed.name > 0 {
            let folder = format!("/{}", "n".repeat(perturbed.name));
            guest.files.push(GuestFile::bytes(format!("{folder}/keep"), b""));
            for word in guest.argv.iter_mut().filter(|word| *word == "/scratch") {
                word.clone_from(&folder);
            }
        }
        if perturbed.ballast > 0 {
            guest.files.push(GuestFile::bytes("/ballast", vec![1; perturbed.ballast]));
        }
        guest.binary =
            Some(if perturbed.padding { self.padded.clone() } else { self.program.clone() });
        let outcome = guest.run()?;
        run_lab::record_of(&guest, &outcome)
    }

    fn arguments(&self, set: &[String], seed: Option<u64>) -> Vec<String> {
        let mut words: Vec<String> =
            set.iter().flat_map(|change| ["--set".to_owned(), change.clone()]).collect();
        if let Some(rounds) = self.args.rounds {
            words.extend(["--rounds".into(), rounds.to_string()]);
        }
        if let Some(seed) = seed {
            words.extend(["--seed".into(), seed.to_string()]);
        }
        if self.args.no_probes {
            words.push("--no-probes".into());
        }
        words
    }

    /// The program with 100,003 bytes behind it: everything that is read from
    /// the initial file system after it lies elsewhere.
    fn pad(&self) -> anyhow::Result<()> {
        let mut bytes = fs::read(&self.program).context("cannot read this program")?;
        bytes.resize(bytes.len() + 100_003, 0);
        let mode = fs::metadata(&self.program).context("cannot read this program")?.permissions();
        fs::write(&self.padded, bytes)
            .and_then(|()| fs::set_permissions(&self.padded, mode))
            .context("cannot write a padded program")
    }

    fn folder(&self, number: usize) -> PathBuf {
        self.args.out.join(format!("run-{number:03}"))
    }

    fn keep(&self, record: &Record, number: usize) -> anyhow::Result<()> {
        let folder = self.folder(number);
        let text = serde_json::to_vec(record).context("cannot encode a record")?;
        fs::create_dir_all(&folder)
            .and_then(|()| fs::write(folder.join(crate::store::RECORD), text))
            .with_context(|| format!("cannot write {}", folder.display()))
    }
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
    fn slowdowns_are_read_as_written() {
        let (found, set) = injection("5%:cold-bottom:stack.layers=105").expect("reads");
        assert_eq!((found.size, found.target.as_str()), (Some(0.05), "cold-bottom"));
        assert_eq!(set, "stack.layers=105");
        assert_eq!(injection("?:x:a=[1:2]").expect("reads").0.size, None);
        for bad in ["", "5%", "5%:x", "5%:x:y", "much:x:a=b"] {
            assert!(injection(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn no_two_perturbations_of_a_selftest_are_equal() {
        let all: std::collections::BTreeSet<String> =
            (0..60).map(|n| Perturbation::of(n).to_string()).collect();
        assert_eq!(all.len(), 60);
    }
}
