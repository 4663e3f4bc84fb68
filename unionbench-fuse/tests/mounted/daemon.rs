//! A union served by a process of its own, which is killed, asked to end, or
//! worked hard: this program runs itself again as that process.

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::world::{World, names};

pub const ALL: &[(&str, fn())] = &[
    ("a_killed_daemon_leaves_old_files_or_new_ones", killed),
    ("a_killed_daemon_leaves_hard_links_together", killed_with_index),
    ("a_signal_unmounts_and_leaves_nothing", signalled),
    ("a_busy_mount_is_taken_out_of_sight_by_a_signal", signalled_while_busy),
    ("many_threads_hammer_one_directory", hammered),
    ("many_known_files_take_little_memory", memory),
    ("more_files_can_be_open_than_descriptors", many_open),
];

/// Options and mount point of the union that this process serves.
pub const SERVE: &str = "UNIONBENCH_FUSE_SERVE";
/// A small limit of descriptors for that process.
const LIMIT: &str = "UNIONBENCH_FUSE_LIMIT";

/// Serves if this process was started to do that.
pub fn serve_if_asked() -> bool {
    let Some(asked) = std::env::var_os(SERVE) else { return false };
    let asked = asked.into_string().unwrap();
    let (options, point) = asked.split_once(' ').unwrap();
    if let Some(limit) = std::env::var(LIMIT).ok().and_then(|l| l.parse().ok()) {
        let limit = rustix::process::Rlimit { current: Some(limit), maximum: Some(limit) };
        rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    }
    let options = unionbench_fuse::MountOptions::parse(options).unwrap();
    unionbench_fuse::serve(&options, Path::new(point), || println!("mounted")).unwrap();
    true
}

pub struct Daemon {
    pub child: Child,
}

