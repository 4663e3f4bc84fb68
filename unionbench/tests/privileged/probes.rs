//! Probes on this kernel. Each test says so when it cannot run here.

use std::sync::mpsc;
use std::thread;

use super::skip::skipped;
use unionbench::probe::{self, Availability, Engine, Family, Request, Session, Watch};

/// A session, or none after saying why this machine has none.
fn open(test: &str, request: &Request) -> Option<Session> {
    if !probe::is_embedded() {
        skipped(test, "built without probes, use `cargo xtask test`");
        return None;
    }
    if let Availability::Unavailable { reason, .. } = Engine::Tracepoint.probe() {
        skipped(test, format!("tracepoints are refused: {reason}"));
        return None;
    }
    Some(Session::open(request).expect("tracepoints work here"))
}

const PLAIN: Request =
    Request { family: Family::None, functions: false, sampling_hertz: None, replies: true };

fn thread_id() -> u32 {
    rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned()
}

/// One `readlinkat` each, which nothing else in this process makes.
fn issue(calls: usize) {
    for _ in 0..calls {
        rustix::fs::readlink("/proc/self", Vec::new()).expect("procfs is mounted");
    }
}

#[test]
fn syscalls_of_a_phase_equal_those_issued_exactly() {
    let Some(mut session) = open("syscalls_of_a_phase", &PLAIN) else { return };
    for calls in [1, 1000, 0, 12_345] {
        session.begin(Watch::Threads(&[thread_id()])).expect("maps can be written");
        issue(calls);
        let seen = session.end().expect("maps can be read");
        assert_eq!(seen.syscalls("readlinkat"), calls as u64);
        if calls > 0 {
            let histogram = seen.histogram("syscall:readlinkat").expect("it is timed");
            assert_eq!(histogram.count, calls as u64);
            let in_buckets: u64 = histogram.buckets.iter().map(|(_, _, count)| count).sum();
            assert_eq!(in_buckets, calls as u64);
            assert!(histogram.min > 0 && histogram.min <= histogram.max);
            assert!(histogram.sum >= histogram.min * histogram.count);
            assert!(histogram.sum <= histogram.max * histogram.count);
        }
        assert!(seen.losses.is_zero(), "{:?}", seen.losses);
    }
}

/// A thread that issues calls when told to, and tells its id first.
fn worker() -> (u32, mpsc::Sender<usize>, mpsc::Receiver<u32>, thread::JoinHandle<()>) {
    let (orders, ordered) = mpsc::channel::<usize>();
    let (reports, reported) = mpsc::channel();
    let handle = thread::spawn(move || {
        reports.send(thread_id()).expect("the test listens");
        for calls in ordered {
            issue(calls);
            reports.send(0).expect("the test listens");
        }
    });
    let id = reported.recv().expect("the worker tells its id");
    (id, orders, reported, handle)
}

#[test]
fn only_the_named_threads_count() {
    let Some(mut session) = open("only_the_named_threads", &PLAIN) else { return };
    let (watched, watched_orders, watched_done, watched_handle) = worker();
    let (_, other_orders, other_done, other_handle) = worker();
    session.begin(Watch::Threads(&[watched])).expect("maps can be written");
    watched_orders.send(700).expect("the worker lives");
    other_orders.send(900).expect("the worker lives");
    issue(50);
    watched_done.recv().expect("the worker answers");
    other_done.recv().expect("the worker answers");
    let seen = session.end().expect("maps can be read");
    assert_eq!(seen.syscalls("readlinkat"), 700);
    drop((watched_orders, other_orders));
    watched_handle.join().expect("the worker ends well");
    other_handle.join().expect("the worker ends well");
}

