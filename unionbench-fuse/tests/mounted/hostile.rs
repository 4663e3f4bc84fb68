//! Layers that are damaged, made by hand, or made to lead astray: each answer
//! is that of the kernel's overlayfs (Linux 6.18), and nothing outside the
//! layers is ever shown.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::Command;

use rustix::io::Errno;

use crate::cases::read;
use crate::world::{World, check, names, set_mark};

pub const ALL: &[(&str, fn())] = &[
    ("damaged_redirects_give_the_kernels_errno", damaged_redirect),
    ("redirects_through_symlinks_lead_nowhere", symlinked_redirect),
    ("damaged_metacopies_give_eio", damaged_metacopy),
    ("metacopies_are_known_by_their_mark_alone", metacopy_with_blocks),
    ("redirects_of_ordinary_users_are_not_believed", user_redirect),
    ("marks_of_ordinary_users_count_with_userxattr", userxattr),
    ("data_only_layers_hold_data_of_metacopies", data_only),
    ("unknown_values_of_marks_mean_nothing", unknown_values),
    ("marks_of_a_union_above_are_kept_apart", nested_marks),
    ("copied_marks_do_not_make_one_file_of_two", copied_marks),
    ("two_redirects_to_one_directory_stay_apart", doubled_redirect),
    ("directories_on_the_way_of_a_redirect_are_redirected", redirected_way),
    ("a_directory_moves_out_of_one_moved_below", moved_out_of_moved),
    ("symlink_loops_in_layers_are_loops", symlink_loop),
    ("a_directory_swapped_for_a_symlink_leads_nowhere", swapped_directory),
    ("a_layer_that_vanishes_leaves_no_panic", vanished_layer),
    ("bad_layers_are_refused", bad_layers),
    ("an_upper_layer_may_lie_in_a_lower_one", upper_in_lower),
    ("a_full_upper_layer_keeps_the_old_file", full_upper),
    ("a_second_mount_of_a_work_folder_is_refused", busy_work),
    ("a_work_folder_of_the_kernels_is_refused", busy_by_kernel),
    ("an_acl_is_kept_and_given_on", acl),
    ("an_unlinked_lower_file_can_still_change", unlinked_lower_changes),
];

fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap()
}

fn damaged_redirect() {
    for (to, expected) in [
        ("/../../etc", Errno::ACCESS),
        ("..", Errno::ACCESS),
        (".", Errno::ACCESS),
        ("/d/../x", Errno::ACCESS),
        ("/", Errno::INVAL),
        ("a/b", Errno::INVAL),
        ("", Errno::INVAL),
        ("//d", Errno::INVAL),
        ("/d/", Errno::INVAL),
    ] {
        let mut w = World::new(2);
        w.mkdir("l0/d");
        w.mkdir("l1/d");
        set_mark(&w.path("l0/d"), "trusted.overlay.redirect", to.as_bytes());
        w.mount();
        assert_eq!(errno(fs::read_dir(w.m("d")).unwrap_err()), expected, "{to:?}");
        for _ in 0..2 {
            assert_eq!(names(&w.m("")), ["d"], "{to:?}");
        }
        w.unmount();
    }
}

fn symlinked_redirect() {
    let mut w = World::new(2);
    w.put("outside/secret", "secret");
    w.mkdir("l0/d");
    w.mkdir("l0/e");
    w.mkdir("l1/own");
    symlink("../outside", w.path("l1/out")).unwrap();
    symlink("own", w.path("l1/link")).unwrap();
    set_mark(&w.path("l0/d"), "trusted.overlay.redirect", b"/out");
    set_mark(&w.path("l0/e"), "trusted.overlay.redirect", b"/link/x");
    let meta = File::create(w.path("l0/f")).unwrap();
    meta.set_len(6).unwrap();
    set_mark(&w.path("l0/f"), "trusted.overlay.metacopy", b"");
    set_mark(&w.path("l0/f"), "trusted.overlay.redirect", b"/out/secret");
    w.mount();
    assert!(names(&w.m("d")).is_empty());
    assert!(names(&w.m("e")).is_empty());
    assert_eq!(errno(fs::read(w.m("f")).unwrap_err()), Errno::IO);
    w.unmount();
}

