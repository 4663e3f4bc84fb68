//! What the kernel side remembers of one thread of the workload.
//!
//! The thread's slot is both the filter and the place of its running calls.
//! Slots are an array, found by the low bits of the thread's id: in the lab a
//! look into a hash map costs a hundred instructions, one into an array ten.
//! They are given out when a phase begins and taken back when it ends. Calls nest (overlay on overlay, copy-up of a
//! parent inside that of its child), hence a stack of frames.

/// How deep calls may nest before they are counted as lost.
pub const MAX_DEPTH: usize = 8;

/// Slots of threads. Threads of one workload have ids that follow one another,
/// so that two meet in a slot only after this many others were made between.
pub const SLOTS: u32 = 8192;

/// The slot of a thread.
#[inline(always)]
pub const fn slot(tid: u32) -> u32 {
    tid & (SLOTS - 1)
}

const _: () = assert!(SLOTS.is_power_of_two());

/// One running call.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// When it began, on the monotonic clock.
    pub start_ns: u64,
    /// For a lookup, the layers visited so far; for a layer, its turn; for a
    /// FUSE request, its opcode; for a copy-up, its size.
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
    /// The thread's id; zero in a slot that nobody has.
    pub tid: u32,
    /// Running calls; those past [`MAX_DEPTH`] have no frame.
    pub depth: u32,
    /// Copy-ups among the frames: only within one are its phases told apart
    /// from other uses of the same functions. It shares a word with `depth`, so
    /// that the outermost call begins with one store.
    pub copy_ups: u32,
    pub frames: [Frame; MAX_DEPTH],
}

const _: () = assert!(size_of::<Frame>() == 24);
const _: () = assert!(size_of::<Thread>() == 24 + 24 * MAX_DEPTH);

impl Thread {
    /// An empty slot: all zeros, as the map is made.
    pub const IDLE: Self = Self {
        syscall_start_ns: 0,
        syscall: 0,
        depth: 0,
        copy_ups: 0,
        tid: 0,
        frames: [Frame { start_ns: 0, note: 0, operation: 0, reserved: 0 }; MAX_DEPTH],
    };
}
