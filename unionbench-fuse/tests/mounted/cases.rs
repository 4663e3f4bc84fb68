//! Behaviour by name, among it every defect once reproduced in another
//! user-space union.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::world::{World, check, names, non_utf8, set_mark};

type Case = (&'static str, fn());

pub const ALL: &[Case] = &[
    ("layers_merge_and_the_topmost_wins", layers_merge),
    ("whiteouts_of_every_format_hide", whiteouts_hide),
    ("opaque_directories_of_every_format_hide", opaque_hide),
    ("kernel_redirects_and_metacopies_are_followed", kernel_marks),
    ("write_copies_up_and_spares_the_lower", write_copies_up),
    ("reader_and_writer_open_together_spare_the_lower", reader_and_writer),
    ("reader_opened_before_copy_up_sees_the_write", reader_follows),
    ("unlink_of_lower_file_leaves_whiteout", unlink_lower),
    ("unlink_and_truncate_copy_no_data", nothing_copied),
    ("recreated_directory_stays_empty", recreated_directory),
    ("rename_of_files_and_directories_keeps_contents", renames),
    ("rename_over_empty_directory_with_whiteouts", rename_over_hidden),
    ("exchange_of_lower_objects", exchange),
    ("no_replace_refuses", no_replace),
    ("sparse_copy_stays_sparse", sparse),
    ("hard_links_share_data_after_copy_up", hard_links),
    ("chmod_with_metacopy_copies_no_data", metacopy_chmod),
    ("unlinked_file_stays_usable", unlinked_open),
    ("listings_begin_with_the_directory_and_its_parent", dots),
    ("listing_survives_removal_on_the_way", listing_stable),
    ("odd_names_work", odd_names),
    ("attributes_pass_and_marks_are_hidden", attributes),
    ("set_gid_directory_gives_its_group", set_gid),
    ("a_strangers_write_takes_set_id_bits_away", set_id_bits),
    ("read_only_union_refuses_writes", read_only),
    ("many_threads_in_one_directory", many_threads),
];

pub fn read(path: impl AsRef<std::path::Path>) -> String {
    fs::read_to_string(path).unwrap()
}

fn layers_merge() {
    let fill = |w: &World| {
        w.put("l0/a", "top");
        w.put("l1/a", "bottom");
        w.put("l1/d/x", "x");
        w.put("l0/d/y", "y");
        w.put("l2/d/z", "z");
        w.put("l1/f/hidden", "");
        w.put("l0/f", "file over directory");
        w.put("l0/g/in", "");
        w.put("l1/g", "a file ends the merge");
        w.put("l2/g/out", "");
        symlink("a", w.path("l2/s")).unwrap();
    };
    check(3, fill, |w| {
        assert_eq!(read(w.m("a")), "top");
        assert_eq!(names(&w.m("d")), ["x", "y", "z"]);
        assert_eq!(read(w.m("f")), "file over directory");
        assert_eq!(names(&w.m("g")), ["in"]);
        assert_eq!(read(w.m("s")), "top");
        assert!(!w.m("absent").exists());
    });
}

fn whiteouts_hide() {
    let fill = |w: &World| {
        for name in ["device", "aufs", "mark", "kept"] {
            w.put(&format!("l1/d/{name}"), name);
        }
        w.mkdir("l0/d");
        let device = rustix::fs::FileType::CharacterDevice;
        rustix::fs::mknodat(CWD, w.path("l0/d/device"), device, rustix::fs::Mode::empty(), 0)
            .unwrap();
        w.put("l0/d/.wh.aufs", "");
        w.put("l0/d/mark", "");
        set_mark(&w.path("l0/d/mark"), "trusted.overlay.whiteout", b"");
        set_mark(&w.path("l0/d"), "trusted.overlay.opaque", b"x");
    };
    check(2, fill, |w| assert_eq!(names(&w.m("d")), ["kept"]));
}

fn opaque_hide() {
    let fill = |w: &World| {
        for dir in ["kernel", "aufs"] {
            w.put(&format!("l1/{dir}/below"), "");
            w.put(&format!("l0/{dir}/own"), "");
        }
        set_mark(&w.path("l0/kernel"), "trusted.overlay.opaque", b"y");
        w.put("l0/aufs/.wh..wh..opq", "");
    };
    check(2, fill, |w| {
        assert_eq!(names(&w.m("kernel")), ["own"]);
        assert_eq!(names(&w.m("aufs")), ["own"]);
    });
}

fn kernel_marks() {
    let fill = |w: &World| {
        w.put("l1/old/in", "moved along");
        w.put("l1/data", "0123456789");
        w.mkdir("l0/new");
        set_mark(&w.path("l0/new"), "trusted.overlay.redirect", b"/old");
        let meta = File::create(w.path("l0/data")).unwrap();
        meta.set_len(10).unwrap();
        fs::set_permissions(w.path("l0/data"), fs::Permissions::from_mode(0o600)).unwrap();
        set_mark(&w.path("l0/data"), "trusted.overlay.metacopy", b"");
    };
    check(2, fill, |w| {
        assert_eq!(read(w.m("new/in")), "moved along");
        assert_eq!(read(w.m("data")), "0123456789");
        assert_eq!(w.m("data").metadata().unwrap().mode() & 0o777, 0o600);
    });
}

fn write_copies_up() {
    check(
        1,
        |w| w.put("l0/d/e/f", "old"),
        |w| {
            let before = w.m("d/e/f").metadata().unwrap();
            OpenOptions::new().append(true).open(w.m("d/e/f")).unwrap().write_all(b" new").unwrap();
            assert_eq!(read(w.m("d/e/f")), "old new");
            assert_eq!(read(w.path("u/d/e/f")), "old new");
            assert_eq!(w.m("d/e/f").metadata().unwrap().ino(), before.ino());
        },
    );
}

fn reader_and_writer() {
    check(
        1,
        |w| w.put("l0/f", "lower"),
        |w| {
            let mut reader = File::open(w.m("f")).unwrap();
            let mut writer = OpenOptions::new().write(true).open(w.m("f")).unwrap();
            writer.write_all(b"UPPER").unwrap();
            let mut seen = String::new();
            reader.read_to_string(&mut seen).unwrap();
            assert_eq!(seen, "UPPER");
        },
    );
}

fn reader_follows() {
    check(
        1,
        |w| w.put("l0/f", "lower"),
        |w| {
            let mut reader = File::open(w.m("f")).unwrap();
            let mut seen = String::new();
            reader.read_to_string(&mut seen).unwrap();
            assert_eq!(seen, "lower");
            fs::write(w.m("f"), "a longer text").unwrap();
            seen.clear();
            reader.seek(SeekFrom::Start(0)).unwrap();
            reader.read_to_string(&mut seen).unwrap();
            assert_eq!(seen, "a longer text");
        },
    );
}

fn unlink_lower() {
    check(
        2,
        |w| {
            w.put("l1/d/f", "f");
            w.put("l0/d/g", "g");
        },
        |w| {
            fs::remove_file(w.m("d/f")).unwrap();
            assert_eq!(names(&w.m("d")), ["g"]);
            assert_eq!(w.path("u/d/f").symlink_metadata().unwrap().rdev(), 0);
            fs::write(w.m("d/f"), "again").unwrap();
            assert_eq!(read(w.m("d/f")), "again");
            fs::remove_file(w.m("d/f")).unwrap();
            fs::remove_file(w.m("d/g")).unwrap();
            fs::remove_dir(w.m("d")).unwrap();
            assert!(names(&w.m("")).is_empty());
        },
    );
}

fn nothing_copied() {
    let fill = |w: &World| {
        ["a", "b", "c"].iter().for_each(|n| w.put(&format!("l0/{n}"), &"x".repeat(1 << 20)))
    };
    check(1, fill, |w| {
        fs::remove_file(w.m("a")).unwrap();
        File::create(w.m("b")).unwrap();
        OpenOptions::new().write(true).open(w.m("b")).unwrap().set_len(0).unwrap();
        rustix::fs::ftruncate(
            OpenOptions::new().write(true).truncate(true).open(w.m("c")).unwrap(),
            0,
        )
        .unwrap();
        assert_eq!(w.mounted().counters().copied_bytes(), 0);
    });
}

fn recreated_directory() {
    check(
        1,
        |w| w.put("l0/d/old", "old"),
        |w| {
            fs::remove_dir_all(w.m("d")).unwrap();
            fs::create_dir(w.m("d")).unwrap();
            assert!(names(&w.m("d")).is_empty());
            fs::write(w.m("d/new"), "").unwrap();
        },
    );
}

fn renames() {
    let fill = |w: &World| {
        w.put("l1/d/sub/f", "f");
        w.put("l0/d/g", "g");
        w.put("l1/file", "file");
        w.put("l1/other", "other");
        w.put("l1/under/x", "x");
    };
    check(2, fill, |w| {
        fs::rename(w.m("file"), w.m("moved")).unwrap();
        fs::rename(w.m("moved"), w.m("other")).unwrap();
        assert_eq!(read(w.m("other")), "file");
        fs::rename(w.m("d"), w.m("e")).unwrap();
        fs::rename(w.m("e"), w.m("under/e2")).unwrap();
        assert_eq!(read(w.m("under/e2/sub/f")), "f");
        assert_eq!(read(w.m("under/e2/g")), "g");
        fs::write(w.m("under/e2/sub/f"), "changed").unwrap();
        fs::create_dir(w.m("pure")).unwrap();
        fs::write(w.m("pure/in"), "").unwrap();
        fs::rename(w.m("pure"), w.m("d")).unwrap();
        assert_eq!(names(&w.m("d")), ["in"]);
        assert_eq!(names(&w.m("")), ["d", "other", "under"]);
        fs::rename(w.m("under/e2/sub"), w.m("sub")).unwrap();
        fs::rename(w.m("sub"), w.m("under/e2/sub")).unwrap();
    });
}

fn rename_over_hidden() {
    check(
        1,
        |w| {
            w.put("l0/from/a", "a");
            w.put("l0/to/b", "b");
        },
        |w| {
            let refused = fs::rename(w.m("from"), w.m("to")).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(39));
            fs::remove_file(w.m("to/b")).unwrap();
            fs::rename(w.m("from"), w.m("to")).unwrap();
            assert_eq!(names(&w.m("")), ["to"]);
            assert_eq!(names(&w.m("to")), ["a"]);
        },
    );
}

