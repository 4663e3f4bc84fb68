//! The mount itself: its options, what stands at its place, and its end.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use unionbench_fuse::MountOptions;

use crate::daemon::Daemon;
use crate::world::{World, names};

pub const ALL: &[(&str, fn())] = &[
    ("what_is_mounted_at_its_place_later_stays", foreign),
    ("options_of_every_mount_hold", options),
    ("a_mount_right_after_an_unmount_waits_for_the_daemon", again),
    ("a_signal_flushes_what_was_written_by_mapping", flushed),
    ("there_is_room_for_descriptors_from_the_beginning", room),
    ("an_ordinary_caller_is_answered_as_by_overlayfs", ordinary),
    ("times_before_1970_keep_their_fraction", early),
    ("paths_below_the_mount_may_be_longer_than_a_path", long),
    ("no_redirect_is_followed_if_none_may_be", nofollow),
    ("a_removed_directory_can_be_flushed", removed),
];

/// The type and the options of the mount at `path`, as the kernel tells them.
fn told(path: &Path) -> (String, String) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = mounts.lines().rfind(|l| l.split(' ').nth(4) == path.to_str()).unwrap();
    let fields: Vec<_> = line.split(' ').collect();
    let dash = fields.iter().position(|f| *f == "-").unwrap();
    (fields[dash + 1].to_owned(), fields[5].to_owned())
}

fn tmpfs_at(path: &Path) {
    rustix::mount::mount("other", path, "tmpfs", MountFlags::empty(), None).unwrap();
    fs::write(path.join("others"), "").unwrap();
}

fn unmount(path: &Path) {
    rustix::mount::unmount(path, UnmountFlags::empty()).unwrap();
}

/// The other mount is below, above, or comes as the union goes.
fn foreign() {
    let w = World::new(1);
    let m = w.path("m");
    tmpfs_at(&m);
    let mut daemon = Daemon::start(&w, "", None);
    unmount(&m);
    assert!(daemon.child.wait().unwrap().success());
    assert_eq!(names(&m), ["others"], "the one below stays");
    unmount(&m);
    for _ in 0..20 {
        let mut daemon = Daemon::start(&w, "", None);
        unmount(&m);
        tmpfs_at(&m);
        assert!(daemon.child.wait().unwrap().success());
        assert_eq!(names(&m), ["others"], "the one that came at once stays");
        unmount(&m);
    }
    // Within a process, also where the union is still in use.
    let mounted = unionbench_fuse::mount(&w.options, &m).unwrap();
    let open = fs::File::open(&m).unwrap();
    let busy = mounted.unmount().unwrap_err();
    assert_eq!(busy.raw_os_error(), Some(libc::EBUSY));
    assert!(open.metadata().unwrap().is_dir(), "it is served on");
    assert_eq!(names(&m), Vec::<String>::new(), "and out of sight");
    drop(open);
    tmpfs_at(&m);
    let mounted = unionbench_fuse::mount(&w.options, &m).unwrap();
    unmount(&m);
    mounted.unmount().unwrap();
    assert_eq!(names(&m), ["others"]);
    unmount(&m);
}

fn options() {
    let mut w = World::new(1);
    w.put("l0/run", "#!/bin/sh\n");
    fs::set_permissions(w.path("l0/run"), fs::Permissions::from_mode(0o755)).unwrap();
    w.mount();
    let (kind, flags) = told(&w.path("m"));
    assert_eq!((kind.as_str(), flags.as_str()), ("fuse.unionbench", "rw,relatime"));
    assert!(Command::new(w.m("run")).status().unwrap().success());
    w.unmount();
    let parsed = MountOptions::parse("lowerdir=x,nosuid,nodev,noexec,noatime,dirsync").unwrap();
    w.options.flags = parsed.flags;
    w.mount();
    let (_, flags) = told(&w.path("m"));
    assert_eq!(flags, "rw,nosuid,nodev,noexec,noatime");
    let refused = Command::new(w.m("run")).status().unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EACCES));
    w.unmount();
    let last = MountOptions::parse("lowerdir=x,nosuid,noexec,suid,defaults").unwrap();
    assert_eq!(last.flags, MountFlags::empty(), "the last one wins");
}

