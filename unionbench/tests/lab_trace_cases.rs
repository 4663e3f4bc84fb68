//! `unionbench trace` in the lab: calls that look alike, names that no terminal
//! should see, mounts in namespaces and inside one another, every filter; and
//! what recordings are good for: a replay with equal counters, and advice that
//! holds. One guest for each kernel does it all.

mod lab_cache;
mod skip;

use std::collections::BTreeMap;
use std::path::Path;

use lab_cache::kernel;
use skip::skipped;
use unionbench::lab::{Exit, Guest, GuestFile, GuestOutcome, Mode};
use unionbench::record::Record;
use unionbench::trace::{CopiedBy, Ending, Event, Kind, Object, Recording, Trigger};

#[test]
fn calls_filters_replays_and_advice_hold_on_6_1() {
    check("6.1");
}

#[test]
fn calls_filters_replays_and_advice_hold_on_6_12() {
    check("6.12");
}

fn check(release: &str) {
    let test = format!("calls_filters_replays_and_advice_hold on {release}");
    let Some(outcome) = outcome(release, &test) else { return };
    check_odd(&outcome);
    check_inside(&outcome);
    check_filters(&outcome);
    check_replay(&outcome);
    check_advice(&outcome);
    check_clone(&outcome);
}

fn outcome(release: &str, test: &str) -> Option<GuestOutcome> {
    if !unionbench::probe::is_embedded() {
        skipped(test, "built without probes: use `cargo xtask test`");
        return None;
    }
    let mut guest = Guest::new(kernel(release, test)?, Mode::Count);
    for (program, package) in [("mkfs.ext4", "e2fsprogs"), ("mkfs.xfs", "xfsprogs")] {
        let found = ["/usr/sbin", "/sbin", "/usr/bin"].map(|dir| Path::new(dir).join(program));
        let Some(path) = found.into_iter().find(|path| path.is_file()) else {
            skipped(test, format!("{program} is not installed (package {package})"));
            return None;
        };
        guest.files.push(GuestFile::host(format!("/bin/{program}"), path));
    }
    // A dozen tracers are loaded, beside whatever else the host does.
    guest.timeout = std::time::Duration::from_secs(1800);
    guest.required_modules.extend(["ext4", "xfs"].map(str::to_owned));
    guest.binary = Some(env!("CARGO_BIN_EXE_unionbench").into());
    guest.argv = ["unionbench", "lab-selftest", "trace-cases"].map(str::to_owned).to_vec();
    let outcome = guest.run().expect("a guest that reports");
    let said = String::from_utf8_lossy(outcome.file("stderr").unwrap_or_default()).into_owned();
    assert_eq!(outcome.exit, Exit::Code(0), "{said}");
    Some(outcome)
}

/// The events of a recording that is whole and has lost nothing.
fn events(outcome: &GuestOutcome, name: &str) -> Vec<Event> {
    let bytes = outcome.file(&format!("{name}.jsonl")).expect(name).to_vec();
    let mut recording =
        Recording::read(name, Box::new(std::io::Cursor::new(bytes))).expect("a recording");
    let events: Vec<Event> =
        recording.by_ref().collect::<Result<_, _>>().expect("events of a recording");
    match recording.ending() {
        Ending::Whole(end) => assert_eq!((end.n_events as usize, end.n_lost), (events.len(), 0)),
        other => panic!("{name} ends with {other:?}"),
    }
    events
}

/// The last letter of a mount, path, trigger, layer, size, bytes that were copied.
type CopyUp<'a> = (char, &'a str, Trigger, u32, Option<u64>, u64);

fn copy_up(event: &Event) -> CopyUp<'_> {
    let mount = event.mount.as_deref().and_then(|mount| mount.chars().last()).expect("a mount");
    let path = event.path.as_deref().expect("a path");
    let (trigger, layer) = (event.trigger.expect("a trigger"), event.layer.expect("a layer"));
    (mount, path, trigger, layer, event.size_bytes, event.copied_bytes.expect("watched"))
}

