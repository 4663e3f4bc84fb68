//! What is accepted, and the text of every refusal.

use super::*;

const GOOD: &str = r#"name = "t"
title = "T"
[stack]
layers = [1, 8]
files_per_layer = 10
size = { min = 0, max = "4KiB" }
[[stack.group]]
name = "large"
size = "1MiB"
[backing]
size = "64MiB"
[[backend]]
kind = "bare"
[[backend]]
kind = "overlayfs"
options = { metacopy = ["off", "on"], volatile = true }
[[phase]]
name = "cold"
workload = "lookup"
layer = "bottom"
count = 10
[[phase]]
name = "write"
workload = "first-write"
files = "group:large"
trigger = ["write", "chmod"]
"#;

fn read(text: &str, overrides: &[&str]) -> Result<Scenario, String> {
    let overrides: Vec<String> = overrides.iter().map(|s| (*s).to_owned()).collect();
    let read = parse(Path::new("s.toml"), text.as_bytes(), &overrides);
    read.map(|r| r.0).map_err(|e| e.to_string())
}

/// Replaces one piece of the good scenario and returns the refusal.
fn refusal(from: &str, to: &str) -> String {
    assert_eq!(GOOD.matches(from).count(), 1, "{from}");
    read(&GOOD.replace(from, to), &[]).expect_err(to)
}

#[test]
fn a_good_scenario_is_read_with_its_axes() {
    let scenario = read(GOOD, &["phase.cold.threads=[1,2]", "seed=7"]).expect("it is good");
    assert_eq!(scenario.stack.layers, Many { values: vec![1, 8], is_axis: true });
    assert_eq!(scenario.phase[0].threads.values, [1, 2]);
    assert_eq!((scenario.seed, scenario.rounds), (7, 5));
}

#[test]
fn files_that_are_no_scenario_are_refused() {
    let bytes = |bytes: &[u8]| {
        parse(Path::new("s.toml"), bytes, &[]).map(|_| ()).expect_err("no scenario").to_string()
    };
    let missing = load(Path::new("nowhere.toml"), &[]).expect_err("no file").to_string();
    let all = [
        bytes(b""),
        bytes(b" \n"),
        bytes(b"\x7fELF\x02\xff\xfe"),
        bytes(b"name = \"a\0\""),
        bytes(b"name = 'a'\nlayers ="),
        bytes(b"name = 'a'\nname = 'b'"),
        missing,
    ];
    insta::assert_snapshot!(all.join("\n"));
}

#[test]
fn bad_values_are_refused_with_line_key_and_what_is_accepted() {
    let cases = [
        ("files_per_layer = 10", "files_per_layers = 10"),
        ("files_per_layer = 10", "files_per_layer = \"ten\""),
        ("files_per_layer = 10", "files_per_layer = -10"),
        ("layers = [1, 8]", "layers = 501"),
        ("layers = [1, 8]", "layers = []"),
        ("layers = [1, 8]", "layers = 0"),
        ("layers = [1, 8]", "dirs = 2"),
        ("files_per_layer = 10", "files_per_layer = 10\nwhiteouts_per_layer = 10"),
        ("{ min = 0, max = \"4KiB\" }", "{ min = \"8KiB\", max = \"4KiB\" }"),
        ("{ min = 0, max = \"4KiB\" }", "\"4 kb\""),
        ("size = \"64MiB\"", "size = \"1MiB\""),
        ("size = \"64MiB\"", "size = \"64MiB\"\nfs = \"zfs\""),
        ("size = \"64MiB\"", "size = \"64MiB\"\nfs = \"xfs\""),
        ("files_per_layer = 10", "files_per_layer = 10\nverity = true"),
        ("size = \"64MiB\"", "size = \"64MiB\"\nmkfs = \"-m reflink=0\""),
        ("size = \"64MiB\"", "size = \"64MiB\"\nfs = [\"ext4\", \"btrfs\"]\nmkfs = \"-K\""),
        ("size = \"64MiB\"", "size = \"64MiB\"\nfs = \"ext4\"\nmkfs = [\"\", \"-L 'a b'\"]"),
        ("kind = \"bare\"", "kind = \"overlayfs\""),
        ("kind = \"bare\"", "kind = \"bare\"\nname = \"../up\""),
        ("kind = \"bare\"", "kind = \"zfs\""),
        ("kind = \"bare\"", "kind = \"bare\"\noptions = { volatile = true }"),
        ("volatile = true", "metacopi = \"on\""),
        ("volatile = true", "upperdir = \"x\""),
        ("volatile = true", "redirect_dir = \"off\""),
        ("volatile = true", "index = \"yes\""),
        ("name = \"t\"", "name = \"../../etc\""),
        ("count = 10", "count = 0"),
        ("count = 10", "count = -1"),
        ("count = 10", "count = 11"),
        ("count = 10", "count = 10\nduration = \"1s\""),
        ("count = 10", "count = 10\nkeys = { zipf = 1.1 }"),
        ("count = 10", "count = 10\nmissing = true"),
        ("count = 10", "duration = \"fast\""),
        ("count = 10", "count = 10\nthreads = 0"),
        ("layer = \"bottom\"", "layer = 1"),
        ("layer = \"bottom\"", "layer = \"middle\""),
        ("layer = \"bottom\"", "trigger = \"chmod\""),
        ("\"group:large\"", "\"group:small\""),
        ("[\"write\", \"chmod\"]", "[\"write\", \"chgrp\"]"),
        ("workload = \"lookup\"", "workload = \"look\""),
        ("name = \"write\"", "name = \"cold\""),
    ];
    let all: Vec<String> = cases.iter().map(|(from, to)| refusal(from, to)).collect();
    insta::assert_snapshot!(all.join("\n"));
}

#[test]
fn a_bad_override_is_named_as_such() {
    let all: Vec<String> = ["stack.layers=501", "stack.layer=3", "phase.hot.count=1", "seed"]
        .iter()
        .map(|set| read(GOOD, &[set]).expect_err(set))
        .collect();
    insta::assert_snapshot!(all.join("\n"));
}

#[test]
fn published_schema_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios/scenario.schema.json");
    let published = std::fs::read_to_string(&path).unwrap_or_default();
    // The remedy is the new text itself; `.new` is what the next commit holds.
    if published != schema() {
        let new = path.with_extension("json.new");
        std::fs::write(&new, schema()).expect("the folder is writable");
        panic!("scenario.schema.json is out of date: move {} over it", new.display());
    }
}

#[test]
fn shipped_scenarios_are_good() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios");
    let mut n = 0;
    for entry in std::fs::read_dir(folder).expect("the scenarios are there") {
        let path = entry.expect("the folder can be read").path();
        if path.extension().is_some_and(|e| e == "toml") {
            let (scenario, _) = load(&path, &[]).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(path.file_stem(), Some(scenario.name.as_ref()));
            n += 1;
        }
    }
    assert!(n >= 4, "{n} scenarios");
}
