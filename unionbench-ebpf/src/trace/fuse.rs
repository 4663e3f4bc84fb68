//! Requests to the daemons of FUSE, each from queueing to its answer. A request
//! is the thread's that sent it; the answer is seen in the daemon's.

use aya_ebpf::helpers::{
    bpf_get_current_cgroup_id, bpf_get_current_comm, bpf_get_current_pid_tgid,
};
use aya_ebpf::macros::{map, tracepoint};
use aya_ebpf::maps::HashMap;
use aya_ebpf::programs::TracePointContext;
use unionbench_common::trace::{Call, Head, NO_LAYER, NO_SIZE, NO_SYSCALL, Tally, note};

use super::arguments::{Arguments, entry, exit};
use super::object::read;
use super::task::{self, push};
use super::{
    TRACE_SCRATCH, frame, hand_over, is_device_wanted, is_wanted, now, offset, setting, syscall,
    tally,
};
use crate::fuse::{CONNECTION, ERROR, OPCODE, UNIQUE};
use crate::maps::FuseKey;

const REQUEST: u32 = 11;
const ONE_WAY: u32 = 12;

/// `FUSE_FORGET`, `FUSE_BATCH_FORGET` and `FUSE_INTERRUPT` have no answer.
const FORGET: u32 = 2;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;

/// Requests that wait for their answer.
#[map]
static TRACE_REQUESTS: HashMap<FuseKey, Sent> = HashMap::with_max_entries(1, 0);

#[repr(C)]
#[derive(Clone, Copy)]
struct Sent {
    start_ns: u64,
    cgroup: u64,
    ids: u64,
    opcode: u32,
    /// The system call that waits, as in a frame; see `note_callers`.
    syscall: u32,
    flags: u32,
    notes: u32,
    comm: [u8; 16],
}

#[tracepoint]
pub fn trace_request_send(ctx: TracePointContext) -> u32 {
    send(&ctx);
    0
}

#[tracepoint]
pub fn trace_request_end(ctx: TracePointContext) -> u32 {
    end(&ctx);
    0
}

#[inline(always)]
fn send(ctx: &TracePointContext) -> Option<()> {
    if !is_wanted() {
        return None;
    }
    let key = key(ctx)?;
    if !is_device_wanted(key.connection as u32) {
        return None;
    }
    // SAFETY: the offset lies in the record, as the loading side has checked.
    let opcode = unsafe { ctx.read_at::<u32>(OPCODE) }.ok()?;
    let mut caller = frame(Call::Request);
    caller.syscall = NO_SYSCALL;
    if setting!(note_callers) != 0 {
        syscall::note_in(&mut caller);
    }
    let sent = Sent {
        start_ns: now(),
        // SAFETY: the helper has no preconditions.
        cgroup: unsafe { bpf_get_current_cgroup_id() },
        ids: bpf_get_current_pid_tgid(),
        opcode,
        syscall: caller.syscall,
        flags: caller.flags,
        notes: caller.notes,
        comm: bpf_get_current_comm().unwrap_or([0; 16]),
    };
    if matches!(opcode, FORGET | BATCH_FORGET | INTERRUPT) {
        return tell::<ONE_WAY>(&key, &sent, 0, 0);
    }
    if TRACE_REQUESTS.insert(key, sent, 0).is_err() {
        tally(Tally::LostCalls);
    }
    Some(())
}

#[inline(always)]
fn end(ctx: &TracePointContext) -> Option<()> {
    let ended_ns = now();
    let key = key(ctx)?;
    // SAFETY: no other program removes or reuses the entry of a request that
    // has not ended, so the value read is the one written at its beginning.
    let sent = unsafe { TRACE_REQUESTS.get(key) }.copied()?;
    TRACE_REQUESTS.remove(key).ok()?;
    // SAFETY: the offset lies in the record, as the loading side has checked.
    let error = unsafe { ctx.read_at::<i32>(ERROR) }.unwrap_or(0);
    tell::<REQUEST>(&key, &sent, ended_ns.wrapping_sub(sent.start_ns), error)
}

#[inline(always)]
fn tell<const SLOT: u32>(key: &FuseKey, sent: &Sent, duration_ns: u64, error: i32) -> Option<()> {
    if setting!(tell_requests) == 0 || duration_ns < setting!(min_latency_ns) {
        return None;
    }
    let scratch = TRACE_SCRATCH.get_ptr_mut(SLOT)?;
    // SAFETY: the pointer is to this CPU's value and not null, and the slot is
    // this program's own.
    let scratch = unsafe { &mut *scratch };
    scratch.head = Head {
        start_ns: sent.start_ns,
        duration_ns,
        cgroup: sent.cgroup,
        size: NO_SIZE,
        pid: (sent.ids >> 32) as u32,
        tid: sent.ids as u32,
        device: key.connection as u32,
        call: Call::Request as u32,
        syscall: NO_SYSCALL,
        flags: sent.opcode,
        returned: error,
        layer: NO_LAYER,
        magic: super::object::FUSE,
        notes: note::CUT,
        comm: sent.comm,
        ..Head::EMPTY
    };
    hand_over(scratch);
    Some(())
}

#[inline(always)]
fn key(ctx: &TracePointContext) -> Option<FuseKey> {
    // SAFETY: both offsets lie in the record, as the loading side has checked.
    let connection = unsafe { ctx.read_at::<u32>(CONNECTION) }.ok()?;
    // SAFETY: as above.
    let unique = unsafe { ctx.read_at::<u64>(UNIQUE) }.ok()?;
    Some(FuseKey { unique, connection: u64::from(connection) })
}

/// Of a request that was sent and has no answer yet.
pub struct Waiting {
    pub ids: u64,
    pub cgroup: u64,
    pub syscall: u32,
    pub flags: u32,
    pub notes: u32,
    pub comm: [u8; 16],
}

/// Who waits for a request; none if it is not asked for.
#[inline(always)]
pub fn waiting(unique: u64, device: u32) -> Option<Waiting> {
    let key = FuseKey { unique, connection: u64::from(device) };
    // SAFETY: the entry stays until the request is answered, by the thread that
    // asks here.
    let sent = unsafe { TRACE_REQUESTS.get(key) }?;
    let Sent { ids, cgroup, syscall, flags, notes, comm, .. } = *sent;
    Some(Waiting { ids, cgroup, syscall, flags, notes, comm })
}

// Before Linux 6.11: fuse_simple_request(struct fuse_mount *, struct fuse_args *)
entry!(trace_request_fentry, trace_request_kprobe, begin_request);
exit!(trace_request_fexit, trace_request_kretprobe, |returned: i64| task::end::<REQUEST>(
    Call::Request,
    // Beside an error it gives the size of what came.
    (returned as i32).min(0),
    |_| true
));

#[inline(always)]
fn begin_request(arguments: &impl Arguments) {
    if !is_wanted() {
        return;
    }
    let connection = read::<*const u8>(arguments.pointer(0), offset!(fuse_mount_connection));
    let device = connection.and_then(|c| read::<u32>(c, offset!(fuse_connection_device)));
    let Some(device) = device.filter(|device| is_device_wanted(*device)) else { return };
    let Some(opcode) = read::<u32>(arguments.pointer(1), offset!(fuse_args_opcode)) else { return };
    let mut frame = frame(Call::Request);
    frame.stack = arguments.stack();
    frame.device = device;
    frame.flags = opcode;
    frame.layer = NO_LAYER;
    frame.size = NO_SIZE;
    frame.syscall = NO_SYSCALL;
    push(&frame);
}
