//! What the union keeps or reads ahead to be fast is never seen to be old.

use std::collections::HashMap;
use std::fs::{self, Permissions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, RenameFlags, XattrFlags, renameat_with};
use rustix::io::Errno;

use crate::world::{World, check, names, set_mark};

pub const ALL: &[(&str, fn())] = &[
    ("a_listing_read_ahead_shows_what_is_written_meanwhile", listing_ahead),
    ("a_listing_read_ahead_stays_whole_beside_changes", listing_beside_changes),
    ("new_objects_take_after_their_directory_as_it_is", directory_changes),
    ("a_capability_given_to_a_new_file_shows", capability),
    ("without_redirects_only_own_directories_move", no_redirects),
    ("an_open_directory_keeps_its_attributes_when_it_goes", open_directory),
    ("the_other_name_of_a_directory_that_went_is_one_of_its_own", other_name),
];

const FILES: usize = 3000;

fn fill(w: &World) {
    (0..FILES).for_each(|i| w.put(&format!("l{}/d/f{i}", i % 2), "x"));
}

/// Each name read changes files that the listing has yet to show: the length
/// in the entry's attributes must be the one last written.
fn listing_ahead() {
    check(2, fill, |w| {
        let mut written = HashMap::new();
        let mut seen = 0;
        for entry in fs::read_dir(w.m("d")).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let len = entry.metadata().unwrap().len();
            assert_eq!(len, written.get(&name).copied().unwrap_or(1), "{name}");
            seen += 1;
            if seen % 10 == 0 {
                let later = format!("f{}", (seen * 7) % FILES);
                let content = vec![b'y'; 2 + seen];
                fs::write(w.m("d").join(&later), &content).unwrap();
                written.insert(later, content.len() as u64);
            }
        }
        assert_eq!(seen, FILES);
    });
}

/// A directory of each kind goes by removal, and one by being replaced, while it is
/// open: it keeps number, mode and owner, and has no link. One of the upper layer
/// still takes changes; a lower one has nowhere left to take them.
fn open_directory() {
    let fill = |w: &World| {
        w.mkdir("l0/lower");
        w.mkdir("l0/merged");
        w.mkdir("u/merged");
        w.mkdir("u/upper");
        w.mkdir("u/replaced");
        w.mkdir("u/moved");
    };
    check(1, fill, |w| {
        let dirs = ["lower", "merged", "upper", "replaced"].map(|name| {
            let dir = fs::File::open(w.m(name)).unwrap();
            let before = dir.metadata().unwrap();
            (name, dir, before)
        });
        for name in ["lower", "merged", "upper"] {
            fs::remove_dir(w.m(name)).unwrap();
        }
        fs::rename(w.m("moved"), w.m("replaced")).unwrap();
        // Numbers that they had are not another's meanwhile.
        (0..20).for_each(|n| fs::create_dir(w.m(&format!("new{n}"))).unwrap());
        for (name, dir, before) in &dirs {
            let seen = dir.metadata().unwrap_or_else(|error| panic!("{name}: {error}"));
            let of = |m: &fs::Metadata| (m.ino(), m.mode(), m.uid(), m.gid());
            assert_eq!(of(&seen), of(before), "{name}");
            assert_eq!(seen.nlink(), 0, "{name}");
            if *name == "lower" {
                continue;
            }
            dir.set_permissions(Permissions::from_mode(0o751)).unwrap();
            assert_eq!(dir.metadata().unwrap().mode() & 0o7777, 0o751, "{name}");
            let listed = fs::read_dir(format!("/proc/self/fd/{}", dir.as_raw_fd())).unwrap();
            assert_eq!(listed.filter_map(Result::ok).count(), 0, "{name}");
        }
    });
}

/// Two readers and one who changes: no name that stays may be missing or twice,
/// and what is gone is not found.
fn listing_beside_changes() {
    let mut w = World::new(2);
    fill(&w);
    w.mount();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for i in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let path = w.m(&format!("d/new{}", i % 100));
                fs::write(&path, vec![b'n'; i % 9]).unwrap();
                if i % 3 != 0 {
                    fs::remove_file(&path).unwrap();
                }
            }
        });
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..5 {
                        let listed = fs::read_dir(w.m("d")).unwrap().map(Result::unwrap);
                        let mut old: Vec<_> = listed
                            .filter(|e| e.metadata().is_ok_and(|m| m.ino() != 0))
                            .map(|e| e.file_name().into_string().unwrap())
                            .filter(|name| name.starts_with('f'))
                            .collect();
                        assert_eq!(old.len(), FILES);
                        old.sort();
                        old.dedup();
                        assert_eq!(old.len(), FILES);
                    }
                })
            })
            .collect();
        let ended: Vec<_> = readers.into_iter().map(|reader| reader.join()).collect();
        stop.store(true, Ordering::Relaxed);
        assert!(ended.iter().all(Result::is_ok));
    });
    w.unmount();
    w.mount();
    assert!(names(&w.m("d")).len() >= FILES);
    w.unmount();
}

