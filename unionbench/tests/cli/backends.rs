//! Unions in user space as backends: measured where their programs are there,
//! a failed cell where they crash, and never left behind.

use std::time::Instant;

use unionbench::record::{Availability, CellStatus, Record};

use super::*;

const HEAD: &str = r#"
name = "backends"
title = "unions in user space"
rounds = 1
probes = false
[stack]
layers = 3
files_per_layer = 20
whiteouts_per_layer = 2
opaque_dirs_per_layer = 1
[backing]
size = "64MiB"
"#;

const PHASES: &str = r#"
[[phase]]
name = "cold"
workload = "lookup"
[[phase]]
name = "listing"
workload = "readdir"
[[phase]]
name = "write"
workload = "first-write"
files = "bottom"
count = 10
[[phase]]
name = "delete"
workload = "delete"
layer = "top"
count = 5
"#;

/// A command that leaves a daemon of this program behind.
fn in_background() -> String {
    format!(
        "[[backend]]\nkind = \"command\"\n[backend.extra]\ncommand = \
         \"{PROGRAM} mount -o lowerdir={{lower}},upperdir={{upper}},workdir={{work}} {{target}}\"\n"
    )
}

fn write(place: &Place, text: &str) -> String {
    let path = place.0.path().join("scenario.toml");
    fs::write(&path, text).expect("scenario");
    path.display().to_string()
}

fn only_record(place: &Place) -> Record {
    let records = place.records();
    assert_eq!(records.len(), 1);
    unionbench::store::read(&records[0]).expect("a record")
}

/// Processes whose command line names the case's folder, the run's own left out.
fn daemons(place: &Place) -> Vec<u32> {
    let folder = place.scratch().display().to_string();
    let listing = fs::read_dir("/proc").expect("a mounted /proc").flatten();
    let pids = listing.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.contains(&folder) && line.contains("upperdir=")
    })
    .collect()
}

fn wait_for_daemons(place: &Place, wanted: bool) -> Vec<u32> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let found = daemons(place);
        if found.is_empty() != wanted {
            return found;
        }
        assert!(Instant::now() < deadline, "daemons: {found:?}, wanted: {wanted}");
        std::thread::yield_now();
    }
}

#[test]
fn every_union_is_measured_or_names_the_line_to_type() {
    if !can_mount("unions in user space") {
        return;
    }
    let place = Place::new();
    let mut text = HEAD.to_owned();
    for kind in ["bare", "bundled", "fuse-overlayfs", "unionfs-fuse", "mergerfs"] {
        text += &format!("[[backend]]\nkind = \"{kind}\"\n");
    }
    let path = write(&place, &(text + &in_background() + PHASES));
    let output = place.run(&[&path, "--format", "json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let record = only_record(&place);
    for backend in &record.backends {
        let cells: Vec<_> = record.cells.iter().filter(|c| c.backend == backend.name).collect();
        assert_eq!(cells.len(), 4, "{}", backend.name);
        if let Availability::Unsupported { reason } = &backend.availability {
            assert!(reason.contains("apt-get install") || reason.contains("/dev/fuse"), "{reason}");
            skipped(&backend.name, reason);
            continue;
        }
        for cell in cells {
            match (&cell.status, backend.kind.as_str()) {
                (CellStatus::Ok, _) => {}
                (CellStatus::Unsupported { reason }, "mergerfs") => {
                    assert!(reason.starts_with("mergerfs"), "{reason}");
                    continue;
                }
                (status, _) => panic!("{}: {status:?}", cell.id),
            }
            let counter = |name: &str| {
                cell.rounds[0].counters.iter().find(|c| c.name == name).map(|c| c.value)
            };
            let has_daemon = backend.kind != "bare";
            assert_eq!(counter("daemon.cpu_ns").is_some(), has_daemon, "{}", cell.id);
            if has_daemon {
                assert!(counter("daemon.peak_rss_bytes") > Some(1 << 18), "{}", cell.id);
            }
            if cell.phase == "delete" && has_daemon {
                assert_eq!(counter("upper.whiteouts"), Some(5), "{}", cell.id);
            }
        }
    }
    place.assert_scratch_is_empty();
    assert_nothing_mounted(place.0.path());
    wait_for_daemons(&place, false);
}

/// A run whose only phase lasts until something ends it.
fn long_run(place: &Place, backend: &str) -> Child {
    let phase = "[[phase]]\nname = \"warm\"\nworkload = \"lookup\"\ncache = \"warm\"\n\
                 keys = \"uniform\"\nduration = \"3s\"\n";
    let path = write(place, &format!("{HEAD}{backend}{phase}"));
    place
        .command(&[&path])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts")
}

#[test]
fn a_daemon_that_crashes_is_a_failed_cell() {
    if !can_mount("crashing daemons") || fs::File::open("/dev/fuse").is_err() {
        return;
    }
    let place = Place::new();
    let mut run = long_run(&place, "[[backend]]\nkind = \"bundled\"\n");
    while !wait_for_daemons(&place, true).into_iter().any(|pid| try_signal(pid, "KILL")) {}
    assert_eq!(run.wait().expect("its status").code(), Some(1));
    let record = only_record(&place);
    let CellStatus::Failed { reason } = &record.cells[0].status else {
        panic!("{:?}", record.cells[0].status);
    };
    assert!(reason.contains("by signal 9"), "{reason}");
    place.assert_scratch_is_empty();
}

#[test]
fn no_daemon_outlives_a_killed_run() {
    if !can_mount("killed runs") || fs::File::open("/dev/fuse").is_err() {
        return;
    }
    for backend in ["[[backend]]\nkind = \"bundled\"\n".to_owned(), in_background()] {
        let place = Place::new();
        let mut run = long_run(&place, &backend);
        wait_for_daemons(&place, true);
        run.kill().expect("kill");
        run.wait().expect("its status");
        wait_for_daemons(&place, false);
        assert_nothing_mounted(place.0.path());
    }
}

#[test]
fn a_daemon_that_hangs_does_not_keep_an_interrupted_run() {
    if !can_mount("hanging daemons") || fs::File::open("/dev/fuse").is_err() {
        return;
    }
    let place = Place::new();
    let phase = "[[phase]]\nname = \"cold\"\nworkload = \"lookup\"\n";
    let backend = "[[backend]]\nkind = \"bundled\"\n";
    let path = write(&place, &format!("{HEAD}{backend}{phase}"));
    let mut run = place.command(&[&path, "--rounds", "500"]).spawn().expect("the program starts");
    // One that is found may be the last round's, which is gone before the
    // signal reaches it.
    while !wait_for_daemons(&place, true).into_iter().any(|pid| try_signal(pid, "STOP")) {}
    signal(run.id(), "INT");
    assert_eq!(run.wait().expect("its status").code(), Some(130));
    wait_for_daemons(&place, false);
    place.assert_scratch_is_empty();
}

#[test]
fn a_command_that_fails_is_quoted() {
    if !can_mount("failing commands") {
        return;
    }
    let place = Place::new();
    let backend = "[[backend]]\nkind = \"command\"\n[backend.extra]\n\
                   command = \"sh -c 'echo no such union >&2; exit 3' {target}\"\n";
    let path = write(&place, &format!("{HEAD}{backend}{PHASES}"));
    assert_eq!(place.run(&[&path]).status.code(), Some(1));
    let CellStatus::Failed { reason } = &only_record(&place).cells[0].status.clone() else {
        panic!("not failed");
    };
    assert!(reason.contains("exit code 3") && reason.contains("no such union"), "{reason}");
}