fn exchange() {
    let fill = |w: &World| {
        w.put("l0/a", "a");
        w.put("l0/b", "b");
        w.put("l0/d/in", "d");
        w.put("l0/e/in", "e");
    };
    check(1, fill, |w| {
        let swap = |x: &str, y: &str| {
            renameat_with(CWD, w.m(x), CWD, w.m(y), RenameFlags::EXCHANGE).unwrap()
        };
        swap("a", "b");
        assert_eq!((read(w.m("a")), read(w.m("b"))), ("b".into(), "a".into()));
        swap("d", "e");
        assert_eq!((read(w.m("d/in")), read(w.m("e/in"))), ("e".into(), "d".into()));
        swap("a", "d");
        assert_eq!((read(w.m("a/in")), read(w.m("d"))), ("e".into(), "b".into()));
    });
}

fn no_replace() {
    check(
        1,
        |w| {
            w.put("l0/a", "a");
            w.put("l0/b", "b");
        },
        |w| {
            let error =
                renameat_with(CWD, w.m("a"), CWD, w.m("b"), RenameFlags::NOREPLACE).unwrap_err();
            assert_eq!(error, rustix::io::Errno::EXIST);
            fs::remove_file(w.m("b")).unwrap();
            renameat_with(CWD, w.m("a"), CWD, w.m("b"), RenameFlags::NOREPLACE).unwrap();
            assert_eq!(read(w.m("b")), "a");
        },
    );
}

