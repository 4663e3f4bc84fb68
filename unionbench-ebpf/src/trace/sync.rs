//! System calls that synchronise a file of a union or the union as a whole, by
//! their own tracepoints: no function probe is needed for them, and other calls
//! pay nothing.

use aya_ebpf::helpers::bpf_get_current_task;
use aya_ebpf::macros::tracepoint;
use aya_ebpf::programs::TracePointContext;
use unionbench_common::trace::{Call, UNKNOWN};

use super::object::{self, read};
use super::overlay::begin;
use super::task::{self, push};
use super::{is_wanted, offset};

const FSYNC: u32 = 10;

// Records of all these tracepoints are laid out alike: the number of the call,
// then its arguments or what it returned, as words.
const NUMBER: usize = 8;
const FIRST: usize = 16;

#[tracepoint]
pub fn trace_fsync_enter(ctx: TracePointContext) -> u32 {
    // SAFETY: the offset lies in the record, as the loading side has checked.
    let Ok(descriptor) = (unsafe { ctx.read_at::<u64>(FIRST) }) else { return 0 };
    // SAFETY: as above.
    let Ok(number) = (unsafe { ctx.read_at::<u32>(NUMBER) }) else { return 0 };
    if is_wanted() {
        begin_fsync(descriptor as u32, number);
    }
    0
}

#[tracepoint]
pub fn trace_fsync_exit(ctx: TracePointContext) -> u32 {
    // SAFETY: the offset lies in the record, as the loading side has checked.
    let returned = unsafe { ctx.read_at::<i64>(FIRST) }.unwrap_or(0);
    task::end::<FSYNC>(Call::Fsync, returned as i32, |_| true);
    0
}

#[inline(always)]
fn begin_fsync(descriptor: u32, number: u32) {
    let Some(dentry) = dentry_of(descriptor) else { return };
    if !object::is_union(dentry) {
        return;
    }
    let Some(mut frame) = begin(Call::Fsync, dentry, 0) else { return };
    (frame.mode, frame.size) = object::mode_and_size(dentry);
    frame.syscall = number;
    push(&frame);
}

/// The object behind a descriptor of the current thread.
#[inline(always)]
fn dentry_of(descriptor: u32) -> Option<*const u8> {
    // SAFETY: the helper has no preconditions.
    let thread = unsafe { bpf_get_current_task() } as *const u8;
    let files = read::<*const u8>(thread, offset!(task_files))?;
    let table = read::<*const u8>(files, offset!(files_fdt))?;
    if descriptor >= read::<u32>(table, offset!(fdt_max))? || offset!(fdt_fd) == UNKNOWN {
        return None;
    }
    let slots = read::<*const u8>(table, offset!(fdt_fd))?;
    let file = read::<*const u8>(slots.wrapping_add(8 * descriptor as usize), 0)?;
    read::<*const u8>(file, offset!(file_dentry)).filter(|dentry| !dentry.is_null())
}
