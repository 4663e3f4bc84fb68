//! overlayfs. The same roles serve aufs and the FUSE client, whose functions
//! have the same shape: a beginning, an end, and an errno or a pointer.

use unionbench_common::CopyUpEvent;

use crate::call::{pair, visit_layer};

const UNKNOWN: u64 = CopyUpEvent::UNKNOWN_SIZE;

pair!(Lookup, 0, i64, lookup_fentry, lookup_fexit, lookup_kprobe, lookup_kretprobe);
pair!(
    Revalidate,
    0,
    i32,
    revalidate_fentry,
    revalidate_fexit,
    revalidate_kprobe,
    revalidate_kretprobe
);
pair!(CopyUp, UNKNOWN, i32, copy_up_fentry, copy_up_fexit, copy_up_kprobe, copy_up_kretprobe);
pair!(
    CopyUpData,
    0,
    i32,
    copy_up_data_fentry,
    copy_up_data_fexit,
    copy_up_data_kprobe,
    copy_up_data_kretprobe
);
pair!(
    CopyUpMetadata,
    0,
    i32,
    copy_up_metadata_fentry,
    copy_up_metadata_fexit,
    copy_up_metadata_kprobe,
    copy_up_metadata_kretprobe
);
pair!(
    CopyUpXattr,
    0,
    i32,
    copy_up_xattr_fentry,
    copy_up_xattr_fexit,
    copy_up_xattr_kprobe,
    copy_up_xattr_kretprobe
);
pair!(Whiteout, 0, i32, whiteout_fentry, whiteout_fexit, whiteout_kprobe, whiteout_kretprobe);
pair!(
    ReaddirMerge,
    0,
    i32,
    readdir_merge_fentry,
    readdir_merge_fexit,
    readdir_merge_kprobe,
    readdir_merge_kretprobe
);

#[aya_ebpf::macros::fentry]
pub fn layer_fentry(_ctx: aya_ebpf::programs::FEntryContext) -> u32 {
    visit_layer();
    0
}

#[aya_ebpf::macros::kprobe]
pub fn layer_kprobe(_ctx: aya_ebpf::programs::ProbeContext) -> u32 {
    visit_layer();
    0
}
