//! `unionbench lab-selftest trace`: a workload whose copy-ups are known, in two
//! control groups of a guest, under `unionbench trace`.
//!
//! It leaves in the output folder what the tracer printed and recorded, and
//! what the upper layer holds afterwards. What must agree is checked outside.

mod again;
mod cases;

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, ensure};
use rustix::fs::{AtFlags, CWD, XattrFlags};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::lab::OUT_DIR;
use crate::trace::{Kind, Request, Tracer};

/// The container that one half of the workload pretends to be.
pub const CONTAINER: &str = "8f1c0e2b7d9a4c6e5f3b2a1908d7c6e5f4a3b2c1d0e9f8a7b6c5d4e3f2a1b0c9";
/// The group of the other half.
pub const SERVICE: &str = "/system.slice/builder.service";

const BASE: &str = "/scratch/trace";
const CGROUPS: &str = "/sys/fs/cgroup";
const N_BURST: usize = 20_000;
/// So small that events of a burst must be lost.
const TINY_BUFFER: &str = "4096B";

/// The whole self-test.
pub fn run() -> anyhow::Result<()> {
    prepare()?;
    traced("events", &["copyup,whiteout,readdir"], || {
        within(&format!("/docker/{CONTAINER}"), "trace-container")?;
        within(SERVICE, "trace-service")
    })?;
    fs::write(out("upper"), upper_list(&upper("m"))?)?;
    traced("nested", &["copyup", "--mount", &merged("n").display().to_string()], || {
        within(SERVICE, "trace-nested")
    })?;
    let m = merged("m").display().to_string();
    let only = ["copyup", "--mount", &m, "--container", &CONTAINER[..12]];
    traced("filtered", &only, || {
        within(&format!("/docker/{CONTAINER}"), "trace-filtered")?;
        within(SERVICE, "trace-filtered-out")
    })?;
    traced("burst", &["copyup"], || within(SERVICE, "trace-burst"))?;
    remount_burst()?;
    traced("tiny", &["copyup", "--buffer", TINY_BUFFER], || within(SERVICE, "trace-burst"))?;
    for name in ["n", "m", "b"] {
        unmount(merged(name), UnmountFlags::empty())?;
    }
    Ok(())
}

/// Odd cases, filters, and what is made of recordings: a replay and advice.
pub fn run_cases() -> anyhow::Result<()> {
    cases::run()?;
    again::run()
}

/// The same kinds on aufs, for a kernel that has it.
pub fn run_aufs() -> anyhow::Result<()> {
    for (path, size) in [("top/dir/near", 30), ("bottom/dir/far", 5000), ("bottom/gone", 1)] {
        let path = Path::new(BASE).join(path);
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
        fs::write(path, vec![b'x'; size])?;
    }
    let (upper, merged) = (upper("a"), merged("a"));
    fs::create_dir_all(&upper)?;
    fs::create_dir_all(&merged)?;
    let data = CString::new(format!("br={}=rw:{BASE}/top=ro:{BASE}/bottom=ro", upper.display()))?;
    mount("aufs", &merged, "aufs", MountFlags::empty(), data.as_c_str())
        .context("cannot mount aufs")?;
    control_groups()?;
    traced("aufs", &["copyup,whiteout,readdir,lookup"], || within(SERVICE, "trace-aufs-part"))?;
    unmount(merged, UnmountFlags::empty())?;
    Ok(())
}

fn aufs_part(m: &Path) -> anyhow::Result<()> {
    write_first(&m.join("dir/far"))?;
    chmod(&m.join("dir/near"))?;
    fs::remove_file(m.join("gone"))?;
    fs::read_dir(m.join("dir"))?.for_each(drop);
    ensure!(!m.join("absent").exists(), "a name that is nowhere was found");
    Ok(())
}

/// How many calls of each kind the cost of tracing is told from.
const N_COST: usize = 500;

