//! Where unions do otherwise than kernel overlayfs, and why. Each row is backed
//! by the case it names. `scenarios/semantics.md` is printed from here.

/// One known difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Difference {
    pub kind: &'static str,
    pub case: &'static str,
    /// What it does instead, and why.
    pub reason: &'static str,
    /// It depends on the version of the kernel or the program.
    pub sometimes: bool,
}

const fn differs(kind: &'static str, case: &'static str, reason: &'static str) -> Difference {
    Difference { kind, case, reason, sometimes: false }
}

const fn may_differ(kind: &'static str, case: &'static str, reason: &'static str) -> Difference {
    Difference { kind, case, reason, sometimes: true }
}

const NO_COPY_UP: &str = "refused: it copies nothing up and has no whiteouts";
const WRITES_THROUGH: &str = "a file in a branch marked RO is opened for writing and changed there: \
                              RO only keeps new files out";
const OWN_NUMBERS: &str = "numbers are handed out in the order of lookups, by path";
const OWN_WHITEOUTS: &str = "each whiteout is an inode of its own";
const NO_XATTR: &str = "it serves no extended attributes of the kind";

/// Every known difference.
pub const DIFFERENCES: &[Difference] = &[
    may_differ(
        "overlayfs",
        "a_file_opened_before_the_copy_up_shows_the_write",
        "the descriptor stays with the lower file on older kernels (6.1 and 6.12 do so, 6.18 does not)",
    ),
    differs(
        "aufs",
        "open_for_writing_copies_up",
        "the first write, truncation or change of mode copies up, not the open",
    ),
    differs(
        "aufs",
        "a_lower_directory_is_renamed",
        "refused with EXDEV without `dirren`, which few builds have",
    ),
    differs(
        "aufs",
        "inode_numbers_outlive_a_remount",
        "numbers come from the xino table, which goes with the mount",
    ),
    differs(
        "aufs",
        "names_of_255_bytes_are_taken",
        "ENAMETOOLONG: it wants room for `.wh.` before the name",
    ),
    differs(
        "aufs",
        "names_that_look_like_whiteouts_are_taken",
        "EPERM: `.wh.` is reserved for whiteouts",
    ),
    may_differ(
        "bundled",
        "hard_links_of_a_lower_layer_stay_one_file",
        "before Linux 6.9, where it has no index: after a remount the name that was not written shows the lower file again",
    ),
    differs(
        "fuse-overlayfs",
        "a_lower_directory_is_renamed",
        "refused with EXDEV: it writes no redirects",
    ),
    differs("fuse-overlayfs", "a_sparse_file_stays_sparse", "the copy has no holes"),
    differs("fuse-overlayfs", "whiteouts_are_links_to_one_file", OWN_WHITEOUTS),
    differs("unionfs-fuse", "whiteouts_are_links_to_one_file", OWN_WHITEOUTS),
    differs(
        "fuse-overlayfs",
        "hard_links_of_a_lower_layer_stay_one_file",
        "after a remount the name that was not written shows the lower file again",
    ),
    differs(
        "fuse-overlayfs",
        "inode_numbers_outlive_a_remount",
        "a copied-up file has the upper file's number after a remount",
    ),
    differs(
        "fuse-overlayfs",
        "names_of_255_bytes_are_taken",
        "ENAMETOOLONG: it wants room for `.wh.` before the name",
    ),
    differs(
        "fuse-overlayfs",
        "names_that_look_like_whiteouts_are_taken",
        "EINVAL: `.wh.` is reserved for whiteouts",
    ),
    differs(
        "fuse-overlayfs",
        "a_tree_that_overlayfs_wrote_looks_the_same",
        "redirects are not followed: a directory renamed by the kernel is empty",
    ),
    differs(
        "fuse-overlayfs",
        "overlayfs_shows_the_same_of_a_tree_that_was_written",
        "the rename of a directory in it is refused with EXDEV",
    ),
    differs(
        "fuse-overlayfs",
        "random_operations_match_the_union_in_memory",
        "a directory made where a lower layer has a whiteout shows what the whiteout hid",
    ),
    differs(
        "unionfs-fuse",
        "a_file_opened_before_the_copy_up_shows_the_write",
        "the descriptor stays with the lower file",
    ),
    differs(
        "unionfs-fuse",
        "a_lower_directory_is_renamed",
        "what lower layers hold in it is lost from view",
    ),
    differs("unionfs-fuse", "two_lower_files_are_exchanged", "EINVAL: rename takes no flags"),
    differs("unionfs-fuse", "rename_without_replacing_refuses", "EINVAL: rename takes no flags"),
    differs("unionfs-fuse", "a_sparse_file_stays_sparse", "the copy has no holes"),
    differs("unionfs-fuse", "hard_links_of_a_lower_layer_stay_one_file", OWN_NUMBERS),
    differs("unionfs-fuse", "a_new_hard_link_to_a_lower_file_is_the_same_file", OWN_NUMBERS),
    differs("unionfs-fuse", "inode_numbers_outlive_a_remount", OWN_NUMBERS),
    differs("unionfs-fuse", "extended_attributes_are_copied_up", NO_XATTR),
    differs("mergerfs", "a_whiteout_hides_what_is_below", "it has no whiteouts"),
    differs("mergerfs", "an_opaque_directory_hides_what_is_below", "it has no opaque directories"),
    differs("mergerfs", "open_for_writing_copies_up", WRITES_THROUGH),
    differs("mergerfs", "the_first_write_copies_the_whole_file_up", WRITES_THROUGH),
    differs("mergerfs", "chmod_copies_up_and_keeps_the_content", NO_COPY_UP),
    differs("mergerfs", "a_file_opened_before_the_copy_up_shows_the_write", WRITES_THROUGH),
    differs("mergerfs", "a_reader_and_a_writer_spare_the_lower_layer", WRITES_THROUGH),
    differs("mergerfs", "unlink_of_a_lower_file_leaves_a_whiteout", NO_COPY_UP),
    differs("mergerfs", "whiteouts_are_links_to_one_file", NO_COPY_UP),
    differs("mergerfs", "the_unions_own_files_are_shown_nowhere", NO_COPY_UP),
    differs("mergerfs", "unlink_copies_no_data", NO_COPY_UP),
    differs("mergerfs", "truncating_open_leaves_an_empty_file", WRITES_THROUGH),
    differs("mergerfs", "a_removed_and_recreated_directory_is_empty", NO_COPY_UP),
    differs("mergerfs", "a_directory_with_visible_names_is_not_removed", NO_COPY_UP),
    differs("mergerfs", "a_lower_file_is_renamed", NO_COPY_UP),
    differs("mergerfs", "a_lower_directory_is_renamed", NO_COPY_UP),
    differs("mergerfs", "two_lower_files_are_exchanged", "EINVAL: rename takes no flags"),
    differs("mergerfs", "rename_without_replacing_refuses", "EINVAL: rename takes no flags"),
    differs("mergerfs", "a_sparse_file_stays_sparse", WRITES_THROUGH),
    differs("mergerfs", "hard_links_of_a_lower_layer_stay_one_file", OWN_NUMBERS),
    differs("mergerfs", "a_new_hard_link_to_a_lower_file_is_the_same_file", NO_COPY_UP),
    differs("mergerfs", "an_inode_number_outlives_the_copy_up", WRITES_THROUGH),
    differs("mergerfs", "inode_numbers_outlive_a_remount", OWN_NUMBERS),
    differs("mergerfs", "an_unlinked_open_file_is_still_read", NO_COPY_UP),
    differs("mergerfs", "extended_attributes_are_copied_up", NO_COPY_UP),
    differs("mergerfs", "links_and_pipes_are_shown_and_removed", NO_COPY_UP),
    differs("mergerfs", "listing_while_removing_sees_every_name", NO_COPY_UP),
    differs("mergerfs", "a_large_directory_is_emptied", NO_COPY_UP),
    differs("mergerfs", "two_folders_with_a_on_top_of_a_read_only_b", WRITES_THROUGH),
];

