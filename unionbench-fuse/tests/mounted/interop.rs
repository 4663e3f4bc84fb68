//! The kernel's overlayfs mounts what the union wrote, and the other way
//! round: both must show the same tree.

use std::fs;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::Path;

use crate::world::{World, tree};

pub const ALL: &[(&str, fn())] = &[
    ("kernel_shows_what_the_union_wrote", union_then_kernel),
    ("union_shows_what_the_kernel_wrote", kernel_then_union),
];

const KERNEL: &str = "redirect_dir=on,xino=auto";

fn fill(w: &World) {
    for layer in 0..3 {
        for file in ["f", "g", "h"] {
            w.put(&format!("l{layer}/d{layer}/{file}"), &format!("{file}{layer}"));
            w.put(&format!("l{layer}/all/{file}{layer}"), file);
        }
    }
}

/// One change of every kind, on whatever is mounted.
fn work_on(w: &World) {
    fs::remove_file(w.m("all/f1")).unwrap();
    fs::write(w.m("all/g2"), "changed").unwrap();
    fs::rename(w.m("d1"), w.m("all/d1")).unwrap();
    fs::write(w.m("all/d1/new"), "new").unwrap();
    fs::remove_dir_all(w.m("d2")).unwrap();
    fs::create_dir(w.m("d2")).unwrap();
    fs::write(w.m("d2/only"), "only").unwrap();
    fs::rename(w.m("d0/f"), w.m("d0/f2")).unwrap();
    fs::hard_link(w.m("d0/g"), w.m("d0/g2")).unwrap();
    std::os::unix::fs::symlink("f2", w.m("d0/link")).unwrap();
    // What was copied up comes into directories that were made here.
    fs::create_dir_all(w.m("made/deep")).unwrap();
    fs::create_dir(w.m("linked")).unwrap();
    fs::rename(w.m("all/g2"), w.m("made/g2")).unwrap();
    fs::rename(w.m("all/d1"), w.m("made/deep/d1")).unwrap();
    fs::hard_link(w.m("d0/h"), w.m("linked/h")).unwrap();
}

/// Every number that a listing tells is that of the object.
fn listed_numbers_are_those_of_objects(root: &Path) {
    let mut left = vec![root.to_path_buf()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let found = entry.path().symlink_metadata().unwrap();
            assert_eq!(entry.ino(), found.ino(), "{}", entry.path().display());
            left.extend(found.is_dir().then(|| entry.path()));
        }
    }
}

fn union_then_kernel() {
    let mut w = World::new(3);
    fill(&w);
    w.mount();
    work_on(&w);
    let shown = w.merged();
    w.unmount();
    w.mount_kernel(KERNEL).expect("the kernel refuses what the union wrote");
    listed_numbers_are_those_of_objects(&w.path("m"));
    let kernel = tree(&w.path("m"), false);
    w.unmount_kernel();
    assert_eq!(shown, kernel);
}

fn kernel_then_union() {
    let mut w = World::new(3);
    fill(&w);
    if w.mount_kernel(KERNEL).is_err() {
        println!("skipped: this kernel mounts no overlayfs");
        return;
    }
    work_on(&w);
    let shown = tree(&w.path("m"), false);
    w.unmount_kernel();
    w.mount();
    listed_numbers_are_those_of_objects(&w.path("m"));
    assert_eq!(shown, w.merged());
    w.unmount();
}