fn check_odd(outcome: &GuestOutcome) {
    use Trigger::{
        Chmod, Chown, Create, Link, OpenTruncate, OpenWrite, Parent, Removexattr, Rename, Setxattr,
        Truncate, Utimes,
    };
    let all = events(outcome, "odd");
    let found: Vec<_> = all.iter().filter(|e| e.kind == Kind::Copyup).map(copy_up).collect();
    let whole = |path, trigger, layer, size| ('x', path, trigger, layer, Some(size), size);
    let expected = [
        whole("/append", OpenWrite, 1, 5000),
        whole("/mapped", OpenWrite, 1, 8192),
        whole("/cut", Truncate, 1, 9000),
        ('x', "/emptied", OpenTruncate, 1, Some(9001), 0),
        whole("/times", Utimes, 1, 10),
        whole("/acl", Setxattr, 1, 11),
        // What a copy comes from stays below.
        whole("/to", OpenWrite, 0, 12),
        ('x', "/bound", Parent, 1, None, 0),
        whole("/bound/in", Chmod, 1, 13),
        whole("/gone", Chmod, 1, 14),
        whole("/new\nline", Chmod, 1, 15),
        whole("/\\xff\\xfe", Chmod, 1, 16),
        whole("/esc\u{1b}[31m", Chmod, 1, 17),
        whole("/swap-a", Rename, 1, 18),
        whole("/swap-b", Rename, 1, 19),
        whole("/fd", Chmod, 1, 20),
        whole("/rmx", Removexattr, 1, 21),
        whole("/h1", Link, 1, 33),
        whole("/h2", Chmod, 1, 33),
        ('x', "/mk", Create, 1, None, 0),
        ('x', "/sy", Create, 1, None, 0),
        ('x', "/link", Chown, 1, Some(7), 0),
        // Of a union over a union, the upper one copies up.
        ('o', "/below", Chmod, 0, Some(48), 48),
        ('o', "/above", Chmod, 1, Some(90), 90),
        // With metacopy the data comes up at the first write alone.
        ('y', "/meta", Chmod, 0, Some(5000), 0),
        ('y', "/meta", OpenWrite, 0, Some(5000), 5000),
        ('y', "/d", Rename, 0, None, 0),
        ('y', "/e/f", Chmod, 0, Some(44), 0),
        ('t', "/same", Chmod, 0, Some(100), 100),
        ('u', "/same", Chmod, 0, Some(100), 100),
    ];
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found, expected);
    }
    assert_eq!(found.len(), expected.len());
    let gone: Vec<_> = all.iter().filter(|e| e.kind == Kind::Whiteout).collect();
    let paths: Vec<_> = gone.iter().filter_map(|e| e.path.as_deref()).collect();
    assert_eq!(paths, ["/gone", "/d"]);
    let text = outcome.file("odd.txt").expect("what was printed");
    assert!(text.iter().all(|byte| *byte == b'\n' || *byte >= b' '), "no name acts on a terminal");
    assert_eq!(text.iter().filter(|byte| **byte == b'\n').count(), 1 + all.len());
}

/// Both unions are the root of their process; one of them is mounted nowhere
/// else.
fn check_inside(outcome: &GuestOutcome) {
    let all = events(outcome, "inside");
    let places: Vec<_> = all.iter().map(|e| (e.mount.as_deref(), e.path.as_deref())).collect();
    let expected = [(Some("/scratch/trace/merged-q"), Some("/shared")), (Some("/"), Some("/own"))];
    assert_eq!(places, expected);
    assert!(all.iter().all(|e| e.container.as_ref().is_some_and(|c| c.runtime == "docker")));
}

fn check_filters(outcome: &GuestOutcome) {
    for filter in ["pid", "comm", "cgroup", "slow"] {
        let all = events(outcome, &format!("filter-{filter}"));
        let told: Vec<_> = all.iter().map(|e| (e.path.as_deref(), e.process.as_str())).collect();
        assert_eq!(told, [(Some("/wait-in"), "ub-wanted")], "--{filter}");
    }
}

