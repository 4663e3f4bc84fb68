//! The places of members that the kernel-side programs read, for the kernel
//! that runs.

use unionbench_common::trace::{Offsets, UNKNOWN};

use crate::probe::btf::Types;

/// All that can be told; the rest is unknown, and what depends on it is absent
/// from events. Modules that are not loaded yet have no types.
pub fn of_running_kernel() -> Offsets {
    match Types::of_kernel() {
        Some(kernel) => of(&kernel, |module| kernel.of_module(module)),
        None => Offsets::NONE,
    }
}

fn of(kernel: &Types, module: impl Fn(&str) -> Option<Types>) -> Offsets {
    let own = |structure: &str, member: &str| kernel.offset(structure, member).unwrap_or(UNKNOWN);
    let sum = |first: u32, second: u32| {
        if first == UNKNOWN || second == UNKNOWN { UNKNOWN } else { first + second }
    };
    let mut offsets = Offsets {
        dentry_parent: own("dentry", "d_parent"),
        dentry_name: sum(own("dentry", "d_name"), own("qstr", "name")),
        dentry_inode: own("dentry", "d_inode"),
        dentry_sb: own("dentry", "d_sb"),
        dentry_fsdata: own("dentry", "d_fsdata"),
        inode_mode: own("inode", "i_mode"),
        inode_size: own("inode", "i_size"),
        sb_dev: own("super_block", "s_dev"),
        sb_magic: own("super_block", "s_magic"),
        file_dentry: sum(own("file", "f_path"), own("path", "dentry")),
        task_files: own("task_struct", "files"),
        files_fdt: own("files_struct", "fdt"),
        fdt_max: own("fdtable", "max_fds"),
        fdt_fd: own("fdtable", "fd"),
        rename_flags: own("renamedata", "flags"),
        ..Offsets::NONE
    };
    overlay(&mut offsets, module("overlay").as_ref().unwrap_or(kernel));
    let fuse = module("fuse");
    let fuse = fuse.as_ref().unwrap_or(kernel);
    let known = |offset: Option<u32>| offset.unwrap_or(UNKNOWN);
    offsets.fuse_mount_connection = known(fuse.offset("fuse_mount", "fc"));
    offsets.fuse_connection_device = known(fuse.offset("fuse_conn", "dev"));
    offsets.fuse_args_opcode = known(fuse.offset("fuse_args", "opcode"));
    let aufs = module("aufs");
    let aufs = aufs.as_ref().unwrap_or(kernel);
    // Without types, the first member is where it has been since Linux 3.
    offsets.aufs_copy_dentry = aufs.offset("au_cp_generic", "dentry").unwrap_or(0);
    if let (Some(target), Some(source)) =
        (aufs.offset("au_cp_generic", "bdst"), aufs.offset("au_cp_generic", "bsrc"))
    {
        offsets.aufs_copy_source = source;
        // The one lies right behind the other.
        offsets.aufs_index_bytes = source.wrapping_sub(target);
    }
    offsets
}

/// The entry of an object of overlayfs, with its lower layers: on its dentry
/// until Linux 6.4, on its inode since.
fn overlay(offsets: &mut Offsets, types: &Types) {
    let places = (
        types.offset_of_any("ovl_entry", &["__numlower", "numlower"]),
        types.offset_of_any("ovl_entry", &["__lowerstack", "lowerstack"]),
        types.offset("ovl_layer", "idx"),
        types.offset("ovl_path", "layer"),
    );
    let (Some(count), Some(stack), Some(index), Some(layer)) = places else { return };
    offsets.ovl_entry_count = count;
    offsets.ovl_entry_stack = stack + layer;
    offsets.ovl_layer_index = index;
    if let Some(entry) = types.offset("ovl_inode", "oe")
        && let Some(inode) = types.offset("ovl_inode", "vfs_inode")
    {
        offsets.ovl_inode_entry = entry.wrapping_sub(inode);
    }
}
