//! The kernel's overlayfs and the union are asked the same of the same damaged
//! or hostile layers, and must give the same answers: content, names or errno.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::io::Errno;

use crate::world::{World, set_mark};

pub const ALL: &[(&str, fn())] = &[
    ("damaged_layers_answer_as_the_kernels_do", damaged),
    ("stacks_are_refused_as_the_kernel_refuses_them", refused),
];

type Fill = fn(&World);
type Change = fn(&mut World);

/// What is in the layers, by a word for it. Links that lead out of them stay
/// within the world's folder, since what they lead to is changed.
const DAMAGE: &[(&str, Fill)] = &[
    ("redirect_out", |w| {
        w.put("outside/secret", "secret");
        redirect(w, "redirect_out", b"/../outside");
    }),
    ("redirect_dots", |w| redirect(w, "redirect_dots", b"..")),
    ("redirect_slash", |w| redirect(w, "redirect_slash", b"a/b")),
    ("redirect_empty", |w| redirect(w, "redirect_empty", b"")),
    ("redirect_nul", |w| redirect(w, "redirect_nul", b"/a\0b")),
    ("redirect_absent", |w| redirect(w, "redirect_absent", b"/nowhere/at/all")),
    ("redirect_self", |w| redirect(w, "redirect_self", b"/redirect_self")),
    ("redirect_link", |w| {
        w.put("outside/secret", "secret");
        symlink("../outside", w.path("l1/link_out")).unwrap();
        redirect(w, "redirect_link", b"/link_out");
    }),
    ("redirect_file", |w| {
        w.put("l1/a_file", "file");
        redirect(w, "redirect_file", b"/a_file");
    }),
    ("opaque_junk", |w| {
        w.put("l1/opaque_junk/below", "below");
        w.mkdir("l0/opaque_junk");
        set_mark(&w.path("l0/opaque_junk"), "trusted.overlay.opaque", b"perhaps");
    }),
    ("opaque_long", |w| {
        w.put("l1/opaque_long/below", "below");
        w.mkdir("l0/opaque_long");
        set_mark(&w.path("l0/opaque_long"), "trusted.overlay.opaque", &[b'y'; 300]);
    }),
    ("metacopy_alone", |w| metacopy(w, "metacopy_alone", b"", None)),
    ("metacopy_short", |w| {
        w.put("l1/metacopy_short", "data");
        metacopy(w, "metacopy_short", b"\0", None);
    }),
    ("metacopy_out", |w| {
        w.put("outside/secret", "secret");
        metacopy(w, "metacopy_out", b"", Some(b"/../outside/secret"));
    }),
    ("metacopy_link", |w| {
        w.put("outside/secret", "secret");
        symlink("../outside/secret", w.path("l1/link_out")).unwrap();
        metacopy(w, "metacopy_link", b"", Some(b"/link_out"));
    }),
    ("metacopy_dir", |w| {
        w.mkdir("l1/metacopy_dir");
        metacopy(w, "metacopy_dir", b"", None);
    }),
    ("origin_junk", |w| {
        w.put("u/origin_junk", "upper");
        set_mark(&w.path("u/origin_junk"), "trusted.overlay.origin", b"junk");
    }),
    ("loop", |w| {
        symlink("loop_b", w.path("l0/loop")).unwrap();
        symlink("loop", w.path("l1/loop_b")).unwrap();
    }),
    ("self_link", |w| symlink("self_link", w.path("l1/self_link")).unwrap()),
    ("file_over_dir", |w| {
        w.put("l1/file_over_dir/in", "in");
        w.put("l0/file_over_dir", "file");
    }),
    ("dir_over_file", |w| {
        w.put("l1/dir_over_file", "file");
        w.put("l0/dir_over_file/in", "in");
    }),
    ("whiteout_of_nothing", |w| whiteout(w, "l0/whiteout_of_nothing")),
    ("whiteout", |w| {
        w.put("l1/whiteout/in", "in");
        whiteout(w, "l0/whiteout");
    }),
    ("device", |w| {
        let mode = Mode::from_raw_mode(0o600);
        let path = w.path("l1/device");
        mknodat(CWD, path, FileType::CharacterDevice, mode, rustix::fs::makedev(1, 3)).unwrap();
    }),
    ("odd_name", |w| {
        fs::write(w.path("l1").join(OsStr::from_bytes(b"odd_name\xff\n\x01")), "odd").unwrap();
        fs::write(w.path("l0").join("n".repeat(255)), "long").unwrap();
    }),
];

fn redirect(w: &World, name: &str, to: &[u8]) {
    w.put(&format!("l1/{name}/below"), "below");
    w.put(&format!("l0/{name}/above"), "above");
    set_mark(&w.path("l0").join(name), "trusted.overlay.redirect", to);
}

fn metacopy(w: &World, name: &str, value: &[u8], to: Option<&[u8]>) {
    let path = w.path("l0").join(name);
    File::create(&path).unwrap().set_len(4).unwrap();
    set_mark(&path, "trusted.overlay.metacopy", value);
    if let Some(to) = to {
        set_mark(&path, "trusted.overlay.redirect", to);
    }
}

fn whiteout(w: &World, path: &str) {
    mknodat(CWD, w.path(path), FileType::CharacterDevice, Mode::empty(), 0).unwrap();
}

