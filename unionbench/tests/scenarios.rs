//! Every shipped scenario, in a reduced size, on overlayfs and on the bundled
//! union: each cell is measured, or says why it cannot be here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use toml::{Table, Value};
use unionbench::record::{Cell, CellStatus, Record};

const PROGRAM: &str = env!("CARGO_BIN_EXE_unionbench");

/// Most of each quantity that a reduced scenario asks for.
const MAX_LAYERS: i64 = 6;
const MAX_FILES: i64 = 60;
const MAX_COUNT: i64 = 6;

fn shipped() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios");
    let entries = fs::read_dir(folder).expect("the scenarios").flatten();
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    paths.sort();
    paths
}

/// At most two values of a list, none above `max`.
fn cut(value: &mut Value, max: i64) {
    match value {
        Value::Integer(n) => *n = (*n).min(max),
        Value::Array(items) => {
            for item in items.iter_mut() {
                cut(item, max);
            }
            items.dedup();
            items.truncate(2);
        }
        _ => {}
    }
}

fn small_size(value: &mut Value) {
    match value {
        Value::Array(items) => items.truncate(1),
        Value::Table(_) => {}
        _ => *value = Value::String("16KiB".to_owned()),
    }
    if let Value::Array(items) = value {
        items.iter_mut().for_each(small_size);
    }
}

fn exists(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder| folder.join(program).is_file())
}

/// The scenario with fewer layers, files and operations, and these backends.
fn reduced(path: &Path, kind: &str) -> Table {
    let text = fs::read_to_string(path).expect("a scenario");
    let mut table: Table = text.parse().expect("TOML");
    table.insert("rounds".to_owned(), Value::Integer(1));
    table.insert("probes".to_owned(), Value::Boolean(false));
    let stack = table["stack"].as_table_mut().expect("a table");
    for (key, max) in [
        ("layers", MAX_LAYERS),
        ("files_per_layer", MAX_FILES),
        ("dirs", 8),
        ("whiteouts_per_layer", 8),
        ("opaque_dirs_per_layer", 2),
    ] {
        if let Some(value) = stack.get_mut(key) {
            cut(value, max);
        }
    }
    for group in stack.get_mut("group").and_then(Value::as_array_mut).into_iter().flatten() {
        let group = group.as_table_mut().expect("a table");
        small_size(group.get_mut("size").expect("a size"));
    }
    let backing = table["backing"].as_table_mut().expect("a table");
    if let Some(Value::Array(kinds)) = backing.get_mut("fs") {
        let is_here = |fs: &Value| {
            let fs = fs.as_str().unwrap_or_default();
            fs == "tmpfs" || fs == "dir" || exists(&format!("mkfs.{fs}"))
        };
        kinds.retain(is_here);
        kinds.truncate(2);
    }
    for phase in table["phase"].as_array_mut().expect("a list") {
        let phase = phase.as_table_mut().expect("a table");
        if let Some(count) = phase.get_mut("count") {
            cut(count, MAX_COUNT);
        }
    }
    if kind != "overlayfs" {
        let backend = Table::from_iter([("kind".to_owned(), Value::String(kind.to_owned()))]);
        table.insert("backend".to_owned(), Value::Array(vec![Value::Table(backend)]));
    }
    table
}

/// Runs it and gives its record.
fn run(place: &Path, name: &str, scenario: &Table) -> Record {
    let file = place.join(format!("{name}.toml"));
    fs::write(&file, toml::to_string(scenario).expect("TOML")).expect("a file");
    let results = place.join(format!("results-{name}"));
    let scratch = place.join("scratch");
    fs::create_dir_all(&scratch).expect("a folder");
    let output = Command::new(PROGRAM)
        .args(["run", "--quiet", "--no-probes", "--format", "json"])
        .arg("--results")
        .arg(&results)
        .arg("--scratch")
        .arg(&scratch)
        .arg(&file)
        .output()
        .expect("the program starts");
    let record = find(&results).unwrap_or_else(|| {
        panic!("{name} left no record: {}", String::from_utf8_lossy(&output.stderr))
    });
    let left: Vec<_> = fs::read_dir(&scratch).expect("scratch").flatten().collect();
    assert!(left.is_empty(), "{name} left {left:?}");
    unionbench::store::read(&record).expect("a record")
}

