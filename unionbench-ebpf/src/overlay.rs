//! overlayfs. The same roles serve aufs and the FUSE client, whose functions
//! have the same shape: a beginning, an end, and an errno or a pointer.

use unionbench_common::{CopyUpEvent, Operation};

use crate::call::{begin, begin_layer, begin_phase, end, end_phase, pair};

const UNKNOWN: u64 = CopyUpEvent::UNKNOWN_SIZE;

pair!(
    Lookup,
    begin(Operation::Lookup, 0),
    end,
    none,
    lookup_fentry,
    lookup_fexit,
    lookup_kprobe,
    lookup_kretprobe
);
pair!(
    Revalidate,
    begin(Operation::Revalidate, 0),
    end,
    none,
    revalidate_fentry,
    revalidate_fexit,
    revalidate_kprobe,
    revalidate_kretprobe
);
pair!(
    CopyUp,
    begin(Operation::CopyUp, UNKNOWN),
    end,
    i32,
    copy_up_fentry,
    copy_up_fexit,
    copy_up_kprobe,
    copy_up_kretprobe
);
pair!(
    CopyUpData,
    begin(Operation::CopyUpData, 0),
    end,
    none,
    copy_up_data_fentry,
    copy_up_data_fexit,
    copy_up_data_kprobe,
    copy_up_data_kretprobe
);
pair!(
    CopyUpMetadata,
    begin(Operation::CopyUpMetadata, 0),
    end,
    none,
    copy_up_metadata_fentry,
    copy_up_metadata_fexit,
    copy_up_metadata_kprobe,
    copy_up_metadata_kretprobe
);
pair!(
    CopyUpXattr,
    begin(Operation::CopyUpXattr, 0),
    end,
    none,
    copy_up_xattr_fentry,
    copy_up_xattr_fexit,
    copy_up_xattr_kprobe,
    copy_up_xattr_kretprobe
);
pair!(
    CopyUpLock,
    begin(Operation::CopyUpLock, 0),
    end,
    none,
    copy_up_lock_fentry,
    copy_up_lock_fexit,
    copy_up_lock_kprobe,
    copy_up_lock_kretprobe
);
pair!(
    Whiteout,
    begin(Operation::Whiteout, 0),
    end,
    none,
    whiteout_fentry,
    whiteout_fexit,
    whiteout_kprobe,
    whiteout_kretprobe
);
pair!(
    ReaddirMerge,
    begin(Operation::ReaddirMerge, 0),
    end,
    none,
    readdir_merge_fentry,
    readdir_merge_fexit,
    readdir_merge_kprobe,
    readdir_merge_kretprobe
);
pair!(
    LayerLookup,
    begin_layer(),
    end,
    none,
    layer_fentry,
    layer_fexit,
    layer_kprobe,
    layer_kretprobe
);

// Functions that are used elsewhere too: only calls within a copy-up count.
pair!(
    CopyUpCreate,
    begin_phase(Operation::CopyUpCreate),
    end_phase,
    none,
    copy_up_create_fentry,
    copy_up_create_fexit,
    copy_up_create_kprobe,
    copy_up_create_kretprobe
);
pair!(
    CopyUpCreate,
    begin_phase(Operation::CopyUpCreate),
    end_phase,
    none,
    copy_up_temp_fentry,
    copy_up_temp_fexit,
    copy_up_temp_kprobe,
    copy_up_temp_kretprobe
);
pair!(
    CopyUpClone,
    begin_phase(Operation::CopyUpClone),
    end_phase,
    i64,
    copy_up_clone_fentry,
    copy_up_clone_fexit,
    copy_up_clone_kprobe,
    copy_up_clone_kretprobe
);
pair!(
    CopyUpSplice,
    begin_phase(Operation::CopyUpSplice),
    end_phase,
    i64,
    copy_up_splice_fentry,
    copy_up_splice_fexit,
    copy_up_splice_kprobe,
    copy_up_splice_kretprobe
);
pair!(
    CopyUpCopy,
    begin_phase(Operation::CopyUpCopy),
    end_phase,
    i64,
    copy_up_copy_fentry,
    copy_up_copy_fexit,
    copy_up_copy_kprobe,
    copy_up_copy_kretprobe
);
pair!(
    CopyUpRename,
    begin_phase(Operation::CopyUpRename),
    end_phase,
    none,
    copy_up_rename_fentry,
    copy_up_rename_fexit,
    copy_up_rename_kprobe,
    copy_up_rename_kretprobe
);
pair!(
    CopyUpRename,
    begin_phase(Operation::CopyUpRename),
    end_phase,
    none,
    copy_up_link_fentry,
    copy_up_link_fexit,
    copy_up_link_kprobe,
    copy_up_link_kretprobe
);