fn damaged_metacopy() {
    for (value, data_below, works) in [
        (&b"\0"[..], true, false),
        (b"\0\x01", true, false),
        (b"", false, false),
        (b"", true, true),
        (b"\0\x04\0\0", true, true),
    ] {
        let mut w = World::new(2);
        if data_below {
            w.put("l1/f", "data\n");
        }
        File::create(w.path("l0/f")).unwrap().set_len(5).unwrap();
        set_mark(&w.path("l0/f"), "trusted.overlay.metacopy", value);
        w.mount();
        match fs::read(w.m("f")) {
            Ok(data) => assert!(works && data == b"data\n", "{value:?}"),
            Err(e) => assert!(!works && errno(e) == Errno::IO, "{value:?}"),
        }
        assert_eq!(w.m("f").symlink_metadata().is_ok(), works);
        w.unmount();
    }
}

fn metacopy_with_blocks() {
    let fill = |w: &World| {
        w.put("l1/f", "the data");
        w.put("l0/f", "no data!");
        set_mark(&w.path("l0/f"), "trusted.overlay.metacopy", b"");
        w.put("l1/g", "the data");
        w.put("l0/g", "no data!");
        set_mark(&w.path("l0/g"), "trusted.overlay.metacopy", b"");
    };
    check(2, fill, |w| {
        assert_eq!(read(w.m("f")), "the data");
        OpenOptions::new().append(true).open(w.m("g")).unwrap().write_all(b" grows").unwrap();
        assert_eq!(read(w.m("g")), "the data grows");
    });
}

fn user_redirect() {
    check(
        2,
        |w| {
            w.put("l1/secret/in", "of another owner");
            w.put("l1/file", "of another owner");
            w.mkdir("l0/d");
            w.put("l0/f", "own");
            set_mark(&w.path("l0/d"), "user.overlay.redirect", b"/secret");
            set_mark(&w.path("l0/f"), "user.overlay.metacopy", b"");
            set_mark(&w.path("l0/f"), "user.overlay.redirect", b"/file");
        },
        |w| {
            assert!(names(&w.m("d")).is_empty());
            assert_eq!(read(w.m("f")), "own");
        },
    );
}

fn userxattr() {
    let mut w = World::new(2);
    w.options.userxattr = true;
    w.put("l1/old/in", "in");
    w.mkdir("l0/new");
    set_mark(&w.path("l0/new"), "user.overlay.redirect", b"/old");
    w.put("l1/opaque/below", "");
    w.mkdir("l0/opaque");
    set_mark(&w.path("l0/opaque"), "user.overlay.opaque", b"y");
    w.mount();
    assert_eq!(read(w.m("new/in")), "in");
    assert!(names(&w.m("opaque")).is_empty());
    fs::remove_dir_all(w.m("old")).unwrap();
    fs::create_dir(w.m("old")).unwrap();
    let mut value = [0; 8];
    let len = rustix::fs::lgetxattr(w.path("u/old"), "user.overlay.opaque", &mut value[..]);
    assert_eq!(&value[..len.unwrap()], b"y");
    w.unmount();
}

fn data_only() {
    let mut w = World::new(1);
    w.put("data/pool/1", "from the pool");
    w.put("data/shown", "never shown");
    File::create(w.path("l0/f")).unwrap().set_len(13).unwrap();
    set_mark(&w.path("l0/f"), "trusted.overlay.metacopy", b"");
    set_mark(&w.path("l0/f"), "trusted.overlay.redirect", b"/pool/1");
    w.options.data_only = vec![w.path("data")];
    w.mount();
    assert_eq!(names(&w.m("")), ["f"]);
    assert_eq!(read(w.m("f")), "from the pool");
    OpenOptions::new().append(true).open(w.m("f")).unwrap().write_all(b"!").unwrap();
    assert_eq!(read(w.m("f")), "from the pool!");
    w.unmount();
    w.mount();
    assert_eq!(read(w.m("f")), "from the pool!");
    w.unmount();
}

