//! Behaviour by name. Among it is every defect that was reproduced in one of
//! the user-space unions.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};

use rustix::fs::{CWD, RenameFlags, XattrFlags, renameat_with};
use rustix::io::Errno;

use super::Case;
use super::world::{Done, Mismatch, World, equal, errno, names, odd_name, read};

const fn case(
    name: &'static str,
    n_lower: usize,
    fill: fn(&World) -> Done,
    act: fn(&mut World) -> Done,
) -> Case {
    Case { name, n_lower, writable: &[], fill, act }
}

pub const ALL: &[Case] = &[
    case("layers_merge_and_the_topmost_wins", 3, layers, layers_merge),
    case("a_whiteout_hides_what_is_below", 2, whiteouts, whiteouts_hide),
    case("an_opaque_directory_hides_what_is_below", 2, opaque, opaque_hides),
    case("open_for_writing_copies_up", 1, one_file, open_copies_up),
    case("the_first_write_copies_the_whole_file_up", 1, one_file, write_copies_up),
    case("chmod_copies_up_and_keeps_the_content", 1, one_file, chmod_copies_up),
    case("a_file_opened_before_the_copy_up_shows_the_write", 1, one_file, old_reader),
    case("a_reader_and_a_writer_spare_the_lower_layer", 1, one_file, reader_and_writer),
    case("unlink_of_a_lower_file_leaves_a_whiteout", 1, one_file, unlink_lower),
    case("whiteouts_are_links_to_one_file", 1, two_files, whiteouts_linked),
    case("the_unions_own_files_are_shown_nowhere", 1, two_layers_in_one, own_files_hidden),
    case("unlink_copies_no_data", 1, large_file, unlink_copies_nothing),
    case("truncating_open_leaves_an_empty_file", 1, one_file, truncating_open),
    case("a_removed_and_recreated_directory_is_empty", 1, one_file, recreated),
    case("a_directory_with_visible_names_is_not_removed", 2, whiteouts, rmdir_refused),
    case("a_lower_file_is_renamed", 1, one_file, rename_file),
    case("a_lower_directory_is_renamed", 2, two_layers, rename_directory),
    case("two_lower_files_are_exchanged", 1, two_files, exchange),
    case("rename_without_replacing_refuses", 1, two_files, no_replace),
    case("a_sparse_file_stays_sparse", 1, sparse_file, stays_sparse),
    case("hard_links_of_a_lower_layer_stay_one_file", 1, linked, links_stay),
    case("a_new_hard_link_to_a_lower_file_is_the_same_file", 1, one_file, new_link),
    case("an_inode_number_outlives_the_copy_up", 1, one_file, ino_over_copy_up),
    case("inode_numbers_outlive_a_remount", 2, two_layers, ino_over_remount),
    case("inode_numbers_are_unique", 2, two_layers, ino_unique),
    case("an_unlinked_open_file_is_still_read", 1, one_file, unlinked_open),
    case("names_of_255_bytes_are_taken", 1, one_file, long_names),
    case("names_that_are_no_text_are_taken", 1, one_file, odd_names),
    case("names_that_look_like_whiteouts_are_taken", 1, one_file, reserved_names),
    case("extended_attributes_are_copied_up", 1, attributed, attributes),
    case("links_and_pipes_are_shown_and_removed", 1, special, specials),
    case("listing_while_removing_sees_every_name", 1, many_files, list_and_remove),
    case("a_large_directory_is_emptied", 1, many_files, empty_all),
];

fn layers(w: &World) -> Done {
    w.put("l2/d/a", "bottom")?;
    w.put("l2/d/b", "bottom")?;
    w.put("l2/d/c", "bottom")?;
    w.put("l1/d/b", "middle")?;
    w.put("l0/d/c", "top")?;
    w.put("l1/file-over-directory", "file")?;
    w.put("l2/file-over-directory/hidden", "")
}

fn layers_merge(w: &mut World) -> Done {
    equal("names", names(w.m("d"))?, strings(&["a", "b", "c"]))?;
    let contents = ["a", "b", "c"].map(|name| read(w.m("d").join(name)));
    let contents: Result<Vec<_>, _> = contents.into_iter().collect();
    equal("contents", contents?, strings(&["bottom", "middle", "top"]))?;
    equal("a file over a directory", read(w.m("file-over-directory"))?, "file".to_owned())
}

fn whiteouts(w: &World) -> Done {
    for name in ["hidden", "kept"] {
        w.put(&format!("l1/d/{name}"), name)?;
    }
    w.dir("l0/d")?;
    w.whiteout("l0", "d/hidden")
}

