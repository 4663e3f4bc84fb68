//! Names of hard-linked files with `index=on`: one file over copy-up, changes
//! of its names and a remount, and what is left in the index.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode, RenameFlags, mknodat, renameat_with};
use rustix::io::Errno;
use unionbench_fuse::{MountError, MountOptions};

use crate::daemon::SERVE;
use crate::world::{World, check_with, names, set_mark};

pub const ALL: &[(&str, fn())] = &[
    ("all_names_show_a_write_after_a_remount", names_stay_together),
    ("links_are_counted_over_changes_of_names", counted),
    ("a_name_copied_up_by_another_moves_and_goes", moved_after_copy_up),
    ("hard_links_work_without_data_copied", with_metacopy),
    ("an_open_file_outlives_its_names_in_the_index", open_beyond_names),
    ("hard_links_of_symlinks_and_pipes_stay_together", special),
    ("the_index_is_cleaned_of_what_is_left_over", cleaned),
    ("an_index_of_other_layers_is_refused", other_layers),
    ("an_index_with_marks_of_the_other_prefix_is_refused_with_advice", other_prefix),
    ("an_index_is_refused_where_handles_cannot_be_opened", no_handles),
    ("a_read_only_mount_reads_the_index_and_leaves_it", read_only),
    ("user_attributes_keep_an_index_too", with_userxattr),
    ("threads_take_names_of_one_file_at_once", threads),
];

fn on(options: &mut MountOptions) {
    options.index = true;
}

fn nlink(path: impl AsRef<Path>) -> u64 {
    path.as_ref().symlink_metadata().unwrap().nlink()
}

fn ino(path: impl AsRef<Path>) -> u64 {
    path.as_ref().symlink_metadata().unwrap().ino()
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap()
}

