//! What the first lookups in a huge or deep directory cost: with the directory
//! read at once (`test_probes=0`), with its names asked for one by one as the
//! union does, and on the kernel's overlayfs; side by side, in turns.
//!
//! As root below `unshare -m --propagation private`. Each mount is served by a
//! process of its own, whose memory is read before and after.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const SERVE: &str = "serve";
const OVERLAY: &str = "overlay";
const ROUNDS: usize = 5;
/// Names looked up one after the other.
const LOOKUPS: usize = 40;

struct Shape {
    title: &'static str,
    layers: usize,
    names: usize,
}

const SHAPES: [Shape; 4] = [
    Shape { title: "8 layers of 20 names", layers: 8, names: 20 },
    Shape { title: "64 layers of 20 names", layers: 64, names: 20 },
    Shape { title: "500 layers of 20 names", layers: 500, names: 20 },
    Shape { title: "1 layer of 1,000,000 names", layers: 1, names: 1_000_000 },
];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [serve, options, point] = args.as_slice()
        && serve == SERVE
    {
        let options = unionbench_fuse::MountOptions::parse(options).unwrap();
        let ready = || println!("mounted");
        return unionbench_fuse::serve(&options, Path::new(point), ready).unwrap();
    }
    let ways = [
        ("read at once", "near=off,test_probes=0"),
        ("as it is", "near=off"),
        ("overlayfs", OVERLAY),
    ];
    println!("Medians of {ROUNDS} rounds; in brackets the smallest and the largest.\n");
    println!(
        "| directory | way | first, µs | all {LOOKUPS}, µs | longest, µs | first, µs of CPU | all, µs of CPU | memory, KiB | first, ratio |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for shape in &SHAPES {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        fill(dir.path(), shape);
        let mut seen: Vec<Vec<[f64; 6]>> = vec![Vec::new(); ways.len()];
        for _ in 0..ROUNDS {
            for ((_, way), seen) in ways.iter().zip(&mut seen) {
                seen.push(look(dir.path(), shape, way));
            }
        }
        let base = median(&seen[0], 0);
        for ((name, _), rounds) in ways.iter().zip(&seen) {
            let cells: Vec<String> = (0..6)
                .map(|i| {
                    let (least, most) = range(rounds, i);
                    format!("{:.0} [{least:.0}, {most:.0}]", median(rounds, i))
                })
                .collect();
            let ratio = median(rounds, 0) / base;
            println!("| {} | {name} | {} | {ratio:.5} |", shape.title, cells.join(" | "));
        }
    }
}

fn median(rounds: &[[f64; 6]], i: usize) -> f64 {
    let mut all: Vec<f64> = rounds.iter().map(|r| r[i]).collect();
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

fn range(rounds: &[[f64; 6]], i: usize) -> (f64, f64) {
    let all = || rounds.iter().map(|r| r[i]);
    (all().fold(f64::INFINITY, f64::min), all().fold(f64::NEG_INFINITY, f64::max))
}

fn fill(root: &Path, shape: &Shape) {
    for layer in 0..shape.layers {
        let dir = root.join(format!("l{layer}/d"));
        fs::create_dir_all(&dir).unwrap();
        for name in 0..shape.names {
            fs::write(dir.join(format!("file-{layer:03}-{name:07}")), "").unwrap();
        }
    }
    for name in ["u", "w", "m"] {
        fs::create_dir(root.join(name)).unwrap();
    }
}

/// First lookup, all lookups, the longest of them; what the first and all of them
/// took of the daemon's processor time, which a busy machine disturbs less; and
/// the memory.
fn look(root: &Path, shape: &Shape, way: &str) -> [f64; 6] {
    let mut served = mount(root, shape, way);
    fs::symlink_metadata(root.join("m/d")).unwrap();
    let before = served.as_ref().map_or(0, resident);
    let cpu = || served.as_ref().map_or(0.0, cpu_us);
    let (cpu_before, mut cpu_first) = (cpu(), 0.0);
    let mut times = Vec::new();
    for i in 0..LOOKUPS {
        // From the bottom up: each layer above the one that has it is asked.
        let layer = shape.layers - 1 - i * 7 % shape.layers;
        let name = i * (shape.names / LOOKUPS).max(1) % shape.names;
        let path: PathBuf = root.join(format!("m/d/file-{layer:03}-{name:07}"));
        let start = Instant::now();
        assert!(fs::symlink_metadata(path).unwrap().ino() != 0);
        times.push(start.elapsed());
        if i == 0 {
            cpu_first = cpu() - cpu_before;
        }
    }
    let cpu_all = cpu() - cpu_before;
    let after = served.as_ref().map_or(0, resident);
    assert!(Command::new("umount").arg(root.join("m")).status().unwrap().success());
    if let Some(child) = &mut served {
        child.wait().unwrap();
    }
    let us = |d: Duration| d.as_secs_f64() * 1e6;
    let longest = times.iter().copied().max().unwrap_or_default();
    let kib = (after - before) as f64;
    [us(times[0]), us(times.iter().sum()), us(longest), cpu_first, cpu_all, kib]
}

fn mount(root: &Path, shape: &Shape, way: &str) -> Option<Child> {
    let point = root.join("m");
    if way == OVERLAY {
        return mount_overlay(root, shape, &point);
    }
    let lower: Vec<_> =
        (0..shape.layers).map(|i| root.join(format!("l{i}")).display().to_string()).collect();
    let (u, w) = (root.join("u"), root.join("w"));
    let options = format!(
        "lowerdir={},upperdir={},workdir={},allow_other,{way}",
        lower.join(":"),
        u.display(),
        w.display()
    );
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([SERVE, &options])
        .arg(&point)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let out = child.stdout.take().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).unwrap();
    assert_eq!(line, "mounted\n");
    Some(child)
}

fn mount_overlay(root: &Path, shape: &Shape, point: &Path) -> Option<Child> {
    use rustix::fs::CWD;
    use rustix::mount::*;
    let fs = fsopen("overlay", FsOpenFlags::empty()).unwrap();
    for i in 0..shape.layers {
        fsconfig_set_string(&fs, "lowerdir+", root.join(format!("l{i}"))).unwrap();
    }
    let work = root.join("wo");
    fs::create_dir_all(&work).unwrap();
    fsconfig_set_string(&fs, "upperdir", root.join("u")).unwrap();
    fsconfig_set_string(&fs, "workdir", &work).unwrap();
    fsconfig_create(&fs).unwrap();
    let made = fsmount(&fs, FsMountFlags::empty(), MountAttrFlags::empty()).unwrap();
    move_mount(&made, "", CWD, point, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).unwrap();
    None
}

fn resident(child: &Child) -> i64 {
    let text = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let line = text.lines().find(|l| l.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Processor time of all the daemon's threads.
fn cpu_us(child: &Child) -> f64 {
    let tasks = fs::read_dir(format!("/proc/{}/task", child.id())).unwrap();
    let of = |task: std::io::Result<fs::DirEntry>| -> f64 {
        let text = fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap();
        text.split_whitespace().next().unwrap().parse().unwrap()
    };
    tasks.map(of).sum::<f64>() / 1e3
}
