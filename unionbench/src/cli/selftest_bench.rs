//! The runs of `gate selftest`: natively one after another, in the lab several in
//! one boot, each changed in what should not matter.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::gate::records;
use super::gate_selftest::Args;
use super::lab_selftest::{BATCH, BatchRun};
use super::run_lab::{self, Order, RESULTS};
use crate::lab::{GuestFile, Mode};
use crate::plan::{self, Choices, Plan};
use crate::record::{Record, ScenarioText};
use crate::scenario;

/// What is run, apart from what is changed in a single run.
pub(super) struct Bench<'a> {
    args: &'a Args,
    /// This program, and other builds of it that guests take turns with.
    programs: Vec<PathBuf>,
}

/// What differs in one run.
#[derive(Debug, Clone, Default)]
pub(super) struct Change {
    /// Further `--set`, from an injection.
    pub set: Option<String>,
    pub perturbation: Perturbation,
}

/// What should not matter.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Perturbation {
    /// Added to the seed: sizes, contents and order of the files.
    seed: u64,
    /// Bytes added to the environment.
    environment: usize,
    /// Added to the idle time after boot.
    idle: Duration,
    /// Bytes of the name of the scratch folder.
    name: usize,
    /// Files made beforehand, of which most are removed again: the kernel's memory
    /// is in another state.
    files: u32,
    /// Processes started beforehand.
    processes: u32,
    /// Which of the programs.
    program: usize,
    /// Bytes of a further file in the guest's memory.
    ballast: usize,
}

impl Perturbation {
    /// The perturbation of run `n` where `per_boot` runs share a boot and thus
    /// the program and the initial file system, and boots take turns with so many
    /// programs.
    pub(super) fn shared(n: u32, per_boot: u32, n_programs: usize) -> Self {
        let boot = n / per_boot;
        let ballast = Self::of(boot).ballast;
        Self { program: boot as usize % n_programs.max(1), ballast, ..Self::of(n) }
    }

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
            files: [0, 7, 60, 500][(k / 4 + k) % 4],
            processes: [0, 1, 6, 17, 40][(k / 7) % 5],
            program: 0,
            ballast: [0, 4_096, 1_000_000, 5_000_000, 50_000][(k / 5 + k) % 5],
        }
    }
}

impl std::fmt::Display for Perturbation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { seed, environment, idle, name, files, processes, program, ballast } = self;
        write!(
            f,
            "program {program}, seed +{seed}, environment +{environment} bytes, idle +{} ms, name +{name} bytes, {files} files and {processes} processes before, memory +{ballast} bytes",
            idle.as_millis(),
        )
    }
}

impl<'a> Bench<'a> {
    pub(super) fn new(args: &'a Args) -> anyhow::Result<Self> {
        let own = std::env::current_exe().context("cannot find this program")?;
        let programs = std::iter::once(own).chain(args.programs.iter().cloned()).collect();
        Ok(Self { args, programs })
    }

    /// One run for each of `changes`, in the lab all in one boot.
    pub(super) fn run(&self, changes: &[Change]) -> anyhow::Result<Vec<Record>> {
        if self.args.lab {
            return self.run_in_lab(changes);
        }
        changes.iter().map(|change| self.run_here(&self.set(change))).collect()
    }

    fn set(&self, change: &Change) -> Vec<String> {
        self.args.set.iter().chain(&change.set).cloned().collect()
    }

