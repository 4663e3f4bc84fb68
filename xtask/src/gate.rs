//! The project's own gate: shipped scenarios, cut to a size that CI has time for,
//! in the lab on Debian's kernels, held against the baselines in
//! `results/baselines`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};

use anyhow::{Context, Result, bail};

use crate::command::{must_succeed, say};
use crate::program;

const BASELINES: &str = "results/baselines";
const BUDGET: &str = "xtask/gate.toml";
const KERNELS: [&str; 2] = ["6.1", "6.12"];
/// Runs that a baseline is made of: they differ in what should not matter, so
/// that it knows what moves for nothing. Of five some later run in a hundred
/// alarms, of ten none (docs/gate.md).
const RUNS: u32 = 10;
/// Runs in one boot of a guest. What is judged later is the first of its boot, so
/// that as many of these are as the time for boots allows.
const RUNS_PER_BOOT: u32 = 2;
/// Bytes in programs beside the one that is built, which the boots take turns with.
const PADDINGS: [usize; 4] = [1_009, 11_003, 120_011, 1_300_021];
/// Bytes in programs in which a regression has to show as well.
const CONFIRMING: [usize; 2] = [5_003, 500_009];
/// What `unionbench gate` ends with where something became worse.
const REGRESSION: u8 = 3;

/// A scenario of the gate. Few kinds of operation need more than `gate` has, and
/// each scenario costs CI half a minute a kernel.
struct Entry {
    name: &'static str,
    /// `--set` of each run.
    cuts: &'static [&'static str],
    /// Those that Debian's kernels do not have are left out; empty for all.
    backends: &'static [&'static str],
}

const UNIONS: &[&str] = &["overlayfs", "bundled"];

const ENTRIES: [Entry; 5] = [
    Entry { name: "gate", cuts: &[], backends: &[] },
    Entry { name: "copy-up-triggers", cuts: &["stack.group.changed.count=20"], backends: &[] },
    Entry {
        name: "whiteout-heavy-deletes",
        cuts: &[
            "stack.layers=8",
            "stack.files_per_layer=100",
            "stack.dirs=16",
            "stack.whiteouts_per_layer=50",
            "phase.delete-bottom.count=40",
        ],
        backends: UNIONS,
    },
    Entry {
        name: "deep-layers",
        cuts: &[
            "stack.layers=[1, 32]",
            "stack.files_per_layer=40",
            "phase.cold-bottom.count=40",
            "phase.cold-missing.count=40",
            "phase.warm-bottom.count=200",
        ],
        backends: UNIONS,
    },
    Entry {
        name: "large-file-first-write",
        cuts: &[
            "stack.group.large.count=40",
            "stack.group.large.size=\"256KiB\"",
            "backing.size=\"256MiB\"",
        ],
        backends: UNIONS,
    },
];

impl Entry {
    fn scenario(&self) -> String {
        format!("scenarios/{}.toml", self.name)
    }

    fn baseline(&self, kernel: &str) -> PathBuf {
        Path::new(BASELINES).join(format!("{}.lab-{kernel}.toml", self.name))
    }

    /// What cuts it to size on a command line.
    fn flags(&self) -> impl Iterator<Item = &'static str> {
        let cuts = self.cuts.iter().flat_map(|cut| ["--set", cut]);
        cuts.chain(self.backends.iter().flat_map(|backend| ["--backend", backend]))
    }
}

/// Judges this tree by all baselines, or by those of the scenarios that are
/// named; `save` makes them anew instead. The exit code is the gravest of those that
/// `unionbench gate` gave: 3 a regression, 4 inconclusive, 5 where a baseline does
/// not hold here.
pub fn run(root: &Path, object: Option<&Path>, arguments: &[String]) -> Result<ExitCode> {
    let (saving, names) = match arguments {
        [word, names @ ..] if word == "save" => (true, names),
        names => (false, names),
    };
    let entries = entries(names)?;
    if !saving {
        return judge(root, object, &entries);
    }
    let program = program::build(root, object)?;
    say(&format!("gate: building the program {} times with padding", PADDINGS.len()));
    let padded = program::padded(root, object, &fresh(root, "padded")?, &PADDINGS)?;
    let programs = Programs { program: &program, padded: &padded };
    each_kernel(|kernel| entries.iter().try_for_each(|e| save(root, programs, e, kernel)))?;
    Ok(ExitCode::SUCCESS)
}

/// What runs of a baseline are made with.
#[derive(Clone, Copy)]
struct Programs<'a> {
    program: &'a Path,
    padded: &'a [PathBuf],
}

