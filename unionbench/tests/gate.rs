//! The gate as a user meets it: baselines from records of a small native run,
//! and everything that must not pass.

mod skip;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use skip::skipped;
use tempfile::TempDir;
use unionbench::record::{CellStatus, Record};
use unionbench::store;

const PROGRAM: &str = env!("CARGO_BIN_EXE_unionbench");

fn gate(arguments: &[&str]) -> Output {
    Command::new(PROGRAM)
        .arg("gate")
        .args(arguments)
        .env_remove("GITHUB_STEP_SUMMARY")
        .output()
        .expect("the program starts")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("it ended by itself")
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// A record with enough rounds, made from a real one of a few operations;
/// `None` where this machine cannot mount.
fn record(folder: &Path) -> Option<Record> {
    let output = Command::new(PROGRAM)
        .args(["run", "--quiet", "--no-probes", "--rounds", "1", "--format", "json"])
        .args(["--set", "stack.layers=2", "--set", "phase.cold-bottom.count=20"])
        .args(["--backend", "overlayfs"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios/smoke.toml"))
        .arg("--results")
        .arg(folder)
        .output()
        .expect("the program starts");
    if !output.status.success() {
        skipped("gate", String::from_utf8_lossy(&output.stderr));
        return None;
    }
    let run = fs::read_dir(folder.join("smoke")).expect("results").flatten().next();
    let mut record = store::read(&run.expect("one run").path()).expect("a record");
    for cell in &mut record.cells {
        let first = cell.rounds[0].clone();
        let numbered = |n: u32| {
            let mut round = first.clone();
            round.round = n;
            round
        };
        cell.rounds = (0..10).map(numbered).collect();
    }
    Some(record)
}

struct Place {
    folder: TempDir,
    record: Record,
}

impl Place {
    fn new() -> Option<Self> {
        let folder = TempDir::new().expect("a temporary folder");
        let record = record(&folder.path().join("runs"))?;
        Some(Self { folder, record })
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// Stores the record, changed by `edit`.
    fn store(&self, name: &str, edit: impl Fn(&mut Record)) -> String {
        let mut record = self.record.clone();
        edit(&mut record);
        let folder = PathBuf::from(self.path(name));
        fs::create_dir_all(&folder).expect("room");
        let text = serde_json::to_string(&record).expect("encodes");
        fs::write(folder.join("record.json"), text).expect("room");
        folder.display().to_string()
    }

    fn slower(&self, name: &str, factor: u64) -> String {
        self.store(name, |record| {
            for cell in record.cells.iter_mut().filter(|c| c.backend == "overlayfs") {
                for latency in cell.rounds.iter_mut().filter_map(|r| r.latency.as_mut()) {
                    latency.median *= factor;
                }
            }
        })
    }

    fn saved(&self) -> String {
        let (base, file) = (self.store("base", |_| {}), self.path("b.toml"));
        let output = gate(&["--baseline", &file, "--save-baseline", &base]);
        assert_eq!(code(&output), 0, "{}", text(&output));
        file
    }
}

#[test]
fn same_record_passes_and_a_slower_one_fails_until_it_is_accepted() {
    let Some(place) = Place::new() else { return };
    let file = place.saved();
    let same = place.store("same", |_| {});
    let output = gate(&["--baseline", &file, &same]);
    assert_eq!(code(&output), 0, "{}", text(&output));
    let slow = place.slower("slow", 2);
    let output = gate(&["--baseline", &file, &slow]);
    assert_eq!(code(&output), 3, "{}", text(&output));
    assert!(text(&output).contains("fail") && text(&output).contains("latency.median"));
    let output = gate(&["--baseline", &file, &slow, "--accept", "latency"]);
    assert_eq!(code(&output), 2, "without a reason: {}", text(&output));
    let reason = "the new check is worth it";
    let output = gate(&["--baseline", &file, &slow, "--accept", "latency", "--because", reason]);
    assert_eq!(code(&output), 0, "{}", text(&output));
    let kept = fs::read_to_string(&file).expect("it is there");
    assert!(kept.contains(reason) && kept.contains("who = "), "{kept}");
    assert_eq!(code(&gate(&["--baseline", &file, &slow])), 0);
}

#[test]
fn nothing_that_cannot_be_judged_passes() {
    let Some(place) = Place::new() else { return };
    let file = place.saved();
    let refused = |arguments: &[&str], expected: i32, reason: &str| {
        let output = gate(arguments);
        let said = text(&output);
        assert_eq!(code(&output), expected, "{arguments:?}: {said}");
        assert!(said.contains(reason), "{arguments:?}: {said}");
    };
    let judge = |name: &str, expected: i32, reason: &str, edit: &dyn Fn(&mut Record)| {
        refused(&["--baseline", &file, &place.store(name, edit)], expected, reason);
    };
    judge("scenario", 1, "scenarios", &|r| r.scenario.sha256 = "00".into());
    judge("seed", 1, "seeds", &|r| r.seed += 1);
    judge("stack", 1, "stacks", &|r| r.stacks[0].hash = "00".into());
    judge("settings", 1, "--set", &|r| r.scenario.overrides.push("stack.dirs=9".into()));
    judge("one-round", 4, "rounds", &|r| {
        r.cells.iter_mut().for_each(|c| c.rounds.truncate(1));
    });
    judge("missing-cell", 4, "does not hold the cell", &|r| {
        r.cells.retain(|c| !(c.backend == "overlayfs" && c.phase == "delete"));
    });
    judge("invalid", 4, "lost", &|r| {
        let lost =
            |c: &&mut unionbench::record::Cell| c.backend == "overlayfs" && c.phase == "delete";
        for cell in r.cells.iter_mut().filter(lost) {
            cell.status =
                unionbench::record::CellStatus::Invalid { reason: "7 events were lost".into() };
        }
    });
    judge("all-invalid", 1, "no cell of it", &|r| {
        for cell in &mut r.cells {
            cell.status = unionbench::record::CellStatus::Failed { reason: "no mount".into() };
        }
    });
    judge("newer", 1, "use a newer unionbench", &|r| r.schema += 1);
    let empty = place.path("empty");
    fs::create_dir(&empty).expect("room");
    refused(&["--baseline", &file, &empty], 1, "no record lies in it");
    refused(&["--baseline", &empty, &place.store("x", |_| {})], 1, "save one");
    let whole = place.store("cut", |_| {});
    let record = Path::new(&whole).join("record.json");
    let bytes = fs::read(&record).expect("it is there");
    fs::write(&record, &bytes[..bytes.len() / 2]).expect("room");
    refused(&["--baseline", &file, &whole], 1, "ends in the middle");
    let edited = fs::read_to_string(&file).expect("it is there").replacen("seed = ", "seed =  ", 1);
    fs::write(&file, edited).expect("room");
    refused(&["--baseline", &file, &place.store("y", |_| {})], 1, "edited by hand");
}

#[test]
fn budget_allows_more_with_a_reason_only() {
    let Some(place) = Place::new() else { return };
    let (file, slow, budget) = (place.saved(), place.slower("slow", 2), place.path("gate.toml"));
    let judge = |text: &str| {
        fs::write(&budget, text).expect("room");
        gate(&["--baseline", &file, "--budget", &budget, &slow])
    };
    let allowed = judge("[[override]]\nmetric = \"latency\"\ntolerance = 1.5\nreason = \"known\"");
    assert_eq!(code(&allowed), 0, "{}", text(&allowed));
    let refused = judge("[[override]]\nmetric = \"latency\"\ntolerance = 1.5");
    assert_eq!(code(&refused), 1, "{}", text(&refused));
    assert_eq!(code(&judge("min_effect = nan")), 1);
}

#[test]
fn step_summary_tells_regressions_first() {
    let Some(place) = Place::new() else { return };
    let (file, slow, page) = (place.saved(), place.slower("slow", 2), place.path("summary.md"));
    let output = Command::new(PROGRAM)
        .args(["gate", "--baseline", &file, &slow, "--format", "md"])
        .env("GITHUB_STEP_SUMMARY", &page)
        .output()
        .expect("the program starts");
    assert_eq!(code(&output), 3);
    let summary = fs::read_to_string(&page).expect("written");
    assert!(summary.contains("became worse") && summary.contains("| fail |"), "{summary}");
    assert!(String::from_utf8_lossy(&output.stdout).contains(&summary));
}

#[test]
fn report_is_written_in_every_format() {
    let Some(place) = Place::new() else { return };
    let base = place.store("base", |_| {});
    let report = |arguments: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command.arg("report").args(arguments).output().expect("the program starts")
    };
    for (format, expected) in [
        ("human", "overlayfs"),
        ("md", "## "),
        ("csv", "cell,"),
        ("json", "\"median\""),
        ("html", "<!doctype html>"),
        ("openmetrics", "# EOF"),
        ("bmf", "\"latency\""),
        ("github-action-benchmark", "\"unit\""),
    ] {
        let output = report(&[&base, "--format", format]);
        assert_eq!(code(&output), 0, "{format}: {}", text(&output));
        assert!(text(&output).contains(expected), "{format}: {}", text(&output));
    }
    let page = place.path("page.html");
    let output = report(&[&base, &base, "-o", &page]);
    assert_eq!(code(&output), 0, "{}", text(&output));
    assert!(output.stdout.is_empty());
    assert!(fs::read_to_string(page).expect("written").contains("record-2"));
    assert_eq!(code(&report(&[&base, &base, "--format", "csv"])), 2);
}

#[test]
fn report_of_a_format_that_is_not_written_is_refused() {
    let Some(place) = Place::new() else { return };
    let base = place.store("base", |_| {});
    let written = |name: &str| {
        let out = place.path(name);
        let mut command = Command::new(PROGRAM);
        let output =
            command.args(["report", &base, "-o", &out]).output().expect("the program starts");
        (code(&output), text(&output), PathBuf::from(out))
    };
    for name in ["page.pdf", "page.HTM", "record.json"] {
        let (code, said, out) = written(name);
        assert_eq!(code, 2, "{said}");
        assert!(said.contains("FILE.html") && said.contains("--format"), "{said}");
        assert!(!out.exists());
    }
    for name in ["folder", "folder-6.12", "page.pdf/"] {
        let (code, said, out) = written(name);
        assert_eq!(code, 0, "{said}");
        assert!(out.is_dir());
    }
    // It is a folder now.
    assert_eq!(written("page.pdf").0, 0);
}

/// As if the record had been counted in the lab on this kernel, with so many
/// fsyncs in each cell.
fn in_the_lab(record: &mut Record, kernel: &str, fsyncs: u64) {
    let lab = serde_json::json!({
        "mode": "count", "qemu_version": "7.2", "machine": "m", "cpu_model": "c",
        "accelerator": "tcg", "n_cpus": 1, "memory_bytes": 1, "kernel_release": kernel,
        "kernel_sha256": kernel, "kernel_package": null, "initramfs_sha256": "i",
        "binary_sha256": "b", "kernel_command_line": "", "wall_ms": 1
    });
    record.lab = Some(serde_json::from_value(lab).expect("a laboratory"));
    record.latency_unit = unionbench::unit::LatencyUnit::Instructions;
    record.host.kernel_release = kernel.into();
    for cell in record.cells.iter_mut().filter(|cell| !cell.rounds.is_empty()) {
        let mut probed = cell.rounds[0].clone();
        probed.probes = true;
        let counter = serde_json::json!({ "name": "fsyncs", "value": fsyncs, "engine": "kprobe" });
        probed.counters = vec![serde_json::from_value(counter).expect("a counter")];
        cell.rounds = vec![cell.rounds[0].clone(), probed];
    }
}

#[test]
fn one_more_fsync_fails_and_is_named_be_it_by_the_kernel() {
    let Some(place) = Place::new() else { return };
    let file = place.path("lab.toml");
    let base = place.store("base", |r| in_the_lab(r, "6.1.0-1-amd64", 10));
    let saved = gate(&["--baseline", &file, "--save-baseline", &base]);
    assert_eq!(code(&saved), 0, "{}", text(&saved));
    let check = |name: &str, kernel: &str, fsyncs, flags: &[&str], expected, told: &str| {
        let result = place.store(name, |r| in_the_lab(r, kernel, fsyncs));
        let mut arguments = vec!["--baseline", &file, &result];
        arguments.extend(flags);
        let output = gate(&arguments);
        assert_eq!(code(&output), expected, "{name}: {}", text(&output));
        assert!(text(&output).contains(told), "{name}: {}", text(&output));
    };
    check("same", "6.1.0-1-amd64", 10, &[], 0, "");
    check("more", "6.1.0-1-amd64", 11, &[], 3, "fsyncs");
    // Another kernel is no failure of the tree; under test, it may be one.
    let across: &[&str] = &["--across-kernels"];
    check("other", "6.1.0-2-amd64", 10, &[], 5, "save a baseline of this one");
    check("other-same", "6.1.0-2-amd64", 10, across, 0, "kernel: 6.1.0-1-amd64 and 6.1.0-2-amd64");
    check("other-more", "6.1.0-2-amd64", 11, across, 3, "fsyncs");
}

#[test]
fn slow_creep_over_the_history_warns_and_does_not_fail() {
    let Some(place) = Place::new() else { return };
    let steps = [100, 101, 100, 101, 100, 100, 112, 112, 113, 112, 113];
    for (n, fsyncs) in steps.into_iter().enumerate() {
        place.store(&format!("history/{n}"), |r| {
            in_the_lab(r, "6.1.0-1-amd64", fsyncs);
            r.started = format!("2026-01-{:02}T00:00:00Z", n + 1);
        });
    }
    let file = place.path("lab.toml");
    let newest = place.store("newest", |r| {
        in_the_lab(r, "6.1.0-1-amd64", 112);
        r.started = "2026-02-01T00:00:00Z".into();
    });
    assert_eq!(code(&gate(&["--baseline", &file, "--save-baseline", &newest])), 0);
    let history = place.path("history");
    let output = gate(&["--baseline", &file, "--history", &history, &newest]);
    assert_eq!(code(&output), 0, "{}", text(&output));
    let said = text(&output);
    assert!(said.contains("trend: ") && said.contains("fsyncs rose"), "{said}");
    assert!(said.contains("2026-01-07"), "the change is dated: {said}");
}

#[test]
fn top_up_measures_the_rounds_that_are_lacking() {
    let Some(place) = Place::new() else { return };
    let file = place.saved();
    let short = place.store("short", |record| {
        record.cells.iter_mut().for_each(|cell| cell.rounds.truncate(2));
    });
    let output = gate(&["--baseline", &file, "--top-up", "8", "--format", "json", &short]);
    assert!([0, 3, 4].contains(&code(&output)), "{}", text(&output));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("measuring 8 further rounds"), "{said}");
    let judged: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let rows = judged[0]["rows"].as_array().expect("rows");
    let rounds: Vec<u64> = rows.iter().filter_map(|row| row["n_rounds"].as_u64()).collect();
    assert!(!rounds.is_empty() && rounds.iter().all(|n| *n == 10), "{rounds:?}");
}

#[test]
fn without_a_baseline_it_is_told_how_one_is_made() {
    let Some(place) = Place::new() else { return };
    let (result, missing) = (place.store("x", |_| {}), place.path("none"));
    let output = gate(&["--baseline", &missing, &result]);
    assert_eq!(code(&output), 1);
    assert!(text(&output).contains("--save-baseline"), "{}", text(&output));
}

#[test]
fn script_of_the_action_runs_gates_and_reports() {
    let Some(place) = Place::new() else { return };
    let (file, good, bad) = (place.saved(), place.store("good", |_| {}), place.slower("bad", 2));
    // Stands for the program: a run leaves a record that was made before, and
    // all else is the program's own.
    let program = place.path("program");
    let script = format!(
        "#!/bin/sh\nif [ \"$1\" != run ]; then exec {PROGRAM} \"$@\"; fi\n\
         while [ \"$1\" != --results ]; do shift; done\n\
         mkdir -p \"$2/smoke\" && cp -r \"$RECORD\" \"$2/smoke/one\" && echo measured\n"
    );
    fs::write(&program, script).expect("room");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&program, executable).expect("its owner may");
    let run = |name: &str, record: &str| {
        let outputs = place.path(&format!("{name}.outputs"));
        let output = Command::new("bash")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../ci/gate.sh"))
            .env("PROGRAM", &program)
            .env("RECORD", record)
            .env("SCENARIO", "smoke.toml")
            .env("BASELINE", &file)
            .env("RESULTS", place.path(name))
            .env("GITHUB_OUTPUT", &outputs)
            .env_remove("GITHUB_STEP_SUMMARY")
            .output()
            .expect("bash starts");
        let told = fs::read_to_string(&outputs).unwrap_or_default();
        (code(&output), format!("{told}{}", text(&output)))
    };
    let (exit, said) = run("passes", &good);
    assert!(exit == 0 && said.contains("verdict=pass"), "{exit}: {said}");
    assert!(Path::new(&place.path("passes/report.html")).is_file());
    let (exit, said) = run("fails", &bad);
    assert!(exit == 3 && said.contains("verdict=regression"), "{exit}: {said}");
}

#[test]
fn action_is_as_the_schema_of_actions_wants_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let modules = std::env::var_os("UNIONBENCH_NODE_MODULES")
        .map_or_else(|| root.join("target/tools/node_modules"), PathBuf::from);
    let validator = modules.join(".bin/action-validator");
    if !validator.is_file() {
        skipped("action", "npm's @action-validator/cli and @action-validator/core are not there");
        return;
    }
    let check = |path: &Path| Command::new(&validator).arg(path).output().expect("it starts");
    let output = check(&root.join("action.yml"));
    assert!(output.status.success(), "{}", text(&output));
    let folder = TempDir::new().expect("a temporary folder");
    let wrong = folder.path().join("action.yml");
    let own = fs::read_to_string(root.join("action.yml")).expect("it is there");
    fs::write(&wrong, own.replacen("runs:", "run:", 1)).expect("room");
    assert!(!check(&wrong).status.success(), "a check that cannot fail");
}

