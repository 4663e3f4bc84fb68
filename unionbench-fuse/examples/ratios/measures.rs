//! The rows of the table: which layers, what is timed, and for which unions.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::unions::{ALL, Union};

pub type Fill = fn(&[PathBuf]);
pub type Measure = fn(&Path) -> f64;

pub struct Row {
    pub name: &'static str,
    pub layers: usize,
    pub fill: Fill,
    pub measure: Measure,
    /// What the ratios are to.
    pub base: Union,
    pub unions: &'static [Union],
    /// Options beside the layers, for those that know overlayfs' options.
    pub options: &'static str,
}

impl Row {
    const fn with(self, options: &'static str) -> Self {
        Self { options, ..self }
    }
}

use Union::{
    Bare, Bundled, BundledNoOpen, BundledPassthrough, FuseOverlayfs, FuseOverlayfs2, Mergerfs,
    Overlayfs, UnionfsFuse,
};

/// For what the way of the data does not touch.
const NAMES: &[Union] =
    &[Bare, Overlayfs, Bundled, FuseOverlayfs, FuseOverlayfs2, UnionfsFuse, Mergerfs];
/// For what writes to lower files, which mergerfs would do for real.
const CHANGES: &[Union] = &[Bare, Overlayfs, Bundled, FuseOverlayfs, FuseOverlayfs2, UnionfsFuse];
const CREATES: &[Union] = &[
    Bare,
    Overlayfs,
    Bundled,
    BundledNoOpen,
    BundledPassthrough,
    FuseOverlayfs,
    FuseOverlayfs2,
    UnionfsFuse,
];
/// Without fuse-overlayfs 2.0, which takes a minute for it.
const CREATES_MANY: &[Union] =
    &[Bare, Overlayfs, Bundled, BundledNoOpen, BundledPassthrough, FuseOverlayfs, UnionfsFuse];
/// For what is seen in the upper layer.
const COPIES: &[Union] = &[Overlayfs, Bundled, FuseOverlayfs, FuseOverlayfs2, UnionfsFuse];
/// Those mounted so that a change of attributes may copy attributes alone.
const METACOPY: &[Union] = &[Overlayfs, Bundled];
const READS: &[Union] =
    &[Bare, Overlayfs, Bundled, BundledPassthrough, FuseOverlayfs, FuseOverlayfs2];

const fn row(
    name: &'static str,
    layers: usize,
    fill: Fill,
    measure: Measure,
    base: Union,
    unions: &'static [Union],
) -> Row {
    Row { name, layers, fill, measure, base, unions, options: "" }
}

pub const ROWS: &[Row] = &[
    row("cold lookup, 1 layer, µs", 1, one_directory, cold_lookup, Overlayfs, NAMES),
    row("cold lookup, 8 layers, µs", 8, one_directory, cold_lookup, Overlayfs, NAMES),
    row("cold lookup, 32 layers, µs", 32, one_directory, cold_lookup, Overlayfs, NAMES),
    row("cold lookup, 64 layers, µs", 64, one_directory, cold_lookup, Overlayfs, NAMES),
    row("repeated absent name, 64 layers, µs", 64, one_directory, absent, Overlayfs, NAMES),
    row("cold ls -l, 8 layers × 10,000, ms", 8, wide, list_attributes, Overlayfs, NAMES),
    row("warm listing of it, ms", 8, wide, warm_listing, Overlayfs, NAMES),
    row("open + close, µs", 1, one_directory, open_close, Bare, ALL),
    row("sequential read, ns a KiB", 1, big, read_through, Bare, READS),
    row("random read of 4 KiB, µs", 1, big, read_about, Bare, READS),
    row("unlink of a lower file, µs", 1, one_directory, unlink, Overlayfs, CHANGES),
    row(
        "unlink of lower files of 1 B, one by one, µs",
        1,
        eight_small,
        unlink_eight,
        Overlayfs,
        CHANGES,
    ),
    row(
        "unlink of lower files of 64 MiB, one by one, µs",
        1,
        eight_large,
        unlink_eight,
        Overlayfs,
        CHANGES,
    ),
    row("create, write, unlink, 2,000, µs a file", 1, one_directory, few, Overlayfs, CREATES),
    row(
        "create, write, unlink, 10,000, µs a file",
        1,
        one_directory,
        many,
        Overlayfs,
        CREATES_MANY,
    ),
    row("copy-up of 1 GiB, ms", 1, huge, copy_up, Bare, CHANGES),
    row(
        "blocks that copy-up of a sparse file of 1 GiB adds",
        1,
        sparse,
        copy_sparse,
        Overlayfs,
        COPIES,
    ),
    row("bytes that chmod of a file of 64 MiB adds", 1, large, chmod, Overlayfs, METACOPY)
        .with(",metacopy=on"),
    row("truncate of 256 MiB to 0, ms", 1, big, truncate, Overlayfs, CHANGES),
];

