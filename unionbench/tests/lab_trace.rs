//! `unionbench trace` on kernels that allow function probes: Debian's, in the
//! lab. One guest for each kernel runs a workload whose copy-ups are known.
//!
//! Needs QEMU, the kernels and a build with probes; where one is missing,
//! each test says so and is skipped.

mod skip;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use skip::skipped;
use unionbench::lab::{Exit, Guest, GuestOutcome, Kernel, Mode};
use unionbench::probe;
use unionbench::trace::{CopiedBy, End, Event, Header, Kind, Line, Object, Trigger};

const CONTAINER: &str = "8f1c0e2b7d9a4c6e5f3b2a1908d7c6e5f4a3b2c1d0e9f8a7b6c5d4e3f2a1b0c9";
const SERVICE: &str = "/system.slice/builder.service";
const N_BURST: u64 = 20_000;

fn cache() -> PathBuf {
    match std::env::var_os("UNIONBENCH_LAB_CACHE") {
        Some(dir) => dir.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/lab"),
    }
}

/// What the self-test left in a guest, or nothing after saying why there is none.
fn outcome_on(release: &str, selftest: &str) -> Option<GuestOutcome> {
    let name = format!("trace on {release}");
    if !probe::is_embedded() {
        skipped(&name, "built without probes, use `cargo xtask test`");
        return None;
    }
    if Command::new("qemu-system-x86_64").arg("--version").output().is_err() {
        skipped(&name, "QEMU is not installed (package qemu-system-x86)");
        return None;
    }
    let kernel = match Kernel::resolve_in(release, &cache()) {
        Ok(kernel) => kernel,
        Err(error) => {
            skipped(&name, error);
            return None;
        }
    };
    let mut guest = Guest::new(kernel, Mode::Plain);
    guest.binary = Some(env!("CARGO_BIN_EXE_unionbench").into());
    guest.argv = ["unionbench", "lab-selftest", selftest].map(str::to_owned).to_vec();
    let outcome = guest.run().expect("a guest that reports");
    let said = String::from_utf8_lossy(outcome.file("stderr").unwrap_or_default()).into_owned();
    let told = |name: &str| {
        let text = outcome.file(&format!("{name}.err")).unwrap_or_default();
        String::from_utf8_lossy(text).into_owned()
    };
    assert_eq!(outcome.exit, Exit::Code(0), "{said}{}{}", told("events"), told("aufs"));
    Some(outcome)
}

/// A recording, read as anything that consumes one would.
fn recording(outcome: &GuestOutcome, name: &str) -> (Header, Vec<Event>, End) {
    let bytes = outcome.file(&format!("{name}.jsonl")).expect("a recording");
    let text = std::str::from_utf8(bytes).expect("JSON is UTF-8");
    let (mut header, mut events, mut end) = (None, Vec::new(), None);
    for line in text.lines() {
        match serde_json::from_str(line).expect("a line of a recording") {
            Line::Header(found) => header = Some(found),
            Line::Event(event) => events.push(*event),
            Line::End(found) => end = Some(found),
        }
    }
    (header.expect("a header"), events, end.expect("an end"))
}

/// Path, trigger, layer and size of what a copy-up brings.
type CopyUp = (String, Trigger, u32, Option<u64>);

fn expected() -> (Vec<CopyUp>, Vec<CopyUp>) {
    use Trigger::{
        Chmod, Chown, Create, Link, Mkdir, OpenTruncate, OpenWrite, Parent, Rename, Setxattr,
        Unlink,
    };
    let one = |path: &str, trigger, layer, size| (path.to_owned(), trigger, layer, size);
    let mut container = vec![one("/tree", Chown, 2, None)];
    for folder in ["/tree/d0", "/tree/d1"] {
        container.push(one(folder, Chown, 2, None));
        container.extend((0..5).map(|i| one(&format!("{folder}/f{i}"), Chown, 2, Some(100))));
    }
    container.extend([
        one("/db", Parent, 0, None),
        one("/db/main.db", OpenWrite, 0, Some(65_536)),
        one("/deep", Parent, 1, None),
        one("/deep/a", Parent, 1, None),
        one("/deep/a/b", Parent, 1, None),
        one("/deep/a/b/c", Chmod, 1, Some(4096)),
        one("/trunc", Parent, 1, None),
        one("/trunc/t", OpenTruncate, 1, Some(9000)),
        one("/rd", Rename, 2, None),
        one("/rd2/inner", Parent, 2, None),
        one("/rd2/inner/f", Chmod, 2, Some(44)),
        one("/hard", Parent, 1, None),
        one("/hard/a", Chmod, 1, Some(33)),
    ]);
    let mut service = vec![
        one("/npm", Mkdir, 0, None),
        one("/made", Create, 2, None),
        one("/links", Parent, 2, None),
        one("/links/orig", Link, 2, Some(50)),
        one("/ren", Parent, 1, None),
        one("/ren/old", Rename, 1, Some(60)),
        one("/xa", Parent, 2, None),
        one("/xa/x", Setxattr, 2, Some(70)),
        one("/sym", Parent, 1, None),
        one("/sym/s", Chown, 1, Some(7)),
        one("/del", Unlink, 2, None),
    ];
    let name = "n".repeat(250);
    for depth in 1..=17 {
        // Names of 4096 bytes are kept, each with what ends it.
        let path = match depth {
            17 => format!("...{}", format!("/{name}").repeat(16)),
            _ => format!("/{name}").repeat(depth),
        };
        service.push(one(&path, Parent, 2, None));
    }
    service.push(one(&format!("...{}/end", format!("/{name}").repeat(16)), Chmod, 2, Some(1)));
    (container, service)
}