fn whiteouts_hide(w: &mut World) -> Done {
    equal("names", names(w.m("d"))?, strings(&["kept"]))?;
    equal("lookup", errno(w.m("d/hidden").symlink_metadata()), Errno::NOENT.raw_os_error())?;
    fs::write(w.m("d/hidden"), "again")?;
    equal("recreated", read(w.m("d/hidden"))?, "again".to_owned())
}

fn opaque(w: &World) -> Done {
    w.put("l1/d/below", "")?;
    w.put("l0/d/own", "")?;
    w.opaque("l0", "d")
}

fn opaque_hides(w: &mut World) -> Done {
    equal("names", names(w.m("d"))?, strings(&["own"]))?;
    equal("lookup", errno(w.m("d/below").symlink_metadata()), Errno::NOENT.raw_os_error())
}

fn one_file(w: &World) -> Done {
    w.put("l0/d/e/f", "lower")
}

fn open_copies_up(w: &mut World) -> Done {
    drop(OpenOptions::new().write(true).open(w.m("d/e/f"))?);
    equal("the upper layer holds it", w.path("u/d/e/f").exists(), true)
}

fn write_copies_up(w: &mut World) -> Done {
    OpenOptions::new().append(true).open(w.m("d/e/f"))?.write_all(b" and more")?;
    equal("merged", read(w.m("d/e/f"))?, "lower and more".to_owned())?;
    equal("upper", read(w.path("u/d/e/f"))?, "lower and more".to_owned())
}

fn chmod_copies_up(w: &mut World) -> Done {
    fs::set_permissions(w.m("d/e/f"), fs::Permissions::from_mode(0o640))?;
    equal("mode", w.m("d/e/f").metadata()?.mode() & 0o7777, 0o640)?;
    equal("merged", read(w.m("d/e/f"))?, "lower".to_owned())?;
    equal("upper", read(w.path("u/d/e/f"))?, "lower".to_owned())
}

fn old_reader(w: &mut World) -> Done {
    let mut reader = File::open(w.m("d/e/f"))?;
    let mut seen = String::new();
    reader.read_to_string(&mut seen)?;
    fs::write(w.m("d/e/f"), "a longer text")?;
    seen.clear();
    reader.seek(SeekFrom::Start(0))?;
    reader.read_to_string(&mut seen)?;
    equal("through the old descriptor", seen, "a longer text".to_owned())
}

/// fuse-overlayfs 2.0 wrote into the lower layer here; [`World::settle`] would
/// see that.
fn reader_and_writer(w: &mut World) -> Done {
    let reader = File::open(w.m("d/e/f"))?;
    let mut writer = OpenOptions::new().write(true).open(w.m("d/e/f"))?;
    writer.write_all(b"UPPER")?;
    drop((reader, writer));
    equal("merged", read(w.m("d/e/f"))?, "UPPER".to_owned())
}

fn unlink_lower(w: &mut World) -> Done {
    fs::remove_file(w.m("d/e/f"))?;
    equal("names", names(w.m("d/e"))?, strings(&[]))?;
    equal("whiteout", w.upper_hides("d/e/f"), true)?;
    equal("again", errno(fs::remove_file(w.m("d/e/f"))), Errno::NOENT.raw_os_error())
}

fn whiteouts_linked(w: &mut World) -> Done {
    fs::remove_file(w.m("a"))?;
    fs::remove_file(w.m("b"))?;
    equal("numbers", w.whiteout_ino("a")?, w.whiteout_ino("b")?)
}

fn two_layers_in_one(w: &World) -> Done {
    w.put("l0/d/f", "f")?;
    w.put("l0/d/g", "g")
}

fn own_files_hidden(w: &mut World) -> Done {
    fs::remove_file(w.m("d/f"))?;
    fs::write(w.m("d/g"), "copied up")?;
    fs::create_dir(w.m("e"))?;
    let shown: Vec<String> =
        w.shown()?.into_keys().map(|path| path.display().to_string()).collect();
    equal("names", shown, strings(&["d", "d/g", "e"]))
}

fn large_file(w: &World) -> Done {
    w.put("l0/f", &"x".repeat(1 << 20))
}

fn unlink_copies_nothing(w: &mut World) -> Done {
    fs::remove_file(w.m("f"))?;
    let bytes = fs::read_dir(w.path("u"))?.map(|entry| Ok(entry?.metadata()?.len()));
    let bytes: io::Result<Vec<u64>> = bytes.collect();
    equal("large files in the upper layer", bytes?.iter().any(|len| *len >= 1 << 20), false)
}

fn truncating_open(w: &mut World) -> Done {
    drop(File::create(w.m("d/e/f"))?);
    equal("length", w.m("d/e/f").metadata()?.len(), 0)?;
    OpenOptions::new().write(true).open(w.m("d/e/f"))?.set_len(3)?;
    equal("merged", read(w.m("d/e/f"))?, "\0\0\0".to_owned())
}