fn unknown_values() {
    check(
        2,
        |w| {
            for (name, value) in [("z", "z"), ("yes", "yes"), ("empty", "")] {
                w.put(&format!("l1/{name}/below"), "");
                w.mkdir(&format!("l0/{name}"));
                set_mark(
                    &w.path(&format!("l0/{name}")),
                    "trusted.overlay.opaque",
                    value.as_bytes(),
                );
            }
            w.put("u/f", "upper");
            set_mark(&w.path("u/f"), "trusted.overlay.origin", b"junk");
            // Whiteouts by attribute are those of lower layers only.
            w.put("l1/x/f", "");
            w.put("u/x/f", "");
            set_mark(&w.path("u/x"), "trusted.overlay.opaque", b"x");
            set_mark(&w.path("u/x/f"), "trusted.overlay.whiteout", b"");
        },
        |w| {
            for name in ["z", "yes", "empty"] {
                assert_eq!(names(&w.m(name)), ["below"], "{name}");
            }
            assert_eq!(read(w.m("f")), "upper");
            assert_eq!(names(&w.m("x")), ["f"]);
        },
    );
}

fn nested_marks() {
    check(
        1,
        |w| w.put("l0/d/below", ""),
        |w| {
            set_mark(&w.m("d"), "trusted.overlay.opaque", b"y");
            assert_eq!(names(&w.m("d")), ["below"]);
            let mut value = [0; 8];
            let path = w.m("d");
            let len = rustix::fs::lgetxattr(&path, "trusted.overlay.opaque", &mut value[..]);
            assert_eq!(&value[..len.unwrap()], b"y");
            let stored = "trusted.overlay.overlay.opaque";
            assert!(rustix::fs::lgetxattr(w.path("u/d"), stored, &mut value[..]).is_ok());
            let mut list = vec![0; 512];
            let len = rustix::fs::llistxattr(&path, &mut list[..]).unwrap();
            assert_eq!(&list[..len], b"trusted.overlay.opaque\0");
        },
    );
}

/// What `cp -a` of an upper layer leaves: two files that name one origin, and
/// then their model shows again.
fn copied_marks() {
    let mut w = World::new(1);
    w.put("l0/a", "lower");
    w.mount();
    OpenOptions::new().append(true).open(w.m("a")).unwrap().write_all(b" and more").unwrap();
    w.unmount();
    for name in ["b", "c"] {
        let mut copy = Command::new("cp");
        copy.arg("-a").arg(w.path("u/a")).arg(w.path("u").join(name));
        assert!(copy.status().unwrap().success());
        fs::write(w.path("u").join(name), name).unwrap();
    }
    fs::remove_file(w.path("u/a")).unwrap();
    for order in [["a", "b", "c"], ["c", "b", "a"]] {
        w.mount();
        let mut numbers = Vec::new();
        for name in order {
            let expected = if name == "a" { "lower" } else { name };
            assert_eq!(read(w.m(name)), expected, "{order:?}");
            numbers.push(w.m(name).metadata().unwrap().ino());
        }
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 3, "{order:?}");
        w.unmount();
    }
}

fn doubled_redirect() {
    let mut w = World::new(1);
    w.put("l0/d/in", "in");
    w.mkdir("u/e/f");
    w.mkdir("u/g");
    for dir in ["u/e", "u/e/f", "u/g"] {
        set_mark(&w.path(dir), "trusted.overlay.redirect", b"/d");
    }
    w.mount();
    fs::write(w.m("e/own"), "e").unwrap();
    fs::write(w.m("g/own"), "g").unwrap();
    fs::write(w.m("e/f/own"), "f").unwrap();
    assert_eq!(names(&w.m("e")), ["f", "in", "own"]);
    assert_eq!(names(&w.m("g")), ["in", "own"]);
    assert_eq!(names(&w.m("d")), ["in"]);
    for (name, expected) in [("e", "e"), ("g", "g"), ("e/f", "f")] {
        assert_eq!(read(w.m(name).join("own")), expected);
    }
    w.unmount();
}