fn copy_ups<'a>(events: impl Iterator<Item = &'a Event>) -> Vec<CopyUp> {
    events
        .filter(|event| event.kind == Kind::Copyup)
        .map(|event| {
            let path = event.path.clone().expect("a path");
            let trigger = event.trigger.expect("a trigger");
            (path, trigger, event.layer.expect("a layer"), event.size_bytes)
        })
        .collect()
}

fn check_events(outcome: &GuestOutcome) {
    let (header, events, end) = recording(outcome, "events");
    assert_eq!(end.n_lost, 0);
    assert_eq!(end.n_events as usize, events.len());
    let mount = header.mounts.iter().find(|mount| mount.path.ends_with("merged-m"));
    let mount = mount.expect("the union was mounted before");
    assert_eq!(mount.lower.len(), 3);
    let (container, service) = expected();
    let by_container = |event: &&Event| {
        event.container.as_ref().is_some_and(|c| c.runtime == "docker" && c.id == CONTAINER)
    };
    assert_eq!(copy_ups(events.iter().filter(by_container)), container);
    let by_service =
        |event: &&Event| event.container.is_none() && event.cgroup.as_deref() == Some(SERVICE);
    assert_eq!(copy_ups(events.iter().filter(by_service)), service);
    for event in &events {
        assert_eq!(
            (event.device, event.mount.as_deref()),
            (mount.device, Some(mount.path.as_str()))
        );
        assert_eq!((event.errno, event.file_system.as_str()), (0, "overlay"));
        assert!(event.latency_ns.0 > 0);
    }
    check_work(&events);
    check_upper(outcome, &events);
}

/// Bytes, how they were moved, and what was synchronised.
fn check_work(events: &[Event]) {
    for event in events.iter().filter(|event| event.kind == Kind::Copyup) {
        // A truncation leaves nothing to copy.
        let has_data =
            event.object == Some(Object::File) && event.trigger != Some(Trigger::OpenTruncate);
        let (bytes, by, n_fsyncs) = match has_data {
            true => (event.size_bytes, CopiedBy::Splice, 1),
            false => (Some(0), CopiedBy::Nothing, 0),
        };
        assert_eq!(event.copied_bytes, bytes, "{event:?}");
        assert_eq!(event.copied_by, Some(by), "{event:?}");
        assert_eq!(event.n_fsyncs, Some(n_fsyncs), "{event:?}");
        let (data, fsync) = (event.data_ns.expect("watched"), event.fsync_ns.expect("watched"));
        assert_eq!((data.0 > 0, fsync.0 > 0), (has_data, has_data), "{event:?}");
        assert!(data.0 + fsync.0 < event.latency_ns.0, "{event:?}");
    }
}

/// What lies in the upper layer was told of or made anew, and the other way
/// round.
fn check_upper(outcome: &GuestOutcome, events: &[Event]) {
    let text = outcome.file("upper").expect("a listing of the upper layer");
    let text = String::from_utf8_lossy(text);
    let there = |kinds: &[&str]| -> BTreeSet<String> {
        text.lines()
            .filter_map(|line| line.split_once(' '))
            .filter(|(kind, path)| kinds.contains(kind) && !path.starts_with("/nnn"))
            .map(|(_, path)| path.to_owned())
            .collect()
    };
    let told = |kind: Kind| {
        events
            .iter()
            .filter(move |event| event.kind == kind)
            .filter_map(|event| event.path.clone())
            .filter(|path| !path.contains("nnn"))
    };
    let mut expected: BTreeSet<String> = told(Kind::Copyup)
        .map(|path| match path.as_str() {
            "/rd" => "/rd2".to_owned(),
            "/ren/old" => "/ren/new".to_owned(),
            _ => path,
        })
        .collect();
    expected.extend(["/links/new", "/made/new", "/npm/node_modules"].map(str::to_owned));
    for package in 0..3 {
        expected.insert(format!("/npm/node_modules/p{package}"));
        expected.insert(format!("/npm/node_modules/p{package}/index.js"));
    }
    assert_eq!(there(&["file", "directory", "symlink"]), expected);
    assert_eq!(there(&["whiteout"]), told(Kind::Whiteout).collect());
    let listed: Vec<String> = told(Kind::Readdir).collect();
    assert_eq!(listed, ["/tree", "/tree/d0", "/tree/d1", "/npm"]);
}

