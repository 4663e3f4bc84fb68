//! The program as a user meets it: what it accepts, what it refuses, and that
//! it leaves nothing behind. Runs mount in a namespace of their own; where the
//! machine refuses that, those cases say so and pass over.

#[path = "cli/backends.rs"]
mod backends;
#[path = "cli/environment.rs"]
mod environment;
#[path = "cli/mounting.rs"]
mod mounting;
mod skip;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use skip::skipped;
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_unionbench");

#[test]
fn a_folder_of_scenarios_that_is_not_there_is_asked_for() {
    let folder = TempDir::new().expect("a temporary folder");
    let output = Command::new(PROGRAM).arg("list").current_dir(folder.path()).output();
    let output = output.expect("the program starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("no folder scenarios here") && said.contains("list DIR"), "{said}");
}

/// A folder for one case: scratch and results lie in it.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(TempDir::new().expect("a temporary folder"));
        fs::create_dir(place.scratch()).expect("scratch");
        place
    }

    fn scratch(&self) -> PathBuf {
        self.0.path().join("scratch")
    }

    fn results(&self) -> PathBuf {
        self.0.path().join("results")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .args(["run", "--quiet"])
            .arg("--scratch")
            .arg(self.scratch())
            .arg("--results")
            .arg(self.results())
            .args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the program starts")
    }

    /// Finished results: folders with a record in them.
    fn records(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut pending = vec![self.results()];
        while let Some(folder) = pending.pop() {
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.ends_with("record.json") {
                    found.push(path);
                } else if path.is_dir() {
                    pending.push(path);
                }
            }
        }
        found
    }

    fn assert_scratch_is_empty(&self) {
        let left: Vec<_> = fs::read_dir(self.scratch()).expect("scratch").flatten().collect();
        assert!(left.is_empty(), "left behind: {left:?}");
    }
}

