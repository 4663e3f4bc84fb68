//! Calls that copy up, or look as if they did, each on a file of its own; names
//! that no terminal should see; mounts inside one another, beside one another
//! and in a container's namespace; and every filter with something to leave
//! out.

use std::ffi::{CString, OsStr};
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{OpenOptionsExt as _, chroot, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, RenameFlags, Timespec, Timestamps, UTIME_NOW, XattrFlags,
};
use rustix::mount::{UnmountFlags, mount_bind, unmount};

use super::{
    BASE, CONTAINER, SERVICE, chmod, lchown, merged, out, overlay, traced, within, write_first,
};
use crate::sys::{mapping, own_mounts};

/// The guest's file system that holds everything here.
const SCRATCH: &str = "/scratch";

pub(super) fn run() -> anyhow::Result<()> {
    prepare()?;
    traced("odd", &["copyup,whiteout"], || within(SERVICE, "trace-odd"))?;
    traced("inside", &["copyup"], || {
        stay_until_told("trace-inside-shared", "/shared")?;
        stay_until_told("trace-inside-own", "/own")
    })?;
    filters()?;
    unmount(bound(), UnmountFlags::empty())?;
    for name in ["o", "x", "y", "t", "u", "q"] {
        unmount(merged(name), UnmountFlags::empty())?;
    }
    Ok(())
}

/// One part of the workload, in the process that this is called in.
pub(super) fn part(name: &str) -> anyhow::Result<()> {
    match name {
        "trace-odd" => odd(),
        "trace-inside-shared" => inside("q", "shared"),
        "trace-inside-own" => {
            own_mounts::leave_shared_mounts()?;
            overlay("p", &layer("p0"), "xino=off")?;
            inside("p", "own")
        }
        "trace-waiting-in" => when_told("ub-wanted", "wait-in"),
        "trace-waiting-out" => when_told("ub-other", "wait-out"),
        other => anyhow::bail!("cannot run {other}: it is no part of the workload"),
    }
}

fn layer(name: &str) -> String {
    format!("{BASE}/{name}")
}

fn bound() -> PathBuf {
    Path::new(BASE).join("bind-x")
}

fn prepare() -> anyhow::Result<()> {
    let file = |name: &str, path: &[u8], size: usize| -> anyhow::Result<()> {
        let path = Path::new(&layer(name)).join(OsStr::from_bytes(path));
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
        fs::write(&path, vec![b'x'; size]).with_context(|| format!("cannot write {path:?}"))
    };
    for (path, size) in X1 {
        file("x1", path, *size)?;
    }
    file("x0", b"to", 12)?;
    fs::hard_link(layer("x1") + "/h1", layer("x1") + "/h2")?;
    symlink("nowhere", layer("x1") + "/link")?;
    let key = c"trusted.key";
    rustix::fs::setxattr(layer("x1") + "/rmx", key, b"value", XattrFlags::empty())?;
    file("y0", b"meta", 5000)?;
    file("y0", b"d/f", 44)?;
    file("t0", b"same", 100)?;
    file("q0", b"shared", 20)?;
    file("p0", b"own", 21)?;
    file("o0", b"above", 90)?;
    overlay("x", &format!("{}:{}", layer("x0"), layer("x1")), "xino=off")?;
    // A union over a union: the file system of its lower layer is `x`.
    overlay("o", &format!("{}:{}", merged("x").display(), layer("o0")), "xino=off")?;
    overlay("y", &layer("y0"), "metacopy=on,redirect_dir=on,xino=off")?;
    overlay("t", &layer("t0"), "xino=off")?;
    overlay("u", &layer("t0"), "xino=off")?;
    overlay("q", &layer("q0"), "xino=off")?;
    fs::create_dir_all(bound())?;
    mount_bind(merged("x").join("bound"), bound())?;
    super::control_groups()
}