/// Those with these names; all without any.
fn entries(names: &[String]) -> Result<Vec<&'static Entry>> {
    if let Some(name) = names.iter().find(|name| ENTRIES.iter().all(|e| e.name != **name)) {
        let known: Vec<&str> = ENTRIES.iter().map(|entry| entry.name).collect();
        bail!(
            "the gate has no scenario {name:?}: write `cargo xtask gate [save] [SCENARIO...]` with any of {}",
            known.join(", ")
        );
    }
    let wanted = |entry: &&Entry| names.is_empty() || names.iter().any(|name| name == entry.name);
    Ok(ENTRIES.iter().filter(wanted).collect())
}

/// Ten baselines are judged at a time, each with many figures, and where a program's
/// pages happen to lie moves some figure every now and then. What was changed for
/// the worse shows wherever they lie.
fn judge(root: &Path, object: Option<&Path>, entries: &[&Entry]) -> Result<ExitCode> {
    let program = program::build(root, object)?;
    let results = fresh(root, "judged")?;
    let mut codes = each_kernel(|kernel| {
        let of_one = entries.iter().map(|entry| judge_one(root, &program, entry, kernel, &results));
        of_one.collect::<Result<Vec<u8>>>()
    })?;
    if codes.concat().contains(&REGRESSION) {
        say("gate: a regression has to show in the program with padding, too: building two such");
        let padded = program::padded(root, object, &fresh(root, "confirming")?, &CONFIRMING)?;
        for (kernel, codes) in KERNELS.iter().zip(&mut codes) {
            for (entry, code) in entries.iter().zip(codes) {
                let again = padded.iter().map(|program| {
                    let name = program.file_name().unwrap_or_default();
                    judge_one(root, program, entry, kernel, &results.join(name))
                });
                *code = settled(*code, again)?;
                if *code == 0 {
                    say(&format!("gate: {} on {kernel}: pass", entry.name));
                }
            }
        }
    }
    let codes = codes.concat();
    if codes.contains(&5) {
        say(
            "gate: a baseline does not hold here: it names another kernel or QEMU than this machine has; nothing was judged by it. `cargo xtask gate save` makes new ones",
        );
    }
    Ok(ExitCode::from(gravest(&codes)))
}

/// A regression, if each of `again` finds it too; else the first other verdict.
fn settled(first: u8, again: impl Iterator<Item = Result<u8>>) -> Result<u8> {
    if first != REGRESSION {
        return Ok(first);
    }
    for code in again {
        let code = code?;
        if code != REGRESSION {
            return Ok(code);
        }
    }
    Ok(REGRESSION)
}