impl Daemon {
    pub fn start(w: &World, more: &str, limit: Option<u64>) -> Self {
        let lower: Vec<_> = w.options.lower.iter().map(|p| p.display().to_string()).collect();
        let probes = w.options.test_probes.map(|n| format!(",test_probes={n}")).unwrap_or_default();
        let asked = format!(
            "lowerdir={},upperdir={},workdir={}{probes}{more} {}",
            lower.join(":"),
            w.path("u").display(),
            w.path("w").display(),
            w.path("m").display()
        );
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env(SERVE, asked).stdout(Stdio::piped());
        if let Some(limit) = limit {
            command.env(LIMIT, limit.to_string());
        }
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "mounted\n");
        Self { child }
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Ends the process at once, and takes its dead mount away.
    fn kill(mut self, w: &World) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let gone = Command::new("umount").arg("-l").arg(w.path("m")).status().unwrap();
        assert!(gone.success());
    }

    /// Asks the process to end and waits until it has.
    pub fn end(mut self) {
        self.signal(rustix::process::Signal::TERM);
        assert!(self.child.wait().unwrap().success());
    }

    /// A figure of the process in KiB.
    fn status_kib(&self, field: &str) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = text.lines().find(|l| l.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Daemon {
    /// A case that failed leaves none behind, which would hold its output open.
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// How many copy-ups are begun while the daemon is killed.
fn wanted(variable: &str, usual: usize) -> usize {
    std::env::var(variable).ok().and_then(|n| n.parse().ok()).unwrap_or(usual)
}

/// The content of a file before and after it is written to.
fn content(i: usize, new: bool) -> Vec<u8> {
    let mut out = vec![b'a' + (i % 26) as u8; 1 << 18];
    if new {
        out.extend_from_slice(b"new");
    }
    out
}

fn killed() {
    kill_while_copying("", |_, _| {});
}

/// As above, with two further names of each file, one of which its writer then
/// takes away.
fn killed_with_index() {
    let link = |w: &World, i: usize| {
        w.mkdir("l0/d");
        for name in [format!("l0/d/g{i}"), format!("l0/h{i}")] {
            fs::hard_link(w.path(&format!("l0/f{i}")), w.path(&name)).unwrap();
        }
    };
    kill_while_copying(",index=on", link);
}

/// The index by itself: what a killed daemon left there must be whole files.
fn check_index(w: &World) {
    for entry in fs::read_dir(w.path("w/index")).unwrap() {
        let seen = fs::read(entry.unwrap().path()).unwrap();
        assert!(seen.len() == content(0, false).len() || seen.len() == content(0, true).len());
    }
}

/// Kills the daemon while threads append to lower files, a few at a time at a
/// random point, until `UNIONBENCH_FUSE_KILLS` copy-ups (60 unless it says
/// otherwise) have been tried.
fn kill_while_copying(options: &str, more: fn(&World, usize)) {
    let index = options.contains("index=on");
    let copy_ups = wanted("UNIONBENCH_FUSE_KILLS", 60);
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let (mut tried, mut written, mut kept) = (0, 0, 0);
    const FILES: usize = 6;
    while tried < copy_ups {
        let w = World::new(1);
        for i in 0..FILES {
            fs::write(w.path(&format!("l0/f{i}")), content(i, false)).unwrap();
            more(&w, i);
        }
        let before = w.lower_trees();
        let daemon = Daemon::start(&w, &format!("{options},threads=4"), None);
        let writers: Vec<_> = (0..FILES)
            .map(|i| {
                let path = w.m(&format!("f{i}"));
                let link = w.m(&format!("h{i}"));
                std::thread::spawn(move || {
                    // The mount may die under any of these.
                    let opened = OpenOptions::new().append(true).open(path);
                    let _ = opened.and_then(|mut f| f.write_all(b"new"));
                    let _ = fs::remove_file(link);
                })
            })
            .collect();
        // Xorshift: the points differ, and are the same in each run.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        std::thread::sleep(Duration::from_micros(random % 6000));
        daemon.kill(&w);
        writers.into_iter().for_each(|t| t.join().unwrap());
        let mut w = w;
        assert_eq!(before, w.lower_trees());
        w.options.index = index;
        if index && w.path("w/index").exists() {
            check_index(&w);
        }
        w.mount();
        for i in 0..FILES {
            let seen = fs::read(w.m(&format!("f{i}"))).unwrap();
            if index {
                assert!(fs::read(w.m(&format!("d/g{i}"))).unwrap() == seen, "names of {i} differ");
                let names = 2 + u64::from(w.m(&format!("h{i}")).exists());
                assert_eq!(w.m(&format!("f{i}")).metadata().unwrap().nlink(), names);
            }
            if seen == content(i, true) {
                written += 1;
            } else {
                assert!(seen == content(i, false), "file {i} is neither old nor new");
                kept += 1;
            }
        }
        assert!(names(&w.path("w/work")).is_empty(), "the work folder is not empty");
        w.unmount();
        tried += FILES;
    }
    println!("{tried} copy-ups: {written} files new, {kept} old");
}

fn is_mounted(point: &Path) -> bool {
    let point = point.display().to_string();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    mounts.lines().any(|l| l.split(' ').nth(1) == Some(&point))
}

fn signalled() {
    use rustix::process::Signal;
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let w = World::new(1);
        w.put("l0/f", "f");
        let mut daemon = Daemon::start(&w, "", None);
        assert!(is_mounted(&w.path("m")));
        fs::write(w.m("f"), "new").unwrap();
        daemon.signal(signal);
        assert!(daemon.child.wait().unwrap().success());
        assert!(!is_mounted(&w.path("m")));
        assert_eq!(fs::read(w.path("u/f")).unwrap(), b"new");
    }
}

fn signalled_while_busy() {
    let w = World::new(1);
    w.put("l0/f", "f");
    let daemon = Daemon::start(&w, "", None);
    let open = fs::File::open(w.m("f")).unwrap();
    daemon.end();
    assert!(!is_mounted(&w.path("m")));
    drop(open);
}

/// For a second (`UNIONBENCH_FUSE_HAMMER` seconds), 24 threads create, rename,
/// unlink and list in one directory; nothing may fail that a bare directory
/// would allow, and memory must not grow with the operations.
fn hammered() {
    const THREADS: usize = 24;
    let seconds = wanted("UNIONBENCH_FUSE_HAMMER", 1);
    let mut w = World::new(2);
    (0..500).for_each(|i| w.put(&format!("l{}/d/lower{i}", i % 2), "lower"));
    let daemon = Daemon::start(&w, ",threads=4", None);
    let dir = w.m("d");
    let stop = AtomicBool::new(false);
    let peaks = std::thread::scope(|scope| {
        for t in 0..THREADS {
            let (dir, stop) = (&dir, &stop);
            scope.spawn(move || {
                let mut i = 0;
                while !stop.load(Ordering::Relaxed) {
                    let (a, b) = (dir.join(format!("a{t}")), dir.join(format!("b{t}-{i}")));
                    fs::write(&a, "content").unwrap();
                    fs::rename(&a, &b).unwrap();
                    assert_eq!(fs::read(&b).unwrap(), b"content");
                    if i % 8 == 0 {
                        assert!(fs::read_dir(dir).unwrap().all(|e| e.is_ok()));
                    }
                    fs::remove_file(&b).unwrap();
                    let own = dir.join(format!("lower{}", (t * 20 + i % 20) % 500));
                    match i / 20 {
                        0 => OpenOptions::new().append(true).open(own).unwrap().write_all(b"+"),
                        1 if t * 20 + i % 20 < 500 => fs::remove_file(own),
                        _ => Ok(()),
                    }
                    .unwrap();
                    i += 1;
                }
            });
        }
        let half = Duration::from_millis(500 * seconds as u64);
        let start = Instant::now();
        while start.elapsed() < half {
            std::thread::yield_now();
            std::thread::sleep(Duration::from_millis(10));
        }
        let middle = daemon.status_kib("VmRSS");
        std::thread::sleep(half);
        stop.store(true, Ordering::Relaxed);
        (middle, daemon.status_kib("VmRSS"))
    });
    println!("{THREADS} threads, {seconds} s: {} then {} KiB resident", peaks.0, peaks.1);
    assert!(peaks.1 < peaks.0 + 16 * 1024, "memory grew from {} to {} KiB", peaks.0, peaks.1);
    let shown = w.merged();
    daemon.end();
    w.mount();
    assert_eq!(shown, w.merged());
    w.unmount();
}

/// Looks at 20,000 files (`UNIONBENCH_FUSE_KNOWN`) until the kernel knows all,
/// and weighs the daemon: 200 bytes for each beside what it takes empty.
fn memory() {
    let files = wanted("UNIONBENCH_FUSE_KNOWN", 20_000);
    let w = World::new(2);
    let dirs = files.div_ceil(1000);
    for d in 0..dirs {
        w.mkdir(&format!("l{}/d{d}", d % 2));
        for f in 0..files.div_ceil(dirs) {
            fs::write(w.path(&format!("l{}/d{d}/file-{f:08}", d % 2)), "").unwrap();
        }
    }
    let daemon = Daemon::start(&w, "", None);
    assert!(w.m("").read_dir().unwrap().count() == dirs);
    let empty = daemon.status_kib("VmRSS");
    let mut known = 0;
    for d in 0..dirs {
        for entry in fs::read_dir(w.m(&format!("d{d}"))).unwrap() {
            assert!(entry.unwrap().metadata().unwrap().ino() != 0);
            known += 1;
        }
    }
    let full = daemon.status_kib("VmRSS");
    let each = (full - empty) * 1024 / known;
    println!("{known} files known: {full} KiB resident, {empty} before, {each} bytes a file");
    assert!(each <= 200, "{each} bytes a file");
    daemon.end();
}

/// Opens four times as many files as the daemon may have descriptors, some of
/// which are unlinked while they are open.
fn many_open() {
    let w = World::new(1);
    (0..2000).for_each(|i| w.put(&format!("l0/f{i}"), &format!("content {i}")));
    let daemon = Daemon::start(&w, "", Some(512));
    let open = |i: usize| {
        OpenOptions::new().read(true).write(i.is_multiple_of(3)).open(w.m(&format!("f{i}")))
    };
    let files: Vec<_> = (0..2000).map(|i| open(i).unwrap()).collect();
    for i in 0..50 {
        fs::remove_file(w.m(&format!("f{i}"))).unwrap();
    }
    for (i, file) in files.iter().enumerate() {
        let mut seen = vec![0; 16];
        let len = rustix::io::pread(file, &mut seen, 0).unwrap();
        assert_eq!(&seen[..len], format!("content {i}").as_bytes());
        if i % 3 == 0 {
            rustix::io::pwrite(file, b"CONTENT", 0).unwrap();
        }
    }
    let descriptors = fs::read_dir(format!("/proc/{}/fd", daemon.child.id())).unwrap().count();
    assert!(descriptors <= 512, "{descriptors}");
    drop(files);
    assert_eq!(fs::read(w.path("u/f51")).unwrap(), b"CONTENT 51");
    daemon.end();
}