fn find(folder: &Path) -> Option<PathBuf> {
    fs::read_dir(folder).ok()?.flatten().find_map(|entry| {
        let path = entry.path();
        if path.is_dir() { find(&path) } else { path.ends_with("record.json").then_some(path) }
    })
}

fn every_scenario_runs_on(kind: &str) {
    let place = tempfile::tempdir().expect("a temporary folder");
    let mut measured = 0;
    for path in shipped() {
        let name = path.file_stem().and_then(|stem| stem.to_str()).expect("a name");
        println!("{name} on {kind}");
        let record = run(place.path(), name, &reduced(&path, kind));
        assert!(!record.cells.is_empty(), "{name} has no cells");
        for cell in record.cells.iter().filter(|cell| cell.status == CellStatus::Ok) {
            figures_hold(name, cell);
        }
        if name == "commit" {
            both_methods_find_the_same(&record);
        }
        for cell in &record.cells {
            match &cell.status {
                CellStatus::Ok => measured += 1,
                CellStatus::Unsupported { reason } => {
                    println!("not here: {name}: {}: {reason}", cell.id);
                }
                other => panic!("{name} on {kind}: {}: {other:?}", cell.id),
            }
        }
    }
    println!("{measured} cells measured on {kind}");
    assert!(measured > 0);
}

fn counter(cell: &Cell, name: &str) -> Option<u64> {
    let counters = cell.rounds.iter().flat_map(|round| &round.counters);
    counters.filter(|counter| counter.name == name).map(|counter| counter.value).next()
}

/// What a cell must have counted, whatever its latencies.
fn figures_hold(scenario: &str, cell: &Cell) {
    let n_ops: u64 = cell.rounds.iter().map(|round| round.n_ops).sum();
    assert!(n_ops > 0, "{}", cell.id);
    let union = cell.backend != "bare";
    match scenario {
        "containers" if union => {
            assert_eq!(counter(cell, "commit.init_files"), Some(0), "{}", cell.id);
            let [taken, copies] = ["space.inodes", "space.inodes_of_copies"].map(|name| {
                counter(cell, name).unwrap_or_else(|| panic!("{} has no {name}", cell.id))
            });
            assert!(taken < copies, "{}: {taken} of {copies} inodes", cell.id);
        }
        "volumes" if union && cell.phase == "write" => {
            let is_volume = !cell.id.contains("write.volume=none");
            let copied = counter(cell, "upper.files").unwrap_or_default();
            assert_eq!(copied == 0, is_volume, "{}: {copied} files copied up", cell.id);
        }
        "rename-directory" | "move-lower-tree" if cell.backend.contains("redirect_dir=") => {
            let refused = counter(cell, "exdev");
            let expected = if cell.backend.ends_with("=on") { 0 } else { n_ops };
            assert_eq!(refused, Some(expected), "{}", cell.id);
        }
        "shared-pages" if cell.backend == "overlayfs" => {
            let wanted = counter(cell, "pages.wanted_by_others");
            assert_eq!(counter(cell, "pages.cached_before_others"), wanted, "{}", cell.id);
        }
        "idmap-start" => assert_eq!(counter(cell, "starts_shifted"), Some(n_ops), "{}", cell.id),
        _ => {}
    }
}

fn both_methods_find_the_same(record: &Record) {
    let of = |cell: &Cell| (counter(cell, "commit.objects"), counter(cell, "commit.whiteouts"));
    let here = record.cells.iter().filter(|cell| cell.status == CellStatus::Ok);
    let diffs = here.filter(|cell| cell.phase == "diff");
    let (native, walked): (Vec<&Cell>, Vec<&Cell>) =
        diffs.partition(|cell| cell.id.contains("method=native"));
    assert_eq!(native.len(), walked.len());
    for (native, walked) in native.into_iter().zip(walked) {
        assert_eq!(of(native), of(walked), "{}", native.id);
        assert!(of(native).0.is_some_and(|n| n > 0), "{}", native.id);
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn every_shipped_scenario_runs_on_overlayfs() {
    if !is_root() {
        println!("skipped: the scenarios on overlayfs: loop devices and mapped mounts need root");
        return;
    }
    every_scenario_runs_on("overlayfs");
}

#[test]
fn every_shipped_scenario_runs_on_the_bundled_union() {
    if !is_root() || !Path::new("/dev/fuse").exists() {
        println!("skipped: the scenarios on the bundled union: they need root and /dev/fuse");
        return;
    }
    every_scenario_runs_on("bundled");
}