#[test]
fn a_whole_process_counts_but_not_its_children() {
    let Some(mut session) = open("a_whole_process", &PLAIN) else { return };
    let mut child = std::process::Command::new("/bin/sh")
        .args([
            "-c",
            "echo up; read go; \
             for i in 1 2 3 4 5; do read x </dev/null; /bin/readlink /proc/self >&2; done",
        ])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("a shell is here");
    // Until it has spoken, the loader still reads libraries in its name.
    let mut word = [0; 3];
    let stdout = child.stdout.as_mut().expect("it is piped");
    std::io::Read::read_exact(stdout, &mut word).expect("the shell speaks");
    session.begin(Watch::Process(child.id())).expect("maps can be written");
    drop(child.stdin.take());
    child.wait().expect("the shell ends");
    let seen = session.end().expect("maps can be read");
    // The shell's first `read` may have begun before the phase.
    assert!((5..=6).contains(&seen.syscalls("read")), "{:?}", seen.counters);
    assert_eq!(seen.syscalls("readlinkat") + seen.syscalls("readlink"), 0);
}

#[test]
fn a_phase_that_was_given_up_is_not_counted() {
    let Some(mut session) = open("a_phase_given_up", &PLAIN) else { return };
    session.begin(Watch::Threads(&[thread_id()])).expect("maps can be written");
    issue(33);
    session.begin(Watch::Threads(&[thread_id()])).expect("maps can be written");
    issue(5);
    let seen = session.end().expect("maps can be read");
    assert_eq!(seen.syscalls("readlinkat"), 5);
}

#[test]
fn samples_name_the_functions_of_the_workload() {
    let request = Request { sampling_hertz: Some(1999), ..PLAIN };
    let Some(mut session) = open("samples", &request) else { return };
    if let Availability::Unavailable { reason, .. } = Engine::Sampling.probe() {
        skipped("samples", reason);
        return;
    }
    session.begin(Watch::Threads(&[thread_id()])).expect("maps can be written");
    // By the thread's own clock: on a busy machine it runs a part of the time, and
    // is sampled in that part only.
    let own_ms = || {
        let own = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        own.tv_sec * 1000 + own.tv_nsec / 1_000_000
    };
    let end = own_ms() + 300;
    while own_ms() < end {
        issue(100);
    }
    let seen = session.end().expect("maps can be read");
    let sampling = seen.sampling.expect("sampling is attached");
    assert!(sampling.n > 50, "{} samples in 0.3 s of processor time", sampling.n);
    let named = |part: &str| sampling.functions.iter().any(|f| f.function.contains(part));
    assert!(named("readlink"), "{:?}", sampling.functions);
    assert_eq!(sampling.in_file_system, 0, "no union was used");
}

#[test]
fn every_probe_says_what_became_of_it() {
    let Some(session) = open("every_probe_says", &Request::everything(Family::Overlayfs)) else {
        return;
    };
    let status = session.status();
    for wanted in ["syscall", "lookup", "layer_lookup", "copy_up", "whiteout", "sampling"] {
        let found = status.iter().find(|probe| probe.operation == wanted);
        let found = found.unwrap_or_else(|| panic!("{wanted} is missing"));
        assert!(found.attached == found.reason.is_empty(), "{found:?}");
    }
}

#[test]
fn copy_ups_of_the_bundled_union_are_seen_where_it_tells_of_them() {
    use unionbench_fuse::{
        unionbench_copy_up_begin, unionbench_copy_up_end, unionbench_request_begin,
    };
    let request = Request { family: Family::Bundled, ..PLAIN };
    let Some(mut session) = open("copy_ups_of_the_bundled_union", &request) else { return };
    if let Availability::Unavailable { reason, .. } = Engine::Uprobe.probe() {
        skipped("copy_ups_of_the_bundled_union", reason);
        return;
    }
    session.begin(Watch::Threads(&[thread_id()])).expect("maps can be written");
    // The daemon's threads are not the workload's.
    let daemon = thread::spawn(|| {
        unionbench_request_begin(1);
        for (bytes, error) in [(100, 0), (200, 0), (0, libc::ENOSPC)] {
            unionbench_copy_up_begin(7);
            unionbench_copy_up_end(7, bytes, error, std::ptr::null());
        }
        // An end without a beginning was begun before the phase.
        unionbench_copy_up_end(7, 1 << 40, 0, std::ptr::null());
    });
    daemon.join().expect("the thread ends well");
    let seen = session.end().expect("maps can be read");
    let copy_ups = seen.histogram("copy_up").expect("it is timed");
    assert_eq!((copy_ups.count, copy_ups.engine.as_str()), (3, "uprobe"));
    assert_eq!(seen.counter("copy_ups"), Some(3));
    assert_eq!(seen.counter("bytes_copied"), Some(300));
    let told: Vec<_> = seen.copy_ups.iter().map(|event| (event.size, event.returned)).collect();
    assert_eq!(told, [(100, 0), (200, 0), (0, -libc::ENOSPC)]);
    assert!(seen.losses.is_zero(), "{:?}", seen.losses);
}

