//! `unionbench trace` on this kernel, where only system calls and tracepoints
//! can be watched, against the count of the daemon that serves the requests.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::skip::skipped;
use unionbench::probe::{self, Availability, Engine};
use unionbench::trace::{Event, Kind, Object, Request, TraceError, Tracer, Trigger};
use unionbench::unit::Nanos;
use unionbench_fuse::{MountOptions, Mounted};

/// A tracer of one mount, or none after saying why this machine has none.
fn open(test: &str, kinds: &[Kind], mount: &Path) -> Option<Tracer> {
    if !probe::is_embedded() {
        skipped(test, "built without probes, use `cargo xtask test`");
        return None;
    }
    if let Availability::Unavailable { reason, .. } = Engine::Tracepoint.probe() {
        skipped(test, format!("tracepoints are refused: {reason}"));
        return None;
    }
    let request =
        Request { kinds: kinds.to_vec(), mount: Some(mount.to_owned()), ..Request::default() };
    match Tracer::open(&request) {
        Ok(tracer) => Some(tracer),
        Err(TraceError::Unsupported { reasons, .. }) => {
            skipped(test, reasons);
            None
        }
        Err(error) => panic!("{error:?}"),
    }
}

/// A union of two layers, served by this process.
fn union(test: &str) -> Option<(tempfile::TempDir, Mounted)> {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for name in ["top/shown", "bottom/dir", "upper", "work", "merged"] {
        fs::create_dir_all(dir.path().join(name)).expect("a folder");
    }
    fs::write(dir.path().join("top/file"), "top").expect("a file");
    fs::write(dir.path().join("bottom/dir/file"), vec![b'x'; 9000]).expect("a file");
    let at = |name: &str| dir.path().join(name).display().to_string();
    let options = format!(
        "lowerdir={}:{},upperdir={},workdir={}",
        at("top"),
        at("bottom"),
        at("upper"),
        at("work")
    );
    let options = MountOptions::parse(&options).expect("well-formed options");
    match unionbench_fuse::mount(&options, &dir.path().join("merged")) {
        Ok(mounted) => Some((dir, mounted)),
        Err(error) => {
            skipped(test, format!("the bundled union cannot be mounted: {error}"));
            None
        }
    }
}

/// Everything until nothing has come for a while.
fn drain(tracer: &mut Tracer) -> Vec<Event> {
    let mut events = Vec::new();
    while let Some(event) = tracer.next(Duration::from_millis(500)).expect("events can be read") {
        events.push(event);
    }
    events
}

/// The tracer leaves its own process out, so the workload is another one.
fn shell(script: &str, folder: &Path) {
    let status = Command::new("sh").arg("-ec").arg(script).current_dir(folder).status();
    assert!(status.expect("a shell").success(), "{script}");
}

#[test]
fn requests_and_fsyncs_equal_what_the_daemon_counts() {
    let test = "requests_and_fsyncs_equal_what_the_daemon_counts";
    let Some((dir, mounted)) = union(test) else { return };
    let merged = dir.path().join("merged");
    // The union's own answer to the first look at it is no part of the trace.
    fs::metadata(&merged).expect("it is mounted");
    let Some(mut tracer) = open(test, &[Kind::Requests, Kind::Fsync], &merged) else { return };
    drain(&mut tracer);
    let counters = mounted.counters();
    let (requests, fsyncs) = (counters.requests(), counters.fsyncs());
    shell(
        "cat dir/file >/dev/null; echo more >>file; sync file; sync -d dir/file; ls -l . dir \
         >/dev/null; mkdir -p shown/new; echo x >shown/new/y; sync shown/new/y; \
         for i in 1 2 3 4 5; do echo $i >>dir/file; sync dir/file; done; test ! -e absent",
        &merged,
    );
    let events = drain(&mut tracer);
    let counted = (counters.requests() - requests, counters.fsyncs() - fsyncs);
    let of = |kind: Kind| events.iter().filter(move |event| event.kind == kind);
    // The node of a name that is forgotten is no request of its own to the
    // kernel; nothing is forgotten while so little happens.
    assert!(of(Kind::Requests).all(|event| event.opcode.as_deref() != Some("BATCH_FORGET")));
    assert_eq!(of(Kind::Requests).count() as u64, counted.0);
    let synced = of(Kind::Requests).filter(|event| event.opcode.as_deref() == Some("FSYNC"));
    assert_eq!(synced.count() as u64, counted.1);
    let calls: Vec<&Event> = of(Kind::Fsync).collect();
    assert_eq!(calls.len() as u64, counted.1);
    let paths: Vec<&str> = calls.iter().filter_map(|event| event.path.as_deref()).collect();
    assert_eq!(paths[..3], ["/file", "/dir/file", "/shown/new/y"]);
    assert!(calls.iter().all(|event| event.process == "sync" && event.latency_ns.0 > 0));
    let place = merged.display().to_string();
    for event in &events {
        assert_eq!(event.mount.as_deref(), Some(place.as_str()));
        assert_eq!(event.file_system, "fuse.unionbench");
        assert_ne!(event.pid, std::process::id());
    }
    let end = tracer.end().expect("it can be told");
    assert_eq!((end.n_events, end.n_lost), (events.len() as u64, 0));
    drop(tracer);
    mounted.unmount().expect("nobody uses it");
}