/// Does `work` for every kernel, of as many at a time as this process may use
/// processors: a guest uses one, and what else runs changes none of its counts.
fn each_kernel<T: Send>(work: impl Fn(&'static str) -> Result<T> + Sync) -> Result<Vec<T>> {
    let at_a_time = std::thread::available_parallelism().map_or(1, usize::from);
    let mut done = Vec::new();
    for kernels in KERNELS.chunks(at_a_time) {
        let of_these: Vec<Result<T>> = std::thread::scope(|scope| {
            let started: Vec<_> =
                kernels.iter().map(|kernel| scope.spawn(|| work(kernel))).collect();
            let ended = started.into_iter().map(|thread| {
                thread.join().unwrap_or_else(|_| bail!("the work on a kernel panicked"))
            });
            ended.collect()
        });
        for one in of_these {
            done.push(one?);
        }
    }
    Ok(done)
}

/// An error before a regression, that before what could not be told, and that
/// before what cannot be judged here.
fn gravest(codes: &[u8]) -> u8 {
    let rank = |code: &u8| match *code {
        0 => 0,
        5 => 1,
        4 => 2,
        REGRESSION => 3,
        _ => 4,
    };
    codes.iter().copied().max_by_key(rank).unwrap_or(0)
}

fn judge_one(
    root: &Path,
    program: &Path,
    entry: &Entry,
    kernel: &str,
    results: &Path,
) -> Result<u8> {
    let baseline = entry.baseline(kernel);
    let release = kernel_of(&root.join(&baseline))?;
    say(&format!("gate: {} in the lab on {release}", entry.name));
    // Fetches the kernel that the baseline names where it is not at hand.
    let mut at_hand = unionbench(root, program);
    at_hand.args(["lab", "kernels", &release]).stdout(Stdio::null());
    if !at_hand.status().context("cannot start unionbench")?.success() {
        say(&format!(
            "gate: {} needs {release}, which this machine does not get",
            baseline.display()
        ));
        return Ok(5);
    }
    let results = results.join(format!("{}-{kernel}", entry.name));
    let mut run = unionbench(root, program);
    run.args(["run", &entry.scenario(), "--lab", "--kernel", &release, "--rounds", "1"]);
    run.args(entry.flags()).args(["--quiet", "--format", "csv", "--results"]).arg(&results);
    must_succeed(run.stdout(Stdio::null()))?;
    let mut gate = unionbench(root, program);
    gate.arg("gate").arg("--baseline").arg(&baseline).args(["--budget", BUDGET]).arg(&results);
    // Printed at once, because another kernel's may be judged at the time.
    let output = gate.output().context("cannot start the gate")?;
    print!("{}", String::from_utf8_lossy(&output.stdout));
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    Ok(code(output.status))
}

/// The release that a baseline was measured on.
fn kernel_of(baseline: &Path) -> Result<String> {
    let text = fs::read_to_string(baseline).with_context(|| {
        format!("cannot read {}: make it with `cargo xtask gate save`", baseline.display())
    })?;
    let kernel = text.lines().find_map(|line| line.strip_prefix("kernel = "));
    let kernel = kernel.with_context(|| format!("{} names no kernel", baseline.display()))?;
    Ok(kernel.trim_matches('"').to_owned())
}

fn code(status: ExitStatus) -> u8 {
    status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

fn save(root: &Path, programs: Programs<'_>, entry: &Entry, kernel: &str) -> Result<()> {
    let (name, program) = (entry.name, programs.program);
    say(&format!("gate: {RUNS} perturbed runs of {name} on Debian's {kernel} make a baseline"));
    let out = fresh(root, &format!("saved-{name}-{kernel}"))?;
    let mut runs = unionbench(root, program);
    runs.args(["gate", "selftest", &entry.scenario(), "--lab", "--kernel", kernel]);
    runs.args(entry.flags()).args(["--rounds", "1", "--keep-seed"]);
    runs.args(["--runs", &RUNS.to_string(), "--per-boot", &RUNS_PER_BOOT.to_string()]);
    programs.padded.iter().for_each(|other| {
        runs.arg("--program").arg(other);
    });
    // Each run against all others.
    runs.args(["--base-runs", &(RUNS - 1).to_string(), "--comparisons", &RUNS.to_string()]);
    // A run that would alarm against the others is told, and is in the
    // baseline all the same: it is what moves for nothing.
    let code = code(runs.arg("--out").arg(&out).status().context("cannot start the runs")?);
    if code != 0 && code != 3 {
        bail!("the runs of {name} on {kernel} ended with {code}");
    }
    let mut gate = unionbench(root, program);
    gate.arg("gate").arg("--save-baseline").arg("--baseline").arg(entry.baseline(kernel));
    must_succeed(gate.arg(&out))
}

fn unionbench(root: &Path, program: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root);
    command
}

/// An empty folder of this name below the target folder.
fn fresh(root: &Path, name: &str) -> Result<PathBuf> {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let folder = root.join(target).join("gate").join(name);
    if folder.exists() {
        fs::remove_dir_all(&folder)
            .with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::{KERNELS, each_kernel, entries, gravest, settled};

    #[test]
    fn scenarios_are_named_or_all() {
        let named = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            entries(&words).map(|found| found.iter().map(|entry| entry.name).collect::<Vec<_>>())
        };
        assert_eq!(named(&["gate"]).expect("known"), ["gate"]);
        assert!(named(&[]).expect("all").len() > 1);
        assert!(
            named(&["gate", "gait"]).is_err_and(|e| e.to_string().contains("copy-up-triggers"))
        );
    }

    #[test]
    fn work_is_done_for_each_kernel_in_order_and_its_error_told() {
        let done = each_kernel(|kernel| Ok(kernel.to_owned())).expect("nothing fails");
        assert_eq!(done, KERNELS);
        let failed = each_kernel(|kernel| match kernel {
            "6.12" => anyhow::bail!("no {kernel}"),
            _ => Ok(()),
        });
        assert!(failed.is_err_and(|error| error.to_string() == "no 6.12"));
    }

    #[test]
    fn a_regression_is_one_if_it_shows_each_time() {
        let settle = |first: u8, again: [u8; 2]| {
            settled(first, again.into_iter().map(Ok)).expect("nothing fails")
        };
        assert_eq!(settle(3, [3, 3]), 3);
        assert_eq!(settle(3, [3, 0]), 0);
        assert_eq!(settle(3, [4, 3]), 4);
        assert_eq!(settle(0, [3, 3]), 0);
        let fails = std::iter::once_with(|| anyhow::bail!("no guest"));
        assert!(settled(3, fails).is_err());
    }

    #[test]
    fn a_regression_is_graver_than_what_cannot_be_judged() {
        assert_eq!(gravest(&[0, 5, 3, 4]), 3);
        assert_eq!(gravest(&[0, 5, 4]), 4);
        assert_eq!(gravest(&[0, 5]), 5);
        assert_eq!(gravest(&[5, 1, 3]), 1);
        assert_eq!(gravest(&[0, 0]), 0);
    }
}
