//! The bundled union's daemon, at the symbols it exports: when a thread of it
//! takes a request, and its copy-ups. Every daemon of this program's file is
//! seen; none but the one that is measured has work in a phase.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns};
use aya_ebpf::macros::uprobe;
use aya_ebpf::programs::ProbeContext;
use unionbench_common::op::{FUSE_OPCODES, FUSE_QUEUE_BASE, FUSE_SERVICE_BASE};
use unionbench_common::{Counter, Frame, Operation};

use crate::call::tell;
use crate::maps::{BUNDLED_COPY_UPS, TAKEN, Taken, add, count, is_enabled, record};

#[uprobe]
pub fn bundled_request(ctx: ProbeContext) -> u32 {
    if is_enabled()
        && let Some(unique) = ctx.arg::<u64>(0)
    {
        let taken = Taken { unique, at_ns: now() };
        if TAKEN.insert(bpf_get_current_pid_tgid(), taken, 0).is_err() {
            count(Counter::LostFuseRequests);
        }
    }
    0
}

#[uprobe]
pub fn bundled_copy_up_begin(_ctx: ProbeContext) -> u32 {
    if is_enabled() && BUNDLED_COPY_UPS.insert(bpf_get_current_pid_tgid(), now(), 0).is_err() {
        count(Counter::LostThreads);
    }
    0
}

#[uprobe]
pub fn bundled_copy_up_end(ctx: ProbeContext) -> u32 {
    let now = now();
    let thread = bpf_get_current_pid_tgid();
    // SAFETY: only this thread writes the entry, and it is here.
    let Some(start_ns) = (unsafe { BUNDLED_COPY_UPS.get(thread) }).copied() else { return 0 };
    if BUNDLED_COPY_UPS.remove(thread).is_err() || !is_enabled() {
        return 0;
    }
    let bytes = ctx.arg::<u64>(1).unwrap_or(0);
    let error = ctx.arg::<i32>(2).unwrap_or(0);
    let duration = now.wrapping_sub(start_ns);
    record(Operation::CopyUp as u32, duration, error != 0);
    add(Counter::BytesCopied, bytes);
    let operation = Operation::CopyUp as u32;
    let frame = Frame { start_ns, note: bytes, operation, reserved: 0 };
    tell(&ctx, &frame, duration, -error, 0);
    0
}

/// A request of this opcode, sent at `sent_ns`, is answered: by a thread that
/// has told when it took it, if by a bundled union's.
#[inline(always)]
pub fn answered(unique: u64, opcode: u64, sent_ns: u64, now: u64) {
    let thread = bpf_get_current_pid_tgid();
    // SAFETY: only this thread writes the entry, and it is here.
    let Some(taken) = (unsafe { TAKEN.get(thread) }).copied() else { return };
    // A thread that answers without having told is another's daemon's.
    if taken.unique != unique || opcode >= u64::from(FUSE_OPCODES) {
        return;
    }
    record(FUSE_QUEUE_BASE + opcode as u32, taken.at_ns.wrapping_sub(sent_ns), false);
    record(FUSE_SERVICE_BASE + opcode as u32, now.wrapping_sub(taken.at_ns), false);
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_ns() }
}
