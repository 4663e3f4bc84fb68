//! What is observed, and where in the maps it is counted.

/// An operation inside the kernel with a beginning and an end. The number is
/// its index in the histogram map.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// One lookup of a name in a merged directory.
    Lookup = 0,
    /// Layers asked for the name in one such lookup (a number, not a time).
    LayersVisited = 1,
    /// Revalidation of a cached name.
    Revalidate = 2,
    /// One object copied up, from the decision to the finished twin.
    CopyUp = 3,
    /// Its data.
    CopyUpData = 4,
    /// Its mode, owner and times.
    CopyUpMetadata = 5,
    /// Its extended attributes.
    CopyUpXattr = 6,
    /// A whiteout created.
    Whiteout = 7,
    /// A merged directory listing built.
    ReaddirMerge = 8,
    /// A file synchronised through the VFS.
    Fsync = 9,
    /// A file synchronised by ext4.
    Ext4Fsync = 10,
    /// One layer asked for a name.
    LayerLookup = 11,
    /// Within a copy-up: waiting until no other thread copies the same object.
    CopyUpLock = 12,
    /// Within a copy-up: the new object made, without a name or in the work
    /// directory.
    CopyUpCreate = 13,
    /// Within a copy-up: data shared by reflink, or the attempt.
    CopyUpClone = 14,
    /// Within a copy-up: data moved through a pipe, one piece.
    CopyUpSplice = 15,
    /// Within a copy-up: data copied by the backing file system, one piece.
    CopyUpCopy = 16,
    /// Within a copy-up: the new object synchronised.
    CopyUpFsync = 17,
    /// Within a copy-up: the new object put in its place, by rename or link.
    CopyUpRename = 18,
    /// A FUSE request, where the kernel has no tracepoint for it.
    FuseRequest = 19,
    /// Within a copy-up: the part that another thread does for the caller.
    CopyUpWorker = 20,
    /// Within a copy-up: data written by the union itself, one piece.
    CopyUpWrite = 21,
}

impl Operation {
    pub const ALL: [Self; 22] = [
        Self::Lookup,
        Self::LayersVisited,
        Self::Revalidate,
        Self::CopyUp,
        Self::CopyUpData,
        Self::CopyUpMetadata,
        Self::CopyUpXattr,
        Self::Whiteout,
        Self::ReaddirMerge,
        Self::Fsync,
        Self::Ext4Fsync,
        Self::LayerLookup,
        Self::CopyUpLock,
        Self::CopyUpCreate,
        Self::CopyUpClone,
        Self::CopyUpSplice,
        Self::CopyUpCopy,
        Self::CopyUpFsync,
        Self::CopyUpRename,
        Self::FuseRequest,
        Self::CopyUpWorker,
        Self::CopyUpWrite,
    ];

    /// The name in records and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lookup => "lookup",
            Self::LayersVisited => "layers_visited",
            Self::Revalidate => "revalidate",
            Self::CopyUp => "copy_up",
            Self::CopyUpData => "copy_up_data",
            Self::CopyUpMetadata => "copy_up_metadata",
            Self::CopyUpXattr => "copy_up_xattr",
            Self::Whiteout => "whiteout",
            Self::ReaddirMerge => "readdir_merge",
            Self::Fsync => "fsync",
            Self::Ext4Fsync => "ext4_fsync",
            Self::LayerLookup => "layer_lookup",
            Self::CopyUpLock => "copy_up_lock",
            Self::CopyUpCreate => "copy_up_create",
            Self::CopyUpClone => "copy_up_clone",
            Self::CopyUpSplice => "copy_up_splice",
            Self::CopyUpCopy => "copy_up_copy",
            Self::CopyUpFsync => "copy_up_fsync",
            Self::CopyUpRename => "copy_up_rename",
            Self::FuseRequest => "fuse_request",
            Self::CopyUpWorker => "copy_up_worker",
            Self::CopyUpWrite => "copy_up_write",
        }
    }
}

/// The histogram map: operations first, then chosen system calls, then FUSE
/// requests by opcode.
pub const SYSCALL_BASE: u32 = 32;
/// How many system calls can have a histogram; all are counted.
pub const SYSCALL_SLOTS: u32 = 64;
pub const FUSE_BASE: u32 = SYSCALL_BASE + SYSCALL_SLOTS;
/// FUSE opcodes from this one on are counted as lost.
pub const FUSE_OPCODES: u32 = 64;
/// Where a daemon tells when it takes a request: what it waited for that, and
/// the rest until it was answered.
pub const FUSE_QUEUE_BASE: u32 = FUSE_BASE + FUSE_OPCODES;
pub const FUSE_SERVICE_BASE: u32 = FUSE_QUEUE_BASE + FUSE_OPCODES;
/// From the answer until the caller that waits for it runs again.
pub const FUSE_REPLY_BASE: u32 = FUSE_SERVICE_BASE + FUSE_OPCODES;
pub const HISTOGRAMS: u32 = FUSE_REPLY_BASE + FUSE_OPCODES;
/// System calls with a greater number are counted as lost.
pub const SYSCALL_NUMBERS: u32 = 1024;
/// Layers of one lookup that are told apart by their turn; overlayfs takes 500
/// and an upper one.
pub const LAYER_TURNS: u32 = 512;