/// The daemon is this process; any other that runs the same file is seen alike.
#[test]
fn copy_ups_of_the_bundled_union_equal_what_the_daemon_counts() {
    let test = "copy_ups_of_the_bundled_union_equal_what_the_daemon_counts";
    if let Availability::Unavailable { reason, .. } = Engine::Uprobe.probe() {
        skipped(test, reason);
        return;
    }
    let Some((dir, mounted)) = union(test) else { return };
    let merged = dir.path().join("merged");
    fs::write(dir.path().join("bottom/dir/cut"), vec![b'x'; 5000]).expect("a file");
    fs::create_dir_all(dir.path().join("bottom/new/deep")).expect("a folder");
    let Some(mut tracer) = open(test, &[Kind::Copyup], &merged) else { return };
    drain(&mut tracer);
    let (before, bytes) = (mounted.counters().copy_ups(), mounted.counters().copied_bytes());
    shell(
        "chmod 600 dir/file; echo more >>file; : >dir/cut; mkdir new/deep/er; cat file >/dev/null",
        &merged,
    );
    let events = drain(&mut tracer);
    let told: Vec<_> = events
        .iter()
        .map(|e| {
            (e.path.as_deref().expect("a path"), e.trigger, e.layer, e.size_bytes, e.copied_bytes)
        })
        .collect();
    let expected = [
        ("/dir", Some(Trigger::Parent), Some(1), None, Some(0)),
        ("/dir/file", Some(Trigger::Chmod), Some(1), Some(9000), Some(9000)),
        ("/file", Some(Trigger::OpenWrite), Some(0), Some(3), Some(3)),
        ("/dir/cut", Some(Trigger::OpenTruncate), Some(1), Some(5000), Some(0)),
        ("/new", Some(Trigger::Parent), Some(1), None, Some(0)),
        ("/new/deep", Some(Trigger::Mkdir), Some(1), None, Some(0)),
    ];
    assert_eq!(told, expected);
    assert_eq!(events.len() as u64, mounted.counters().copy_ups() - before);
    let sum: u64 = events.iter().filter_map(|event| event.copied_bytes).sum();
    assert_eq!(sum, mounted.counters().copied_bytes() - bytes);
    for event in &events {
        assert_eq!(event.mount.as_deref(), Some(merged.display().to_string().as_str()));
        assert!(["chmod", "sh", "mkdir"].contains(&event.process.as_str()), "{event:?}");
        assert!(event.latency_ns.0 > 0 && event.data_ns.is_none(), "{event:?}");
        // What is cut on opening is synchronised all the same.
        let is_file = event.object == Some(Object::File);
        assert_eq!((event.errno, event.n_fsyncs), (0, Some(u32::from(is_file))), "{event:?}");
    }
    let end = tracer.end().expect("it can be told");
    assert_eq!((end.n_events, end.n_lost), (events.len() as u64, 0));
    drop(tracer);
    mounted.unmount().expect("nobody uses it");
}

/// What both sides of the probe take for what lies in the daemon's memory.
#[test]
fn the_kernel_side_reads_what_the_daemon_writes() {
    use std::mem::offset_of;
    use unionbench_common::trace::BundledCopyUp;
    use unionbench_fuse::CopyUp;
    assert_eq!(size_of::<CopyUp>(), size_of::<BundledCopyUp>());
    macro_rules! same {
        ($($field:ident)*) => {$(
            assert_eq!(offset_of!(CopyUp, $field), offset_of!(BundledCopyUp, $field));
        )*};
    }
    same!(unique device size mode layer cloned copied rewritten n_fsyncs is_parent path path_len);
}

#[test]
fn what_is_faster_than_asked_for_is_left_out() {
    let test = "what_is_faster_than_asked_for_is_left_out";
    let Some((dir, mounted)) = union(test) else { return };
    let merged = dir.path().join("merged");
    if open(test, &[Kind::Fsync], &merged).is_none() {
        return;
    }
    let request = Request {
        kinds: vec![Kind::Fsync],
        mount: Some(merged.clone()),
        // Nobody synchronises for an hour.
        min_latency: Nanos(3_600_000_000_000),
        ..Request::default()
    };
    let mut tracer = Tracer::open(&request).expect("it could be opened before");
    shell("echo x >>file; sync file", &merged);
    assert_eq!(drain(&mut tracer), []);
    assert_eq!(tracer.end().expect("it can be told").n_lost, 0);
    mounted.unmount().expect("nobody uses it");
}

#[test]
fn a_path_on_no_union_is_refused() {
    if !probe::is_embedded() {
        skipped("a_path_on_no_union_is_refused", "built without probes, use `cargo xtask test`");
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let request = Request {
        kinds: vec![Kind::Fsync],
        mount: Some(dir.path().to_owned()),
        ..Request::default()
    };
    match Tracer::open(&request) {
        Err(TraceError::Usage(text)) => assert!(text.contains("lies on no union"), "{text}"),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("a plain folder was taken for a union"),
    }
}