fn damaged() {
    let mut differences = BTreeSet::new();
    for (name, fill) in DAMAGE {
        let ask = |kernel: bool| {
            let mut w = World::new(2);
            fill(&w);
            w.options.metacopy = true;
            if kernel {
                let more = "redirect_dir=on,metacopy=on";
                if let Err(error) = w.mount_kernel(more) {
                    println!("skipped: {name}: this kernel mounts no overlayfs: {error}");
                    return None;
                }
            } else {
                w.mount();
            }
            let heard = answers(&w);
            if kernel {
                w.unmount_kernel();
            } else {
                w.unmount();
            }
            Some(heard)
        };
        let Some(kernel) = ask(true) else { return };
        let ours = ask(false).unwrap_or_default();
        for question in kernel.keys().chain(ours.keys()) {
            let (a, b) = (kernel.get(question), ours.get(question));
            if a != b {
                differences.insert(format!("{name}: {question}: kernel {a:?}, union {b:?}"));
            }
        }
    }
    assert!(differences.is_empty(), "{differences:#?}");
}

type Answers = BTreeMap<String, String>;

/// Everything asked of every object, reading first, and what was answered.
fn answers(w: &World) -> Answers {
    let mut heard = Answers::new();
    let mut paths = vec![w.m("")];
    let mut found = Vec::new();
    while let Some(path) = paths.pop() {
        let Ok(listed) = fs::read_dir(&path) else { continue };
        let below: Vec<_> = listed.map(|entry| entry.unwrap().path()).collect();
        found.extend(below.iter().cloned());
        // A link is not gone into.
        paths.extend(below.into_iter().filter(|p| p.symlink_metadata().is_ok_and(|m| m.is_dir())));
    }
    found.sort();
    for path in &found {
        let mut note = |what: &str, said: String| {
            let name = path.strip_prefix(w.m("")).unwrap();
            heard.insert(format!("{name:?} {what}"), said);
        };
        note("lstat", said(path.symlink_metadata().map(|m| format!("{:?}", m.file_type()))));
        note("read", said(fs::read(path).map(|data| String::from_utf8_lossy(&data).into_owned())));
        note("list", said(names_in(path)));
        note("link", said(fs::read_link(path).map(|to| to.display().to_string())));
    }
    for path in &found {
        let mut note = |what: &str, said: String| {
            let name = path.strip_prefix(w.m("")).unwrap();
            heard.insert(format!("{name:?} {what}"), said);
        };
        if path.symlink_metadata().is_ok_and(|m| m.is_file() || m.is_symlink()) {
            let opened = OpenOptions::new().append(true).open(path);
            note(
                "append",
                said(opened.and_then(|mut f| f.write_all(b"+")).map(|()| String::new())),
            );
            note("read again", said(fs::read(path).map(|d| String::from_utf8_lossy(&d).into())));
        }
        note("make in", said(fs::write(path.join("new"), "new").map(|()| String::new())));
        let moved = path.with_file_name("moved");
        note("rename", said(fs::rename(path, &moved).map(|()| String::new())));
        note("rename back", said(fs::rename(&moved, path).map(|()| String::new())));
        note("list again", said(names_in(path)));
    }
    for path in found.iter().rev() {
        let name = path.strip_prefix(w.m("")).unwrap();
        let gone = fs::remove_dir_all(path).or_else(|_| fs::remove_file(path));
        heard.insert(format!("{name:?} remove"), said(gone.map(|()| String::new())));
    }
    heard
}

fn names_in(path: &Path) -> std::io::Result<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        names.push(format!("{:?}", entry?.file_name()));
    }
    names.sort();
    Ok(names.join(" "))
}

fn said(result: std::io::Result<String>) -> String {
    result.unwrap_or_else(|error| match Errno::from_io_error(&error) {
        Some(errno) => format!("{errno:?}"),
        None => error.to_string(),
    })
}

/// Stacks that are wrong before anything is read of them.
const STACKS: &[(&str, Change)] = &[
    ("nothing wrong", |_| {}),
    ("missing lower", |w| w.options.lower.push(w.path("absent"))),
    ("missing upper", |w| w.options.upper = Some(w.path("absent"))),
    ("missing work", |w| w.options.work = Some(w.path("absent"))),
    ("lower is a file", |w| w.options.lower.push(w.path("file"))),
    ("upper is a file", |w| w.options.upper = Some(w.path("file"))),
    ("one lower twice", |w| w.options.lower.push(w.path("l0"))),
    ("lower in a lower", |w| w.options.lower.push(w.path("l0/in"))),
    ("lower above a lower", |w| w.options.lower.insert(0, w.path("l0/in"))),
    ("lower is upper", |w| w.options.lower.push(w.path("u"))),
    ("lower in upper", |w| w.options.lower.push(w.path("u/in"))),
    ("lower is work", |w| w.options.lower.push(w.path("w"))),
    ("work is upper", |w| w.options.work = Some(w.path("u"))),
    ("work in upper", |w| w.options.work = Some(w.path("u/in"))),
    ("upper in work", |w| w.options.upper = Some(w.path("w/in"))),
    ("upper in lower", |w| w.options.upper = Some(w.path("l0/in"))),
    ("work elsewhere", |w| w.options.work = Some("/proc/self".into())),
    ("upper on proc", |w| w.options.upper = Some("/proc/self".into())),
];

fn refused() {
    for (name, change) in STACKS {
        let world = || {
            let mut w = World::new(2);
            w.put("file", "file");
            ["l0/in", "u/in", "w/in"].iter().for_each(|dir| w.mkdir(dir));
            change(&mut w);
            w
        };
        let w = world();
        let kernel = w.mount_kernel("index=off");
        if kernel.is_ok() {
            w.unmount_kernel();
        } else if *name == "nothing wrong" {
            println!("skipped: this kernel mounts no overlayfs");
            return;
        }
        let w = world();
        match unionbench_fuse::mount(&w.options, &w.path("m")) {
            Ok(mounted) => {
                mounted.unmount().unwrap();
                assert!(kernel.is_ok(), "{name}: the kernel says {kernel:?}");
            }
            Err(error) => assert!(kernel.is_err(), "{name}: the kernel mounts it, not {error}"),
        }
    }
}