fn directory_changes() {
    let fill = |w: &World| w.mkdir("l0/d");
    check(1, fill, |w| {
        let make = |name: &str| {
            fs::write(w.m("d").join(name), "").unwrap();
            fs::create_dir(w.m("d").join(format!("{name}.d"))).unwrap();
            let of = |name: &str| w.m("d").join(name).metadata().unwrap();
            let (file, dir) = (of(name), of(&format!("{name}.d")));
            (file.gid(), dir.gid(), dir.mode() & 0o2000, file.mode() & 0o777)
        };
        assert_eq!(make("a"), (0, 0, 0, 0o666));
        std::os::unix::fs::chown(w.m("d"), None, Some(7)).unwrap();
        assert_eq!(make("b"), (0, 0, 0, 0o666));
        fs::set_permissions(w.m("d"), Permissions::from_mode(0o2755)).unwrap();
        assert_eq!(make("c"), (7, 7, 0o2000, 0o666));
        std::os::unix::fs::chown(w.m("d"), None, Some(8)).unwrap();
        fs::set_permissions(w.m("d"), Permissions::from_mode(0o2755)).unwrap();
        assert_eq!(make("e"), (8, 8, 0o2000, 0o666));
        fs::set_permissions(w.m("d"), Permissions::from_mode(0o755)).unwrap();
        // `setfattr` of an ACL that gives the owner alone everything.
        let acl = [&2u32.to_le_bytes()[..], &acl_entry(1, 7), &acl_entry(4, 0), &acl_entry(32, 0)];
        set_mark(&w.m("d"), "system.posix_acl_default", &acl.concat());
        assert_eq!(make("g"), (0, 0, 0, 0o600));
        rustix::fs::removexattr(w.m("d"), "system.posix_acl_default").unwrap();
        assert_eq!(make("h"), (0, 0, 0, 0o666));
    });
}

fn acl_entry(tag: u16, permissions: u16) -> [u8; 8] {
    let mut out = [0xff; 8];
    out[..2].copy_from_slice(&tag.to_le_bytes());
    out[2..4].copy_from_slice(&permissions.to_le_bytes());
    out
}

/// `cap_net_raw=ep`, revision 2 of `struct vfs_cap_data`.
const NET_RAW: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn capability() {
    check(
        1,
        |w| w.mkdir("l0/d"),
        |w| {
            let path = w.m("d/f");
            let mut value = [0; 32];
            let name = "security.capability";
            fs::write(&path, "content").unwrap();
            let none = rustix::fs::getxattr(&path, name, &mut value[..]);
            assert_eq!(none.unwrap_err(), Errno::NODATA);
            rustix::fs::setxattr(&path, name, &NET_RAW, XattrFlags::empty()).unwrap();
            let len = rustix::fs::getxattr(&path, name, &mut value[..]).unwrap();
            assert_eq!(&value[..len], NET_RAW);
            fs::rename(&path, w.m("d/g")).unwrap();
            assert!(rustix::fs::getxattr(w.m("d/g"), name, &mut value[..]).is_ok());
            fs::write(w.m("d/g"), "other").unwrap();
            let gone = rustix::fs::getxattr(w.m("d/g"), name, &mut value[..]);
            assert_eq!(gone.unwrap_err(), Errno::NODATA, "a write takes it away");
        },
    );
}

fn no_redirects() {
    let mut w = World::new(2);
    w.options.no_redirects = true;
    w.put("l1/merged/f", "f");
    w.put("l0/merged/g", "g");
    w.put("l1/lower/f", "f");
    w.put("l1/old/in", "in");
    w.mkdir("l0/new");
    set_mark(&w.path("l0/new"), "trusted.overlay.redirect", b"/old");
    w.mount();
    fs::create_dir(w.m("own")).unwrap();
    for name in ["merged", "lower", "new"] {
        let moved = fs::rename(w.m(name), w.m("moved")).unwrap_err();
        assert_eq!(Errno::from_io_error(&moved), Some(Errno::XDEV), "{name}");
        for (from, to) in [("own", name), (name, "own")] {
            let exchange = renameat_with(CWD, w.m(from), CWD, w.m(to), RenameFlags::EXCHANGE);
            assert_eq!(exchange, Err(Errno::XDEV), "{from} {to}");
        }
    }
    assert_eq!(names(&w.m("new")), ["in"]);
    fs::rename(w.m("own"), w.m("moved")).unwrap();
    fs::rename(w.m("merged/f"), w.m("moved/f")).unwrap();
    assert_eq!(names(&w.m("moved")), ["f"]);
    w.unmount();
}

/// Two names lead to one lower directory, one by a redirect, and would share its
/// number.
fn other_name() {
    for name in ["b", "moved"] {
        let mut w = World::new(1);
        w.mkdir("l0/b");
        w.mkdir("u/moved");
        set_mark(&w.path("u/moved"), "trusted.overlay.redirect", b"/b");
        w.mount();
        let other = if name == "b" { "moved" } else { "b" };
        let open = fs::File::open(w.m(name)).unwrap();
        fs::remove_dir(w.m(name)).unwrap();
        fs::write(w.m(other).join("f"), "").unwrap();
        assert_eq!(names(&w.m(other)), ["f"]);
        fs::remove_file(w.m(other).join("f")).unwrap();
        fs::remove_dir(w.m(other)).unwrap();
        assert!(open.metadata().unwrap().is_dir());
        drop(open);
        w.unmount();
    }
}
