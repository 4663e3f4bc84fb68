//! Two folders a and b, joined with a on top: what the project's first words
//! ask of every union.

use std::fs::{self, OpenOptions};
use std::io::Write as _;

use super::Case;
use super::world::{Done, World, equal, names, read};

/// `u` is a, `l0` is b.
pub const ALL: &[Case] = &[
    Case {
        name: "two_folders_with_a_on_top_of_a_read_only_b",
        n_lower: 1,
        writable: &[],
        fill,
        act: read_only_below,
    },
    Case {
        name: "two_writable_folders_with_a_on_top_of_b",
        n_lower: 1,
        writable: &[0],
        fill,
        act: shared_name_goes_to_a,
    },
];

fn fill(w: &World) -> Done {
    w.put("u/shared", "from a")?;
    w.put("u/only-a", "a")?;
    w.put("l0/shared", "from b")?;
    w.put("l0/only-b", "b")?;
    w.put("l0/gone", "b")?;
    w.put("l0/dir/inner", "b")
}

/// A write to the name in both changes a, and b keeps its own; what is added
/// goes to a.
fn shared_name_goes_to_a(w: &mut World) -> Done {
    equal(
        "listing",
        names(w.m(""))?,
        ["dir", "gone", "only-a", "only-b", "shared"].map(str::to_owned).to_vec(),
    )?;
    equal("shared", read(w.m("shared"))?, "from a".to_owned())?;
    equal("only-b", read(w.m("only-b"))?, "b".to_owned())?;
    fs::write(w.m("shared"), "changed")?;
    equal("shared", read(w.m("shared"))?, "changed".to_owned())?;
    equal("shared of a", read(w.path("u/shared"))?, "changed".to_owned())?;
    equal("shared of b", read(w.path("l0/shared"))?, "from b".to_owned())?;
    fs::write(w.m("new"), "new")?;
    equal("new of a", read(w.path("u/new"))?, "new".to_owned())?;
    equal("new in b", w.path("l0/new").exists(), false)
}

/// With b read-only, deleting leaves a whiteout and the first write copies up.
fn read_only_below(w: &mut World) -> Done {
    shared_name_goes_to_a(w)?;
    fs::remove_file(w.m("gone"))?;
    equal("gone", w.m("gone").exists(), false)?;
    equal("whiteout", w.upper_hides("gone"), true)?;
    equal("gone of b", read(w.path("l0/gone"))?, "b".to_owned())?;
    fs::remove_file(w.m("shared"))?;
    equal("shared", w.m("shared").exists(), false)?;
    OpenOptions::new().append(true).open(w.m("dir/inner"))?.write_all(b" and more")?;
    equal("inner", read(w.m("dir/inner"))?, "b and more".to_owned())?;
    equal("inner of a", read(w.path("u/dir/inner"))?, "b and more".to_owned())?;
    equal("inner of b", read(w.path("l0/dir/inner"))?, "b".to_owned())
}
