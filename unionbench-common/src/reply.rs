//! What the kernel side remembers of a thread that waits for the answer to a
//! FUSE request, to tell when it runs again.

use crate::trace::UNKNOWN;

/// Places of members in the running kernel's structures, in bytes, from its BTF
/// and that of its modules.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyOffsets {
    pub task_pid: u32,
    pub request_flags: u32,
    pub request_opcode: u32,
    pub reserved: u32,
}

const _: () = assert!(size_of::<ReplyOffsets>() == 16);

impl ReplyOffsets {
    pub const NONE: Self =
        Self { task_pid: UNKNOWN, request_flags: UNKNOWN, request_opcode: UNKNOWN, reserved: 0 };

    /// Whether all are known, without which nothing is measured.
    pub const fn are_known(&self) -> bool {
        self.task_pid != UNKNOWN && self.request_flags != UNKNOWN && self.request_opcode != UNKNOWN
    }
}

/// The last request of a thread of the workload, while it may wait for it; all
/// zeros otherwise. It lies in the thread's slot.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// The address of the `struct fuse_req`.
    pub request: u64,
    /// When it was answered; zero while it is not.
    pub answered_ns: u64,
    pub tid: u32,
    pub opcode: u32,
    /// Not zero: the thread is on no processor.
    pub is_off: u32,
    pub reserved: u32,
}

const _: () = assert!(size_of::<Wait>() == 32);

impl Wait {
    pub const NONE: Self =
        Self { request: 0, answered_ns: 0, tid: 0, opcode: 0, is_off: 0, reserved: 0 };
}
