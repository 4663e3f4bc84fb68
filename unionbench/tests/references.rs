//! The records behind the published figures can be read again: each tells the
//! very table that lies beside it, and compares as equal to itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const PROGRAM: &str = env!("CARGO_BIN_EXE_unionbench");

fn run(arguments: &[&str]) -> Output {
    Command::new(PROGRAM).args(arguments).output().expect("the program starts")
}

/// Folders of `results/reference` with a record, by name.
fn references() -> Vec<PathBuf> {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("../results/reference");
    let folders = fs::read_dir(all).expect("the checkout").flatten().map(|entry| entry.path());
    let mut found: Vec<PathBuf> =
        folders.filter(|folder| folder.join("record.json.zst").is_file()).collect();
    found.sort();
    assert!(found.len() >= 3, "{found:?}");
    found
}

#[test]
fn kept_records_tell_the_tables_beside_them() {
    for folder in references() {
        let name = folder.display().to_string();
        let output = run(&["report", "--format", "csv", &name]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let kept = fs::read(folder.join("cells.csv")).expect("the table");
        assert!(output.stdout == kept, "{name}: its cells.csv is not what its record tells");
    }
}

#[test]
fn kept_records_compare_as_equal_to_themselves_and_never_with_one_another() {
    let all = references();
    for folder in &all {
        let file = folder.join("record.json.zst").display().to_string();
        let output = run(&["compare", &file, &folder.display().to_string()]);
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{file}: {said}");
        assert!(said.contains("pass"), "{said}");
    }
    for pair in all.windows(2) {
        let (base, new) = (pair[0].display().to_string(), pair[1].display().to_string());
        let output = run(&["compare", &base, &new]);
        assert_eq!(output.status.code(), Some(1), "{base} and {new} are not of one scenario");
        assert!(String::from_utf8_lossy(&output.stderr).contains("cannot compare"));
    }
}

#[test]
fn reader_who_has_seen_enough_ends_nothing() {
    let folder = references()[0].display().to_string();
    for arguments in
        [["compare", &folder, &folder].as_slice(), &["report", "--format", "md", &folder]]
    {
        let child = Command::new(PROGRAM)
            .args(arguments)
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn();
        let mut child = child.expect("the program starts");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(0) && said.is_empty(), "{}: {said}", output.status);
    }
}

#[test]
fn formats_that_hold_a_cell_once_take_no_second_run_of_it() {
    let folder = references()[0].display().to_string();
    for format in ["openmetrics", "bmf", "github-action-benchmark"] {
        assert!(run(&["report", "--format", format, &folder]).status.success());
        let twice = run(&["report", "--format", format, &folder, &folder]);
        assert_eq!(twice.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&twice.stderr).contains("name one of them"));
    }
}

#[test]
fn records_are_kept_small_and_whole() {
    for folder in references() {
        let file = folder.join("record.json.zst");
        let n_bytes = file.metadata().expect("it is there").len();
        assert!(n_bytes <= 300 << 10, "{}: {n_bytes} bytes", file.display());
        let again = tempfile::tempdir().expect("room for a test");
        let packed = again.path().join("record.json.zst").display().to_string();
        let output = run(&["report", &file.display().to_string(), "-o", &packed]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let read = |path: &Path| unionbench::store::read(path).expect("a record");
        assert_eq!(read(&file), read(again.path()));
    }
}