/// Linux 7.0's `fsync=` (some older kernels have it too) makes a metadata
/// copy-up write to disk: seen by a counter, and by no clock.
#[test]
fn fsyncs_that_an_option_adds_to_a_copy_up_are_named() {
    if !unionbench::probe::is_embedded() {
        skipped("fsync=strict", "built without probes, use `cargo xtask test`");
        return;
    }
    let folder = TempDir::new().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let measure = |mode: &str| {
        let output = Command::new(PROGRAM)
            .args(["run", "--quiet", "--rounds", "1", "--format", "json"])
            .args(["--set", "stack.group.changed.count=10", "--set", "phase.first.trigger=chmod"])
            .args(["--set", "backend.overlayfs.options.metacopy=on", "--set"])
            .arg(format!("backend.overlayfs.options.fsync={mode}"))
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios/copy-up-triggers.toml"))
            .args(["--results", &path(mode)])
            .output()
            .expect("the program starts");
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        let runs = fs::read_dir(folder.path().join(mode).join("copy-up-triggers"));
        let run = runs.expect("results").flatten().next().expect("a run").path();
        let record = store::read(&run).expect("a record");
        let mut cells = record.cells.iter().filter(|cell| cell.backend == "overlayfs");
        match cells.find(|cell| cell.status != CellStatus::Ok) {
            Some(cell) => Err(format!("{}: {:?}", cell.id, cell.status)),
            None => Ok(()),
        }
    };
    for mode in ["auto", "strict"] {
        if let Err(said) = measure(mode) {
            skipped("fsync=strict", format!("this kernel or user cannot: {said}"));
            return;
        }
    }
    let file = path("base.toml");
    let saved = gate(&["--baseline", &file, "--save-baseline", &path("auto")]);
    assert_eq!(code(&saved), 0, "{}", text(&saved));
    let output = gate(&["--baseline", &file, &path("strict")]);
    assert_eq!(code(&output), 3, "{}", text(&output));
    let said = text(&output);
    let named = said.lines().any(|line| line.contains("fail") && line.contains("ext4_fsync"));
    assert!(named, "{said}");
}
