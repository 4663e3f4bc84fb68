//! Which of the daemon's threads answers, and where it runs.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::daemon::Daemon;
use crate::world::World;

pub const ALL: &[(&str, fn())] = &[
    ("a_lone_caller_is_answered_nearby_and_only_while_it_asks", comes_and_goes),
    ("the_thread_that_answers_nearby_is_where_its_caller_is", follows),
];

/// Threads of the daemon that are in the scheduler's idle class now (field 41
/// of `/proc/PID/stat`, SCHED_IDLE is 5).
fn idle_class(daemon: &Daemon) -> Vec<PathBuf> {
    let tasks = fs::read_dir(format!("/proc/{}/task", daemon.child.id())).unwrap();
    let is_idle = |task: &PathBuf| {
        let stat = fs::read_to_string(task.join("stat")).unwrap_or_default();
        let class = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(41 - 3));
        class == Some("5")
    };
    tasks.filter_map(|task| Some(task.ok()?.path())).filter(is_idle).collect()
}

/// The processors that the one thread in the idle class may use, as the kernel
/// lists them.
fn place(daemon: &Daemon) -> Option<String> {
    let near = idle_class(daemon);
    let [near] = near.as_slice() else { return None };
    let status = fs::read_to_string(near.join("status")).ok()?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    Some(list.trim().to_owned())
}

/// Does it over and over until it is true.
fn until(mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(60), "nothing changes");
    }
}

/// Asks the union for names, each a request since it is asked for once.
struct Asker<'a> {
    world: &'a World,
    next: u32,
}

impl Asker<'_> {
    fn ask(&mut self, n: u32) {
        for _ in 0..n {
            self.next += 1;
            assert!(!self.world.m(&format!("absent{}", self.next)).exists());
        }
    }
}

/// One thread goes near a caller that asks alone, and goes back once it asks no
/// more.
fn comes_and_goes() {
    if std::thread::available_parallelism().unwrap().get() == 1 {
        return;
    }
    let w = World::new(1);
    w.put("l0/f", "x");
    for option in ["", ",near=off"] {
        let daemon = Daemon::start(&w, option, None);
        let mut asker = Asker { world: &w, next: 0 };
        if option.is_empty() {
            until(|| {
                asker.ask(40);
                idle_class(&daemon).len() == 1
            });
            until(|| idle_class(&daemon).is_empty());
        } else {
            asker.ask(1000);
            assert!(idle_class(&daemon).is_empty());
        }
        daemon.end();
    }
}

/// A caller that comes to another processor is answered there.
fn follows() {
    let usual = sched_getaffinity(None).unwrap();
    let allowed = |processor: &usize| usual.is_set(*processor);
    let processors: Vec<usize> = (0..CpuSet::MAX_CPU).filter(allowed).take(2).collect();
    if processors.len() == 1 {
        return;
    }
    let w = World::new(1);
    w.put("l0/f", "x");
    let daemon = Daemon::start(&w, "", None);
    let mut asker = Asker { world: &w, next: 0 };
    for processor in processors.iter().cycle().take(4) {
        let mut one = CpuSet::new();
        one.set(*processor);
        sched_setaffinity(None, &one).unwrap();
        until(|| {
            asker.ask(40);
            place(&daemon) == Some(processor.to_string())
        });
    }
    sched_setaffinity(None, &usual).unwrap();
    daemon.end();
}