fn recreated(w: &mut World) -> Done {
    fs::remove_dir_all(w.m("d"))?;
    fs::create_dir(w.m("d"))?;
    equal("names", names(w.m("d"))?, strings(&[]))?;
    w.remount()?;
    equal("names after a remount", names(w.m("d"))?, strings(&[]))
}

fn rmdir_refused(w: &mut World) -> Done {
    equal("errno", errno(fs::remove_dir(w.m("d"))), Errno::NOTEMPTY.raw_os_error())?;
    fs::remove_file(w.m("d/kept"))?;
    fs::remove_dir(w.m("d"))?;
    equal("names", names(w.m(""))?, strings(&[]))
}

fn rename_file(w: &mut World) -> Done {
    fs::rename(w.m("d/e/f"), w.m("d/g"))?;
    equal("new", read(w.m("d/g"))?, "lower".to_owned())?;
    equal("old", w.m("d/e/f").exists(), false)?;
    fs::rename(w.m("d/g"), w.m("d/e/f"))?;
    equal("back", read(w.m("d/e/f"))?, "lower".to_owned())
}

fn two_layers(w: &World) -> Done {
    w.put("l1/d/sub/f", "f")?;
    w.put("l0/d/g", "g")?;
    w.put("l1/file", "file")
}

fn rename_directory(w: &mut World) -> Done {
    fs::rename(w.m("d"), w.m("e"))?;
    equal("inner", read(w.m("e/sub/f"))?, "f".to_owned())?;
    equal("names", names(w.m(""))?, strings(&["e", "file"]))?;
    fs::create_dir(w.m("d"))?;
    equal("the old name again", names(w.m("d"))?, strings(&[]))
}

fn two_files(w: &World) -> Done {
    w.put("l0/a", "a")?;
    w.put("l0/b", "b")
}

fn exchange(w: &mut World) -> Done {
    renameat_with(CWD, w.m("a"), CWD, w.m("b"), RenameFlags::EXCHANGE)?;
    equal("contents", (read(w.m("a"))?, read(w.m("b"))?), ("b".to_owned(), "a".to_owned()))
}

fn no_replace(w: &mut World) -> Done {
    let refused = renameat_with(CWD, w.m("a"), CWD, w.m("b"), RenameFlags::NOREPLACE);
    equal("over a name", refused, Err(Errno::EXIST))?;
    fs::remove_file(w.m("b"))?;
    renameat_with(CWD, w.m("a"), CWD, w.m("b"), RenameFlags::NOREPLACE)?;
    equal("content", read(w.m("b"))?, "a".to_owned())
}

fn sparse_file(w: &World) -> Done {
    let file = File::create(w.path("l0/s"))?;
    file.set_len(64 << 20)?;
    Ok(file.write_all_at(b"middle", 32 << 20)?)
}

fn stays_sparse(w: &mut World) -> Done {
    let file = OpenOptions::new().write(true).open(w.m("s"))?;
    file.write_all_at(b"x", 0)?;
    drop(file);
    let copy = w.path("u/s").metadata()?;
    equal("length", copy.len(), 64 << 20)?;
    // The kernel copies whole chunks of 1 MiB around data.
    equal("less than 4 MiB is written", copy.blocks() < 8192, true)?;
    let mut seen = [0; 6];
    File::open(w.m("s"))?.read_exact_at(&mut seen, 32 << 20)?;
    equal("content", &seen, b"middle")
}

fn linked(w: &World) -> Done {
    w.put("l0/a", "old")?;
    Ok(fs::hard_link(w.path("l0/a"), w.path("l0/b"))?)
}

fn links_stay(w: &mut World) -> Done {
    let ino = |name: &str| w.m(name).metadata().map(|found| found.ino());
    equal("numbers", ino("a")?, ino("b")?)?;
    fs::write(w.m("a"), "new")?;
    equal("the other name", read(w.m("b"))?, "new".to_owned())?;
    w.remount()?;
    equal("after a remount", read(w.m("b"))?, "new".to_owned())
}

fn new_link(w: &mut World) -> Done {
    fs::hard_link(w.m("d/e/f"), w.m("d/g"))?;
    let ino = |name: &str| w.m(name).metadata().map(|found| found.ino());
    equal("numbers", ino("d/e/f")?, ino("d/g")?)?;
    fs::write(w.m("d/g"), "both")?;
    equal("content", read(w.m("d/e/f"))?, "both".to_owned())
}

fn ino_over_copy_up(w: &mut World) -> Done {
    let before = w.m("d/e/f").metadata()?.ino();
    fs::write(w.m("d/e/f"), "new")?;
    equal("number", w.m("d/e/f").metadata()?.ino(), before)
}