fn sparse() {
    let mut w = World::new(1);
    let file = File::create(w.path("l0/s")).unwrap();
    file.set_len(1 << 30).unwrap();
    file.write_all_at(b"middle", 1 << 29).unwrap();
    w.mount();
    let opened = OpenOptions::new().write(true).open(w.m("s")).unwrap();
    drop(opened);
    let copy = w.path("u/s").metadata().unwrap();
    assert_eq!((copy.len(), copy.blocks()), (1 << 30, file.metadata().unwrap().blocks()));
    let mut seen = [0; 6];
    File::open(w.m("s")).unwrap().read_exact_at(&mut seen, 1 << 29).unwrap();
    assert_eq!(&seen, b"middle");
    w.unmount();
}

fn hard_links() {
    let mut w = World::new(1);
    w.put("l0/a", "old");
    fs::hard_link(w.path("l0/a"), w.path("l0/b")).unwrap();
    w.mount();
    assert_eq!(w.m("a").metadata().unwrap().ino(), w.m("b").metadata().unwrap().ino());
    fs::write(w.m("a"), "new").unwrap();
    assert_eq!(read(w.m("b")), "new");
    fs::remove_file(w.m("a")).unwrap();
    assert_eq!(read(w.m("b")), "new");
    fs::hard_link(w.m("b"), w.m("c")).unwrap();
    fs::write(w.m("c"), "newer").unwrap();
    assert_eq!(read(w.m("b")), "newer");
    w.unmount();
    w.mount();
    assert_eq!((read(w.m("b")), read(w.m("c"))), ("newer".into(), "newer".into()));
    w.unmount();
}

