//! What the kernel side remembers of one thread of the workload.
//!
//! The thread's entry in the map is both the filter and the place of its
//! running calls: entries are made when a phase begins, so that the hot path
//! neither inserts nor deletes. Calls nest (overlay on overlay, copy-up of a
//! parent inside that of its child), hence a stack of frames.

/// How deep calls may nest before they are counted as lost.
pub const MAX_DEPTH: usize = 8;

/// One running call.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// When it began, on the monotonic clock.
    pub start_ns: u64,
    /// Layers visited so far, for a lookup; else a property of the object.
    pub note: u64,
    /// The [`crate::Operation`].
    pub operation: u32,
    pub reserved: u32,
}

/// A thread of the workload.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thread {
    /// When its running system call began; zero if none was seen to begin.
    pub syscall_start_ns: u64,
    /// The number of that call.
    pub syscall: u32,
    /// Running calls; those past [`MAX_DEPTH`] have no frame.
    pub depth: u32,
    pub frames: [Frame; MAX_DEPTH],
}

const _: () = assert!(size_of::<Frame>() == 24);
const _: () = assert!(size_of::<Thread>() == 16 + 24 * MAX_DEPTH);

impl Thread {
    pub const IDLE: Self = Self {
        syscall_start_ns: 0,
        syscall: 0,
        depth: 0,
        frames: [Frame { start_ns: 0, note: 0, operation: 0, reserved: 0 }; MAX_DEPTH],
    };
}
