//! What the kernel's overlayfs wrote is read by another union, and the
//! reverse: the format on disk is the same.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::Case;
use super::world::{Done, Mismatch, World, same};

pub const ALL: &[Case] = &[
    Case {
        name: "a_tree_that_overlayfs_wrote_looks_the_same",
        n_lower: 2,
        writable: &[],
        fill,
        act: kernel_first,
    },
    Case {
        name: "overlayfs_shows_the_same_of_a_tree_that_was_written",
        n_lower: 2,
        writable: &[],
        fill,
        act: kernel_second,
    },
];

fn fill(w: &World) -> Done {
    for name in ["kept", "deleted", "changed", "moved", "moded"] {
        w.put(&format!("l1/d/{name}"), name)?;
    }
    w.put("l1/emptied/old", "old")?;
    w.put("l1/from/inner", "inner")?;
    w.put("l0/d/top", "top")
}

/// Every kind of mark: whiteout, opaque directory, redirect, copy-up.
fn change(w: &World) -> Done {
    fs::remove_file(w.m("d/deleted"))?;
    fs::write(w.m("d/changed"), "changed here")?;
    fs::rename(w.m("d/moved"), w.m("moved"))?;
    fs::set_permissions(w.m("d/moded"), fs::Permissions::from_mode(0o600))?;
    fs::remove_dir_all(w.m("emptied"))?;
    fs::create_dir(w.m("emptied"))?;
    fs::write(w.m("emptied/new"), "new")?;
    fs::rename(w.m("from"), w.m("to"))?;
    Ok(())
}

fn kernel_first(w: &mut World) -> Done {
    let kind = applicable(w)?;
    w.unmount()?;
    w.become_kind("overlayfs")?;
    w.mount()?;
    change(w)?;
    let written = w.shown()?;
    w.unmount()?;
    w.become_kind(&kind)?;
    w.mount()?;
    same(&kind, &w.shown()?, &written)
}

fn kernel_second(w: &mut World) -> Done {
    let kind = applicable(w)?;
    change(w)?;
    let written = w.shown()?;
    w.unmount()?;
    w.become_kind("overlayfs")?;
    w.mount()?;
    same("overlayfs", &w.shown()?, &written)?;
    w.unmount()?;
    w.become_kind(&kind)?;
    w.mount()
}

fn applicable(w: &World) -> Result<String, Mismatch> {
    match w.kind() {
        "aufs" | "unionfs-fuse" | "mergerfs" => {
            Err(Mismatch::Inapplicable("it has a format of its own".to_owned()))
        }
        kind => Ok(kind.to_owned()),
    }
}