fn again() {
    let w = World::new(1);
    for _ in 0..20 {
        let mut first = Daemon::start(&w, "", None);
        unmount(&w.path("m"));
        let second = Daemon::start(&w, "", None);
        assert!(first.child.wait().unwrap().success());
        second.end();
    }
}

fn flushed() {
    const HOLD: &str = "
import mmap, sys
file = open(sys.argv[1], 'r+b')
held = mmap.mmap(file.fileno(), 0)
held[0:5] = b'DIRTY'
print('held', flush=True)
sys.stdin.read()
";
    let w = World::new(1);
    w.put("l0/f", &"old ".repeat(1024));
    let daemon = Daemon::start(&w, "", None);
    let mut command = Command::new("python3");
    command.args(["-c", HOLD]).arg(w.m("f")).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut holder = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "held\n");
    daemon.end();
    assert!(fs::read(w.path("u/f")).unwrap().starts_with(b"DIRTY"));
    drop(holder.stdin.take());
    holder.wait().unwrap();
}

/// The kernel makes the table larger with all processors waiting.
fn room() {
    let w = World::new(1);
    let daemon = Daemon::start(&w, "", Some(1 << 14));
    let text = fs::read_to_string(format!("/proc/{}/status", daemon.child.id())).unwrap();
    let size = text.lines().find_map(|l| l.strip_prefix("FDSize:")).unwrap();
    assert!(size.trim().parse::<u32>().unwrap() >= 8192, "{size}");
    daemon.end();
}

/// A shell of user 65534, who is in no group of a file's.
fn as_nobody(script: &str, at: &Path) -> String {
    let mut command = Command::new("sh");
    let done = command.args(["-c", script]).current_dir(at).uid(65534).gid(65534).output();
    let done = done.unwrap();
    String::from_utf8(done.stdout).unwrap() + &String::from_utf8(done.stderr).unwrap()
}

fn ordinary() {
    let answers = |at: &Path| {
        let set = |name: &str, value: &[u8]| {
            rustix::fs::setxattr(at.join("f"), name, value, rustix::fs::XattrFlags::empty())
        };
        set("trusted.secret", b"x").unwrap();
        set("user.shown", b"x").unwrap();
        let names = |at: &Path| {
            let mut list = vec![0u8; 512];
            let n = rustix::fs::listxattr(at.join("f"), &mut list).unwrap();
            String::from_utf8(list[..n].to_vec()).unwrap()
        };
        let seen =
            format!("{:?}", names(at).split('\0').collect::<std::collections::BTreeSet<_>>());
        let theirs = as_nobody("python3 -c 'import os; print(os.listxattr(\"f\"))'", at);
        let mode = |name: &str| at.join(name).metadata().unwrap().mode() & 0o7777;
        let mut modes = Vec::new();
        for (name, bits) in [("f", 0o2666), ("g", 0o6777), ("h", 0o4666)] {
            fs::set_permissions(at.join(name), fs::Permissions::from_mode(bits)).unwrap();
            as_nobody(&format!("echo more >>{name}"), at);
            modes.push(mode(name));
        }
        // A member keeps the bit of a group that may not run the file.
        std::os::unix::fs::chown(at.join("f"), None, Some(65534)).unwrap();
        fs::set_permissions(at.join("f"), fs::Permissions::from_mode(0o2666)).unwrap();
        as_nobody("echo more >>f", at);
        modes.push(mode("f"));
        let mut value = [0u8; 8];
        let unknown = rustix::fs::getxattr(at.join("f"), "bogus.a", &mut value).unwrap_err();
        let absent = rustix::fs::getxattr(at.join("f"), "user.absent", &mut value).unwrap_err();
        let acl = rustix::fs::removexattr(at.join("f"), "system.posix_acl_access");
        let flags = rustix::fs::XattrFlags::empty();
        let set = rustix::fs::setxattr(at.join("k"), "bogus.a", b"x", flags).unwrap_err();
        (seen, theirs, modes, unknown, absent, acl, set)
    };
    let fill = |w: &World| {
        for name in ["l0/f", "l0/g", "l0/h", "l0/k"] {
            w.put(name, "content");
        }
        // Whoever asks must get this far.
        fs::set_permissions(w.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    };
    let mut w = World::new(1);
    fill(&w);
    w.options.allow_other = true;
    w.mount();
    let ours = answers(&w.path("m"));
    w.unmount();
    assert!(!w.path("u/k").exists(), "a refused attribute copies nothing up");
    let other = World::new(1);
    fill(&other);
    other.mount_kernel("index=off").unwrap();
    let kernels = answers(&other.path("m"));
    other.unmount_kernel();
    assert_eq!(ours, kernels);
    assert_eq!((ours.3, ours.4), (Errno::OPNOTSUPP, Errno::NODATA));
}

fn early() {
    let mut w = World::new(1);
    w.put("l0/f", "");
    w.mount();
    for (tv_sec, tv_nsec) in [(-2, 250_000_000), (-1, 999_999_999), (-5, 0), (0, 1), (7, 5)] {
        let time = Timespec { tv_sec, tv_nsec };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, w.m("f"), &times, AtFlags::empty()).unwrap();
        for seen in [w.m("f"), w.path("u/f")] {
            let seen = seen.metadata().unwrap();
            assert_eq!((seen.mtime(), seen.mtime_nsec()), (tv_sec, tv_nsec));
            assert_eq!((seen.atime(), seen.atime_nsec()), (tv_sec, tv_nsec));
        }
    }
}