/// What must be equal: everything but names and times.
fn counters(events: &[Event]) -> BTreeMap<String, u64> {
    let mut counters = BTreeMap::new();
    let mut add = |name: String, n: u64| *counters.entry(name).or_default() += n;
    for event in events {
        assert_eq!(event.errno, 0, "{event:?}");
        match event.kind {
            Kind::Copyup => {
                let name = format!("{:?} {:?}", event.trigger, event.object);
                add(format!("copy-ups by {name} from layer {:?}", event.layer), 1);
                add(format!("size of {name}"), event.size_bytes.unwrap_or(0));
                add("bytes".into(), event.copied_bytes.expect("watched"));
                add(format!("copied by {:?}", event.copied_by), 1);
                add("fsyncs in copy-ups".into(), event.n_fsyncs.expect("watched").into());
            }
            other => add(other.name().to_owned(), 1),
        }
    }
    counters
}

fn check_replay(outcome: &GuestOutcome) {
    let traced = counters(&events(outcome, "again"));
    assert!(traced.len() > 25 && traced["whiteout"] == 2 && traced["fsync"] == 2, "{traced:?}");
    // The run has a round with probes beside the one without.
    let twice: BTreeMap<_, _> = traced.iter().map(|(name, n)| (name.clone(), 2 * n)).collect();
    assert_eq!(counters(&events(outcome, "replayed")), twice);
    let kept = outcome.files.iter().find(|file| file.path.ends_with("record.json"));
    let record: Record = serde_json::from_slice(&kept.expect("a record").bytes).expect("a record");
    let cell = record.cells.iter().find(|cell| cell.backend == "overlayfs").expect("a cell");
    let watched = cell.rounds.iter().find(|round| round.probes).expect("a round with probes");
    let counter = |name: &str| {
        watched.counters.iter().find(|c| c.name == name).map_or(0, |counter| counter.value)
    };
    let sum = |part: &str| -> u64 {
        traced.iter().filter(|(name, _)| name.starts_with(part)).map(|(_, n)| n).sum()
    };
    assert_eq!(counter("copy_ups"), sum("copy-ups by"));
    assert_eq!(counter("bytes_spliced"), traced["bytes"]);
    assert_eq!(counter("upper.whiteouts"), traced["whiteout"]);
    // The system call of each, parents under that of what they lead to.
    let by_call: u64 =
        ["chown", "fchownat", "lchown"].map(|c| counter(&format!("copy_ups.{c}"))).iter().sum();
    assert_eq!(by_call, sum("copy-ups by Some(Chown)"));
}

/// Advice on a recording, against replays on the same kind of disk.
fn check_advice(outcome: &GuestOutcome) {
    let bytes = outcome.file("advice.json").expect("advice");
    let told: serde_json::Value = serde_json::from_slice(bytes).expect("is JSON");
    let advice = told[0]["advice"].as_array().expect("a list");
    let saving = |change: &str| {
        let found = advice.iter().find(|a| a["change"] == change).expect(change);
        let number = |value: &serde_json::Value| value.as_f64().expect("a number");
        (number(&found["predicted_saving"]), number(&found["measured"]["saving"]))
    };
    let (predicted, measured) = saving("metacopy=on");
    let off = predicted / measured - 1.0;
    assert!(off.abs() < 0.15, "metacopy: {predicted} predicted, {measured} measured");
    // What is not synchronised is still written.
    let (most, measured) = saving("volatile");
    assert!(measured > 0.0 && measured < most, "volatile: at most {most}, {measured} measured");
}

fn check_clone(outcome: &GuestOutcome) {
    let all = events(outcome, "clone");
    let file: Vec<_> = all.iter().filter(|e| e.object == Some(Object::File)).collect();
    assert_eq!(file.len(), 1, "{all:?}");
    assert_eq!((file[0].copied_by, file[0].copied_bytes), (Some(CopiedBy::Clone), Some(1 << 20)));
}
