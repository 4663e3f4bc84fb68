//! `unionbench mount` and the mount helper: a mount that outlives its starter.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{PROGRAM, Place, assert_nothing_mounted, can_mount};

/// Runs the command to its end, mounts, looks, writes, and unmounts. Its pipes
/// must close although the daemon goes on.
fn mounts(place: &Place, command: &mut Command) {
    let path = |name: &str| place.0.path().join(name);
    let done = command.stdin(Stdio::null()).output().expect("the program starts");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(fs::read(path("m/f")).expect("the lower file shows"), b"lower");
    fs::write(path("m/f"), "upper").expect("it can be written");
    assert_eq!(fs::read(path("l/f")).expect("the lower file"), b"lower");
    assert_eq!(fs::read(path("u/f")).expect("the upper file"), b"upper");
    // A child that another case has just forked may still hold a file of it.
    let unmounted = || {
        let done = Command::new("umount").arg(path("m")).stderr(Stdio::null()).status();
        done.expect("umount starts").success()
    };
    assert!((0..500).any(|_| unmounted()), "the mount stays busy");
    fs::remove_file(path("u/f")).expect("the upper file goes");
}

fn layers(place: &Place) -> String {
    for name in ["l", "u", "w", "m"] {
        fs::create_dir(place.0.path().join(name)).expect("a folder");
    }
    fs::write(place.0.path().join("l/f"), "lower").expect("a lower file");
    "lowerdir=l,upperdir=u,workdir=w".to_owned()
}

fn call(program: &Path, place: &Place, words: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.current_dir(place.0.path()).args(words);
    command
}

#[test]
fn a_mount_outlives_its_starter_and_lets_go_of_it() {
    if !can_mount("mounts that last") || fs::File::open("/dev/fuse").is_err() {
        return;
    }
    let place = Place::new();
    let options = layers(&place);
    mounts(&place, &mut call(Path::new(PROGRAM), &place, &["mount", "-o", &options, "m"]));
    assert_nothing_mounted(place.0.path());
}

#[test]
fn by_the_name_of_a_helper_it_mounts_as_mount_asks() {
    if !can_mount("the mount helper") || fs::File::open("/dev/fuse").is_err() {
        return;
    }
    let place = Place::new();
    let options = format!("rw,{},x-systemd.automount", layers(&place));
    let helper = place.0.path().join("mount.fuse.unionbench");
    symlink(PROGRAM, &helper).expect("a link");
    let words = ["none", "m", "-s", "-o", &options, "-t", "fuse.unionbench"];
    let fake = call(&helper, &place, &["none", "m", "-f", "-o", &options]).status();
    assert!(fake.expect("the helper starts").success());
    assert_nothing_mounted(place.0.path());
    mounts(&place, &mut call(&helper, &place, &words));
    assert_nothing_mounted(place.0.path());
}

#[test]
fn what_cannot_be_mounted_says_why() {
    let place = Place::new();
    layers(&place);
    let options = "lowerdir=l:l,upperdir=u,workdir=w";
    let output = call(Path::new(PROGRAM), &place, &["mount", "-o", options, "m"]).output();
    let output = output.expect("the program starts");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("name layers that lie apart"), "{said}");
}