/// What tracing costs a call, in instructions where the guest counts them:
/// untraced, traced, and traced but left out by a filter. Nobody reads the
/// events meanwhile, so that it is the kernel side's cost alone.
pub fn cost() -> anyhow::Result<()> {
    let lower = Path::new(BASE).join("l-cost");
    fs::create_dir_all(&lower)?;
    for i in 0..3 * N_COST {
        fs::write(lower.join(format!("f{i}")), "x")?;
    }
    overlay("c", &lower.display().to_string(), "xino=off")?;
    let kinds = vec![Kind::Copyup, Kind::Lookup];
    let request = |pid| Request { kinds: kinds.clone(), pid, ..Request::default() };
    let mut text = measured("untraced", 0)?;
    let tracer = Tracer::open(&request(None))?;
    text.push_str(&measured("traced", 1)?);
    drop(tracer);
    // The guest's first process does none of it.
    let tracer = Tracer::open(&request(Some(1)))?;
    text.push_str(&measured("left out", 2)?);
    drop(tracer);
    fs::write(out("trace-cost"), text)?;
    unmount(merged("c"), UnmountFlags::empty())?;
    Ok(())
}

/// A process of its own does it, since a tracer leaves itself out.
fn measured(name: &str, turn: usize) -> anyhow::Result<String> {
    let output = Command::new(std::env::current_exe()?)
        .args(["lab-selftest", "trace-cost-part", "--depth", &turn.to_string()])
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(output.status.success(), "the measured part failed");
    Ok(format!("{name}: {}", String::from_utf8_lossy(&output.stdout)))
}

/// The medians of `turn`'s lookups and copy-ups.
pub fn cost_part(turn: usize) -> anyhow::Result<String> {
    let names: Vec<PathBuf> =
        (turn * N_COST..(turn + 1) * N_COST).map(|i| merged("c").join(format!("f{i}"))).collect();
    let median = |call: &dyn Fn(&Path) -> anyhow::Result<()>| -> anyhow::Result<u128> {
        let mut times = Vec::with_capacity(N_COST);
        for name in &names {
            let start = Instant::now();
            call(name)?;
            times.push(start.elapsed().as_nanos());
        }
        times.sort_unstable();
        Ok(times[N_COST / 2])
    };
    let lookup = median(&|name| Ok(rustix::fs::lstat(name).map(drop)?))?;
    let copy_up = median(&|name| Ok(rustix::fs::chmod(name, 0o640.into())?))?;
    Ok(format!("lookup {lookup} copy_up {copy_up}"))
}

/// One part of the workload, in the process that this is called in.
pub fn part(name: &str) -> anyhow::Result<()> {
    let m = merged("m");
    match name {
        "trace-container" => container_part(&m),
        "trace-service" => service_part(&m),
        "trace-aufs-part" => aufs_part(&merged("a")),
        "trace-nested" => write_first(&merged("n").join("nest/file")),
        "trace-filtered" => chmod(&m.join("filter/in")),
        "trace-filtered-out" => chmod(&m.join("filter/out")),
        "trace-burst" => (0..N_BURST).try_for_each(|i| chmod(&merged("b").join(format!("f{i}")))),
        "trace-again" | "trace-owned" | "trace-clone" => again::part(name),
        other => cases::part(other),
    }
}

fn out(name: &str) -> PathBuf {
    Path::new(OUT_DIR).join(name)
}

fn merged(name: &str) -> PathBuf {
    Path::new(BASE).join(format!("merged-{name}"))
}

fn upper(name: &str) -> PathBuf {
    Path::new(BASE).join(format!("upper-{name}"))
}