fn redirected_way() {
    let mut w = World::new(2);
    w.put("l1/old/sub/bottom", "");
    w.put("l1/own/sub/sibling", "");
    w.put("l0/moved/sub/middle", "");
    set_mark(&w.path("l0/moved"), "trusted.overlay.redirect", b"/old");
    w.mkdir("u/sub");
    set_mark(&w.path("u/sub"), "trusted.overlay.redirect", b"/moved/sub");
    w.mkdir("l0/renamed/sub");
    set_mark(&w.path("l0/renamed"), "trusted.overlay.redirect", b"own");
    w.mkdir("u/other");
    set_mark(&w.path("u/other"), "trusted.overlay.redirect", b"/renamed/sub");
    w.mount();
    assert_eq!(names(&w.m("sub")), ["bottom", "middle"]);
    assert_eq!(names(&w.m("other")), ["sibling"]);
    w.unmount();
}

/// A subdirectory is moved out of one that was moved in a layer below, where
/// its old place is hidden.
fn moved_out_of_moved() {
    let mut w = World::new(2);
    w.put("l1/d/pop/b", "b");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        w.path("l0/d"),
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::Mode::empty(),
        0,
    )
    .unwrap();
    w.mkdir("l0/e/d");
    set_mark(&w.path("l0/e/d"), "trusted.overlay.redirect", b"/d");
    w.mount();
    assert_eq!(read(w.m("e/d/pop/b")), "b");
    fs::rename(w.m("e/d/pop"), w.m("e/pop")).unwrap();
    fs::rename(w.m("e"), w.m("f")).unwrap();
    for _ in 0..2 {
        assert_eq!(read(w.m("f/pop/b")), "b");
        assert!(names(&w.m("f/d")).is_empty());
        w.unmount();
        w.mount();
    }
    w.unmount();
}

fn symlink_loop() {
    check(
        1,
        |w| {
            symlink("b", w.path("l0/a")).unwrap();
            symlink("a", w.path("l0/b")).unwrap();
            symlink(".", w.path("l0/self")).unwrap();
        },
        |w| {
            assert_eq!(errno(fs::read(w.m("a")).unwrap_err()), Errno::LOOP);
            assert_eq!(errno(fs::write(w.m("self/self/b"), "").unwrap_err()), Errno::LOOP);
            assert_eq!(names(&w.m("self/self")), ["a", "b", "self"]);
        },
    );
}

fn swapped_directory() {
    let mut w = World::new(1);
    w.put("outside/f", "secret");
    w.put("outside/g", "secret");
    w.put("l0/d/f", "own");
    w.put("l0/d/g", "own");
    w.mount();
    assert_eq!(names(&w.m("d")), ["f", "g"]);
    assert_eq!(read(w.m("d/f")), "own");
    fs::rename(w.path("l0/d"), w.path("l0/old")).unwrap();
    symlink("../outside", w.path("l0/d")).unwrap();
    for name in ["f", "g"] {
        assert!(fs::read(w.m("d").join(name)).is_ok_and(|data| data == b"own") || name == "g");
        assert!(fs::read(w.m("d").join(name)).map_or(true, |data| data != b"secret"));
    }
    w.unmount();
}

