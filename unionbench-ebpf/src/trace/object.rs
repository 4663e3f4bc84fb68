//! What can be told of an object by its dentry. Everything is read by a helper
//! that fails on a bad address, so that a wrong pointer gives nothing.

use aya_ebpf::helpers::{bpf_probe_read_kernel, generated};
use unionbench_common::trace::{
    NAME_BYTES, NO_LAYER, NO_SIZE, PATH_BYTES, PATH_NAMES, Scratch, note,
};

use super::{is_known, offset};
use crate::maps::masked;

/// `OVERLAYFS_SUPER_MAGIC`, `FUSE_SUPER_MAGIC` of Linux and `AUFS_SUPER_MAGIC`.
pub const OVERLAYFS: u32 = 0x794c_7630;
pub const FUSE: u32 = 0x6573_5546;
pub const AUFS: u32 = 0x6175_6673;

const S_IFMT: u16 = 0o170_000;
const S_IFREG: u16 = 0o100_000;
const S_IFLNK: u16 = 0o120_000;

/// The member at `offset`, if there is one and it can be read.
#[inline(always)]
pub fn read<T: Copy>(base: *const u8, offset: u32) -> Option<T> {
    if !is_known(offset) || base.is_null() {
        return None;
    }
    // SAFETY: the helper fails on an address that cannot be read.
    unsafe { bpf_probe_read_kernel(base.wrapping_add(offset as usize).cast::<T>()) }.ok()
}

#[inline(always)]
fn super_block(dentry: *const u8) -> Option<*const u8> {
    read::<*const u8>(dentry, offset!(dentry_sb))
}

/// The kernel's number of the device; zero if it cannot be read.
#[inline(always)]
pub fn device(dentry: *const u8) -> u32 {
    super_block(dentry).and_then(|sb| read::<u32>(sb, offset!(sb_dev))).unwrap_or(0)
}

/// What kind of file system it is of; zero if it cannot be read.
#[inline(always)]
pub fn magic(dentry: *const u8) -> u32 {
    let magic = super_block(dentry).and_then(|sb| read::<u64>(sb, offset!(sb_magic)));
    magic.unwrap_or(0) as u32
}

#[inline(always)]
pub fn is_union(dentry: *const u8) -> bool {
    matches!(magic(dentry), OVERLAYFS | AUFS | FUSE)
}

#[inline(always)]
pub fn inode(dentry: *const u8) -> Option<*const u8> {
    read::<*const u8>(dentry, offset!(dentry_inode)).filter(|inode| !inode.is_null())
}

/// Type and rights, and the size of what has one.
#[inline(always)]
pub fn mode_and_size(dentry: *const u8) -> (u32, u64) {
    let Some(inode) = inode(dentry) else { return (0, NO_SIZE) };
    let Some(mode) = read::<u16>(inode, offset!(inode_mode)) else { return (0, NO_SIZE) };
    let size = match has_size(u32::from(mode)) {
        true => read::<u64>(inode, offset!(inode_size)).unwrap_or(NO_SIZE),
        false => NO_SIZE,
    };
    (u32::from(mode), size)
}

/// Whether it is a file or a symlink, by its mode.
#[inline(always)]
pub fn has_size(mode: u32) -> bool {
    matches!(mode as u16 & S_IFMT, S_IFREG | S_IFLNK)
}

/// The layer of overlayfs that shows the object before it is copied up: the
/// topmost of its lower ones. The upper layer has index 0.
#[inline(always)]
pub fn overlay_layer(dentry: *const u8) -> u32 {
    let by_inode = offset!(ovl_inode_entry);
    let entry = if is_known(by_inode) {
        // Linux 6.5: the entry hangs on the inode of overlayfs.
        inode(dentry).and_then(|inode| {
            let member = inode.wrapping_offset(by_inode as i32 as isize);
            read::<*const u8>(member, 0)
        })
    } else {
        read::<*const u8>(dentry, offset!(dentry_fsdata))
    };
    let Some(entry) = entry else { return NO_LAYER };
    match read::<u32>(entry, offset!(ovl_entry_count)) {
        None | Some(0) => NO_LAYER,
        Some(_) => read::<*const u8>(entry, offset!(ovl_entry_stack))
            .and_then(|layer| read::<u32>(layer, offset!(ovl_layer_index)))
            .unwrap_or(NO_LAYER),
    }
}

/// Writes the names from the object to the root, each ended by a zero, and says
/// so in the head. The names of parents are read while they may change, as the
/// kernel's own `d_path` would under its lock: a rename that runs at the same
/// moment can give either name.
#[inline(always)]
pub fn path(dentry: *const u8, scratch: &mut Scratch) {
    let (parent_at, name_at) = (offset!(dentry_parent), offset!(dentry_name));
    let mut dentry = dentry;
    let mut used = 0usize;
    let mut whole = false;
    if is_known(parent_at) && is_known(name_at) {
        for _ in 0..PATH_NAMES {
            let Some(parent) = read::<*const u8>(dentry, parent_at) else { break };
            if parent == dentry {
                whole = true;
                break;
            }
            let Some(name) = read::<*const u8>(dentry, name_at) else { break };
            if used >= PATH_BYTES {
                break;
            }
            let at = masked::<{ PATH_BYTES - 1 }>(used);
            let to = scratch.path.as_mut_ptr().wrapping_add(at);
            // SAFETY: behind every place below `PATH_BYTES` there is room for
            // the longest name, and the helper writes no more than that.
            let length = unsafe {
                generated::bpf_probe_read_kernel_str(to.cast(), NAME_BYTES as u32, name.cast())
            };
            if length <= 1 {
                break;
            }
            used += masked::<511>(length as usize);
            dentry = parent;
        }
    }
    if used > PATH_BYTES {
        // The last name lies over the edge.
        whole = false;
        used = PATH_BYTES;
    }
    if !whole {
        scratch.head.notes |= note::CUT;
    }
    scratch.head.path_len = used as u32;
}