/// One file `a` of the layer under further names.
fn linked(w: &World, layer: &str, more: &[&str]) {
    w.put(&format!("{layer}/a"), "old");
    for name in more {
        let path = w.path(&format!("{layer}/{name}"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::hard_link(w.path(&format!("{layer}/a")), path).unwrap();
    }
}

fn entries(w: &World) -> Vec<PathBuf> {
    names(&w.path("w/index")).iter().map(|name| w.path("w/index").join(name)).collect()
}

fn names_stay_together() {
    let fill = |w: &World| {
        linked(w, "l1", &["b", "d/c"]);
        w.put("l0/d/other", "other");
    };
    check_with(2, on, fill, |w| {
        let numbers = [ino(w.m("a")), ino(w.m("b")), ino(w.m("d/c"))];
        // `b` is the only name asked for since the mount that is written to.
        fs::write(w.m("b"), "new").unwrap();
        fs::set_permissions(w.m("d/c"), fs::Permissions::from_mode(0o604)).unwrap();
        for name in ["a", "b", "d/c"] {
            assert_eq!((read(w.m(name)), nlink(w.m(name))), ("new".into(), 3), "{name}");
            assert_eq!(w.m(name).metadata().unwrap().mode() & 0o777, 0o604);
        }
        assert_eq!([ino(w.m("a")), ino(w.m("b")), ino(w.m("d/c"))], numbers);
        assert_eq!(numbers[0], numbers[2]);
        assert_eq!(entries(w).len(), 1);
    });
}

/// A change, and the counts that names show after it.
type Step = (&'static str, fn(&World), &'static [(&'static str, u64)]);

/// The same count right after each change and after a remount.
fn counted() {
    let mut w = World::new(1);
    w.options.index = true;
    linked(&w, "l0", &["b", "c", "d/e"]);
    w.put("l0/other", "other");
    let steps: &[Step] = &[
        ("write", |w| fs::write(w.m("b"), "new").unwrap(), &[("a", 4), ("b", 4), ("d/e", 4)]),
        ("unlink a lower name", |w| fs::remove_file(w.m("c")).unwrap(), &[("a", 3), ("d/e", 3)]),
        ("unlink an upper name", |w| fs::remove_file(w.m("b")).unwrap(), &[("a", 2), ("d/e", 2)]),
        ("link", |w| fs::hard_link(w.m("a"), w.m("n")).unwrap(), &[("a", 3), ("n", 3), ("d/e", 3)]),
        (
            "link over a whiteout",
            |w| fs::hard_link(w.m("d/e"), w.m("b")).unwrap(),
            &[("a", 4), ("b", 4)],
        ),
        ("move", |w| fs::rename(w.m("d/e"), w.m("d/f")).unwrap(), &[("a", 4), ("d/f", 4)]),
        ("move over", |w| fs::rename(w.m("other"), w.m("a")).unwrap(), &[("b", 3), ("a", 1)]),
        (
            "exchange",
            |w| renameat_with(CWD, w.m("a"), CWD, w.m("b"), RenameFlags::EXCHANGE).unwrap(),
            &[("a", 3), ("b", 1), ("n", 3)],
        ),
        ("unlink", |w| fs::remove_file(w.m("a")).unwrap(), &[("n", 2), ("d/f", 2)]),
        ("unlink more", |w| fs::remove_file(w.m("d/f")).unwrap(), &[("n", 1)]),
    ];
    w.mount();
    for (step, change, counts) in steps {
        change(&w);
        for _ in 0..2 {
            for (name, count) in *counts {
                assert_eq!(nlink(w.m(name)), *count, "{name} after {step}");
            }
            w.unmount();
            w.mount();
        }
        assert_eq!(entries(&w).len(), 1, "after {step}");
    }
    assert_eq!(read(w.m("n")), "new");
    fs::remove_file(w.m("n")).unwrap();
    assert!(entries(&w).is_empty());
    assert_eq!(names(&w.m("")), ["b", "d"]);
    w.unmount();
}

/// With and without an index, a lower name of a file that was copied up under
/// another one can be moved, exchanged and taken away.
fn moved_after_copy_up() {
    let fill = |w: &World| linked(w, "l0", &["b", "c", "d/e"]);
    let shown = |w: &World| {
        assert_eq!(["a", "x", "d/g"].map(|name| read(w.m(name))), ["new"; 3]);
        assert_eq!(read(w.m("c")), "x");
        assert_eq!(names(&w.m("")), ["a", "c", "d", "x"]);
    };
    let case = |w: &World| {
        ["a", "b", "c", "d/e"].iter().for_each(|name| assert_eq!(read(w.m(name)), "old"));
        fs::write(w.m("a"), "new").unwrap();
        fs::rename(w.m("b"), w.m("moved")).unwrap();
        fs::write(w.m("x"), "x").unwrap();
        renameat_with(CWD, w.m("c"), CWD, w.m("x"), RenameFlags::EXCHANGE).unwrap();
        fs::rename(w.m("d/e"), w.m("d/g")).unwrap();
        assert_eq!(read(w.m("moved")), "new");
        fs::remove_file(w.m("moved")).unwrap();
        shown(w);
    };
    check_with(1, on, fill, case);
    let mut w = World::new(1);
    fill(&w);
    w.mount();
    case(&w);
    w.unmount();
    w.mount();
    shown(&w);
    w.unmount();
}

fn with_metacopy() {
    let set = |options: &mut MountOptions| (options.index, options.metacopy) = (true, true);
    let body = "data".repeat(50_000);
    let fill = |w: &World| {
        w.put("l0/a", &body);
        ["b", "c"].iter().for_each(|n| {
            fs::hard_link(w.path("l0/a"), w.path("l0").join(n)).unwrap();
        });
        w.put("l0/p", &body);
        fs::hard_link(w.path("l0/p"), w.path("l0/q")).unwrap();
    };
    check_with(1, set, fill, |w| {
        fs::set_permissions(w.m("b"), fs::Permissions::from_mode(0o640)).unwrap();
        fs::remove_file(w.m("c")).unwrap();
        fs::remove_file(w.m("p")).unwrap();
        assert_eq!(w.mounted().counters().copied_bytes(), 0);
        assert!(read(w.m("a")) == body && read(w.m("b")) == body && read(w.m("q")) == body);
        assert_eq!((nlink(w.m("a")), nlink(w.m("q"))), (2, 1));
        let mut file = OpenOptions::new().append(true).open(w.m("a")).unwrap();
        file.write_all(b"+").unwrap();
        drop(file);
        assert_eq!(read(w.m("b")), format!("{body}+"));
    });
}

fn open_beyond_names() {
    let fill = |w: &World| linked(w, "l0", &["b"]);
    check_with(1, on, fill, |w| {
        let mut file = OpenOptions::new().read(true).append(true).open(w.m("a")).unwrap();
        fs::remove_file(w.m("a")).unwrap();
        file.write_all(b"+").unwrap();
        assert_eq!(file.metadata().unwrap().nlink(), 1);
        assert_eq!(read(w.m("b")), "old+");
        fs::remove_file(w.m("b")).unwrap();
        file.write_all(b"+").unwrap();
        assert_eq!(file.metadata().unwrap().nlink(), 0);
        assert_eq!(file.metadata().unwrap().len(), 5);
        assert!(entries(w).is_empty());
    });
}

fn special() {
    let fill = |w: &World| {
        symlink("to", w.path("l0/s")).unwrap();
        mknodat(CWD, w.path("l0/p"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        for name in ["s", "p"] {
            let (from, to) = (w.path("l0").join(name), w.path("l0").join(format!("{name}2")));
            rustix::fs::linkat(CWD, from, CWD, to, rustix::fs::AtFlags::empty()).unwrap();
        }
    };
    check_with(1, on, fill, |w| {
        rustix::fs::chownat(
            CWD,
            w.m("s2"),
            Some(rustix::fs::Uid::from_raw(7)),
            None,
            rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
        )
        .unwrap();
        assert_eq!(w.m("s").symlink_metadata().unwrap().uid(), 7);
        assert_eq!(ino(w.m("s")), ino(w.m("s2")));
        fs::set_permissions(w.m("p"), fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(w.m("p2").metadata().unwrap().mode() & 0o777, 0o640);
        fs::remove_file(w.m("p")).unwrap();
        assert_eq!((nlink(w.m("p2")), nlink(w.m("s"))), (1, 2));
    });
}

/// A world whose index holds the entry of one file with three names.
fn indexed() -> World {
    let mut w = World::new(1);
    w.options.index = true;
    linked(&w, "l0", &["b", "c"]);
    w.mount();
    fs::write(w.m("a"), "new").unwrap();
    w.unmount();
    w
}

fn cleaned() {
    // A temporary name and one whose mark names another origin.
    let mut w = indexed();
    let entry = entries(&w).remove(0);
    w.put("w/index/#1f", "litter");
    w.put("w/index/#20/in", "litter");
    let mut other = entry.file_name().unwrap().to_str().unwrap().to_owned();
    other.replace_range(other.len() - 2.., "ee");
    fs::copy(&entry, w.path("w/index").join(&other)).unwrap();
    let origin = mark(&entry, "trusted.overlay.origin");
    set_mark(&w.path("w/index").join(&other), "trusted.overlay.origin", &origin);
    w.mount();
    assert_eq!(entries(&w), std::slice::from_ref(&entry));
    assert_eq!((read(w.m("b")), nlink(w.m("b"))), ("new".into(), 3));
    w.unmount();
    // Its upper name is gone: the entry still shows under the lower ones.
    fs::remove_file(w.path("u/a")).unwrap();
    w.mount();
    assert_eq!((read(w.m("b")), read(w.m("a"))), ("new".into(), "new".into()));
    w.unmount();
    // And without the count of its names it belongs to none.
    rustix::fs::removexattr(&entry, "trusted.overlay.nlink").unwrap();
    w.mount();
    assert!(entries(&w).is_empty());
    assert_eq!((read(w.m("b")), nlink(w.m("b"))), ("old".into(), 3));
    w.unmount();
    // The lower file is gone.
    let mut w = indexed();
    fs::remove_file(w.path("u/a")).unwrap();
    ["a", "b", "c"].iter().for_each(|n| fs::remove_file(w.path("l0").join(n)).unwrap());
    w.mount();
    assert!(entries(&w).is_empty() && names(&w.m("")).is_empty());
    w.unmount();
}

pub fn mark(path: &Path, name: &str) -> Vec<u8> {
    let mut buf = [0; 256];
    let len = rustix::fs::lgetxattr(path, name, &mut buf[..]).unwrap();
    buf[..len].to_vec()
}

pub fn refusal(w: &World) -> Result<(), MountError> {
    unionbench_fuse::mount(&w.options, &w.path("m")).map(|m| m.unmount().unwrap())
}

fn other_prefix() {
    for made in [false, true] {
        let mut w = World::new(1);
        (w.options.index, w.options.userxattr) = (true, made);
        linked(&w, "l0", &["b", "c"]);
        w.mount();
        fs::write(w.m("a"), "new").unwrap();
        w.unmount();
        w.options.userxattr = !made;
        let error = refusal(&w).unwrap_err();
        let written = if made { "mount with userxattr" } else { "mount without userxattr" };
        assert!(error.to_string().contains(written), "{error}");
        assert!(!error.to_string().contains("damaged"), "{error}");
        assert!(matches!(error, MountError::OtherMarks { source: Errno::NODATA, .. }), "{error}");
        w.options.userxattr = made;
        refusal(&w).unwrap();
    }
}

fn other_layers() {
    let mut w = indexed();
    w.put("other/a", "other");
    w.options.lower = vec![w.path("other")];
    let error = refusal(&w).unwrap_err();
    assert!(matches!(error, MountError::OtherLower { source: Errno::STALE, .. }), "{error}");
    assert!(error.to_string().contains("index=off"), "{error}");
    w.options.index = false;
    refusal(&w).unwrap();
    let mut w = indexed();
    w.mkdir("u2");
    w.options.upper = Some(w.path("u2"));
    let error = refusal(&w).unwrap_err();
    assert!(matches!(error, MountError::OtherUpper { source: Errno::STALE, .. }), "{error}");
    // The remedy that it names.
    fs::remove_dir_all(w.path("w/index")).unwrap();
    refusal(&w).unwrap();
}

/// The daemon without the right to open files by handle.
fn no_handles() {
    let w = World::new(1);
    let paths = ["l0", "u", "w", "m"].map(|name| w.path(name).display().to_string());
    let [lower, upper, work, point] = paths;
    let asked = format!("lowerdir={lower},upperdir={upper},workdir={work},index=on {point}");
    let out = Command::new("setpriv")
        .args(["--bounding-set", "-dac_read_search"])
        .arg(std::env::current_exe().unwrap())
        .env(SERVE, asked)
        .output();
    let Ok(out) = out else {
        println!("skipped: no setpriv");
        return;
    };
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success());
    assert!(said.contains("NoIndex") && said.contains("CAP_DAC_READ_SEARCH"), "{said}");
    assert!(!w.path("w/index").exists());
}

fn read_only() {
    let mut w = indexed();
    w.put("w/index/#1f", "litter");
    w.options.read_only = true;
    w.mount();
    let shown = ["a", "b", "c"].map(|name| (read(w.m(name)), nlink(w.m(name))));
    assert_eq!(shown, ["new", "new", "new"].map(|body| (body.to_owned(), 3)));
    assert_eq!(entries(&w).len(), 2);
    w.unmount();
    let mut w = World::new(1);
    linked(&w, "l0", &["b"]);
    (w.options.index, w.options.read_only) = (true, true);
    w.mount();
    assert_eq!((read(w.m("b")), nlink(w.m("b"))), ("old".into(), 2));
    w.unmount();
    assert!(!w.path("w/index").exists());
}

fn with_userxattr() {
    let set = |options: &mut MountOptions| (options.index, options.userxattr) = (true, true);
    let fill = |w: &World| linked(w, "l0", &["b"]);
    check_with(1, set, fill, |w| {
        fs::write(w.m("b"), "new").unwrap();
        assert_eq!((read(w.m("a")), nlink(w.m("a"))), ("new".into(), 2));
        assert_eq!(entries(w).len(), 1);
    });
    // A symlink takes no marks of users: it is copied up as without an index.
    let mut w = World::new(1);
    set(&mut w.options);
    symlink("to", w.path("l0/s")).unwrap();
    let (from, to) = (w.path("l0/s"), w.path("l0/t"));
    rustix::fs::linkat(CWD, from, CWD, to, rustix::fs::AtFlags::empty()).unwrap();
    w.mount();
    fs::rename(w.m("s"), w.m("moved")).unwrap();
    fs::remove_file(w.m("t")).unwrap();
    assert_eq!(fs::read_link(w.m("moved")).unwrap(), OsStr::new("to"));
    assert!(entries(&w).is_empty());
    w.unmount();
}

/// Threads write to, link, move and remove names of the same files; in the end
/// the names that are left are counted right.
fn threads() {
    const FILES: usize = 4;
    const THREADS: usize = 6;
    let mut w = World::new(1);
    w.options.index = true;
    for file in 0..FILES {
        w.put(&format!("l0/f{file}"), "");
        for thread in 0..THREADS {
            let name = w.path(&format!("l0/f{file}.{thread}"));
            fs::hard_link(w.path(&format!("l0/f{file}")), name).unwrap();
        }
    }
    w.mount();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let w = &w;
            scope.spawn(move || {
                for file in 0..FILES {
                    let own = w.m(&format!("f{file}.{thread}"));
                    let mut open = OpenOptions::new().append(true).open(&own).unwrap();
                    open.write_all(b"+").unwrap();
                    let moved = w.m(&format!("g{file}.{thread}"));
                    fs::rename(&own, &moved).unwrap();
                    if thread % 2 == 0 {
                        fs::remove_file(&moved).unwrap();
                    } else {
                        fs::hard_link(&moved, &own).unwrap();
                    }
                }
            });
        }
    });
    for _ in 0..2 {
        let mut found: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        for name in names(&w.m("")) {
            let meta = w.m(&name).metadata().unwrap();
            let of = found.entry(meta.ino()).or_insert((0, meta.nlink()));
            of.0 += 1;
            assert_eq!(of.1, meta.nlink(), "{name}");
            assert_eq!(read(w.m(&name)), "+".repeat(THREADS), "{name}");
        }
        let names = (1 + THREADS as u64 / 2 * 2, 1 + THREADS as u64 / 2 * 2);
        assert_eq!(found.into_values().collect::<Vec<_>>(), vec![names; FILES]);
        w.unmount();
        w.mount();
    }
    w.unmount();
}
