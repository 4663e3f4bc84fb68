//! Hard links with `index=on`, compared with the kernel's overlayfs: the same
//! changes on both, each mounting what the other wrote, and damaged indexes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::io::Errno;

use crate::linked::{mark, refusal};
use crate::world::{World, names, set_mark};

pub const ALL: &[(&str, fn())] = &[
    ("hard_links_are_those_of_the_kernel_step_by_step", alike),
    ("damaged_indexes_are_answered_as_the_kernel_does", damaged),
    ("metacopies_of_other_files_are_answered_as_the_kernel_does", other_origins),
];

const KERNEL: &str = "index=on,redirect_dir=on,xino=auto";

/// Every file: its content, mode and count of links, and the first name that
/// has the same number.
fn shown(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut out = BTreeMap::new();
    let mut firsts: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut found: Vec<PathBuf> = Vec::new();
    let mut dirs = vec![root.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.symlink_metadata().unwrap().is_dir() {
                dirs.push(path.clone());
            }
            found.push(path);
        }
    }
    found.sort();
    for path in found {
        let meta = path.symlink_metadata().unwrap();
        if meta.is_dir() {
            continue;
        }
        let name = path.strip_prefix(root).unwrap().to_path_buf();
        let first = firsts.entry(meta.ino()).or_insert_with(|| name.clone());
        let body = fs::read_to_string(&path).unwrap();
        let line = format!("{:o} {} as {first:?}: {body}", meta.mode(), meta.nlink());
        out.insert(name, line);
    }
    out
}

fn fill(w: &World) {
    for (layer, name) in [("l0", "a"), ("l1", "p"), ("l1", "q")] {
        w.put(&format!("{layer}/{name}0"), &format!("{name} "));
        for i in 1..4 {
            let dir = if i == 3 { "d/" } else { "" };
            w.mkdir(&format!("{layer}/{dir}"));
            let (from, to) = (format!("{layer}/{name}0"), format!("{layer}/{dir}{name}{i}"));
            fs::hard_link(w.path(&from), w.path(&to)).unwrap();
        }
    }
    w.put("l0/single", "single");
}

/// A change chosen by numbers, on the names that are there; what came of it.
fn change(w: &World, random: u64) -> String {
    let all: Vec<PathBuf> = shown(&w.m("")).into_keys().collect();
    let pick = |shift: u32| (random >> shift) as usize;
    let Some(one) = all.get(pick(8) % all.len().max(1)) else { return "nothing left".into() };
    let other = match pick(40) % 4 {
        0 => PathBuf::from(format!("n{}", pick(44) % 5)),
        1 => PathBuf::from(format!("d/n{}", pick(44) % 5)),
        _ => all[pick(44) % all.len()].clone(),
    };
    let (from, to) = (w.m("").join(one), w.m("").join(&other));
    let done = match pick(0) % 6 {
        0 | 1 => OpenOptions::new().append(true).open(&from).and_then(|mut f| f.write_all(b"+")),
        2 => fs::remove_file(&from),
        3 => fs::hard_link(&from, &to),
        4 => fs::rename(&from, &to),
        _ => fs::set_permissions(&from, fs::Permissions::from_mode(0o600 | pick(50) as u32 & 0o77)),
    };
    let said = done.map_err(|e| Errno::from_io_error(&e));
    format!("{} {one:?} {other:?}: {said:?}", pick(0) % 6)
}

/// One world is mounted by the kernel and one by the union. After every change
/// both show the same, and now and then they change places.
fn alike() {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..6 {
        let mut worlds = [World::new(2), World::new(2)];
        for w in &mut worlds {
            fill(w);
            w.options.index = true;
        }
        let mut by_kernel = 0;
        for part in 0..6 {
            if let Err(error) = worlds[by_kernel].mount_kernel(KERNEL) {
                assert!(part == 0 && round == 0, "the kernel refuses the index: {error}");
                println!("skipped: this kernel mounts no overlayfs with an index: {error}");
                return;
            }
            worlds[1 - by_kernel].mount();
            let mut done = vec![format!("round {round}, part {part}, kernel {by_kernel}")];
            for _ in 0..12 {
                let [a, b] = [0, 1].map(|i| shown(&worlds[i].m("")));
                assert_eq!(a, b, "{done:#?}");
                // Xorshift: the same in each run.
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let [a, b] = [0, 1].map(|i| change(&worlds[i], random));
                assert_eq!(a, b, "{done:#?}");
                done.push(a);
            }
            worlds[by_kernel].unmount_kernel();
            worlds[1 - by_kernel].unmount();
            let counts = [0, 1].map(|i| entries(&worlds[i]));
            assert_eq!(counts[0], counts[1], "entries of the indexes: {done:#?}");
            by_kernel = 1 - by_kernel;
        }
    }
}

