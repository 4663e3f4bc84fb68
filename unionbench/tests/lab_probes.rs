//! Function probes, on kernels that allow them: Debian's, in the lab.
//!
//! Needs QEMU, the kernels and a build with probes; where one is missing,
//! each test says so and is skipped.

mod skip;

use std::path::{Path, PathBuf};
use std::process::Command;

use skip::skipped;
use unionbench::lab::{Exit, Guest, GuestFile, Kernel, Mode, OUT_DIR};
use unionbench::probe;
use unionbench::record::{Losses, Record, Round};

const SCENARIO: &str = r#"
name = "probed"
title = "Every probed operation, small"
description = "Counts that are known beforehand."
seed = 1
rounds = 1
probes = true

[stack]
layers = 8
files_per_layer = 40
dirs = 1
size = "4KiB"

[[stack.group]]
name = "written"
count = 20
size = "4KiB"

[backing]
fs = "tmpfs"
size = "64MiB"

[[backend]]
kind = "bare"

[[backend]]
kind = "overlayfs"

[[phase]]
name = "cold"
workload = "lookup"
layer = "bottom"
count = 30
cache = "cold"

[[phase]]
name = "first-write"
workload = "first-write"
files = "group:written"
trigger = "write"

[[phase]]
name = "delete"
workload = "delete"
layer = "bottom"
count = 10

[[phase]]
name = "readdir"
workload = "readdir"
"#;

fn cache() -> PathBuf {
    match std::env::var_os("UNIONBENCH_LAB_CACHE") {
        Some(dir) => dir.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/lab"),
    }
}

/// The record of the scenario in a guest, or nothing after saying why not.
fn record_on(release: &str) -> Option<Record> {
    if !probe::is_embedded() {
        skipped(
            &format!("function probes on {release}"),
            "built without probes, use `cargo xtask test`",
        );
        return None;
    }
    if Command::new("qemu-system-x86_64").arg("--version").output().is_err() {
        skipped(
            &format!("function probes on {release}"),
            "QEMU is not installed (package qemu-system-x86)",
        );
        return None;
    }
    let kernel = match Kernel::resolve_in(release, &cache()) {
        Ok(kernel) => kernel,
        Err(error) => {
            skipped(&format!("function probes on {release}"), error);
            return None;
        }
    };
    let mut guest = Guest::new(kernel, Mode::Plain);
    guest.binary = Some(env!("CARGO_BIN_EXE_unionbench").into());
    guest.files.push(GuestFile::bytes("/probed.toml", SCENARIO));
    let words = ["unionbench", "run", "/probed.toml", "--quiet", "--results", OUT_DIR];
    guest.argv = words.map(str::to_owned).to_vec();
    let outcome = guest.run().expect("a guest that reports");
    let stderr = String::from_utf8_lossy(outcome.file("stderr").unwrap_or_default()).into_owned();
    let stdout = String::from_utf8_lossy(outcome.file("stdout").unwrap_or_default()).into_owned();
    assert_eq!(outcome.exit, Exit::Code(0), "{stdout}{stderr}");
    let stored = outcome.files.iter().find(|file| file.path.ends_with("record.json"));
    let bytes = &stored.expect("a record was stored").bytes;
    Some(serde_json::from_slice(bytes).expect("a record of this schema"))
}

/// The round with probes of a phase on overlayfs.
fn probed<'a>(record: &'a Record, phase: &str) -> &'a Round {
    let cell = record
        .cells
        .iter()
        .find(|cell| cell.id.starts_with("overlayfs") && cell.id.ends_with(phase));
    let cell = cell.unwrap_or_else(|| panic!("no cell of {phase}"));
    cell.rounds.iter().find(|round| round.probes).expect("a round with probes")
}

/// The exact count of an operation inside the kernel.
fn counted(round: &Round, operation: &str) -> u64 {
    round.kernel.iter().find(|h| h.operation == operation).map_or(0, |h| h.count)
}

fn counter_of(round: &Round, name: &str) -> Option<u64> {
    round.counters.iter().find(|counter| counter.name == name).map(|counter| counter.value)
}

fn check(release: &str) {
    let Some(record) = record_on(release) else { return };
    assert_eq!(record.warnings, Vec::<String>::new());
    let cold = probed(&record, "cold");
    // All names lie in one directory, itself looked up once.
    assert_eq!(counted(cold, "lookup"), cold.n_ops + 1);
    let layers = cold.kernel.iter().find(|h| h.operation == "layers_visited");
    let layers = layers.expect("layers are counted");
    // A name of the bottom layer is asked for in all eight; the directory,
    // whose parent has an upper, in that too.
    assert_eq!((layers.count, layers.sum), (cold.n_ops + 1, cold.n_ops * 8 + 9));
    assert_eq!((layers.min, layers.max), (8, 9));
    let bottom = cold.layers.iter().find(|layer| layer.turn == 8).expect("eight layers");
    assert_eq!(bottom.asked, cold.n_ops + 1);
    assert_eq!(cold.layers.iter().map(|layer| layer.asked).sum::<u64>(), layers.sum);
    assert!(cold.layers.iter().all(|layer| layer.spent > 0));
    let written = probed(&record, "first-write");
    // Each file, and once the directory they are in.
    assert_eq!(counted(written, "copy_up"), written.n_ops + 1);
    for (counter, expected) in [
        ("copy_ups", written.n_ops + 1),
        ("copy_ups.openat", written.n_ops + 1),
        ("bytes_cloned", 0),
        ("bytes_spliced", written.n_ops * 4096),
        ("upper.inodes", written.n_ops + 1),
    ] {
        assert_eq!(counter_of(written, counter), Some(expected), "{counter}");
    }
    for phase in ["lock", "create", "metadata", "xattr", "rename"] {
        let operation = format!("copy_up_{phase}");
        assert_eq!(counted(written, &operation), written.n_ops + 1, "{operation}");
    }
    for phase in ["data", "clone", "splice"] {
        let operation = format!("copy_up_{phase}");
        assert_eq!(counted(written, &operation), written.n_ops, "{operation}");
    }
    let deleted = probed(&record, "delete");
    assert_eq!(counted(deleted, "whiteout"), deleted.n_ops);
    assert_eq!(counter_of(deleted, "whiteouts"), counter_of(deleted, "upper.whiteouts"));
    let listed = probed(&record, "readdir");
    assert_eq!(counted(listed, "readdir_merge"), listed.n_ops);
    for round in [cold, written, deleted, listed] {
        // A sample's stack that could not be read touches none of these figures.
        let losses = Losses { stacks: 0, ..round.losses };
        assert!(losses.is_zero(), "{losses:?}");
    }
    let by = |operation: &str| {
        let probe = record.probes.iter().find(|p| p.operation == operation && p.attached);
        probe.map(|probe| probe.engine.as_str())
    };
    // overlay is a module there: aya attaches fentry to the kernel proper only.
    assert_eq!(by("lookup"), Some("kprobe"));
    assert_eq!(by("fsync"), Some("fentry"));
}

#[test]
fn function_probes_count_what_the_driver_did_on_6_1() {
    check("6.1");
}

#[test]
fn function_probes_count_what_the_driver_did_on_6_12() {
    check("6.12");
}
