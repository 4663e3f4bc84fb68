//! The VFS below the union: synchronising, the page cache, writeback.

use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;
use unionbench_common::{Counter, Operation};

use crate::call::{begin, begin_once, counted, end, pair};
use crate::maps::{count, is_watched};

pair!(
    Fsync,
    begin_once(Operation::Fsync),
    end,
    none,
    fsync_fentry,
    fsync_fexit,
    fsync_kprobe,
    fsync_kretprobe
);
pair!(
    Fsync,
    begin_once(Operation::Fsync),
    end,
    none,
    fsync_whole_fentry,
    fsync_whole_fexit,
    fsync_whole_kprobe,
    fsync_whole_kretprobe
);
counted!(XattrGets, xattr_get_fentry, xattr_get_kprobe);
counted!(XattrSets, xattr_set_fentry, xattr_set_kprobe);
counted!(XattrLists, xattr_list_fentry, xattr_list_kprobe);
counted!(XattrRemoves, xattr_remove_fentry, xattr_remove_kprobe);
counted!(FileSystemSyncs, sync_fs_fentry, sync_fs_kprobe);

#[raw_tracepoint]
pub fn ext4_sync_file_enter(_ctx: RawTracePointContext) -> i32 {
    begin(Operation::Ext4Fsync, 0);
    0
}

/// Prototype: `(struct inode *inode, int ret)`.
#[raw_tracepoint]
pub fn ext4_sync_file_exit(ctx: RawTracePointContext) -> i32 {
    end(&ctx, Operation::Ext4Fsync, ctx.arg::<i32>(1) as i64);
    0
}

#[raw_tracepoint]
pub fn mm_filemap_add_to_page_cache(_ctx: RawTracePointContext) -> i32 {
    if is_watched() {
        count(Counter::PageCacheAdded);
    }
    0
}

#[raw_tracepoint]
pub fn writeback_dirty_folio(_ctx: RawTracePointContext) -> i32 {
    if is_watched() {
        count(Counter::FoliosDirtied);
    }
    0
}

#[raw_tracepoint]
pub fn writeback_dirty_inode(_ctx: RawTracePointContext) -> i32 {
    if is_watched() {
        count(Counter::InodesDirtied);
    }
    0
}
