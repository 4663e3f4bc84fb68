//! The control word and the events.

/// What every program reads first.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Control {
    /// Zero between phases: nothing is counted.
    pub enabled: u32,
    /// Threads of this process join the filter when first seen; zero for none.
    pub tgid: u32,
}

const _: () = assert!(size_of::<Control>() == 8);

/// One finished copy-up, through the ring buffer.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyUpEvent {
    /// When it began, on the monotonic clock.
    pub start_ns: u64,
    pub duration_ns: u64,
    /// Bytes of the object; [`CopyUpEvent::UNKNOWN_SIZE`] if it was not read.
    pub size: u64,
    pub tid: u32,
    /// What the kernel function returned: zero, or a negative errno.
    pub returned: i32,
    /// Calls of the same thread this one was nested in.
    pub depth: u32,
    pub reserved: u32,
}

const _: () = assert!(size_of::<CopyUpEvent>() == 40);

impl CopyUpEvent {
    pub const UNKNOWN_SIZE: u64 = u64::MAX;
}

/// All visits of the layers that were asked at the same turn of their lookups.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LayerTurn {
    pub asked: u64,
    /// Nanoseconds of the kernel's clock, all visits together.
    pub spent_ns: u64,
}

const _: () = assert!(size_of::<LayerTurn>() == 16);
