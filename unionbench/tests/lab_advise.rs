//! What `advise` predicts of metacopy, against what it saves: in the lab, where
//! both are instructions.

mod lab_cache;
mod skip;

use std::path::Path;
use std::process::Command;

use lab_cache::{cache, kernel};
use skip::skipped;

#[test]
fn the_saving_of_metacopy_is_what_was_predicted() {
    let test = "the_saving_of_metacopy_is_what_was_predicted";
    if !unionbench::probe::is_embedded() {
        skipped(test, "built without probes: use `cargo xtask test`");
        return;
    }
    if kernel("6.12", test).is_none() {
        return;
    }
    let results = tempfile::tempdir().expect("room for results");
    let program = || Command::new(env!("CARGO_BIN_EXE_unionbench"));
    let scenario = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios/chown-recursive.toml");
    let output = program()
        .arg("run")
        .arg(scenario)
        .args(["--lab", "--kernel", "6.12", "--rounds", "1", "--quiet", "--results"])
        .arg(results.path())
        .args(["--set", "backing.fs=ext4", "--set", "stack.layers=2", "--set", "stack.dirs=5"])
        .args(["--set", "stack.files_per_layer=100"])
        .env("UNIONBENCH_LAB_CACHE", cache())
        .output()
        .expect("the program runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let folder = std::fs::read_dir(results.path().join("chown-recursive")).expect("a result");
    let folder = folder.filter_map(Result::ok).next().expect("a result").path();
    let output = program()
        .args(["advise", "--verify", "--format", "json"])
        .arg(folder)
        .output()
        .expect("the program runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).expect("is JSON");
    let check = |source: &str, change: &str| {
        let cells = told.as_array().expect("a list");
        let starts = |cell: &&serde_json::Value| {
            cell["source"].as_str().is_some_and(|id| id.starts_with(source))
        };
        let cell = cells.iter().find(starts).expect(source);
        let advice = cell["advice"].as_array().expect("a list");
        let advice = advice.iter().find(|a| a["change"] == change).expect(change);
        let predicted = advice["predicted_saving"].as_f64().expect("a number");
        let measured = advice["measured"]["saving"].as_f64().expect("was measured");
        let off = predicted / measured - 1.0;
        assert!(off.abs() < 0.15, "{change}: {predicted} predicted, {measured} measured");
    };
    check("overlayfs metacopy=off volatile=false", "metacopy=on");
    check("overlayfs metacopy=off volatile=false", "volatile");
}
