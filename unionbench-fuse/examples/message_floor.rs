//! What a message between a caller and a daemon costs at least here: a byte
//! there and back through pipes; a lookup answered from memory, by a daemon
//! that does nothing else; and a lookup of a lower file in the union. Each on
//! one processor and, but for the union, which chooses by itself, on two.
//!
//! As root below `unshare -m --propagation private`, with `taskset` and `chrt`
//! (util-linux). Printed are the median of all calls, their mean, and the range
//! of the rounds' medians.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _, pipe};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, UNIX_EPOCH};

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, MountOption,
    ReplyAttr, ReplyEntry, Request,
};
use rustix::thread::{CpuSet, sched_setaffinity};

const ROUNDS: usize = 5;
const CALLS: usize = 2000;
const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);

/// Answers every lookup with an empty file of a number made of its name.
struct Nothing;

fn attributes(ino: INodeNo, kind: FileType) -> FileAttr {
    FileAttr {
        ino,
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm: 0o755,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Filesystem for Nothing {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name.to_str().and_then(|name| name.strip_prefix('f')?.parse::<u64>().ok()) {
            Some(number) => {
                let attr = attributes(INodeNo(number + 2), FileType::RegularFile);
                reply.entry(&FOREVER, &attr, Generation(0));
            }
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FOREVER, &attributes(ino, FileType::Directory));
    }
}

/// The way a round goes; what it returns are the microseconds of each call.
type Round = fn(&Path) -> Vec<f64>;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let shown = || println!("mounted");
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["nothing", point] => return serve_nothing(Path::new(point)),
        ["union", options, point] => {
            let options = unionbench_fuse::MountOptions::parse(options).unwrap();
            return unionbench_fuse::serve(&options, Path::new(point), shown).unwrap();
        }
        _ => {}
    }
    hold_on(0);
    let mut ways: Vec<(&str, Round)> = vec![
        ("a byte through pipes, one processor", |_| through_pipes(0)),
        ("a byte through pipes, two processors", |_| through_pipes(1)),
        ("lookup answered from memory, one processor", |dir| from_memory(dir, "0")),
        ("lookup answered from memory, two processors", |dir| from_memory(dir, "1")),
        ("cold lookup in the union, 8 layers", in_union),
    ];
    if !has_two() {
        ways.retain(|(title, _)| !title.ends_with("two processors"));
    }
    let mut seen = vec![Vec::new(); ways.len()];
    for _ in 0..ROUNDS {
        for ((_, round), seen) in ways.iter().zip(&mut seen) {
            let dir = tempfile::tempdir_in("/dev/shm").unwrap();
            seen.push(round(dir.path()));
        }
    }
    println!("{ROUNDS} rounds of {CALLS} calls, µs.\n");
    println!("| | median | mean | medians of the rounds |");
    println!("|---|---|---|---|");
    for ((title, _), rounds) in ways.iter().zip(seen) {
        let medians: Vec<f64> = rounds.iter().map(|round| median(round.clone())).collect();
        let least = medians.iter().copied().fold(f64::INFINITY, f64::min);
        let most = medians.iter().copied().fold(0.0, f64::max);
        let all: Vec<f64> = rounds.into_iter().flatten().collect();
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        println!("| {title} | {:.2} | {mean:.2} | {least:.2} to {most:.2} |", median(all));
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Not so in the lab, where a guest that counts has one processor.
fn has_two() -> bool {
    Path::new("/sys/devices/system/cpu/cpu1").exists()
}

/// Holds the calling thread on a processor.
fn hold_on(processor: usize) {
    let mut one = CpuSet::new();
    one.set(processor);
    sched_setaffinity(None, &one).unwrap();
}

fn each(mut call: impl FnMut(usize)) -> Vec<f64> {
    let one = |i| {
        let start = Instant::now();
        call(i);
        start.elapsed().as_secs_f64() * 1e6
    };
    (0..CALLS).map(one).collect()
}

fn through_pipes(processor: usize) -> Vec<f64> {
    let ((mut there, mut ask), (mut answer, mut back)) = (pipe().unwrap(), pipe().unwrap());
    let other = std::thread::spawn(move || {
        hold_on(processor);
        let mut byte = [0];
        while there.read_exact(&mut byte).is_ok() {
            back.write_all(&byte).unwrap();
        }
    });
    let mut byte = [0];
    let taken = each(|_| {
        ask.write_all(&byte).unwrap();
        answer.read_exact(&mut byte).unwrap();
    });
    drop(ask);
    other.join().unwrap();
    taken
}

fn look_up(point: &Path) -> Vec<f64> {
    each(|i| assert!(point.join(format!("f{i}")).symlink_metadata().is_ok()))
}

fn serve_nothing(point: &Path) {
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("nothing".into())];
    let session = fuser::Session::new(Nothing, point, &config).unwrap();
    println!("mounted");
    session.run().unwrap();
}

fn from_memory(dir: &Path, processor: &str) -> Vec<f64> {
    // In the class in which the union answers a caller that asks alone, on its
    // processor; there it would starve beside other work on another one.
    let class = if processor == "0" { "-i" } else { "-o" };
    let mut command = Command::new("chrt");
    command.args([class, "0", "taskset", "-c", processor]);
    command.arg(std::env::current_exe().unwrap()).arg("nothing").arg(dir);
    mounted(command, dir, dir)
}

fn in_union(dir: &Path) -> Vec<f64> {
    let layers: Vec<String> = (0..8).map(|i| format!("{}/l{i}", dir.display())).collect();
    for layer in &layers {
        fs::create_dir_all(Path::new(layer).join("d")).unwrap();
    }
    for i in 0..CALLS {
        fs::write(Path::new(&layers[7]).join(format!("d/f{i}")), "x").unwrap();
    }
    for name in ["u", "w", "m"] {
        fs::create_dir(dir.join(name)).unwrap();
    }
    let options =
        format!("lowerdir={},upperdir={1}/u,workdir={1}/w", layers.join(":"), dir.display());
    // It is left to run where it likes.
    let mut command = Command::new("taskset");
    command.args(["-c", "0-1"]).arg(std::env::current_exe().unwrap());
    command.args(["union", &options]).arg(dir.join("m"));
    mounted(command, &dir.join("m"), &dir.join("m/d"))
}

/// Looks names up in `at` while the program serves the mount at `point`.
fn mounted(mut command: Command, point: &Path, at: &Path) -> Vec<f64> {
    let mut daemon: Child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "mounted\n");
    let taken = look_up(at);
    assert!(Command::new("umount").arg(point).status().unwrap().success());
    assert!(daemon.wait().unwrap().success());
    taken
}