fn vanished_layer() {
    let mut w = World::new(2);
    w.put("l1/d/f", "f");
    w.put("l1/d/g", "g");
    w.mount();
    assert_eq!(read(w.m("d/f")), "f");
    fs::remove_dir_all(w.path("l1")).unwrap();
    fs::create_dir(w.path("l1")).unwrap();
    assert_eq!(fs::read(w.m("d/g")).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(fs::write(w.m("d/g"), "").unwrap_err().kind(), ErrorKind::NotFound);
    assert!(fs::read_dir(w.m("d")).is_ok());
    fs::write(w.m("new"), "goes on").unwrap();
    assert_eq!(read(w.m("new")), "goes on");
    w.unmount();
}

fn bad_layers() {
    let refused = |change: fn(&mut World)| {
        let mut w = World::new(1);
        w.mkdir("u/w");
        w.mkdir("l0/in");
        change(&mut w);
        unionbench_fuse::mount(&w.options, &w.path("m")).unwrap_err().to_string()
    };
    assert!(refused(|w| w.options.lower = vec![w.path("absent")]).contains("cannot open layer"));
    assert!(refused(|w| w.options.work = Some(w.path("absent"))).contains("work folder"));
    assert!(refused(|w| w.options.work = Some("/proc".into())).contains("same file system"));
    let apart = "lie apart";
    assert!(refused(|w| w.options.work = Some(w.path("u/w"))).contains(apart));
    assert!(refused(|w| w.options.work = Some(w.path("u"))).contains(apart));
    assert!(refused(|w| w.options.lower = vec![w.path("u")]).contains(apart));
    assert!(refused(|w| w.options.lower = vec![w.path("u/w")]).contains(apart));
    assert!(refused(|w| w.options.lower.push(w.path("l0"))).contains(apart));
    assert!(refused(|w| w.options.lower.push(w.path("l0/in"))).contains(apart));
    assert!(refused(|w| w.options.lower.insert(0, w.path("l0/in"))).contains(apart));
}

fn upper_in_lower() {
    let mut w = World::new(1);
    w.put("l0/f", "lower");
    w.mkdir("l0/union/m");
    w.mkdir("l0/union/u");
    w.mkdir("l0/union/w");
    w.options.upper = Some(w.path("l0/union/u"));
    w.options.work = Some(w.path("l0/union/w"));
    let point = w.path("l0/union/m");
    let mounted = unionbench_fuse::mount(&w.options, &point).unwrap();
    fs::write(point.join("f"), "upper").unwrap();
    assert_eq!(read(w.path("l0/f")), "lower");
    // The mount does not show in itself.
    assert!(names(&point.join("union/m")).is_empty());
    mounted.unmount().unwrap();
}

fn full_upper() {
    let w = World::new(1);
    w.mkdir("small");
    let small = w.path("small");
    let mount =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(&small).status();
    assert!(mount.unwrap().success());
    let content = "x".repeat(16 << 20);
    w.put("l0/big", &content);
    w.mkdir("small/u");
    w.mkdir("small/w");
    let mut options = w.options.clone();
    options.upper = Some(small.join("u"));
    options.work = Some(small.join("w"));
    let mounted = unionbench_fuse::mount(&options, &w.path("m")).unwrap();
    let failed = OpenOptions::new().append(true).open(w.m("big")).unwrap_err();
    assert_eq!(errno(failed), Errno::NOSPC);
    assert_eq!(read(w.m("big")), content);
    assert!(!small.join("u/big").exists());
    assert!(names(&small.join("w/work")).iter().all(|n| n == "#whiteout"));
    fs::write(w.m("little"), "fits").unwrap();
    fs::remove_file(w.m("big")).unwrap();
    mounted.unmount().unwrap();
    assert!(Command::new("umount").arg(&small).status().unwrap().success());
}

fn busy_work() {
    let mut w = World::new(1);
    w.mount();
    w.mkdir("m2");
    let second = unionbench_fuse::mount(&w.options, &w.path("m2")).unwrap_err().to_string();
    assert!(second.contains("another mount uses it"), "{second}");
    w.unmount();
    w.mount();
    w.unmount();
}

fn busy_by_kernel() {
    let refused = |w: &World| {
        let error = unionbench_fuse::mount(&w.options, &w.path("m2")).unwrap_err();
        let source = std::error::Error::source(&error).and_then(|s| s.downcast_ref::<Errno>());
        assert_eq!(source, Some(&Errno::BUSY));
        let told = error.to_string();
        let at = format!("{:?}", w.path("m"));
        assert!(told.contains(&at) && told.contains("uses it; unmount that"), "{told}");
    };
    let mut w = World::new(1);
    for folder in ["m2", "u2", "w2"] {
        w.mkdir(folder);
    }
    if let Err(error) = w.mount_kernel("index=off") {
        println!("skipped: this kernel mounts no overlayfs: {error}");
        return;
    }
    refused(&w);
    // The same upper folder with another work folder, and the reverse.
    w.options.work = Some(w.path("w2"));
    refused(&w);
    let upper = w.options.upper.replace(w.path("u2"));
    w.options.work = Some(w.path("w"));
    refused(&w);
    // Reading is no harm, nor are folders of its own.
    w.options.read_only = true;
    unionbench_fuse::mount(&w.options, &w.path("m2")).unwrap().unmount().unwrap();
    w.options.read_only = false;
    w.options.work = Some(w.path("w2"));
    unionbench_fuse::mount(&w.options, &w.path("m2")).unwrap().unmount().unwrap();
    w.unmount_kernel();
    w.options.upper = upper;
    w.options.work = Some(w.path("w"));
    w.mount();
    w.unmount();
}

/// An ACL as the kernel keeps it: version 2, then tag, permissions and id of
/// each entry (`include/uapi/linux/posix_acl_xattr.h`).
fn acl_bytes(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut out = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        out.extend(tag.to_le_bytes());
        out.extend(permissions.to_le_bytes());
        out.extend(id.to_le_bytes());
    }
    out
}