/// Layers 0 to 2, topmost first, each with what the workload changes in it.
fn prepare() -> anyhow::Result<()> {
    let layer = |index: usize| Path::new(BASE).join(format!("l{index}"));
    let file = |index: usize, path: &str, size: usize| -> anyhow::Result<()> {
        let path = layer(index).join(path);
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
        fs::write(&path, vec![b'x'; size]).with_context(|| format!("cannot write {path:?}"))
    };
    for folder in 0..2 {
        for name in 0..5 {
            file(2, &format!("tree/d{folder}/f{name}"), 100)?;
        }
    }
    file(1, "deep/a/b/c", 4096)?;
    file(0, "db/main.db", 65_536)?;
    file(2, "db/main.db", 10)?;
    file(1, "trunc/t", 9000)?;
    file(2, "links/orig", 50)?;
    file(1, "ren/old", 60)?;
    file(2, "xa/x", 70)?;
    file(0, "npm/package.json", 20)?;
    file(1, "npm/lock", 20)?;
    file(2, "made/there", 1)?;
    file(2, "del/gone", 1)?;
    file(1, "hard/a", 33)?;
    fs::hard_link(layer(1).join("hard/a"), layer(1).join("hard/b"))?;
    file(2, "rd/inner/f", 44)?;
    file(1, "nest/file", 80)?;
    file(2, "filter/in", 1)?;
    file(2, "filter/out", 1)?;
    fs::create_dir_all(layer(1).join("sym"))?;
    symlink("nowhere", layer(1).join("sym/s"))?;
    // Longer than any path that can be given to a system call.
    std::env::set_current_dir(layer(2))?;
    for _ in 0..N_LONG {
        fs::create_dir(long_name())?;
        std::env::set_current_dir(long_name())?;
    }
    fs::write("end", "x")?;
    std::env::set_current_dir("/")?;
    let burst = Path::new(BASE).join("l-burst");
    fs::create_dir_all(&burst)?;
    for i in 0..N_BURST {
        fs::write(burst.join(format!("f{i}")), "x")?;
    }
    let layers: Vec<String> = (0..3).map(|index| layer(index).display().to_string()).collect();
    overlay("m", &layers.join(":"), "redirect_dir=on,xino=off")?;
    overlay("n", &merged("m").display().to_string(), "xino=off")?;
    overlay("b", &burst.display().to_string(), "xino=off")?;
    control_groups()
}

/// Mounts their hierarchy, unless it is there.
fn control_groups() -> anyhow::Result<()> {
    let _ = mount("cgroup2", CGROUPS, "cgroup2", MountFlags::empty(), None);
    ensure!(
        Path::new(CGROUPS).join("cgroup.procs").exists(),
        "cannot trace control groups here: the guest has none"
    );
    Ok(())
}

fn overlay(name: &str, lower: &str, further: &str) -> anyhow::Result<()> {
    overlay_in(Path::new(BASE), name, lower, further)
}

/// Mounts a union whose other folders lie in `base`.
fn overlay_in(base: &Path, name: &str, lower: &str, further: &str) -> anyhow::Result<()> {
    let folder = |what: &str| base.join(format!("{what}-{name}"));
    let (upper, work, merged) = (folder("upper"), folder("work"), folder("merged"));
    for folder in [&upper, &work, &merged] {
        fs::create_dir_all(folder)?;
    }
    let (upper, work) = (upper.display(), work.display());
    let data = CString::new(format!("lowerdir={lower},upperdir={upper},workdir={work},{further}"))?;
    mount("overlay", &merged, "overlay", MountFlags::empty(), data.as_c_str())
        .with_context(|| format!("cannot mount overlayfs at {}", merged.display()))
}

fn remount_burst() -> anyhow::Result<()> {
    unmount(merged("b"), UnmountFlags::empty())?;
    fs::remove_dir_all(upper("b"))?;
    fs::remove_dir_all(Path::new(BASE).join("work-b"))?;
    overlay("b", &Path::new(BASE).join("l-burst").display().to_string(), "xino=off")
}

/// Runs `work` under `unionbench trace`, which is ended by SIGINT.
fn traced(
    name: &str,
    arguments: &[&str],
    work: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let record = out(&format!("{name}.jsonl"));
    let mut tracer = Command::new(std::env::current_exe()?)
        .arg("trace")
        .args(arguments)
        .arg("--record")
        .arg(&record)
        .stdout(File::create(out(&format!("{name}.txt")))?)
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start the tracer")?;
    let said = tracer.stderr.take().context("the tracer has no stderr")?;
    let mut lines = BufReader::new(said).lines();
    let mut told = String::new();
    for line in lines.by_ref() {
        let line = line?;
        told.push_str(&line);
        told.push('\n');
        if line.contains("unionbench: tracing") {
            break;
        }
    }
    let worked = work();
    interrupt(&tracer)?;
    for line in lines {
        told.push_str(&line?);
        told.push('\n');
    }
    let status = tracer.wait()?;
    fs::write(out(&format!("{name}.err")), format!("{told}{status}\n"))?;
    worked?;
    ensure!(status.success(), "the tracer of {name} failed: {told}");
    Ok(())
}

fn interrupt(tracer: &Child) -> anyhow::Result<()> {
    let pid = rustix::process::Pid::from_child(tracer);
    rustix::process::kill_process(pid, rustix::process::Signal::INT)?;
    Ok(())
}

