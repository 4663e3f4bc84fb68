//! From the answer to a FUSE request until its caller runs again.
//!
//! A thread of the workload that sends a request and waits for it has a [`Wait`]
//! in its slot. The scheduler's switches note there whether the thread is on a
//! processor. The answer is seen in the daemon's thread: a caller that is off
//! then runs again at the switch to it, and one that never slept has waited for
//! nothing, which is recorded as zero. A request of the background has no caller
//! that waits for it, and is left out.
//!
//! The kernel marks the request as finished before it says so at the tracepoint,
//! so a caller that is not off then finds it finished without being woken, but
//! for one that is between its last look and its going to sleep: it counts as
//! one that never slept.

use aya_ebpf::Global;
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns, bpf_probe_read_kernel};
use aya_ebpf::macros::{map, raw_tracepoint};
use aya_ebpf::maps::{Array, HashMap};
use aya_ebpf::programs::RawTracePointContext;
use unionbench_common::op::{FUSE_OPCODES, FUSE_REPLY_BASE};
use unionbench_common::thread::{SLOTS, slot};
use unionbench_common::{Counter, ReplyOffsets, Wait};

use crate::maps::{count, is_enabled, is_watched, record};

/// Overridden by the loading side.
#[unsafe(no_mangle)]
static REPLY_OFFSETS: Global<ReplyOffsets> = Global::new(ReplyOffsets::NONE);

#[map]
static WAITS: Array<Wait> = Array::with_max_entries(SLOTS, 0);

/// Who waits for a request, by its address.
#[map]
static WAITED_FOR: HashMap<u64, u32> = HashMap::with_max_entries(16384, 0);

/// Bits of `fuse_req.flags` (`enum fuse_req_flag`, Linux 4.2 to 6.18).
const EXPECTS_ANSWER: u64 = 1;
const BACKGROUND: u64 = 1 << 2;

macro_rules! offset {
    ($field:ident) => {{
        let all = (&raw const REPLY_OFFSETS).cast::<ReplyOffsets>();
        // SAFETY: the static is a transparent wrapper of that type; the read is
        // volatile because the loading side writes another value.
        unsafe { core::ptr::read_volatile(&raw const (*all).$field) }
    }};
}

/// Prototype: `(const struct fuse_req *req)`, at `fuse_request_send`.
#[raw_tracepoint]
pub fn fuse_reply_send(ctx: RawTracePointContext) -> i32 {
    if is_watched() {
        send(ctx.arg::<*const u8>(0));
    }
    0
}

/// Prototype: `(const struct fuse_req *req)`, at `fuse_request_end`.
#[raw_tracepoint]
pub fn fuse_reply_answer(ctx: RawTracePointContext) -> i32 {
    answer(ctx.arg::<u64>(0));
    0
}

/// Prototype: `(bool preempt, struct task_struct *prev, struct task_struct *next, …)`.
#[raw_tracepoint]
pub fn fuse_reply_switch(ctx: RawTracePointContext) -> i32 {
    if is_enabled() {
        switch(ctx.arg::<*const u8>(2));
    }
    0
}

#[inline(always)]
fn send(request: *const u8) -> Option<()> {
    let flags = read::<u64>(request, offset!(request_flags))?;
    let opcode = read::<u32>(request, offset!(request_opcode))?;
    let waits = flags & EXPECTS_ANSWER != 0 && flags & BACKGROUND == 0;
    if !waits || opcode >= FUSE_OPCODES {
        return None;
    }
    let tid = bpf_get_current_pid_tgid() as u32;
    let entry = WAITS.get_ptr_mut(slot(tid))?;
    let wait = Wait { request: request as u64, tid, opcode, ..Wait::NONE };
    // SAFETY: the pointer comes from the map and is not null; a thread waits for
    // one request at a time, so nobody else has this slot's.
    unsafe { *entry = wait };
    if WAITED_FOR.insert(request as u64, tid, 0).is_err() {
        count(Counter::LostFuseRequests);
    }
    Some(())
}

#[inline(always)]
fn answer(request: u64) -> Option<()> {
    // SAFETY: the entry is written before the request is queued, and by nobody
    // until it has ended.
    let tid = unsafe { WAITED_FOR.get(request) }.copied()?;
    WAITED_FOR.remove(request).ok()?;
    let entry = WAITS.get_ptr_mut(slot(tid))?;
    // SAFETY: the pointer comes from the map and is not null; the caller waits
    // and does not write, and its switches write `is_off` alone.
    let wait = unsafe { &mut *entry };
    // A thread whose slot was emptied meanwhile is of a phase that has ended.
    if wait.request != request || wait.tid != tid || !is_enabled() {
        return None;
    }
    if wait.is_off == 0 {
        wait.request = 0;
        record(FUSE_REPLY_BASE + wait.opcode, 0, false);
    } else {
        wait.answered_ns = now();
    }
    Some(())
}

#[inline(always)]
fn switch(next: *const u8) -> Option<()> {
    // The tracepoint is passed by the thread that goes.
    let previous = bpf_get_current_pid_tgid() as u32;
    if let Some(wait) = waiting(previous) {
        wait.is_off = 1;
    }
    let next = read::<u32>(next, offset!(task_pid))?;
    let wait = waiting(next)?;
    wait.is_off = 0;
    if wait.answered_ns != 0 {
        record(FUSE_REPLY_BASE + wait.opcode, now().wrapping_sub(wait.answered_ns), false);
        (wait.request, wait.answered_ns) = (0, 0);
    }
    Some(())
}

/// What a thread waits for; none if for nothing.
#[inline(always)]
fn waiting(tid: u32) -> Option<&'static mut Wait> {
    let entry = WAITS.get_ptr_mut(slot(tid))?;
    // SAFETY: the pointer comes from the map and is not null; a thread is
    // switched to or from on one processor at a time.
    let wait = unsafe { &mut *entry };
    (wait.tid == tid && wait.request != 0).then_some(wait)
}

#[inline(always)]
fn read<T: Copy>(base: *const u8, offset: u32) -> Option<T> {
    // SAFETY: the helper fails on an address that cannot be read.
    unsafe { bpf_probe_read_kernel(base.wrapping_add(offset as usize).cast::<T>()) }.ok()
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_ns() }
}