fn acl() {
    let none = u32::MAX;
    let given =
        acl_bytes(&[(1, 7, none), (2, 5, 1234), (4, 0, none), (0x10, 5, none), (0x20, 0, none)]);
    check(
        1,
        |w| {
            w.put("l0/d/old", "");
            set_mark(&w.path("l0/d"), "system.posix_acl_default", &given);
            w.put("l0/f", "");
            set_mark(&w.path("l0/f"), "system.posix_acl_access", &given);
            w.put("l0/plain/old", "");
        },
        |w| {
            let read_acl = |name: &str| {
                let mut value = vec![0; 512];
                rustix::fs::lgetxattr(w.m(name), "system.posix_acl_access", &mut value[..])
                    .map(|len| value[..len].to_vec())
            };
            assert_eq!(read_acl("f").unwrap(), given);
            fs::set_permissions(w.m("f"), fs::Permissions::from_mode(0o740)).unwrap();
            assert_eq!(w.m("f").metadata().unwrap().mode() & 0o777, 0o740);
            assert_ne!(read_acl("f").unwrap(), given, "the mode changes the mask");
            // Made in place, and made where a whiteout gives way.
            fs::remove_file(w.m("d/old")).unwrap();
            for name in ["d/new", "d/old"] {
                fs::write(w.m(name), "").unwrap();
                assert_eq!(w.m(name).metadata().unwrap().mode() & 0o777, 0o640, "{name}");
                assert!(read_acl(name).is_ok(), "{name}");
            }
            fs::create_dir(w.m("d/sub")).unwrap();
            assert!(read_acl("d/sub").is_ok());
            fs::create_dir(w.m("plain/sub")).unwrap();
            assert!(read_acl("plain/sub").is_err());
        },
    );
}

fn unlinked_lower_changes() {
    check(
        1,
        |w| w.put("l0/f", "lower"),
        |w| {
            let file = File::open(w.m("f")).unwrap();
            fs::remove_file(w.m("f")).unwrap();
            file.set_permissions(fs::Permissions::from_mode(0o600)).unwrap();
            let meta = file.metadata().unwrap();
            assert_eq!((meta.mode() & 0o777, meta.nlink(), meta.len()), (0o600, 0, 5));
        },
    );
}
