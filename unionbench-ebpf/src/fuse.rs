//! FUSE requests: from queueing by the workload's thread to the answer, which
//! is seen in the daemon's thread. Requests the kernel sends on its own
//! (readahead in a worker, writeback) are not the workload's thread's and are
//! left out.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::tracepoint;
use aya_ebpf::programs::TracePointContext;
use unionbench_common::Counter;
use unionbench_common::op::{FUSE_BASE, FUSE_OPCODES};

use crate::maps::{FUSE_REQUESTS, FuseKey, FuseStart, count, is_enabled, is_watched, record};

// Offsets in the tracepoints' records; the loading side compares them with
// the `format` files before it attaches (Linux 6.11 and later have them).
const CONNECTION: usize = 8;
const UNIQUE: usize = 16;
const OPCODE: usize = 24;
const ERROR: usize = 28;

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
}

#[inline(always)]
fn key(ctx: &TracePointContext) -> Option<FuseKey> {
    // SAFETY: both offsets lie in the record, as the loading side has checked.
    let connection = unsafe { ctx.read_at::<u32>(CONNECTION) }.ok()?;
    // SAFETY: as above.
    let unique = unsafe { ctx.read_at::<u64>(UNIQUE) }.ok()?;
    Some(FuseKey { unique, connection: u64::from(connection) })
}