/// How many entries the index has; the kernel also builds in it what it moves
/// into the upper layer.
fn entries(w: &World) -> usize {
    let listed = names(&w.path("w/index"));
    listed.iter().filter(|name| !name.starts_with('#')).count()
}

type Damage = fn(&World, &Path);

/// What is done to the index of a file with three names, given its entry.
const DAMAGE: &[(&str, Damage)] = &[
    ("nothing", |_, _| {}),
    ("short name", |w, _| w.put("w/index/00fb", "")),
    ("no digits", |w, _| w.put(&format!("w/index/{}", "xy".repeat(40)), "")),
    ("wrong magic", |w, e| w.put(&format!("w/index/{}", altered(e, 1, 0x00)), "")),
    ("later version", |w, e| w.put(&format!("w/index/{}", altered(e, 0, 0x01)), "")),
    ("unknown flag", |w, e| w.put(&format!("w/index/{}", altered(e, 3, 0x40)), "")),
    ("other byte order", |w, e| w.put(&format!("w/index/{}", altered(e, 3, 0x01)), "")),
    ("longer than the name", |w, e| w.put(&format!("w/index/{}", altered(e, 2, 0xff)), "")),
    ("no origin", |w, e| w.put(&format!("w/index/{}", origin_altered(e)), "")),
    ("directory", |w, e| w.mkdir(&format!("w/index/{}", origin_altered(e)))),
    ("temporary name", |w, _| w.put("w/index/#1", "")),
    ("temporary directory", |w, _| w.put("w/index/#1/in", "")),
    ("whiteout", |_, e| {
        fs::remove_file(e).unwrap();
        mknodat(CWD, e, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
    }),
    ("whiteout, the upper name gone", |w, e| {
        fs::remove_file(e).unwrap();
        fs::remove_file(w.path("u/a")).unwrap();
        mknodat(CWD, e, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
    }),
    ("directory in the entry's place", |_, e| {
        fs::remove_file(e).unwrap();
        fs::create_dir(e).unwrap();
    }),
    ("pipe in the entry's place", |_, e| {
        let origin = mark(e, "trusted.overlay.origin");
        fs::remove_file(e).unwrap();
        mknodat(CWD, e, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        set_mark(e, "trusted.overlay.origin", &origin);
    }),
    ("another file in the entry's place", |_, e| {
        let marks = ["trusted.overlay.origin", "trusted.overlay.nlink"].map(|n| (n, mark(e, n)));
        fs::remove_file(e).unwrap();
        fs::write(e, "another").unwrap();
        marks.iter().for_each(|(name, value)| set_mark(e, name, value));
    }),
    ("entry gone", |_, e| fs::remove_file(e).unwrap()),
    ("upper name gone", |w, _| fs::remove_file(w.path("u/a")).unwrap()),
    ("origin junk", |_, e| set_mark(e, "trusted.overlay.origin", b"junk")),
    ("origin empty", |_, e| set_mark(e, "trusted.overlay.origin", b"")),
    ("origin of another", |_, e| {
        let mut origin = mark(e, "trusted.overlay.origin");
        *origin.last_mut().unwrap() ^= 0x55;
        set_mark(e, "trusted.overlay.origin", &origin);
    }),
    ("count junk", |_, e| set_mark(e, "trusted.overlay.nlink", b"junk")),
    ("count too small", |_, e| set_mark(e, "trusted.overlay.nlink", b"U-9")),
    ("count odd", |_, e| set_mark(e, "trusted.overlay.nlink", b"L+7")),
    ("count long", |_, e| set_mark(e, "trusted.overlay.nlink", b"U+0000000000000001")),
    ("count junk, upper name gone", |w, e| {
        fs::remove_file(w.path("u/a")).unwrap();
        set_mark(e, "trusted.overlay.nlink", b"junk");
    }),
    ("root of another", |w, _| {
        let mut origin = mark(&w.path("u"), "trusted.overlay.origin");
        *origin.last_mut().unwrap() ^= 0x55;
        set_mark(&w.path("u"), "trusted.overlay.origin", &origin);
    }),
    ("root junk", |w, _| set_mark(&w.path("u"), "trusted.overlay.origin", b"junk")),
    ("index of another", |w, _| {
        let mut upper = mark(&w.path("w/index"), "trusted.overlay.upper");
        *upper.last_mut().unwrap() ^= 0x55;
        set_mark(&w.path("w/index"), "trusted.overlay.upper", &upper);
    }),
    ("index junk", |w, _| set_mark(&w.path("w/index"), "trusted.overlay.upper", b"junk")),
    ("old index of another", |w, _| {
        let upper = mark(&w.path("u"), "trusted.overlay.origin");
        set_mark(&w.path("w/index"), "trusted.overlay.origin", &upper);
    }),
    ("old index", |w, _| {
        let upper = mark(&w.path("w/index"), "trusted.overlay.upper");
        set_mark(&w.path("w/index"), "trusted.overlay.origin", &upper);
    }),
    ("old index junk", |w, _| set_mark(&w.path("w/index"), "trusted.overlay.origin", b"junk")),
    ("index is a file", |w, _| {
        fs::remove_dir_all(w.path("w/index")).unwrap();
        w.put("w/index", "");
    }),
    ("index gone", |w, _| fs::remove_dir_all(w.path("w/index")).unwrap()),
    ("a name of the lower file gone", |w, _| fs::remove_file(w.path("l0/c")).unwrap()),
    ("one name of the lower file left", |w, _| {
        ["b", "c"].iter().for_each(|n| fs::remove_file(w.path("l0").join(n)).unwrap());
    }),
    ("lower file gone", |w, _| {
        ["a", "b", "c"].iter().for_each(|n| fs::remove_file(w.path("l0").join(n)).unwrap());
    }),
    ("lower file and upper name gone", |w, _| {
        ["a", "b", "c"].iter().for_each(|n| fs::remove_file(w.path("l0").join(n)).unwrap());
        fs::remove_file(w.path("u/a")).unwrap();
    }),
    ("a name of the lower file added", |w, _| {
        fs::hard_link(w.path("l0/c"), w.path("l0/e")).unwrap();
    }),
];

/// The name of an entry with another byte at that place.
fn altered(entry: &Path, at: usize, byte: u8) -> String {
    let mut name = entry.file_name().unwrap().to_str().unwrap().to_owned();
    name.replace_range(2 * at..2 * at + 2, &format!("{byte:02x}"));
    name
}

/// The name of an entry of another file: one bit of its handle differs, so that the
/// name does too whatever the handle.
fn origin_altered(entry: &Path) -> String {
    const IN_THE_HANDLE: usize = 25;
    let name = entry.file_name().unwrap().to_str().unwrap();
    let byte = u8::from_str_radix(&name[2 * IN_THE_HANDLE..2 * IN_THE_HANDLE + 2], 16).unwrap();
    altered(entry, IN_THE_HANDLE, byte ^ 0x40)
}

/// What is answered of the damaged index, beginning with the mount itself.
fn answers(w: &mut World, kernel: bool) -> Vec<String> {
    let mounted = if kernel {
        w.mount_kernel(KERNEL)
    } else {
        refusal(w).map_err(|error| {
            let source = std::error::Error::source(&error);
            *source.and_then(|s| s.downcast_ref::<Errno>()).unwrap()
        })
    };
    if let Err(error) = mounted {
        return vec![format!("mount: {error:?}")];
    }
    if !kernel {
        w.mount();
    }
    let mut heard = vec![format!("entries: {}", entries(w))];
    let said = |what: String, done: std::io::Result<String>| {
        format!("{what}: {:?}", done.map_err(|e| Errno::from_io_error(&e)))
    };
    let all = ["a", "b", "c", "e"];
    for name in all {
        let path = w.m(name);
        heard.push(said(
            format!("read {name}"),
            path.metadata()
                .and_then(|m| Ok(format!("{} {}", m.nlink(), fs::read_to_string(&path)?))),
        ));
    }
    let append = |name| OpenOptions::new().append(true).open(w.m(name));
    let wrote = append("b").and_then(|mut f| f.write_all(b"+")).map(|()| String::new());
    heard.push(said("write b".into(), wrote));
    for name in all {
        heard.push(said(format!("read {name} again"), fs::read_to_string(w.m(name))));
    }
    for name in all {
        let gone = fs::remove_file(w.m(name)).map(|()| String::new());
        heard.push(said(format!("remove {name}"), gone));
        let left = all.map(|n| w.m(n).metadata().map_or(0, |m| m.nlink()));
        heard.push(format!("left {left:?}"));
    }
    heard.push(format!("entries left: {}", entries(w)));
    if kernel {
        w.unmount_kernel()
    } else {
        w.unmount()
    }
    heard
}

fn damaged() {
    let fresh = World::new(1);
    if let Err(error) = fresh.mount_kernel(KERNEL) {
        println!("skipped: this kernel mounts no overlayfs with an index: {error}");
        return;
    }
    fresh.unmount_kernel();
    let mut differences = BTreeSet::new();
    for (name, damage) in DAMAGE {
        let ask = |kernel: bool| {
            let mut w = World::new(1);
            w.put("l0/a", "old");
            ["b", "c"].iter().for_each(|n| {
                fs::hard_link(w.path("l0/a"), w.path("l0").join(n)).unwrap();
            });
            w.options.index = true;
            w.mount();
            fs::write(w.m("a"), "new").unwrap();
            w.unmount();
            let entry = names(&w.path("w/index")).remove(0);
            damage(&w, &w.path("w/index").join(entry));
            answers(&mut w, kernel)
        };
        let (kernel, ours) = (ask(true), ask(false));
        for (a, b) in kernel.iter().zip(&ours).filter(|(a, b)| a != b) {
            differences.insert(format!("{name}: kernel {a}, union {b}"));
        }
        if kernel.len() != ours.len() {
            differences.insert(format!("{name}: kernel {kernel:?}, union {ours:?}"));
        }
    }
    assert!(differences.is_empty(), "{differences:#?}");
}

type Change = fn(&World);

/// What is done to the layers below a metacopy `d/f` of a file in `l1`.
const STRANGE: &[(&str, Change)] = &[
    ("nothing", |_| {}),
    ("another under its name", |w| {
        fs::rename(w.path("l1/d/f"), w.path("l1/d/g")).unwrap();
        w.put("l1/d/f", "others");
    }),
    ("another instead of it", |w| {
        fs::remove_file(w.path("l1/d/f")).unwrap();
        w.put("l1/d/f", "others");
    }),
    ("another in a layer above", |w| w.put("l0/d/f", "other")),
    ("nothing under its name", |w| {
        fs::rename(w.path("l1/d/f"), w.path("l1/d/g")).unwrap();
    }),
    ("a directory under its name", |w| {
        fs::rename(w.path("l1/d/f"), w.path("l1/d/g")).unwrap();
        w.mkdir("l1/d/f");
    }),
    ("no origin, another above", |w| {
        rustix::fs::lremovexattr(w.path("u/d/f"), "trusted.overlay.origin").unwrap();
        w.put("l0/d/f", "others");
    }),
    ("junk for an origin, another above", |w| {
        set_mark(&w.path("u/d/f"), "trusted.overlay.origin", b"junk");
        w.put("l0/d/f", "others");
    }),
    ("the origin of a directory, another above", |w| {
        let origin = mark(&w.path("u/d"), "trusted.overlay.origin");
        set_mark(&w.path("u/d/f"), "trusted.overlay.origin", &origin);
        w.put("l0/d/f", "others");
    }),
    ("a metacopy between", |w| {
        w.put("l0/d/f", "nodata");
        set_mark(&w.path("l0/d/f"), "trusted.overlay.metacopy", b"");
    }),
    ("another by its redirect", |w| {
        set_mark(&w.path("u/d/f"), "trusted.overlay.redirect", b"/d/h");
    }),
    ("a copy of it under another name", |w| {
        let mut copy = std::process::Command::new("cp");
        copy.arg("-a").args(["u/d/f", "u/d/h"].map(|name| w.path(name)));
        assert!(copy.status().unwrap().success());
    }),
];

fn other_origins() {
    let mut n_stale = 0;
    for index in [false, true] {
        for (name, change) in STRANGE {
            let ask = |kernel: bool| {
                let mut w = World::new(2);
                w.put("l1/d/f", "lowers");
                w.put("l1/d/h", "second");
                (w.options.index, w.options.metacopy) = (index, true);
                w.mount();
                fs::set_permissions(w.m("d/f"), fs::Permissions::from_mode(0o600)).unwrap();
                w.unmount();
                change(&w);
                if kernel {
                    let index = if index { "on" } else { "off" };
                    w.mount_kernel(&format!("index={index},redirect_dir=on,metacopy=on"))?;
                } else {
                    w.mount();
                }
                let read = |name| fs::read_to_string(w.m(name));
                let heard = ["d/f", "d/h"].map(|n| read(n).map_err(|e| Errno::from_io_error(&e)));
                if kernel {
                    w.unmount_kernel()
                } else {
                    w.unmount()
                }
                Ok::<_, Errno>(heard)
            };
            let kernel = match ask(true) {
                Ok(heard) => heard,
                Err(error) => {
                    println!("skipped: this kernel mounts no overlayfs with an index: {error}");
                    return;
                }
            };
            assert_eq!(ask(false).unwrap(), kernel, "{name}, index {index}");
            let stale = |heard: &&Result<String, Option<Errno>>| **heard == Err(Some(Errno::STALE));
            n_stale += kernel.iter().filter(stale).count();
        }
    }
    assert!(n_stale >= 4, "the kernel refused {n_stale} alone");
}