fn scenario(name: &str) -> String {
    format!("{}/../scenarios/{name}.toml", env!("CARGO_MANIFEST_DIR"))
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Whether this machine lets the program mount at all; says so if not.
fn can_mount(case: &str) -> bool {
    let allowed = Command::new("unshare")
        .args(["--map-root-user", "--mount", "true"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !allowed {
        skipped(case, "this machine allows no mount namespace");
    }
    allowed
}

fn assert_nothing_mounted(under: &Path) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    assert!(!mounts.contains(&under.display().to_string()), "still mounted: {mounts}");
}

#[test]
fn smoke_measures_the_control_and_overlayfs_and_keeps_the_record() {
    if !can_mount("smoke") {
        return;
    }
    let place = Place::new();
    let output = place.run(&[&scenario("smoke"), "--rounds", "1", "--format", "json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let records = place.records();
    assert_eq!(records.len(), 1);
    let record = unionbench::store::read(&records[0]).expect("a record");
    for backend in ["bare", "overlayfs"] {
        let cells: Vec<_> = record.cells.iter().filter(|cell| cell.backend == backend).collect();
        assert!(!cells.is_empty(), "no cells of {backend}");
        for cell in cells {
            assert_eq!(cell.status, unionbench::record::CellStatus::Ok, "{}", cell.id);
            assert!(cell.rounds.iter().all(|round| round.n_ops > 0), "{}", cell.id);
        }
    }
    assert!(record.stacks.iter().all(|stack| stack.hash.len() == 64));
    assert!(records[0].with_file_name("samples.csv").is_file());
    place.assert_scratch_is_empty();
    assert_nothing_mounted(place.0.path());
}

#[test]
fn the_same_seed_builds_the_same_stack() {
    if !can_mount("the same stack") {
        return;
    }
    let hashes: Vec<Vec<String>> = ["7", "7", "8"]
        .iter()
        .map(|seed| {
            let place = Place::new();
            let output =
                place.run(&[&scenario("smoke"), "--rounds", "1", "--no-probes", "--seed", seed]);
            assert!(output.status.success(), "{}", stderr(&output));
            let record = unionbench::store::read(&place.records()[0]).expect("a record");
            record.stacks.into_iter().map(|stack| stack.hash).collect()
        })
        .collect();
    assert_eq!(hashes[0], hashes[1]);
    assert_ne!(hashes[0], hashes[2]);
}

#[test]
fn an_interrupted_run_exits_130_and_leaves_nothing() {
    if !can_mount("interrupted runs") {
        return;
    }
    for delay_ms in [50, 200, 400, 800] {
        let place = Place::new();
        let mut child = place
            .command(&[&scenario("smoke"), "--rounds", "200"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        wait_for_scratch(&place, &mut child);
        std::thread::sleep(Duration::from_millis(delay_ms));
        signal(child.id(), "INT");
        let status = child.wait().expect("its status");
        assert_eq!(status.code(), Some(130), "after {delay_ms} ms");
        place.assert_scratch_is_empty();
        assert_eq!(place.records(), Vec::<PathBuf>::new());
        assert_nothing_mounted(place.0.path());
    }
}

#[test]
fn clean_removes_what_a_killed_run_left_and_nothing_else() {
    if !can_mount("killed runs") {
        return;
    }
    let place = Place::new();
    let foreign = place.scratch().join("unionbench-of-somebody-else");
    fs::create_dir(&foreign).expect("folder");
    let mut child = place
        .command(&[&scenario("smoke"), "--rounds", "200"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    wait_for_scratch(&place, &mut child);
    child.kill().expect("kill");
    child.wait().expect("its status");
    assert_nothing_mounted(place.0.path());
    let clean = Command::new(PROGRAM)
        .arg("clean")
        .arg("--scratch")
        .arg(place.scratch())
        .arg("--results")
        .arg(place.results())
        .output()
        .expect("clean");
    assert!(clean.status.success(), "{}", stderr(&clean));
    let left: Vec<_> = fs::read_dir(place.scratch())
        .expect("scratch")
        .flatten()
        .map(|entry| entry.path())
        .collect();
    assert_eq!(left, [foreign]);
}

#[test]
fn bad_scenarios_are_refused_with_exit_code_2_before_anything_is_made() {
    let place = Place::new();
    let cases: [(&str, &[u8], &str); 6] = [
        ("empty", b"", "empty"),
        ("binary", b"\x00\xff\x7fELF\xfe", "text"),
        ("unknown", b"name=\"x\"\ntitle=\"x\"\nlayrs=3\n", "layrs"),
        (
            "layers",
            b"name=\"x\"\ntitle=\"x\"\n[stack]\nlayers=501\n[[backend]]\nkind=\"overlayfs\"\n[[phase]]\nname=\"p\"\nworkload=\"readdir\"\ncount=1\n",
            "500",
        ),
        (
            "negative",
            b"name=\"x\"\ntitle=\"x\"\n[stack]\nlayers=-1\n[[backend]]\nkind=\"overlayfs\"\n[[phase]]\nname=\"p\"\nworkload=\"readdir\"\ncount=1\n",
            "layers",
        ),
        (
            "type",
            b"name=\"x\"\ntitle=\"x\"\nrounds=\"many\"\n[stack]\nlayers=1\n",
            "rounds",
        ),
    ];
    for (name, text, expected) in cases {
        let path = place.0.path().join(format!("{name}.toml"));
        fs::write(&path, text).expect("scenario");
        let output = place.run(&[&path.display().to_string()]);
        assert_eq!(output.status.code(), Some(2), "{name}: {}", stderr(&output));
        assert!(stderr(&output).contains(expected), "{name}: {}", stderr(&output));
    }
    place.assert_scratch_is_empty();
    assert!(!place.results().exists());
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let mut child = Command::new(PROGRAM)
        .args(["run", &scenario("deep-layers"), "--dry-run"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("its status");
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stderr(&output), "");
}

#[test]
fn choices_of_a_guest_are_refused_without_the_lab() {
    let place = Place::new();
    for choice in [["--kernel", "6.1"], ["--memory", "1GiB"], ["--append", "quiet"]] {
        let output = place.run(&[&[scenario("smoke").as_str(), "--dry-run"], &choice[..]].concat());
        assert_eq!(output.status.code(), Some(2), "{choice:?}: {}", stderr(&output));
        assert!(stderr(&output).contains("--lab"), "{choice:?}: {}", stderr(&output));
    }
}

#[test]
fn a_missing_scratch_folder_is_named() {
    if !can_mount("missing scratch") {
        return;
    }
    let place = Place::new();
    fs::remove_dir(place.scratch()).expect("scratch");
    let output = place.run(&[&scenario("smoke")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("scratch"), "{}", stderr(&output));
    assert_eq!(place.records(), Vec::<PathBuf>::new());
}

#[test]
fn a_recording_of_before_is_not_written_over() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("trace.jsonl");
    fs::write(&path, "kept").expect("room for a test");
    let output = Command::new(PROGRAM)
        .args(["trace", "fsync", "--duration", "1ms", "--record"])
        .arg(&path)
        .output()
        .expect("the program starts");
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("there already"), "{}", stderr(&output));
    assert_eq!(fs::read_to_string(&path).expect("it is there"), "kept");
}

#[test]
fn records_that_cannot_be_read_are_refused_with_their_path() {
    let place = Place::new();
    let path = place.0.path().join("record.json");
    let name = path.to_str().expect("a path in text");
    for (text, reason) in [
        ("{\"schema\": 1, \"program", "ends in the middle"),
        ("{\"schema\": 99}", "use a newer unionbench"),
        ("[1]", "not a unionbench record"),
    ] {
        fs::write(&path, text).expect("room for a test");
        for arguments in [vec!["report", name], vec!["compare", name, name]] {
            let output =
                Command::new(PROGRAM).args(&arguments).output().expect("the program starts");
            assert_eq!(output.status.code(), Some(1), "{arguments:?}");
            let message = stderr(&output);
            assert!(message.contains(reason) && message.contains(name), "{message}");
        }
    }
}

#[test]
fn every_shipped_scenario_is_valid() {
    let folder = format!("{}/../scenarios", env!("CARGO_MANIFEST_DIR"));
    let paths: Vec<PathBuf> = fs::read_dir(folder)
        .expect("scenarios")
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    assert!(paths.len() >= 4, "{paths:?}");
    let output = Command::new(PROGRAM).arg("validate").args(&paths).output().expect("validate");
    assert!(output.status.success(), "{}", stderr(&output));
}

/// Waits until the run has made its scratch folder: from then on there is
/// something to leave behind.
fn wait_for_scratch(place: &Place, child: &mut Child) {
    loop {
        if fs::read_dir(place.scratch())
            .expect("scratch")
            .flatten()
            .any(|entry| entry.path().join(".unionbench-scratch").exists())
        {
            return;
        }
        assert!(child.try_wait().expect("status").is_none(), "the run ended by itself");
        std::thread::yield_now();
    }
}

fn signal(pid: u32, name: &str) {
    assert!(try_signal(pid, name));
}

fn try_signal(pid: u32, name: &str) -> bool {
    let mut kill = Command::new("kill");
    let status = kill.arg(format!("-{name}")).arg(pid.to_string()).stderr(Stdio::null()).status();
    status.expect("kill").success()
}
