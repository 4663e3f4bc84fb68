//! FUSE requests: from queueing by the workload's thread to the answer, which
//! is seen in the daemon's thread. Requests the kernel sends on its own
//! (readahead in a worker, writeback) are not the workload's thread's and are
//! left out.

use aya_ebpf::helpers::{bpf_ktime_get_ns, bpf_probe_read_kernel};
use aya_ebpf::macros::{fentry, fexit, kprobe, kretprobe, tracepoint};
use aya_ebpf::programs::{
    FEntryContext, FExitContext, ProbeContext, RetProbeContext, TracePointContext,
};
use unionbench_common::op::{FUSE_BASE, FUSE_OPCODES};
use unionbench_common::{Counter, Operation};

use crate::bundled::answered;
use crate::call::{begin, counted, end as end_call};
use crate::maps::{FUSE_REQUESTS, FuseKey, FuseStart, count, is_enabled, is_watched, record};

// Offsets in the tracepoints' records; the loading side compares them with
// the `format` files before it attaches (Linux 6.11 and later have them).
pub const CONNECTION: usize = 8;
pub const UNIQUE: usize = 16;
pub const OPCODE: usize = 24;
pub const ERROR: usize = 28;

#[tracepoint]
pub fn fuse_request_send(ctx: TracePointContext) -> u32 {
    if is_watched() {
        send(&ctx);
    }
    0
}

#[tracepoint]
pub fn fuse_request_end(ctx: TracePointContext) -> u32 {
    if is_enabled() {
        end(&ctx);
    }
    0
}

// Before Linux 6.11 there are no tracepoints, but a function that sends a
// request and waits: `fuse_simple_request(struct fuse_mount *, struct fuse_args *)`.

/// `struct fuse_args` begins with a 64-bit node id, then the opcode (Linux 5.4
/// to 6.10).
const ARGS_OPCODE: usize = 8;

#[fentry]
pub fn fuse_request_fentry(ctx: FEntryContext) -> u32 {
    begin_request(ctx.arg::<*const u8>(1));
    0
}

#[fexit]
pub fn fuse_request_fexit(ctx: FExitContext) -> u32 {
    let returned = ctx.ret::<i64>().unwrap_or(0);
    end_call(&ctx, Operation::FuseRequest, returned);
    0
}

#[kprobe]
pub fn fuse_request_kprobe(ctx: ProbeContext) -> u32 {
    if let Some(args) = ctx.arg::<*const u8>(1) {
        begin_request(args);
    }
    0
}

#[kretprobe]
pub fn fuse_request_kretprobe(ctx: RetProbeContext) -> u32 {
    let returned = ctx.ret::<i64>();
    end_call(&ctx, Operation::FuseRequest, returned);
    0
}

counted!(FuseBackground, fuse_background_fentry, fuse_background_kprobe);

#[inline(always)]
fn begin_request(args: *const u8) {
    // SAFETY: the helper fails on an address that cannot be read.
    let opcode = unsafe { bpf_probe_read_kernel(args.wrapping_add(ARGS_OPCODE).cast::<u32>()) };
    begin(Operation::FuseRequest, opcode.map_or(u64::MAX, u64::from));
}

#[inline(always)]
fn send(ctx: &TracePointContext) {
    let Some(key) = key(ctx) else { return };
    // SAFETY: the offset lies in the record, as the loading side has checked.
    let Ok(opcode) = (unsafe { ctx.read_at::<u32>(OPCODE) }) else { return };
    // SAFETY: the helper has no preconditions.
    let start_ns = unsafe { bpf_ktime_get_ns() };
    let start = FuseStart { start_ns, opcode: u64::from(opcode) };
    if FUSE_REQUESTS.insert(key, start, 0).is_err() {
        count(Counter::LostFuseRequests);
    }
}

#[inline(always)]
fn end(ctx: &TracePointContext) {
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    let Some(key) = key(ctx) else { return };
    // SAFETY: no other program removes or reuses the entry of a request that
    // has not ended, so the value read is the one written at its beginning.
    let Some(start) = (unsafe { FUSE_REQUESTS.get(key) }).copied() else { return };
    if FUSE_REQUESTS.remove(key).is_err() {
        return;
    }
    // SAFETY: the offset lies in the record, as the loading side has checked.
    let error = unsafe { ctx.read_at::<i32>(ERROR) }.unwrap_or(0);
    if start.opcode >= u64::from(FUSE_OPCODES) {
        count(Counter::LostNumbers);
        return;
    }
    record(FUSE_BASE + start.opcode as u32, now.wrapping_sub(start.start_ns), error < 0);
    answered(key.unique, start.opcode, start.start_ns, now);
}

#[inline(always)]
fn key(ctx: &TracePointContext) -> Option<FuseKey> {
    // SAFETY: both offsets lie in the record, as the loading side has checked.
    let connection = unsafe { ctx.read_at::<u32>(CONNECTION) }.ok()?;
    // SAFETY: as above.
    let unique = unsafe { ctx.read_at::<u64>(UNIQUE) }.ok()?;
    Some(FuseKey { unique, connection: u64::from(connection) })
}
