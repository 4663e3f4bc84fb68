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
const ROUNDS: usize = 5;

struct Shape {
    title: &'static str,
    layers: usize,
    names: usize,
    /// How many names are looked up, one after the other, from how many.
    lookups: usize,
}

const SHAPES: [Shape; 4] = [
    Shape { title: "8 layers of 20 names", layers: 8, names: 20, lookups: 40 },
    Shape { title: "64 layers of 20 names", layers: 64, names: 20, lookups: 40 },
    Shape { title: "500 layers of 20 names", layers: 500, names: 20, lookups: 40 },
    Shape { title: "1 layer of 1,000,000 names", layers: 1, names: 1_000_000, lookups: 40 },
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
    let ways = ["test_probes=0", "near=on", "overlay"];
    let names = ["read at once", "as it is", "overlayfs"];
    println!(
        "| directory | way | first lookup, µs | all {} lookups, µs | longest, µs | memory, KiB |",
        40
    );
    println!("|---|---|---|---|---|---|");
    for shape in &SHAPES {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        fill(dir.path(), shape);
        let mut seen: Vec<Vec<[f64; 4]>> = vec![Vec::new(); ways.len()];
        for _ in 0..ROUNDS {
            for (way, seen) in ways.iter().zip(&mut seen) {
                seen.push(look(dir.path(), shape, way));
            }
        }
        for (name, rounds) in names.iter().zip(&seen) {
            let median = |i: usize| {
                let mut all: Vec<f64> = rounds.iter().map(|r| r[i]).collect();
                all.sort_by(f64::total_cmp);
                format!("{:.0} [{:.0}, {:.0}]", all[ROUNDS / 2], all[0], all[ROUNDS - 1])
            };
            let (first, all, longest) = (median(0), median(1), median(2));
            println!("| {} | {name} | {first} | {all} | {longest} | {} |", shape.title, median(3));
        }
    }
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

/// First lookup, all lookups, the longest of them; memory that they took.
fn look(root: &Path, shape: &Shape, way: &str) -> [f64; 4] {
    let mut served = mount(root, shape, way);
    let before = served.as_ref().map_or(0, resident);
    fs::symlink_metadata(root.join("m/d")).unwrap();
    let mut times = Vec::new();
    for i in 0..shape.lookups {
        // From the bottom up: each layer above the one that has it is asked.
        let layer = shape.layers - 1 - i * 7 % shape.layers;
        let name = i * (shape.names / shape.lookups).max(1) % shape.names;
        let path: PathBuf = root.join(format!("m/d/file-{layer:03}-{name:07}"));
        let start = Instant::now();
        assert!(fs::symlink_metadata(path).unwrap().ino() != 0);
        times.push(start.elapsed());
    }
    let after = served.as_ref().map_or(0, resident);
    assert!(Command::new("umount").arg(root.join("m")).status().unwrap().success());
    if let Some(child) = &mut served {
        child.wait().unwrap();
    }
    let us = |d: Duration| d.as_secs_f64() * 1e6;
    let longest = times.iter().copied().max().unwrap_or_default();
    let kib = (after - before) as f64;
    [us(times[0]), us(times.iter().sum()), us(longest), kib]
}

fn mount(root: &Path, shape: &Shape, way: &str) -> Option<Child> {
    let point = root.join("m");
    if way == "overlay" {
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