/// Made, listed, and removed by descriptors, as `rm -r` does.
fn long() {
    let mut w = World::new(1);
    w.mount();
    let name = "x".repeat(200);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = |at: &std::os::fd::OwnedFd, name: &str| {
        rustix::fs::openat(at, name, flags, Mode::empty()).unwrap()
    };
    let mut dirs = vec![rustix::fs::open(w.path("m"), flags, Mode::empty()).unwrap()];
    for _ in 0..30 {
        let last = dirs.last().unwrap();
        rustix::fs::mkdirat(last, &name, Mode::from_raw_mode(0o755)).unwrap();
        dirs.push(open(last, &name));
    }
    let deepest = dirs.last().unwrap();
    let create = OFlags::CREATE | OFlags::WRONLY;
    drop(rustix::fs::openat(deepest, "f", create, Mode::from_raw_mode(0o644)).unwrap());
    let listed = rustix::fs::Dir::read_from(deepest).unwrap();
    assert!(listed.flatten().any(|entry| entry.file_name() == c"f"));
    drop(dirs);
    assert!(Command::new("rm").arg("-r").arg(w.m(&name)).status().unwrap().success());
    assert_eq!(names(&w.path("m")), Vec::<String>::new());
}

fn nofollow() {
    let mut w = World::new(1);
    w.put("l0/d/f", "below");
    w.mount();
    fs::rename(w.m("d"), w.m("e")).unwrap();
    w.unmount();
    let refused = |path: std::path::PathBuf| fs::read_dir(path).unwrap_err().raw_os_error();
    w.mount_kernel("redirect_dir=nofollow").unwrap();
    let kernels = refused(w.m("e"));
    w.unmount_kernel();
    let parsed = MountOptions::parse("lowerdir=x,redirect_dir=nofollow").unwrap();
    (w.options.follow_none, w.options.no_redirects) = (parsed.follow_none, parsed.no_redirects);
    w.mount();
    assert_eq!(refused(w.m("e")), kernels);
    assert_eq!(kernels, Some(libc::EPERM));
    w.unmount();
}

fn removed() {
    let mut w = World::new(1);
    w.mkdir("l0/lower");
    w.mount();
    fs::create_dir(w.m("upper")).unwrap();
    for name in ["lower", "upper"] {
        let open = fs::File::open(w.m(name)).unwrap();
        fs::remove_dir(w.m(name)).unwrap();
        open.sync_all().unwrap();
        open.sync_data().unwrap();
    }
}