fn ino_over_remount(w: &mut World) -> Done {
    fs::write(w.m("d/g"), "copied up")?;
    let paths = ["d", "d/sub", "d/sub/f", "d/g", "file"];
    let all = |w: &World| -> Result<Vec<u64>, io::Error> {
        paths.iter().map(|path| w.m(path).metadata().map(|found| found.ino())).collect()
    };
    let before = all(w)?;
    w.remount()?;
    equal("numbers", all(w)?, before)
}

fn ino_unique(w: &mut World) -> Done {
    let paths = ["d", "d/sub", "d/sub/f", "d/g", "file"];
    let numbers = paths.iter().map(|path| {
        let found = w.m(path).metadata()?;
        Ok((found.dev(), found.ino()))
    });
    let numbers: io::Result<std::collections::BTreeSet<_>> = numbers.collect();
    equal("different numbers", numbers?.len(), paths.len())
}

fn unlinked_open(w: &mut World) -> Done {
    let mut file = File::open(w.m("d/e/f"))?;
    fs::remove_file(w.m("d/e/f"))?;
    let mut seen = String::new();
    file.read_to_string(&mut seen)?;
    equal("content", seen, "lower".to_owned())
}

fn long_names(w: &mut World) -> Done {
    let name = w.m("d").join("n".repeat(255));
    fs::write(&name, "long")?;
    equal("content", read(&name)?, "long".to_owned())?;
    fs::remove_file(&name)?;
    let too_long = fs::write(w.m("d").join("n".repeat(256)), "");
    equal("256 bytes", errno(too_long), Errno::NAMETOOLONG.raw_os_error())
}

fn odd_names(w: &mut World) -> Done {
    let name = w.m("d").join(odd_name());
    fs::write(&name, "odd")?;
    equal("content", read(&name)?, "odd".to_owned())?;
    Ok(fs::remove_file(&name)?)
}

fn reserved_names(w: &mut World) -> Done {
    fs::write(w.m("d/.wh.name"), "a name like any other")?;
    equal("names", names(w.m("d"))?, strings(&[".wh.name", "e"]))
}

fn attributed(w: &World) -> Done {
    w.put("l0/f", "f")?;
    let flags = XattrFlags::empty();
    // Not `user.`, which tmpfs knows from Linux 6.6 on.
    Ok(rustix::fs::setxattr(w.path("l0/f"), "trusted.colour", b"red", flags)?)
}

fn attributes(w: &mut World) -> Done {
    fs::set_permissions(w.m("f"), fs::Permissions::from_mode(0o600))?;
    let mut value = [0u8; 16];
    let n = rustix::fs::getxattr(w.m("f"), "trusted.colour", &mut value)?;
    equal("value", value.get(..n), Some(&b"red"[..]))
}

fn special(w: &World) -> Done {
    w.put("l0/d/f", "f")?;
    symlink("f", w.path("l0/d/link"))?;
    let kind = rustix::fs::FileType::Fifo;
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    Ok(rustix::fs::mknodat(CWD, w.path("l0/d/pipe"), kind, mode, 0)?)
}

fn specials(w: &mut World) -> Done {
    equal("through the link", read(w.m("d/link"))?, "f".to_owned())?;
    symlink("f", w.m("d/second"))?;
    fs::rename(w.m("d/link"), w.m("d/third"))?;
    fs::remove_file(w.m("d/pipe"))?;
    equal("names", names(w.m("d"))?, strings(&["f", "second", "third"]))?;
    equal("target", fs::read_link(w.m("d/third"))?, "f".into())
}

fn many_files(w: &World) -> Done {
    w.dir("l0/d")?;
    for i in 0..500 {
        fs::write(w.path("l0/d").join(format!("{i:03}")), "")?;
    }
    Ok(())
}

fn list_and_remove(w: &mut World) -> Done {
    let mut n = 0;
    for entry in fs::read_dir(w.m("d"))? {
        fs::remove_file(entry?.path())?;
        n += 1;
    }
    equal("names seen", n, 500)?;
    equal("names left", names(w.m("d"))?, strings(&[]))
}

fn empty_all(w: &mut World) -> Done {
    for i in 0..500 {
        fs::remove_file(w.m("d").join(format!("{i:03}")))?;
        fs::write(w.m("d").join(format!("new{i:03}")), "")?;
    }
    equal("names", names(w.m("d"))?.len(), 500)?;
    fs::remove_dir_all(w.m("d")).map_err(|error| Mismatch::Differs(format!("rm -r: {error}")))?;
    equal("names", names(w.m(""))?, strings(&[]))
}

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}
