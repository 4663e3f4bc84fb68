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
}

impl Operation {
    pub const ALL: [Self; 11] = [
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
        }
    }
}

/// The histogram map: operations first, then chosen system calls, then FUSE
/// requests by opcode.
pub const SYSCALL_BASE: u32 = 16;
/// How many system calls can have a histogram; all are counted.
pub const SYSCALL_SLOTS: u32 = 64;
pub const FUSE_BASE: u32 = SYSCALL_BASE + SYSCALL_SLOTS;
/// FUSE opcodes from this one on are counted as lost.
pub const FUSE_OPCODES: u32 = 64;
pub const HISTOGRAMS: u32 = FUSE_BASE + FUSE_OPCODES;
/// System calls with a greater number are counted as lost.
pub const SYSCALL_NUMBERS: u32 = 1024;

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
}

impl Counter {
    pub const ALL: [Self; 13] = [
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
        }
    }

    /// Whether a count above zero means that something was not seen.
    pub fn is_loss(self) -> bool {
        (self as u32) <= Self::LostNumbers as u32
    }
}

/// Room in the counter map.
pub const COUNTERS: u32 = 16;

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