const _: () = assert!(Operation::ALL.len() as u32 <= SYSCALL_BASE);

/// A plain count. The number is its index in the counter map.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Counter {
    /// Threads that found no room in the thread map: nothing of them was seen.
    LostThreads = 0,
    /// Calls nested deeper than the frames of a thread.
    LostFrames = 1,
    /// Calls whose end was not seen.
    LostEnds = 2,
    /// Events that found the ring buffer full.
    LostEvents = 3,
    /// FUSE requests that found the table of running ones full.
    LostFuseRequests = 4,
    /// Samples whose stack could not be kept.
    LostStacks = 5,
    /// System calls or opcodes whose number is out of range.
    LostNumbers = 6,
    /// Samples taken while a thread of the workload ran.
    Samples = 7,
    /// Those of them that found it outside the kernel.
    UserSamples = 8,
    /// Folios added to the page cache (`mm_filemap_add_to_page_cache`).
    PageCacheAdded = 9,
    /// Folios first dirtied (`writeback_dirty_folio`).
    FoliosDirtied = 10,
    /// Inodes first dirtied (`writeback_dirty_inode`).
    InodesDirtied = 11,
    /// Layers asked, whether or not inside a lookup that was seen.
    LayerVisits = 12,
    /// Bytes that copy-ups shared by reflink.
    BytesCloned = 13,
    /// Bytes that copy-ups moved through a pipe.
    BytesSpliced = 14,
    /// Bytes that copy-ups had the backing file system copy.
    BytesCopied = 15,
    /// Calls of `vfs_getxattr`, the union's own and those it makes below.
    XattrGets = 16,
    /// Calls of `vfs_setxattr`.
    XattrSets = 17,
    /// Calls of `vfs_listxattr`.
    XattrLists = 18,
    /// Calls of `vfs_removexattr`.
    XattrRemoves = 19,
    /// Whole file systems synchronised (`sync_filesystem`).
    FileSystemSyncs = 20,
    /// FUSE requests that nobody waits for, such as readahead.
    FuseBackground = 21,
    /// Bytes that copy-ups wrote themselves.
    BytesWritten = 22,
}

impl Counter {
    pub const ALL: [Self; 23] = [
        Self::LostThreads,
        Self::LostFrames,
        Self::LostEnds,
        Self::LostEvents,
        Self::LostFuseRequests,
        Self::LostStacks,
        Self::LostNumbers,
        Self::Samples,
        Self::UserSamples,
        Self::PageCacheAdded,
        Self::FoliosDirtied,
        Self::InodesDirtied,
        Self::LayerVisits,
        Self::BytesCloned,
        Self::BytesSpliced,
        Self::BytesCopied,
        Self::XattrGets,
        Self::XattrSets,
        Self::XattrLists,
        Self::XattrRemoves,
        Self::FileSystemSyncs,
        Self::FuseBackground,
        Self::BytesWritten,
    ];

    /// The name in records and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::LostThreads => "lost_threads",
            Self::LostFrames => "lost_frames",
            Self::LostEnds => "lost_ends",
            Self::LostEvents => "lost_events",
            Self::LostFuseRequests => "lost_fuse_requests",
            Self::LostStacks => "lost_stacks",
            Self::LostNumbers => "lost_numbers",
            Self::Samples => "samples",
            Self::UserSamples => "user_samples",
            Self::PageCacheAdded => "page_cache_added",
            Self::FoliosDirtied => "folios_dirtied",
            Self::InodesDirtied => "inodes_dirtied",
            Self::LayerVisits => "layer_visits",
            Self::BytesCloned => "bytes_cloned",
            Self::BytesSpliced => "bytes_spliced",
            Self::BytesCopied => "bytes_copied",
            Self::XattrGets => "xattr_gets",
            Self::XattrSets => "xattr_sets",
            Self::XattrLists => "xattr_lists",
            Self::XattrRemoves => "xattr_removes",
            Self::FileSystemSyncs => "file_system_syncs",
            Self::FuseBackground => "fuse_background",
            Self::BytesWritten => "bytes_written",
        }
    }

    /// Whether a count above zero means that something was not seen.
    pub fn is_loss(self) -> bool {
        (self as u32) <= Self::LostNumbers as u32
    }
}

/// Room in the counter map.
pub const COUNTERS: u32 = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_indices_without_gap() {
        assert!(Operation::ALL.iter().enumerate().all(|(index, op)| *op as usize == index));
        assert!(Counter::ALL.iter().enumerate().all(|(index, c)| *c as usize == index));
        assert!(Counter::ALL.len() <= COUNTERS as usize);
    }
}