fn metacopy_chmod() {
    let mut w = World::new(1);
    w.options.metacopy = true;
    w.put("l0/f", &"data".repeat(50_000));
    w.mount();
    fs::set_permissions(w.m("f"), fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(w.mounted().counters().copied_bytes(), 0);
    for _ in 0..2 {
        assert_eq!(read(w.m("f")), "data".repeat(50_000));
        assert_eq!(w.m("f").metadata().unwrap().mode() & 0o777, 0o640);
        w.unmount();
        w.mount();
    }
    OpenOptions::new().append(true).open(w.m("f")).unwrap().write_all(b"more").unwrap();
    assert_eq!(read(w.m("f")), "data".repeat(50_000) + "more");
    w.unmount();
    w.mount();
    assert_eq!(read(w.m("f")), "data".repeat(50_000) + "more");
    w.unmount();
}

fn unlinked_open() {
    check(
        1,
        |w| w.put("l0/f", "still here"),
        |w| {
            let mut lower = File::open(w.m("f")).unwrap();
            fs::remove_file(w.m("f")).unwrap();
            let mut seen = String::new();
            lower.read_to_string(&mut seen).unwrap();
            assert_eq!(seen, "still here");
            assert_eq!(lower.metadata().unwrap().nlink(), 0);
            let mut own =
                File::options().create_new(true).read(true).write(true).open(w.m("g")).unwrap();
            fs::remove_file(w.m("g")).unwrap();
            own.write_all(b"written later").unwrap();
            own.set_len(7).unwrap();
            own.set_permissions(fs::Permissions::from_mode(0o600)).unwrap();
            assert_eq!((own.metadata().unwrap().len(), own.metadata().unwrap().nlink()), (7, 0));
        },
    );
}

fn dots() {
    check(
        1,
        |w| w.put("l0/d/f", ""),
        |w| {
            let dir = File::open(w.m("d")).unwrap();
            let listed = rustix::fs::Dir::read_from(&dir).unwrap();
            let mut seen: Vec<_> = listed
                .map(|e| e.unwrap())
                .map(|e| (e.file_name().to_string_lossy().into_owned(), e.ino()))
                .collect();
            seen.sort();
            let ino = |name: &str| w.m(name).symlink_metadata().unwrap().ino();
            let own = |name: &str, ino| (name.to_owned(), ino);
            assert_eq!(seen, [own(".", ino("d")), own("..", ino("")), own("f", ino("d/f"))]);
        },
    );
}

fn listing_stable() {
    check(
        1,
        |w| (0..1000).for_each(|i| w.put(&format!("l0/d/{i}"), "")),
        |w| {
            let mut seen = 0;
            for entry in fs::read_dir(w.m("d")).unwrap() {
                fs::remove_file(entry.unwrap().path()).unwrap();
                seen += 1;
            }
            assert_eq!(seen, 1000);
            assert!(names(&w.m("d")).is_empty());
        },
    );
}

fn odd_names() {
    check(
        1,
        |w| w.mkdir("l0/d"),
        |w| {
            let long = "n".repeat(255);
            fs::write(w.m("d").join(&long), "long").unwrap();
            assert_eq!(
                fs::write(w.m("d").join("n".repeat(256)), "").unwrap_err().raw_os_error(),
                Some(36)
            );
            fs::write(w.m("d").join(non_utf8()), "odd").unwrap();
            assert_eq!(read(w.m("d").join(non_utf8())), "odd");
            fs::remove_file(w.m("d").join(non_utf8())).unwrap();
        },
    );
}

fn attributes() {
    let fill = |w: &World| {
        w.put("l0/f", "f");
        set_mark(&w.path("l0/f"), "user.colour", b"red");
    };
    check(1, fill, |w| {
        set_mark(&w.m("f"), "user.shape", b"round");
        let mut list = vec![0u8; 1024];
        let len = rustix::fs::listxattr(w.m("f"), &mut list[..]).unwrap();
        let text = String::from_utf8_lossy(&list[..len]).into_owned();
        assert!(text.contains("user.colour") && text.contains("user.shape"), "{text}");
        assert!(!text.contains("overlay"), "{text}");
        rustix::fs::removexattr(w.m("f"), "user.colour").unwrap();
        let absent = rustix::fs::getxattr(w.m("f"), "user.colour", &mut list[..]).unwrap_err();
        assert_eq!(absent, rustix::io::Errno::NODATA);
    });
}

fn set_gid() {
    check(
        1,
        |w| w.mkdir("l0/d"),
        |w| {
            std::os::unix::fs::chown(w.m("d"), Some(5), Some(7)).unwrap();
            fs::set_permissions(w.m("d"), fs::Permissions::from_mode(0o2775)).unwrap();
            fs::create_dir(w.m("d/sub")).unwrap();
            OpenOptions::new().write(true).create_new(true).mode(0o4755).open(w.m("d/f")).unwrap();
            let (sub, f) = (w.m("d/sub").metadata().unwrap(), w.m("d/f").metadata().unwrap());
            assert_eq!((sub.gid(), sub.mode() & 0o2000), (7, 0o2000));
            assert_eq!((f.gid(), f.uid()), (7, 0));
        },
    );
}

/// Whoever may write a file, but not keep its bits, takes them away by each way
/// of changing it; root keeps them, as on a bare directory.
fn set_id_bits() {
    const WAYS: [&str; 4] =
        ["printf x >> $0", ": > $0", "truncate -s 3 $0", "fallocate -l 9000 $0"];
    let fill = |w: &World| {
        for i in 0..WAYS.len() {
            for who in ["root", "nobody"] {
                w.put(&format!("l0/{who}{i}"), "content");
                let mode = fs::Permissions::from_mode(0o6777);
                fs::set_permissions(w.path(&format!("l0/{who}{i}")), mode).unwrap();
            }
        }
        fs::set_permissions(w.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    };
    check(1, fill, |w| {
        for (i, way) in WAYS.iter().enumerate() {
            for (who, id, left) in [("root", 0, 0o6777), ("nobody", 65534, 0o777)] {
                let path = w.m(&format!("{who}{i}"));
                let done = std::process::Command::new("setpriv")
                    .args([format!("--reuid={id}"), format!("--regid={id}")])
                    .args(["--clear-groups", "sh", "-c", way])
                    .arg(&path)
                    .status()
                    .unwrap();
                assert!(done.success(), "{who}: {way}");
                let mode = fs::metadata(&path).unwrap().mode() & 0o7777;
                assert_eq!(mode, left, "{who}: {way}: {mode:o}");
            }
        }
    });
}

fn read_only() {
    let mut w = World::new(2);
    w.put("l0/a", "a");
    w.put("l1/b", "b");
    (w.options.upper, w.options.work) = (None, None);
    w.mount();
    assert_eq!((read(w.m("a")), read(w.m("b"))), ("a".into(), "b".into()));
    assert_eq!(fs::write(w.m("a"), "").unwrap_err().raw_os_error(), Some(30));
    assert_eq!(fs::remove_file(w.m("b")).unwrap_err().raw_os_error(), Some(30));
    w.unmount();
}

fn many_threads() {
    let mut w = World::new(2);
    (0..200).for_each(|i| w.put(&format!("l{}/d/{i}", i % 2), "lower"));
    w.mount();
    let dir = w.m("d");
    std::thread::scope(|scope| {
        for t in 0..8 {
            let dir = &dir;
            scope.spawn(move || {
                for i in 0..200 {
                    let (a, b) = (dir.join(format!("t{t}-{i}")), dir.join(format!("r{t}-{i}")));
                    fs::write(&a, "x").unwrap();
                    fs::rename(&a, &b).unwrap();
                    assert!(fs::read_dir(dir).unwrap().all(|e| e.is_ok()));
                    if i % 2 == 0 {
                        fs::remove_file(&b).unwrap();
                    }
                    let own = dir.join((t * 25 + i % 25).to_string());
                    fs::write(own, format!("{t}")).unwrap();
                }
            });
        }
    });
    let shown = w.merged();
    assert_eq!(names(&dir).len(), 200 + 8 * 100);
    w.unmount();
    w.mount();
    assert_eq!(shown, w.merged());
    w.unmount();
}