/// A union of one layer with `n` files, served by this process.
fn served(test: &str, n: usize) -> Option<(tempfile::TempDir, unionbench_fuse::Mounted)> {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for name in ["lower", "merged"] {
        std::fs::create_dir(dir.path().join(name)).expect("a folder");
    }
    for i in 0..n {
        std::fs::write(dir.path().join(format!("lower/{i}")), vec![b'x'; 9000]).expect("a file");
    }
    let options = format!("lowerdir={}", dir.path().join("lower").display());
    let options = unionbench_fuse::MountOptions::parse(&options).expect("well-formed options");
    match unionbench_fuse::mount(&options, &dir.path().join("merged")) {
        Ok(mounted) => Some((dir, mounted)),
        Err(error) => {
            skipped(test, format!("the bundled union cannot be mounted: {error}"));
            None
        }
    }
}

#[test]
fn a_request_has_three_parts_and_its_caller_waits_for_no_more() {
    let test = "a_request_has_three_parts";
    const FILES: usize = 200;
    let Some((dir, mounted)) = served(test, FILES) else { return };
    let request = Request { family: Family::Bundled, ..PLAIN };
    let Some(mut session) = open(test, &request) else { return };
    let refused = |probe: &&unionbench::record::ProbeStatus| {
        !probe.attached && ["fuse_parts", "fuse_reply"].contains(&probe.operation.as_str())
    };
    if let Some(probe) = session.status().iter().find(refused) {
        skipped(test, &probe.reason);
        return;
    }
    let merged = dir.path().join("merged");
    // The second phase must not see what the first one left.
    for from in [0, FILES / 2] {
        let names: Vec<_> = (from..from + FILES / 2).map(|i| merged.join(i.to_string())).collect();
        session.begin(Watch::Threads(&[thread_id()])).expect("maps can be written");
        for name in &names {
            rustix::fs::lstat(name).expect("it is there");
        }
        // Read by the kernel's readahead, in the background.
        std::fs::read(&names[0]).expect("it can be read");
        let seen = session.end().expect("maps can be read");
        assert!(seen.losses.is_zero(), "{:?}", seen.losses);
        let part = |name: &str| {
            let found = seen.histogram(name).unwrap_or_else(|| panic!("{name} is missing"));
            (found.count, found.sum)
        };
        let (whole, reply) = (part("fuse:LOOKUP"), part("fuse_reply:LOOKUP"));
        assert_eq!((whole.0, reply.0), (FILES as u64 / 2, whole.0));
        // A caller on another processor may find its answer before it slept, but
        // not one that gives its own to the daemon.
        assert!(reply.1 > 0, "nobody ever waited to run again");
        let parts = part("fuse_queue:LOOKUP").1 + part("fuse_service:LOOKUP").1;
        assert_eq!(parts, whole.1);
        // All of it is within the calls of that time.
        let (calls, spent) = part(lstat_name(&seen));
        assert_eq!(calls, whole.0);
        assert!(whole.1 + reply.1 < spent, "{} + {} of {spent} ns", whole.1, reply.1);
        assert!(seen.histogram("fuse:READ").is_some(), "the file was read");
        assert!(seen.histogram("fuse_reply:READ").is_none(), "nobody waits for readahead itself");
    }
    drop(session);
    mounted.unmount().expect("nobody uses it");
}

/// The system call that `lstat` is, by the library that makes it.
fn lstat_name(seen: &probe::Observations) -> &'static str {
    ["syscall:newfstatat", "syscall:lstat", "syscall:statx"]
        .into_iter()
        .find(|name| seen.histogram(name).is_some_and(|histogram| histogram.count > 0))
        .expect("one of them was made")
}
