//! Copy-ups of the bundled union, at the symbols that its daemon exports. The
//! event is that of the thread whose request the daemon serves: it waits.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_probe_read_user, generated};
use aya_ebpf::macros::{map, uprobe};
use aya_ebpf::maps::HashMap;
use aya_ebpf::programs::ProbeContext;
use unionbench_common::trace::{
    BundledCall, BundledCopyUp, Call, Head, NO_LAYER, NO_SIZE, PATH_BYTES, Tally, note,
};

use super::fuse::waiting;
use super::object::{FUSE, has_size};
use super::{hand_over, now, setting, tally};
use crate::maps::masked;

#[map]
static TRACE_BUNDLED: HashMap<u64, BundledCall> = HashMap::with_max_entries(1, 0);

/// Too large for the stack of a program.
static IDLE: BundledCall = BundledCall::IDLE;

// unionbench_copy_up_begin(node)
#[uprobe]
pub fn trace_bundled_begin(_: ProbeContext) -> u32 {
    let thread = bpf_get_current_pid_tgid();
    if TRACE_BUNDLED.get_ptr_mut(thread).is_none()
        && TRACE_BUNDLED.insert(thread, &IDLE, 0).is_err()
    {
        tally(Tally::LostCalls);
        return 0;
    }
    if let Some(call) = TRACE_BUNDLED.get_ptr_mut(thread) {
        // SAFETY: the pointer is not null, and the entry is this thread's.
        unsafe { (*call).start_ns = now() };
    }
    0
}

// unionbench_copy_up_end(node, bytes, error, about)
#[uprobe]
pub fn trace_bundled_end(ctx: ProbeContext) -> u32 {
    let ended_ns = now();
    let thread = bpf_get_current_pid_tgid();
    let Some(call) = TRACE_BUNDLED.get_ptr_mut(thread) else { return 0 };
    // SAFETY: the pointer is not null, and the entry is this thread's, which
    // removes it below.
    let call = unsafe { &mut *call };
    tell(&ctx, call, ended_ns);
    let _ = TRACE_BUNDLED.remove(thread);
    0
}

#[inline(always)]
fn tell(ctx: &ProbeContext, call: &mut BundledCall, ended_ns: u64) -> Option<()> {
    let duration_ns = ended_ns.wrapping_sub(call.start_ns);
    if call.start_ns == 0 || duration_ns < setting!(min_latency_ns) {
        return None;
    }
    let error = ctx.arg::<i32>(2)?;
    let about = ctx.arg::<*const BundledCopyUp>(3)?;
    // SAFETY: the helper fails on an address that cannot be read.
    let about = unsafe { bpf_probe_read_user(about) }.ok()?;
    let caller = waiting(about.unique, about.device as u32)?;
    let kept = about.path_len.min(PATH_BYTES as u64 - 1);
    let target = if about.is_parent == 0 { note::TARGET } else { 0 };
    let cut = if kept < about.path_len { note::CUT } else { 0 };
    let length = masked::<{ PATH_BYTES - 1 }>(kept as usize);
    call.scratch.head = Head {
        start_ns: call.start_ns,
        duration_ns,
        cgroup: caller.cgroup,
        size: if has_size(about.mode) { about.size } else { NO_SIZE },
        cloned: about.cloned,
        copied: about.copied,
        spliced: about.rewritten,
        data_ns: 0,
        sync_ns: 0,
        pid: (caller.ids >> 32) as u32,
        tid: caller.ids as u32,
        device: about.device as u32,
        call: Call::CopyUp as u32,
        syscall: caller.syscall,
        flags: caller.flags,
        returned: -error,
        n_syncs: about.n_fsyncs,
        layer: if about.layer == 0 { NO_LAYER } else { about.layer },
        mode: about.mode,
        notes: caller.notes | note::DONE | note::TARGET_KNOWN | note::FROM_ROOT | target | cut,
        path_len: length as u32,
        magic: FUSE,
        reserved: 0,
        comm: caller.comm,
    };
    let from = about.path.wrapping_add(about.path_len - kept) as *const core::ffi::c_void;
    let to = call.scratch.path.as_mut_ptr();
    // SAFETY: there is room for as many bytes, and the helper fails on an address
    // that cannot be read.
    let failed = unsafe { generated::bpf_probe_read_user(to.cast(), length as u32, from) };
    if failed != 0 {
        call.scratch.head.path_len = 0;
        call.scratch.head.notes |= note::CUT;
    }
    hand_over(&mut call.scratch);
    Some(())
}
