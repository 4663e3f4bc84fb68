//! Counts of the lab are the same on every run: whole records, compared.
//!
//! Three scenarios, cut to a size that a test has time for, run once as the host
//! is and once with every core of it under load, each on one kernel.
//!
//! `UNIONBENCH_LAB_RUNS` asks for more runs of the first kind,
//! `UNIONBENCH_LAB_WHOLE` for one round of all that a guest's memory and a
//! proof's time hold, with every backend and on both kernels, and
//! `UNIONBENCH_LAB_PROGRAM` names another build of the program, such as an
//! optimised one. What is done is told on stderr; results stay in the folder
//! `UNIONBENCH_LAB_KEEP`, from which a proof that was broken off goes on. Records
//! of another program or kernel there differ, and are told.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde_json::Value;
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
    /// What cuts it to a guest's memory and a proof's time.
    whole: &'static [&'static str],
}

const CASES: [Case; 3] = [
    Case {
        scenario: "deep-layers",
        cuts: &["stack.layers=[1,16]"],
        whole: &["stack.layers=[1,8,32,64,128]"],
    },
    Case {
        scenario: "large-file-first-write",
        cuts: &["stack.group.large.size=[\"4KiB\",\"1MiB\"]"],
        whole: &["stack.group.large.size=[\"4KiB\",\"64KiB\",\"1MiB\",\"16MiB\"]"],
    },
    Case {
        scenario: "whiteout-heavy-deletes",
        cuts: &["stack.layers=[4]", "stack.files_per_layer=500", "stack.whiteouts_per_layer=[100]"],
        whole: &[],
    },
];

fn n_runs() -> usize {
    let wished = std::env::var("UNIONBENCH_LAB_RUNS").ok();
    wished.and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// The record of one run, without what only the host's clock says.
fn measure(case: &Case, release: &str, run: usize) -> Record {
    let temporary = tempfile::tempdir().expect("room for results");
    let results = match std::env::var_os("UNIONBENCH_LAB_KEEP") {
        Some(kept) => PathBuf::from(kept).join(format!("{}-{release}-{run}", case.scenario)),
        None => temporary.path().to_owned(),
    };
    if let Some(record) = record_in(&results.join(case.scenario)) {
        return without_clock(record);
    }
    let started = Instant::now();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios");
    let mut command = Command::new(program());
    command
        .arg("run")
        .arg(folder.join(case.scenario).with_extension("toml"))
        .args(["--lab", "--kernel", release, "--quiet", "--results"])
        .arg(&results)
        .args(["--rounds", "1"])
        .env("UNIONBENCH_LAB_CACHE", cache());
    let cuts = if is_whole() { case.whole } else { case.cuts };
    for cut in cuts {
        command.args(["--set", cut]);
    }
    if !is_whole() {
        command.args(["--backend", "overlayfs"]);
    }
    let output = command.output().expect("the program runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{} on {release}, run {run}: {said}", case.scenario);
    let seconds = started.elapsed().as_secs();
    tell(&format!("{} on {release}: run {run} of {}, {seconds} s", case.scenario, n_runs()));
    without_clock(record_in(&results.join(case.scenario)).expect("a result was kept"))
}

fn program() -> PathBuf {
    let wished = std::env::var_os("UNIONBENCH_LAB_PROGRAM").map(PathBuf::from);
    wished.unwrap_or_else(|| env!("CARGO_BIN_EXE_unionbench").into())
}

/// Past the harness, which shows what a test prints only if it fails.
fn tell(text: &str) {
    let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}

fn record_in(scenario: &Path) -> Option<Record> {
    let mut entries = std::fs::read_dir(scenario).ok()?.filter_map(Result::ok);
    entries.find_map(|entry| store::read(&entry.path()).ok())
}

fn without_clock(mut record: Record) -> Record {
    record.started = String::new();
    let lab = record.lab.as_mut().expect("it ran in the lab");
    lab.wall_ms = 0;
    record
}

fn check_equal(first: &Record, other: &Record, what: &str) {
    let value = |record| serde_json::to_value(record).expect("a record is JSON");
    let mut found = Vec::new();
    compare(&value(first), &value(other), String::new(), &mut found);
    let shown = found.iter().take(40).map(String::as_str).collect::<Vec<_>>().join("\n");
    assert!(found.is_empty(), "{what}: {} values differ:\n{shown}", found.len());
    // Whatever is not written down either.
    assert!(first == other, "{what}");
}

/// Each value that differs, by its place, and by how much.
fn compare(first: &Value, other: &Value, place: String, found: &mut Vec<String>) {
    match (first, other) {
        (Value::Object(a), Value::Object(b)) if a.keys().eq(b.keys()) => {
            for (key, value) in a {
                compare(value, &b[key], format!("{place}/{key}"), found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (n, (one, two)) in a.iter().zip(b).enumerate() {
                let names = ["id", "name", "operation", "number"];
                let name = names.iter().find_map(|name| one.get(name));
                let name = name.map_or_else(|| n.to_string(), ToString::to_string);
                compare(one, two, format!("{place}/{name}"), found);
            }
        }
        (one, two) if one == two => {}
        (one, two) => {
            let share = match (one.as_f64(), two.as_f64()) {
                (Some(one), Some(two)) => format!(" ({:+.4} %)", (two / one - 1.0) * 100.0),
                _ => String::new(),
            };
            found.push(format!("{place}: {one}, then {two}{share}"));
        }
    }
}

#[test]
fn a_difference_is_told_by_place_and_amount() {
    let value =
        |median: u64| serde_json::json!({"cells": [{"id": "a", "median": median}, {"id": "b"}]});
    let mut found = Vec::new();
    compare(&value(200), &value(200), String::new(), &mut found);
    assert_eq!(found, Vec::<String>::new());
    compare(&value(200), &value(201), String::new(), &mut found);
    assert_eq!(found, ["/cells/\"a\"/median: 200, then 201 (+0.5000 %)"]);
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
