//! A traced workload is replayed as a scenario, and advice on a recording is
//! held against a replay; both on ext4. A copy-up on XFS is a clone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use rustix::fs::{CWD, XattrFlags};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::{SERVICE, chmod, chown_tree, lchown, out, overlay_in, traced, within, write_first};
use crate::sys::loop_device::LoopDevice;

/// Where the disks of this part are mounted.
const DISK: &str = "/scratch/disk";
/// How many files of what size are changed by `chown -R`.
const N_OWNED: usize = 40;
const OWNED_BYTES: usize = 256 << 10;

pub(super) fn run() -> anyhow::Result<()> {
    let _ext4 = disk("ext4", 300)?;
    replay()?;
    advise()?;
    unmount(Path::new(DISK).join("ext4"), UnmountFlags::empty())?;
    let _xfs = disk("xfs", 512)?;
    clone()?;
    unmount(Path::new(DISK).join("xfs"), UnmountFlags::empty())?;
    Ok(())
}

/// One part of the workload, in the process that this is called in.
pub(super) fn part(name: &str) -> anyhow::Result<()> {
    match name {
        "trace-again" => workload(&union("ext4", "again")),
        "trace-owned" => chown_tree(&union("ext4", "owned").join("tree")),
        "trace-clone" => write_first(&union("xfs", "clone").join("big")),
        other => anyhow::bail!("cannot run {other}: it is no part of the workload"),
    }
}

fn union(disk: &str, name: &str) -> PathBuf {
    Path::new(DISK).join(disk).join(format!("merged-{name}"))
}

/// A new file system of this kind on a file, mounted; it goes with its last
/// user.
fn disk(kind: &str, mebibytes: u64) -> anyhow::Result<LoopDevice> {
    let image = Path::new("/scratch").join(format!("{kind}.img"));
    fs::File::create(&image)?.set_len(mebibytes << 20)?;
    let quiet = if kind == "ext4" { ["-q", "-F"] } else { ["-q", "-f"] };
    succeeds(Command::new(format!("mkfs.{kind}")).args(quiet).arg(&image))?;
    let device = LoopDevice::attach(&image)?;
    let at = Path::new(DISK).join(kind);
    fs::create_dir_all(&at)?;
    mount(device.path(), &at, kind, MountFlags::empty(), None)
        .with_context(|| format!("cannot mount {kind}"))?;
    Ok(device)
}

/// Layers of this name on a disk, topmost first, and their union.
fn stack(disk: &str, name: &str, files: &[(usize, &str, usize)]) -> anyhow::Result<()> {
    let base = Path::new(DISK).join(disk);
    let layer = |index: usize| base.join(format!("{name}{index}"));
    let n_layers = 1 + files.iter().map(|(index, ..)| *index).max().unwrap_or(0);
    for index in 0..n_layers {
        fs::create_dir_all(layer(index))?;
    }
    for (index, path, size) in files {
        let path = layer(*index).join(path);
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
        fs::write(&path, vec![b'x'; *size])?;
    }
    let layers: Vec<String> = (0..n_layers).map(|i| layer(i).display().to_string()).collect();
    overlay_in(&base, name, &layers.join(":"), "xino=off")
}

/// The recording of a workload, the scenario made of it, its record, and what a
/// tracer saw of its run.
fn replay() -> anyhow::Result<()> {
    let mut files = vec![
        (0, "db/main.db", 65_536),
        (2, "db/main.db", 10),
        (1, "big/b", 2 << 20),
        (1, "trunc/t", 9000),
        (1, "cut/c", 3000),
        (2, "links/orig", 50),
        (1, "ren/old", 60),
        (2, "xa/x", 70),
        (0, "npm/package.json", 20),
        (1, "npm/lock", 20),
        (2, "made/there", 1),
        (2, "del/gone", 1),
        (1, "times/t", 5),
    ];
    let trees: Vec<String> = (0..10).map(|i| format!("tree/d{}/f{i}", i % 2)).collect();
    files.extend(trees.iter().map(|path| (2, path.as_str(), 100)));
    stack("ext4", "again", &files)?;
    let union = union("ext4", "again");
    let kinds = "copyup,whiteout,fsync";
    traced("again", &[kinds, "--mount", &union.display().to_string()], || {
        within(SERVICE, "trace-again")
    })?;
    unmount(&union, UnmountFlags::empty())?;
    let (recording, scenario) = (out("again.jsonl"), out("again.toml"));
    succeeds(own()?.args(["scenario", "from-trace"]).arg(recording).arg("-o").arg(&scenario))?;
    traced("replayed", &[kinds], || {
        let mut run = own()?;
        run.arg("run").arg(&scenario).args(["--rounds", "1", "--quiet"]);
        run.args(["--format", "json"]).stdout(Stdio::null());
        succeeds(run.args(["--scratch", "/scratch", "--results"]).arg(out("again")))
    })
}

/// What a build does to its image, each call of its own kind.
fn workload(m: &Path) -> anyhow::Result<()> {
    chown_tree(&m.join("tree"))?;
    write_first(&m.join("db/main.db"))?;
    write_first(&m.join("big/b"))?;
    fs::write(m.join("trunc/t"), "new")?;
    let cut = std::ffi::CString::new(m.join("cut/c").display().to_string())?;
    crate::sys::truncate::truncate(&cut, 1500)?;
    fs::hard_link(m.join("links/orig"), m.join("links/new"))?;
    fs::rename(m.join("ren/old"), m.join("ren/new"))?;
    rustix::fs::setxattr(m.join("xa/x"), "user.key", b"value", XattrFlags::empty())?;
    fs::create_dir(m.join("npm/node_modules"))?;
    fs::write(m.join("made/new"), "x")?;
    fs::remove_file(m.join("del/gone"))?;
    let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
    let times = rustix::fs::Timestamps { last_access: now, last_modification: now };
    rustix::fs::utimensat(CWD, m.join("times/t"), &times, rustix::fs::AtFlags::empty())?;
    chmod(&m.join("npm/lock"))?;
    lchown(&m.join("npm/package.json"))
}

/// Advice on the recording of a `chown -R`, and what the changes really save.
fn advise() -> anyhow::Result<()> {
    let trees: Vec<String> = (0..N_OWNED).map(|i| format!("tree/f{i}")).collect();
    let files: Vec<_> = trees.iter().map(|path| (1, path.as_str(), OWNED_BYTES)).collect();
    stack("ext4", "owned", &files)?;
    traced("owned", &["copyup"], || within(SERVICE, "trace-owned"))?;
    unmount(union("ext4", "owned"), UnmountFlags::empty())?;
    let advice = fs::File::create(out("advice.json"))?;
    let mut command = own()?;
    command.args(["advise", "--verify", "--format", "json"]);
    command.args(["--run-with", "--rounds 1 --no-probes --scratch /scratch"]);
    succeeds(command.arg(out("owned.jsonl")).stdout(advice))
}

fn clone() -> anyhow::Result<()> {
    stack("xfs", "clone", &[(0, "big", 1 << 20)])?;
    traced("clone", &["copyup"], || within(SERVICE, "trace-clone"))?;
    unmount(union("xfs", "clone"), UnmountFlags::empty())?;
    Ok(())
}

fn own() -> anyhow::Result<Command> {
    Ok(Command::new(std::env::current_exe()?))
}

fn succeeds(command: &mut Command) -> anyhow::Result<()> {
    let status = command.stdin(Stdio::null()).status();
    let status = status.with_context(|| format!("cannot start {command:?}"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}