/// Runs a part of the workload in a process of this control group.
fn within(group: &str, part: &str) -> anyhow::Result<()> {
    let folder = Path::new(CGROUPS).join(group.trim_start_matches('/'));
    fs::create_dir_all(&folder)?;
    // It enters by itself before its first call on the union.
    let status = Command::new(std::env::current_exe()?)
        .args(["lab-selftest", part, "--cgroup"])
        .arg(&folder)
        .status()?;
    ensure!(status.success(), "the workload {part} failed");
    Ok(())
}

/// Enters a control group.
pub fn enter(group: &Path) -> anyhow::Result<()> {
    fs::write(group.join("cgroup.procs"), std::process::id().to_string())
        .with_context(|| format!("cannot enter {}", group.display()))
}

/// `chown -R`, a database, and what else a container does to its image.
fn container_part(m: &Path) -> anyhow::Result<()> {
    chown_tree(&m.join("tree"))?;
    write_first(&m.join("db/main.db"))?;
    chmod(&m.join("deep/a/b/c"))?;
    File::create(m.join("trunc/t"))?.write_all(b"new")?;
    fs::rename(m.join("rd"), m.join("rd2"))?;
    chmod(&m.join("rd2/inner/f"))?;
    chmod(&m.join("hard/a"))
}

/// What a build does: a tree like npm's, links, renames, attributes.
fn service_part(m: &Path) -> anyhow::Result<()> {
    for package in 0..3 {
        let folder = m.join(format!("npm/node_modules/p{package}"));
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("index.js"), "module.exports = 1\n")?;
    }
    fs::write(m.join("made/new"), "x")?;
    fs::hard_link(m.join("links/orig"), m.join("links/new"))?;
    fs::rename(m.join("ren/old"), m.join("ren/new"))?;
    rustix::fs::setxattr(m.join("xa/x"), "trusted.key", b"value", XattrFlags::empty())?;
    lchown(&m.join("sym/s"))?;
    fs::remove_file(m.join("del/gone"))?;
    fs::read_dir(m.join("npm"))?.for_each(drop);
    std::env::set_current_dir(m)?;
    for _ in 0..N_LONG {
        std::env::set_current_dir(long_name())?;
    }
    chmod(Path::new("end"))
}

/// Folders in one another, with names nearly as long as names can be.
const N_LONG: usize = 17;

fn long_name() -> String {
    "n".repeat(250)
}

fn chown_tree(path: &Path) -> anyhow::Result<()> {
    lchown(path)?;
    if fs::symlink_metadata(path)?.is_dir() {
        let mut names: Vec<_> =
            fs::read_dir(path)?.filter_map(Result::ok).map(|entry| entry.path()).collect();
        names.sort();
        names.iter().try_for_each(|name| chown_tree(name))?;
    }
    Ok(())
}

fn lchown(path: &Path) -> anyhow::Result<()> {
    let (user, group) = (rustix::fs::Uid::from_raw(7), rustix::fs::Gid::from_raw(7));
    rustix::fs::chownat(CWD, path, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)
        .with_context(|| format!("cannot chown {}", path.display()))
}

fn chmod(path: &Path) -> anyhow::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o640))
        .with_context(|| format!("cannot chmod {}", path.display()))
}

/// The first write of a database: read and write, no truncation, fsync.
fn write_first(path: &Path) -> anyhow::Result<()> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    file.write_all(b"first")?;
    file.sync_all()?;
    Ok(())
}

/// Every name in the upper layer, with what lies there: a line each.
fn upper_list(root: &Path) -> anyhow::Result<String> {
    fn walk(root: &Path, folder: &Path, list: &mut Vec<String>) -> anyhow::Result<()> {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let found = fs::symlink_metadata(&path)?;
            let is_whiteout = found.mode() & libc::S_IFMT == libc::S_IFCHR && found.rdev() == 0;
            let kind = match (is_whiteout, found.is_dir(), found.is_symlink()) {
                (true, ..) => "whiteout",
                (_, true, _) => "directory",
                (.., true) => "symlink",
                _ => "file",
            };
            list.push(format!("{kind} /{}", path.strip_prefix(root)?.display()));
            // Paths below it are too long to be listed.
            if found.is_dir() && !path.ends_with(long_name()) {
                walk(root, &path, list)?;
            }
        }
        Ok(())
    }
    let mut list = Vec::new();
    walk(root, root, &mut list)?;
    list.sort();
    Ok(list.join("\n"))
}
