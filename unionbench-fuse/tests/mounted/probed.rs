//! Directories whose names are asked for one by one show what they show when
//! they are read whole: random layers of every form, asked in random orders.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::world::{World, names, set_mark};

pub const ALL: &[(&str, fn())] = &[
    ("random_layers_show_the_same_asked_or_read", random),
    ("a_huge_directory_is_not_read_for_one_name", huge),
    ("a_deep_directory_is_not_read_for_one_name", deep),
    ("long_names_have_no_marker", long_names),
    ("directories_that_fold_case_are_read", folded),
];

/// What a layer has under a path.
#[derive(Clone, Debug)]
enum Thing {
    File,
    Empty,
    Directory,
    /// A directory with a mark: opaque `y` or `x`.
    Opaque(&'static str),
    /// A directory that leads elsewhere.
    Redirect(&'static str),
    Symlink,
    /// A character device 0:0.
    Device,
    /// An empty file with the attribute of a whiteout.
    Attribute,
    /// An empty file `.wh.NAME`.
    Marker,
    /// `.wh..wh..opq` in a directory of this name.
    MarkedOpaque,
    /// Attributes alone, with data below or elsewhere.
    Metacopy(Option<&'static str>),
}

const PATHS: &[&str] = &["a", "b", "d", "d/a", "d/b", "d/e", "d/e/a", "B"];
const LAYERS: usize = 4;

fn thing() -> impl Strategy<Value = Thing> {
    prop_oneof![
        3 => Just(Thing::File),
        1 => Just(Thing::Empty),
        4 => Just(Thing::Directory),
        1 => prop_oneof![Just("y"), Just("x"), Just("z")].prop_map(Thing::Opaque),
        1 => prop_oneof![Just("/d"), Just("/d/e"), Just("a"), Just("/b"), Just("/nowhere")]
            .prop_map(Thing::Redirect),
        1 => Just(Thing::Symlink),
        2 => Just(Thing::Device),
        2 => Just(Thing::Attribute),
        2 => Just(Thing::Marker),
        1 => Just(Thing::MarkedOpaque),
        1 => prop_oneof![Just(None), Just(Some("/a")), Just(Some("b"))].prop_map(Thing::Metacopy),
    ]
}

/// The layer (the upper one is the last), the path and what is put there.
type Put = (usize, usize, Thing);

fn put(w: &World, (layer, path, thing): &Put) {
    let layer = if *layer == LAYERS { "u".to_owned() } else { format!("l{layer}") };
    let at = w.path(&layer).join(PATHS[*path]);
    let parent = at.parent().unwrap();
    // What was put before may be in the way.
    if fs::create_dir_all(parent).is_err() || at.symlink_metadata().is_ok() {
        return;
    }
    let name = at.file_name().unwrap().to_str().unwrap();
    match thing {
        Thing::File => fs::write(&at, format!("{layer} {name}")).unwrap(),
        Thing::Empty => fs::write(&at, "").unwrap(),
        Thing::Directory => fs::create_dir(&at).unwrap(),
        Thing::Opaque(value) => {
            fs::create_dir(&at).unwrap();
            set_mark(&at, "trusted.overlay.opaque", value.as_bytes());
        }
        Thing::Redirect(to) => {
            fs::create_dir(&at).unwrap();
            set_mark(&at, "trusted.overlay.redirect", to.as_bytes());
        }
        Thing::Symlink => symlink("target", &at).unwrap(),
        Thing::Device => mknodat(CWD, &at, FileType::CharacterDevice, Mode::empty(), 0).unwrap(),
        Thing::Attribute => {
            fs::write(&at, "").unwrap();
            set_mark(&at, "trusted.overlay.whiteout", b"y");
            set_mark(parent, "trusted.overlay.opaque", b"x");
        }
        Thing::Marker => fs::write(parent.join(format!(".wh.{name}")), "").unwrap(),
        Thing::MarkedOpaque => {
            fs::create_dir(&at).unwrap();
            fs::write(at.join(".wh..wh..opq"), "").unwrap();
        }
        Thing::Metacopy(to) => {
            File::create(&at).unwrap().set_len(8).unwrap();
            set_mark(&at, "trusted.overlay.metacopy", b"");
            if let Some(to) = to {
                set_mark(&at, "trusted.overlay.redirect", to.as_bytes());
            }
        }
    }
}

/// What a lookup of the path answers: number, kind and links, and the content.
fn answer(root: &Path, path: &Path) -> String {
    match root.join(path).symlink_metadata() {
        Err(e) => format!("{:?}", e.raw_os_error()),
        Ok(meta) => {
            let body = if meta.is_file() {
                format!("{:?}", fs::read(root.join(path)).map_err(|e| e.raw_os_error()))
            } else {
                String::new()
            };
            format!("{} {:o} {} {body}", meta.ino(), meta.mode(), meta.nlink())
        }
    }
}

fn asked() -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = PATHS.iter().map(PathBuf::from).collect();
    for path in PATHS {
        let path = Path::new(path);
        let name = path.file_name().unwrap().to_str().unwrap();
        all.push(path.with_file_name(format!(".wh.{name}")));
        all.push(path.join("a"));
        all.push(path.join(".wh..wh..opq"));
        all.push(path.join("absent"));
    }
    all
}

fn answers(w: &mut World, probes: u32, order: &[usize]) -> BTreeMap<PathBuf, String> {
    w.options.test_probes = Some(probes);
    w.mount();
    let paths = asked();
    let root = w.path("m");
    let ask = |at: &usize| {
        let path = &paths[at % paths.len()];
        (path.clone(), answer(&root, path))
    };
    let mut all: BTreeMap<_, _> = order.iter().map(ask).collect();
    all.extend(paths.iter().map(|path| (path.clone(), answer(&root, path))));
    w.unmount();
    all
}

/// The tree and what every name answers, by each way in turn; then the tree
/// once names are known, so that the listing completes what was asked for.
fn random() {
    let config = Config { cases: 120, failure_persistence: None, ..Config::default() };
    let puts = proptest::collection::vec((0..=LAYERS, 0..PATHS.len(), thing()), 1..40);
    let order = proptest::collection::vec(0..usize::MAX, 0..12);
    let outcome = TestRunner::new(config).run(&(puts, order), |(puts, order)| {
        let mut w = World::new(LAYERS);
        puts.iter().for_each(|one| put(&w, one));
        let lowers = w.lower_trees();
        let whole = answers(&mut w, 0, &order);
        for probes in [u32::MAX, 3] {
            prop_assert_eq!(&answers(&mut w, probes, &order), &whole, "{} probes", probes);
        }
        let listed = |w: &mut World, probes, first: &[usize]| {
            w.options.test_probes = Some(probes);
            w.mount();
            let (root, paths) = (w.path("m"), asked());
            for at in first {
                answer(&root, &paths[at % paths.len()]);
            }
            let seen = list(&root);
            w.unmount();
            seen
        };
        prop_assert_eq!(listed(&mut w, 0, &[]), listed(&mut w, u32::MAX, &order));
        prop_assert_eq!(lowers, w.lower_trees());
        prop_assert_eq!(changed(&puts, &order, 0), changed(&puts, &order, u32::MAX));
        Ok(())
    });
    if let Err(e) = outcome {
        panic!("{e}");
    }
}

/// What changes answer, and the tree after them and after a remount.
fn changed(puts: &[Put], order: &[usize], probes: u32) -> Vec<String> {
    let mut w = World::new(LAYERS);
    puts.iter().for_each(|one| put(&w, one));
    w.options.test_probes = Some(probes);
    w.mount();
    let mut seen = Vec::new();
    for at in order {
        let path = w.m(PATHS[at % PATHS.len()]);
        let done = match at / PATHS.len() % 4 {
            0 => fs::remove_file(&path).or_else(|_| fs::remove_dir(&path)),
            1 => fs::rename(&path, w.m(PATHS[at / 64 % PATHS.len()])),
            2 => fs::create_dir(&path),
            _ => fs::write(&path, "written"),
        };
        seen.push(format!("{path:?} {:?}", done.map_err(|e| e.raw_os_error())));
    }
    let plain = |path: &Path, line: String| line.replace(&*path.to_string_lossy(), "");
    seen = seen.into_iter().map(|line| plain(&w.path(""), line)).collect();
    for _ in 0..2 {
        seen.push(format!("{:?}", list(&w.path("m"))));
        w.unmount();
        w.mount();
    }
    w.unmount();
    seen
}

/// Every name that can be reached by listing, with its answer.
fn list(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut out = BTreeMap::new();
    let mut left = vec![PathBuf::new()];
    while let Some(dir) = left.pop() {
        let listed = match fs::read_dir(root.join(&dir)) {
            Ok(listed) => listed,
            Err(e) => {
                out.insert(dir.join("?"), format!("{:?}", e.raw_os_error()));
                continue;
            }
        };
        let mut names: Vec<_> = listed.map(|e| e.unwrap().file_name()).collect();
        names.sort();
        for name in names {
            let path = dir.join(name);
            if root.join(&path).symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
                left.push(path.clone());
            }
            // Of two directories that redirects make one, the first that is
            // asked for has its number.
            let seen = answer(root, &path);
            let seen = seen.split_once(' ').map_or(seen.as_str(), |(_, rest)| rest).to_owned();
            assert!(out.insert(path.clone(), seen).is_none(), "{path:?} twice");
        }
    }
    out
}

fn counts(w: &World) -> (u64, u64) {
    let counters = w.mounted().counters();
    (counters.directories_indexed(), counters.names_probed())
}

fn huge() {
    let mut w = World::new(2);
    w.mkdir("l1/d");
    for i in 0..20_000 {
        File::create(w.path(&format!("l1/d/f{i}"))).unwrap();
    }
    w.put("l0/d/g", "g");
    w.mount();
    w.m("d").symlink_metadata().unwrap();
    let (before, probed) = counts(&w);
    for name in ["f3", "f19999", "g"] {
        assert!(w.m("d").join(name).symlink_metadata().unwrap().is_file());
    }
    assert!(w.m("d/absent").symlink_metadata().is_err());
    fs::remove_file(w.m("d/f3")).unwrap();
    fs::rename(w.m("d/f4"), w.m("d/moved")).unwrap();
    fs::write(w.m("d/new"), "new").unwrap();
    fs::remove_file(w.m("d/g")).unwrap();
    assert_eq!(counts(&w).0, before, "the directory was read");
    assert!(counts(&w).1 >= probed + 4);
    // Whoever lists it sees all of it, and the changes.
    let all = names(&w.m("d"));
    assert_eq!(counts(&w).0, before + 1);
    assert_eq!(all.len(), 20_000);
    for (name, there) in
        [("f3", false), ("f4", false), ("moved", true), ("new", true), ("g", false), ("f5", true)]
    {
        assert_eq!(all.iter().any(|n| n == name), there, "{name}");
    }
    let shown = w.merged();
    w.unmount();
    w.mount();
    assert_eq!(shown, w.merged());
    w.unmount();
}

fn deep() {
    const DEEP: usize = 400;
    let mut w = World::new(DEEP);
    for i in 0..DEEP {
        w.put(&format!("l{i}/d/f{i}"), &format!("{i}"));
    }
    w.put("l7/d/.wh.f300", "");
    w.mount();
    w.m("d").symlink_metadata().unwrap();
    let (before, _) = counts(&w);
    assert!(w.m("d/f300").symlink_metadata().is_err());
    assert_eq!(fs::read_to_string(w.m("d/f399")).unwrap(), "399");
    assert_eq!(counts(&w).0, before, "the directory was read");
    // In the end it is: asking on would cost more.
    for i in (0..DEEP).filter(|i| *i != 300) {
        assert_eq!(fs::read_to_string(w.m(&format!("d/f{i}"))).unwrap(), format!("{i}"));
    }
    assert_eq!(counts(&w).0, before + 1);
    assert!(counts(&w).1 < 50, "{} names were asked for", counts(&w).1);
    assert_eq!(names(&w.m("d")).len(), DEEP - 1);
    w.unmount();
}

fn long_names() {
    for len in [250, 251, 252, 255] {
        let name = "n".repeat(len);
        let mut w = World::new(3);
        w.put(&format!("l2/d/{name}"), "below");
        w.mkdir("l0/d");
        if len + 4 <= 255 {
            w.put(&format!("l1/d/.wh.{name}"), "");
        } else {
            w.mkdir("l1/d");
        }
        w.options.test_probes = Some(u32::MAX);
        w.mount();
        let there = fs::read_to_string(w.m("d").join(&name)).is_ok();
        assert_eq!(there, len + 4 > 255, "{len}");
        assert!(w.m("d").join("n".repeat(256)).symlink_metadata().is_err());
        w.unmount();
    }
    let mut w = World::new(2);
    w.mkdir("l1/d");
    fs::write(w.path("l1/d").join(OsStr::from_bytes(b"\xff\xfe")), "bytes").unwrap();
    w.options.test_probes = Some(u32::MAX);
    w.mount();
    assert!(w.m("d").join(OsStr::from_bytes(b"\xff\xfe")).symlink_metadata().is_ok());
    assert!(w.m("d").join(OsStr::from_bytes(b"\xff")).symlink_metadata().is_err());
    w.unmount();
}

/// A layer that finds `NAME` for `name` has only the names that it lists. Two
/// links of one file look as if it did, so their directory is read too.
fn folded() {
    let mut w = World::new(2);
    w.put("l1/d/name", "linked");
    fs::hard_link(w.path("l1/d/name"), w.path("l1/d/NAME")).unwrap();
    w.put("l1/e/name", "alone");
    w.options.test_probes = Some(u32::MAX);
    w.mount();
    assert_eq!(fs::read_to_string(w.m("e/name")).unwrap(), "alone");
    assert_eq!(counts(&w).0, 0);
    assert_eq!(fs::read_to_string(w.m("d/name")).unwrap(), "linked");
    assert_eq!(counts(&w).0, 1, "the layer was taken at its word");
    w.unmount();
    let mut w = World::new(2);
    let layer = w.path("l1");
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "casefold", "tmpfs"])
        .arg(&layer)
        .output()
        .unwrap();
    if !mounted.status.success() {
        eprintln!("skipped: directories_that_fold_case_are_read: this kernel's tmpfs folds none");
        return;
    }
    fs::create_dir(layer.join("d")).unwrap();
    let dir = File::open(layer.join("d")).unwrap();
    let flags = rustix::fs::ioctl_getflags(&dir).unwrap();
    rustix::fs::ioctl_setflags(&dir, flags | rustix::fs::IFlags::from_bits_retain(0x4000_0000))
        .unwrap();
    fs::write(layer.join("d/Name"), "folded").unwrap();
    assert!(layer.join("d/nAME").exists(), "the layer does not fold case");
    for probes in [0, u32::MAX] {
        w.options.test_probes = Some(probes);
        w.mount();
        assert!(w.m("d/name").symlink_metadata().is_err(), "{probes}");
        assert_eq!(fs::read_to_string(w.m("d/Name")).unwrap(), "folded");
        assert_eq!(names(&w.m("d")), ["Name"]);
        w.unmount();
    }
    drop(dir);
    assert!(std::process::Command::new("umount").arg("-l").arg(&layer).status().unwrap().success());
}