    fn run_here(&self, set: &[String]) -> anyhow::Result<Record> {
        let results = tempfile::tempdir().context("cannot make a folder for a record")?;
        let mut command = Command::new(&self.programs[0]);
        command.arg("run").arg(&self.args.scenario).arg("--results").arg(results.path());
        command.args(["--quiet", "--format", "json"]).args(self.arguments(set, None));
        let output = command.output().context("cannot start a run")?;
        if !output.status.success() {
            bail!("a run failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let mut found = records(&[results.path().to_owned()])?;
        Ok(found.remove(0).1)
    }

    /// What the program's bytes and the initial file system are is that of the
    /// first change.
    fn run_in_lab(&self, changes: &[Change]) -> anyhow::Result<Vec<Record>> {
        let Some(first) = changes.first() else { return Ok(Vec::new()) };
        let kernel = self.args.guest.kernels.first().context("no kernel was named")?;
        let mut guest = self.args.guest.guest(kernel, Mode::Count)?;
        let mut runs = Vec::new();
        for (n, change) in changes.iter().enumerate() {
            let set = self.set(change);
            let (scenario, text): (_, ScenarioText) = scenario::load(&self.args.scenario, &set)?;
            let plan: Plan = plan::expand(&scenario, &Choices::default())?;
            let Perturbation { seed, environment, idle, name, files, processes, .. } =
                change.perturbation;
            let seed = if self.args.keep_seed { 0 } else { seed };
            let arguments = self.arguments(&set, Some(scenario.seed + seed));
            let mut scratch = "/scratch".to_owned();
            if name > 0 {
                scratch = format!("/{}", "n".repeat(name));
                guest.files.push(GuestFile::bytes(format!("{scratch}/keep"), b""));
            }
            runs.push(BatchRun {
                argv: run_lab::words(&format!("/out/{}", folder(n)), &scratch, &arguments),
                env: vec![("PADDING".into(), "x".repeat(environment))],
                idle_ms: u64::try_from(idle.as_millis()).unwrap_or(u64::MAX),
                files,
                processes,
            });
            if n == 0 {
                let (plan, scenario) = (&plan, &text);
                let (results, quiet) = (Path::new(""), true);
                run_lab::equip(&mut guest, &Order { plan, scenario, arguments, results, quiet })?;
            }
        }
        let batch = serde_json::to_vec(&runs).context("cannot encode the runs")?;
        guest.files.push(GuestFile::bytes(BATCH, batch));
        guest.argv = ["unionbench", "lab-selftest", "batch"].map(str::to_owned).into();
        let Perturbation { program, ballast, .. } = first.perturbation;
        if ballast > 0 {
            guest.files.push(GuestFile::bytes("/ballast", vec![1; ballast]));
        }
        guest.binary = self.programs.get(program).cloned();
        let outcome = guest.run()?;
        (0..changes.len()).map(|n| run_lab::record_below(&folder(n), &guest, &outcome)).collect()
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
        for backend in &self.args.backends {
            words.extend(["--backend".into(), backend.clone()]);
        }
        if self.args.no_probes {
            words.push("--no-probes".into());
        }
        words
    }

    /// Where the record of run `number` is kept.
    pub(super) fn kept(&self, number: usize) -> PathBuf {
        self.args.out.join(format!("run-{number:03}"))
    }

    pub(super) fn keep(&self, record: &Record, number: usize) -> anyhow::Result<()> {
        let folder = self.kept(number);
        let text = serde_json::to_vec(record).context("cannot encode a record")?;
        fs::create_dir_all(&folder)
            .and_then(|()| fs::write(folder.join(crate::store::RECORD), text))
            .with_context(|| format!("cannot write {}", folder.display()))
    }
}

/// Folder of the results of run `n` of a batch.
fn folder(n: usize) -> String {
    format!("{RESULTS}/{n}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_perturbations_of_a_selftest_are_equal() {
        let all: BTreeSet<String> =
            (0..400).map(|n| Perturbation::shared(n, 1, 3).to_string()).collect();
        assert_eq!(all.len(), 400);
    }

    #[test]
    fn runs_of_one_boot_differ_in_what_can_differ_there() {
        let boot: Vec<Perturbation> = (10..20).map(|n| Perturbation::shared(n, 10, 3)).collect();
        assert!(boot.iter().all(|p| p.program == 1 && p.ballast == boot[0].ballast));
        let all: BTreeSet<String> = boot.iter().map(Perturbation::to_string).collect();
        assert_eq!(all.len(), 10);
    }

    #[test]
    fn boots_take_turns_with_the_programs() {
        let turns: Vec<usize> = (0..8).map(|n| Perturbation::shared(n, 2, 3).program).collect();
        assert_eq!(turns, [0, 0, 1, 1, 2, 2, 0, 0]);
    }
}