const FILES: usize = 2000;

/// The directory in every layer, its files in the bottom one.
fn one_directory(layers: &[PathBuf]) {
    for layer in layers {
        fs::create_dir_all(layer.join("d")).expect("layers can be written");
    }
    for i in 0..FILES {
        let bottom = layers.last().expect("there is a layer");
        fs::write(bottom.join(format!("d/f{i}")), "x").expect("layers can be written");
    }
}

fn wide(layers: &[PathBuf]) {
    for (n, layer) in layers.iter().enumerate() {
        fs::create_dir_all(layer.join("d")).expect("layers can be written");
        for i in 0..10_000 {
            fs::write(layer.join(format!("d/f{n}-{i}")), "").expect("layers can be written");
        }
    }
}

fn write_mib(path: &Path, mib: usize) {
    let mut file = File::create(path).expect("layers can be written");
    let block = vec![7u8; 1 << 20];
    (0..mib).for_each(|_| std::io::Write::write_all(&mut file, &block).expect("there is room"));
}

fn big(layers: &[PathBuf]) {
    write_mib(&layers[0].join("big"), 256);
}

fn huge(layers: &[PathBuf]) {
    write_mib(&layers[0].join("big"), 1024);
}

fn large(layers: &[PathBuf]) {
    write_mib(&layers[0].join("big"), 64);
}

fn sparse(layers: &[PathBuf]) {
    let file = File::create(layers[0].join("big")).expect("layers can be written");
    file.set_len(1 << 30).expect("there is room");
}

fn eight_small(layers: &[PathBuf]) {
    let write = |i| fs::write(layers[0].join(format!("f{i}")), "x");
    (0..8).for_each(|i| write(i).expect("layers can be written"));
}

fn eight_large(layers: &[PathBuf]) {
    (0..8).for_each(|i| write_mib(&layers[0].join(format!("f{i}")), 64));
}

/// Microseconds of each of `n` calls.
fn each(n: usize, mut call: impl FnMut(usize)) -> f64 {
    let start = Instant::now();
    (0..n).for_each(&mut call);
    start.elapsed().as_secs_f64() * 1e6 / n as f64
}

fn cold_lookup(m: &Path) -> f64 {
    each(FILES, |i| assert!(m.join(format!("d/f{i}")).symlink_metadata().is_ok()))
}

fn absent(m: &Path) -> f64 {
    let path = m.join("d/absent");
    // The first question is not a repeated one.
    assert!(path.symlink_metadata().is_err());
    each(FILES, |_| assert!(path.symlink_metadata().is_err()))
}

fn list_attributes(m: &Path) -> f64 {
    let start = Instant::now();
    let listed = fs::read_dir(m.join("d")).expect("the directory opens");
    let seen =
        listed.filter(|e| e.as_ref().is_ok_and(|e| e.metadata().is_ok_and(|m| m.ino() != 0)));
    assert_eq!(seen.count(), 80_000);
    start.elapsed().as_secs_f64() * 1e3
}