/// Files of the lower one of two layers, with their sizes.
const X1: &[(&[u8], usize)] = &[
    (b"append", 5000),
    (b"mapped", 8192),
    (b"cut", 9000),
    (b"emptied", 9001),
    (b"times", 10),
    (b"acl", 11),
    (b"from", 4096),
    (b"bound/in", 13),
    (b"gone", 14),
    (b"new\nline", 15),
    (b"\xff\xfe", 16),
    (b"esc\x1b[31m", 17),
    (b"swap-a", 18),
    (b"swap-b", 19),
    (b"fd", 20),
    (b"rmx", 21),
    (b"h1", 33),
    (b"mk/keep", 1),
    (b"sy/keep", 1),
    (b"dir/inside", 45),
    (b"read", 46),
    (b"missing-right", 47),
    (b"below", 48),
    (b"wait-in", 2 << 20),
    (b"wait-out", 1),
];

/// The order is that in which the test expects the events.
fn odd() -> anyhow::Result<()> {
    let x = merged("x");
    let at = |name: &str| x.join(name);
    OpenOptions::new().append(true).open(at("append"))?.write_all(b"more")?;
    let mapped = OpenOptions::new().read(true).write(true).open(at("mapped"))?;
    mapping::write_first_byte(&mapped, b'm')?;
    crate::sys::truncate::truncate(&CString::new(at("cut").as_os_str().as_bytes())?, 100)?;
    // Without the right to write, a truncating open is none.
    OpenOptions::new().read(true).custom_flags(libc::O_TRUNC).open(at("emptied"))?;
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let times = Timestamps { last_access: now, last_modification: now };
    rustix::fs::utimensat(CWD, at("times"), &times, AtFlags::empty())?;
    let acl = access_list();
    rustix::fs::setxattr(at("acl"), c"system.posix_acl_access", &acl, XattrFlags::empty())?;
    let (from, to) = (File::open(at("from"))?, File::options().write(true).open(at("to"))?);
    let copied = rustix::fs::copy_file_range(&from, None, &to, None, 4096)?;
    ensure!(copied == 4096, "{copied} bytes of 4096 were copied");
    chmod(&bound().join("in"))?;
    chmod(&at("gone"))?;
    fs::remove_file(at("gone"))?;
    for name in [&b"new\nline"[..], b"\xff\xfe", b"esc\x1b[31m"] {
        chmod(&x.join(OsStr::from_bytes(name)))?;
    }
    let (a, b) = (at("swap-a"), at("swap-b"));
    rustix::fs::renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE)?;
    rustix::fs::fchmod(File::open(at("fd"))?, Mode::from_raw_mode(0o600))?;
    rustix::fs::removexattr(at("rmx"), c"trusted.key")?;
    fs::hard_link(at("h1"), at("h3"))?;
    chmod(&at("h2"))?;
    rustix::fs::mknodat(CWD, at("mk/pipe"), FileType::Fifo, Mode::from_raw_mode(0o600), 0)?;
    symlink("there", at("sy/link"))?;
    lchown(&at("link"))?;
    // A directory of a lower layer does not move without redirect_dir.
    let moved = rustix::fs::rename(at("dir"), at("dir2"));
    ensure!(moved == Err(rustix::io::Errno::XDEV), "a lower directory moved: {moved:?}");
    File::open(at("read"))?;
    // What the lower union shows is read through it and changed above it.
    chmod(&merged("o").join("below"))?;
    chmod(&merged("o").join("above"))?;
    let y = merged("y");
    chmod(&y.join("meta"))?;
    write_first(&y.join("meta"))?;
    fs::rename(y.join("d"), y.join("e"))?;
    chmod(&y.join("e/f"))?;
    chmod(&merged("t").join("same"))?;
    chmod(&merged("u").join("same"))
}