/// The page of the documentation that tells the differences.
#[cfg(test)]
fn page() -> String {
    let mut text = String::from(
        "# How unions differ\n\n\
         Kernel overlayfs (mounted with `redirect_dir=on`, `index=on`, `xino=on`) is the reference. The bundled union is mounted\n\
         with `index=on` where it can be (Linux 6.9). Each row is backed by a\n\
         case: `unionbench conformance --backend UNION --case CASE` shows it on this machine. What stands nowhere here is as on\n\
         overlayfs; a row whose difference is gone fails the suite. *May* marks what depends on the version.\n\n\
         | union | case | instead |\n|---|---|---|\n",
    );
    for row in DIFFERENCES {
        let case = row.case.replace('_', " ");
        let may = if row.sometimes { "*may:* " } else { "" };
        text += &format!("| {} | {case} | {may}{} |\n", row.kind, row.reason);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_names_a_kind_and_a_case_and_stands_once() {
        for (index, row) in DIFFERENCES.iter().enumerate() {
            assert!(super::super::KINDS.contains(&row.kind), "{row:?}");
            assert!(super::super::case_names().any(|name| name == row.case), "{row:?}");
            let twin = |other: &Difference| other.kind == row.kind && other.case == row.case;
            assert!(!DIFFERENCES[index + 1..].iter().any(twin), "{row:?}");
        }
    }

    #[test]
    fn the_published_page_is_that_of_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../scenarios/semantics.md");
        if std::env::var_os("UNIONBENCH_BLESS").is_some() {
            std::fs::write(path, page()).expect("the page is written");
        }
        assert_eq!(
            std::fs::read_to_string(path).expect("the page is there"),
            page(),
            "scenarios/semantics.md is out of date: run UNIONBENCH_BLESS=1 cargo test -p unionbench differences"
        );
    }
}
