//! The kernel's overlayfs mounts what the union wrote, and the other way
//! round: both must show the same tree.

use std::fs;
use std::process::Command;

use crate::world::{World, tree};

pub const ALL: &[(&str, fn())] = &[
    ("kernel_shows_what_the_union_wrote", union_then_kernel),
    ("union_shows_what_the_kernel_wrote", kernel_then_union),
];

fn mount_kernel(w: &World) -> bool {
    let layers: Vec<_> = w.options.lower.iter().map(|p| p.display().to_string()).collect();
    let options = format!(
        "lowerdir={},upperdir={},workdir={},redirect_dir=on,xino=auto",
        layers.join(":"),
        w.path("u").display(),
        w.path("w").display(),
    );
    let mut command = Command::new("mount");
    command.args(["-t", "overlay", "overlay", "-o", &options]).arg(w.path("m"));
    command.status().is_ok_and(|s| s.success())
}

fn unmount_kernel(w: &World) {
    assert!(Command::new("umount").arg(w.path("m")).status().unwrap().success());
}

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
}

fn union_then_kernel() {
    let mut w = World::new(3);
    fill(&w);
    w.mount();
    work_on(&w);
    let shown = w.merged();
    w.unmount();
    assert!(mount_kernel(&w), "the kernel refuses what the union wrote");
    let kernel = tree(&w.path("m"), false);
    unmount_kernel(&w);
    assert_eq!(shown, kernel);
}

fn kernel_then_union() {
    let mut w = World::new(3);
    fill(&w);
    if !mount_kernel(&w) {
        println!("skipped: this kernel mounts no overlayfs");
        return;
    }
    work_on(&w);
    let shown = tree(&w.path("m"), false);
    unmount_kernel(&w);
    w.mount();
    assert_eq!(shown, w.merged());
    w.unmount();
}