/// What `setfacl -m u:7:rwx` writes: version 2, then tag, rights and id of each.
fn access_list() -> Vec<u8> {
    const NO_ID: u32 = u32::MAX;
    let entries: [(u16, u16, u32); 5] =
        [(0x01, 6, NO_ID), (0x02, 7, 7), (0x04, 4, NO_ID), (0x10, 7, NO_ID), (0x20, 4, NO_ID)];
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, rights, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(rights.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// Makes the union the root of a mount namespace of this process's own, as a
/// container's runtime does, and changes a file there.
fn inside(union: &str, file: &str) -> anyhow::Result<()> {
    if union != "p" {
        own_mounts::leave_shared_mounts()?;
    }
    // The guest's first root cannot be left by pivot_root.
    chroot(SCRATCH)?;
    let root = merged(union);
    std::env::set_current_dir(Path::new("/").join(root.strip_prefix(SCRATCH)?))?;
    rustix::process::pivot_root(".", ".").context("cannot leave the old root")?;
    unmount(".", UnmountFlags::DETACH)?;
    std::env::set_current_dir("/")?;
    chmod(&Path::new("/").join(file))?;
    // The tracer looks into this process's namespace, so it has to be there.
    std::io::stdin().lines().for_each(drop);
    Ok(())
}

/// Runs a part that stays until the tracer has told of `path`.
fn stay_until_told(part: &str, path: &str) -> anyhow::Result<()> {
    let group = format!("/docker/{CONTAINER}");
    let mut child = started(&group, part)?;
    let began = Instant::now();
    let told = loop {
        let text = fs::read_to_string(out("inside.txt"))?;
        if text.contains(path) || child.try_wait()?.is_some() {
            break text.contains(path);
        }
        ensure!(began.elapsed() < Duration::from_secs(600), "{path} was not told of");
        std::thread::sleep(Duration::from_millis(5));
    };
    drop(child.stdin.take());
    ensure!(child.wait()?.success() && told, "the part {part} failed");
    Ok(())
}

/// Tracers of one workload, in which each filter has something to leave out.
fn filters() -> anyhow::Result<()> {
    let (mut wanted, mut other) = (
        started(SERVICE, "trace-waiting-in")?,
        started(&format!("/docker/{CONTAINER}"), "trace-waiting-out")?,
    );
    let pid = wanted.id().to_string();
    let with = |name, filter: &[&str], work: &mut dyn FnMut() -> anyhow::Result<()>| {
        traced(&format!("filter-{name}"), &[&["copyup"], filter].concat(), work)
    };
    with("pid", &["--pid", &pid], &mut || {
        with("comm", &["--comm", "ub-wanted"], &mut || {
            with("cgroup", &["--cgroup", "/system.slice"], &mut || {
                // A large file takes longer than this, a small one does not.
                with("slow", &["--min-latency", "200us"], &mut || {
                    for child in [&mut wanted, &mut other] {
                        drop(child.stdin.take());
                        ensure!(child.wait()?.success(), "a waiting part failed");
                    }
                    Ok(())
                })
            })
        })
    })
}

/// A part that has begun and waits for the end of its input.
fn started(group: &str, part: &str) -> anyhow::Result<Child> {
    let folder = Path::new(super::CGROUPS).join(group.trim_start_matches('/'));
    fs::create_dir_all(&folder)?;
    let mut child = Command::new(std::env::current_exe()?)
        .args(["lab-selftest", part, "--cgroup"])
        .arg(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    if part.starts_with("trace-waiting") {
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("is piped")?).read_line(&mut line)?;
        ensure!(line == "ready\n", "the part {part} did not begin");
    }
    Ok(child)
}

/// Takes a name, says that it is there, and changes the file once its input
/// ends.
fn when_told(name: &str, file: &str) -> anyhow::Result<()> {
    fs::write("/proc/self/comm", name)?;
    writeln!(std::io::stdout(), "ready")?;
    std::io::stdin().lines().for_each(drop);
    chmod(&merged("x").join(file))
}
