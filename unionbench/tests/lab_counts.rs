//! Counts of the lab are the same on every run: whole records, compared.
//!
//! Three scenarios, cut to a size that a test has time for, run once as the host
//! is and once with every core of it under load, each on one kernel. `UNIONBENCH_LAB_RUNS` asks for more runs of the first kind,
//! `UNIONBENCH_LAB_WHOLE` for the scenarios as they are, on both kernels.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use unionbench::probe;
use unionbench::record::Record;
use unionbench::store;

mod lab_cache;
mod skip;

use lab_cache::{cache, kernel};
use skip::skipped;

struct Case {
    scenario: &'static str,
    /// What cuts it to the size of a test.
    cuts: &'static [&'static str],
}

const CASES: [Case; 3] = [
    Case { scenario: "deep-layers", cuts: &["stack.layers=[1,16]"] },
    Case {
        scenario: "large-file-first-write",
        cuts: &["stack.group.large.size=[\"4KiB\",\"1MiB\"]"],
    },
    Case {
        scenario: "whiteout-heavy-deletes",
        cuts: &["stack.layers=[4]", "stack.files_per_layer=500", "stack.whiteouts_per_layer=[100]"],
    },
];

fn n_runs() -> usize {
    let wished = std::env::var("UNIONBENCH_LAB_RUNS").ok();
    wished.and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// The record of one run, without what only the host's clock says.
fn measure(case: &Case, release: &str, run: usize) -> Record {
    let results = tempfile::tempdir().expect("room for results");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios");
    let mut command = Command::new(env!("CARGO_BIN_EXE_unionbench"));
    command
        .arg("run")
        .arg(folder.join(case.scenario).with_extension("toml"))
        .args(["--lab", "--kernel", release, "--quiet", "--results"])
        .arg(results.path())
        .env("UNIONBENCH_LAB_CACHE", cache());
    if !is_whole() {
        command.args(["--rounds", "1", "--backend", "overlayfs"]);
        for cut in case.cuts {
            command.args(["--set", cut]);
        }
    }
    let output = command.output().expect("the program runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{} on {release}, run {run}: {said}", case.scenario);
    let scenario = results.path().join(case.scenario);
    let entries = std::fs::read_dir(scenario).expect("a result was kept");
    let folder = entries.filter_map(Result::ok).next().expect("a result was kept").path();
    let mut record = store::read(&folder).expect("a record of this schema");
    record.started = String::new();
    let lab = record.lab.as_mut().expect("it ran in the lab");
    lab.wall_ms = 0;
    record
}

/// Cells first: a difference there is named by its cell.
fn check_equal(first: &Record, other: &Record, what: &str) {
    for (a, b) in first.cells.iter().zip(&other.cells) {
        assert_eq!(a, b, "{what}: cell {}", a.id);
    }
    assert_eq!(first, other, "{what}");
}

fn with_every_core_busy<T>(work: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        stop.store(true, Ordering::Relaxed);
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn is_whole() -> bool {
    std::env::var_os("UNIONBENCH_LAB_WHOLE").is_some()
}

fn check(case: &Case, release: &str) {
    if !probe::is_embedded() {
        skipped(case.scenario, "built without probes, use `cargo xtask test`");
        return;
    }
    if kernel(release, case.scenario).is_none() {
        return;
    }
    let first = measure(case, release, 0);
    assert!(first.cells.iter().any(|cell| !cell.rounds.is_empty()));
    for run in 1..n_runs() {
        let what = format!("{} on {release}, run {run}", case.scenario);
        check_equal(&first, &measure(case, release, run), &what);
    }
    let busy = with_every_core_busy(|| measure(case, release, n_runs()));
    check_equal(&first, &busy, &format!("{} on {release}, busy host", case.scenario));
}

#[test]
fn deep_layers_count_alike_on_every_run() {
    check(&CASES[0], "6.1");
    if is_whole() {
        check(&CASES[0], "6.12");
    }
}

#[test]
fn first_writes_count_alike_on_every_run() {
    check(&CASES[1], "6.1");
    if is_whole() {
        check(&CASES[1], "6.12");
    }
}

#[test]
fn deletes_count_alike_on_every_run() {
    check(&CASES[2], "6.12");
    if is_whole() {
        check(&CASES[2], "6.1");
    }
}
