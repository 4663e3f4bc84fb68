//! The gate as a user meets it: baselines from records of a small native run,
//! and everything that must not pass.

mod skip;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use skip::skipped;
use tempfile::TempDir;
use unionbench::record::Record;
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
    assert!(text(&output).contains("fail") && text(&output).contains("latency"));
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