fn warm_listing(m: &Path) -> f64 {
    let list = || fs::read_dir(m.join("d")).expect("the directory opens").count();
    // The kernel keeps a listing from its second reading on.
    list();
    list();
    let start = Instant::now();
    assert_eq!(list(), 80_000);
    start.elapsed().as_secs_f64() * 1e3
}

fn open_close(m: &Path) -> f64 {
    let path = m.join("d/f0");
    drop(File::open(&path));
    each(FILES, |_| drop(File::open(&path)))
}

/// Warm: the file has been read once.
fn read_through(m: &Path) -> f64 {
    let file = File::open(m.join("big")).expect("the file opens");
    let mut block = vec![0u8; 1 << 20];
    let mut pass = || {
        each(256, |i| {
            file.read_exact_at(&mut block, (i << 20) as u64).expect("the file is read");
        })
    };
    pass();
    pass() * 1e3 / 1024.0
}

fn read_about(m: &Path) -> f64 {
    let file = File::open(m.join("big")).expect("the file opens");
    let mut block = vec![0u8; 4096];
    let mut pass = |n: usize| {
        each(n, |i| {
            let page = (i * 40_503) % 65_536;
            file.read_exact_at(&mut block, (page * 4096) as u64).expect("the file is read");
        })
    };
    pass(65_536);
    pass(100_000)
}

fn unlink(m: &Path) -> f64 {
    each(FILES, |i| fs::remove_file(m.join(format!("d/f{i}"))).expect("the file goes"))
}

fn unlink_eight(m: &Path) -> f64 {
    each(8, |i| fs::remove_file(m.join(format!("f{i}"))).expect("the file goes"))
}

fn few(m: &Path) -> f64 {
    churn(m, 2000)
}

fn many(m: &Path) -> f64 {
    churn(m, 10_000)
}

fn churn(m: &Path, files: usize) -> f64 {
    let path = |i: usize| m.join(format!("d/n{i}"));
    let made = each(files, |i| fs::write(path(i), "content").expect("the file is made"));
    made + each(files, |i| fs::remove_file(path(i)).expect("the file goes"))
}

/// On a bare directory: what a copy-up does at best, `copy_file_range` and
/// `fsync`.
fn copy_up(m: &Path) -> f64 {
    let start = Instant::now();
    if m.parent().is_some_and(|dir| dir.join("l0").exists()) {
        drop(OpenOptions::new().append(true).open(m.join("big")).expect("the file opens"));
        return start.elapsed().as_secs_f64() * 1e3;
    }
    let from = File::open(m.join("big")).expect("the file opens");
    let to = File::create(m.join("copy")).expect("a copy can be made");
    let mut left = 1 << 30;
    while left > 0 {
        left -= rustix::fs::copy_file_range(&from, None, &to, None, left).expect("it copies");
    }
    to.sync_all().expect("it is flushed");
    start.elapsed().as_secs_f64() * 1e3
}

/// Blocks of the copy that opening for writing made.
fn copy_sparse(m: &Path) -> f64 {
    drop(OpenOptions::new().append(true).open(m.join("big")).expect("the file opens"));
    upper_copy(m).blocks() as f64
}

fn upper_copy(m: &Path) -> fs::Metadata {
    let copy = m.parent().expect("the mount point has a parent").join("u/big");
    copy.metadata().expect("there is a copy")
}

/// Bytes of data that a change of the mode brought into the upper layer.
fn chmod(m: &Path) -> f64 {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = fs::Permissions::from_mode(0o640);
    fs::set_permissions(m.join("big"), mode).expect("the mode is changed");
    upper_copy(m).blocks() as f64 * 512.0
}

fn truncate(m: &Path) -> f64 {
    let path = m.join("big");
    let start = Instant::now();
    nix::unistd::truncate(&path, 0).expect("the file is cut");
    start.elapsed().as_secs_f64() * 1e3
}