fn check_filters(outcome: &GuestOutcome) {
    // The lower layer of this union is a union: only the asked one is told of.
    let (header, events, _) = recording(outcome, "nested");
    let expected = [
        ("/nest".to_owned(), Trigger::Parent, 0, None),
        ("/nest/file".to_owned(), Trigger::OpenWrite, 0, Some(80)),
    ];
    assert_eq!(copy_ups(events.iter()), expected);
    let mount = header.mounts.iter().find(|mount| mount.path.ends_with("merged-n"));
    assert_eq!(events[0].device, mount.expect("the upper union").device);
    let (_, events, _) = recording(outcome, "filtered");
    let expected = [
        ("/filter".to_owned(), Trigger::Parent, 2, None),
        ("/filter/in".to_owned(), Trigger::Chmod, 2, Some(1)),
    ];
    assert_eq!(copy_ups(events.iter()), expected);
}

fn check_bursts(outcome: &GuestOutcome) {
    let (_, events, end) = recording(outcome, "burst");
    assert_eq!((end.n_events, end.n_lost), (N_BURST, 0));
    let paths: BTreeSet<&str> = events.iter().filter_map(|event| event.path.as_deref()).collect();
    assert_eq!(paths.len() as u64, N_BURST);
    let (_, events, end) = recording(outcome, "tiny");
    assert_eq!(events.len() as u64, end.n_events);
    assert!(end.n_lost > 0, "a buffer of one page holds a burst");
    assert_eq!(end.n_events + end.n_lost, N_BURST);
    let said = String::from_utf8_lossy(outcome.file("tiny.err").unwrap_or_default()).into_owned();
    assert!(said.contains(&format!("{} more happened and were lost", end.n_lost)), "{said}");
}

fn check(release: &str) {
    let Some(outcome) = outcome_on(release, "trace") else { return };
    check_events(&outcome);
    check_filters(&outcome);
    check_bursts(&outcome);
}

/// No distribution that is in use has aufs: whoever has a kernel with it names
/// it.
#[test]
fn copy_ups_and_whiteouts_of_aufs_are_told() {
    let Some(kernel) = std::env::var_os("UNIONBENCH_AUFS_KERNEL") else {
        skipped("trace on aufs", "no kernel with aufs: name one in UNIONBENCH_AUFS_KERNEL");
        return;
    };
    let kernel = kernel.to_string_lossy().into_owned();
    let Some(outcome) = outcome_on(&kernel, "trace-aufs") else { return };
    let (header, events, end) = recording(&outcome, "aufs");
    assert_eq!(end.n_lost, 0);
    let mount = header.mounts.iter().find(|mount| mount.file_system == "aufs");
    let mount = mount.expect("aufs was mounted before");
    assert_eq!(mount.lower.len(), 2);
    let told = |kind: Kind| -> Vec<(&str, Option<u32>)> {
        let of = events.iter().filter(move |event| event.kind == kind);
        of.map(|event| (event.path.as_deref().expect("a path"), event.layer)).collect()
    };
    let copied = told(Kind::Copyup);
    for (path, layer) in [("/dir", 0), ("/dir/far", 1), ("/dir/near", 0)] {
        let times = copied.iter().filter(|found| **found == (path, Some(layer))).count();
        assert_eq!(times, 1, "{path} in {copied:?}");
    }
    assert_eq!(told(Kind::Whiteout), [("/gone", None)]);
    assert!(told(Kind::Readdir).contains(&("/dir", None)));
    assert!(told(Kind::Lookup).contains(&("/absent", None)));
    let far = events.iter().find(|event| event.path.as_deref() == Some("/dir/far"));
    assert!(far.is_some_and(|event| event.cgroup.as_deref() == Some(SERVICE)));
    let trigger = |path: &str| {
        let is_it =
            |event: &&Event| event.kind == Kind::Copyup && event.path.as_deref() == Some(path);
        events.iter().find(is_it).and_then(|event| event.trigger)
    };
    assert_eq!(trigger("/dir/far"), Some(Trigger::OpenWrite));
    assert_eq!(trigger("/dir/near"), Some(Trigger::Chmod));
}

#[test]
fn every_copy_up_is_told_once_on_6_1() {
    check("6.1");
}

#[test]
fn every_copy_up_is_told_once_on_6_12() {
    check("6.12");
}
