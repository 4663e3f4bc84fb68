//! What aufs does in a shape of its own. Its copy-ups are decided in the
//! caller's thread and may be carried out in a worker of the kernel; both
//! functions get the same description (`struct au_cp_generic *`).

use aya_ebpf::macros::{fentry, fexit, kprobe, kretprobe};
use aya_ebpf::programs::{FEntryContext, FExitContext, ProbeContext, RetProbeContext};
use unionbench_common::Operation;

use crate::call::{
    begin_handed_over, begin_within, begin_worker, end, end_phase, end_worker, pair,
};

#[fentry]
pub fn aufs_copy_up_fentry(ctx: FEntryContext) -> u32 {
    begin_handed_over(ctx.arg::<u64>(0));
    0
}

#[fexit]
pub fn aufs_copy_up_fexit(ctx: FExitContext) -> u32 {
    let returned = ctx.ret::<i32>().unwrap_or(0);
    end(&ctx, Operation::CopyUp, returned as i64);
    0
}

#[kprobe]
pub fn aufs_copy_up_kprobe(ctx: ProbeContext) -> u32 {
    begin_handed_over(ctx.arg::<u64>(0).unwrap_or(0));
    0
}

#[kretprobe]
pub fn aufs_copy_up_kretprobe(ctx: RetProbeContext) -> u32 {
    let returned = ctx.ret::<i32>();
    end(&ctx, Operation::CopyUp, returned as i64);
    0
}

#[fentry]
pub fn copy_up_worker_fentry(ctx: FEntryContext) -> u32 {
    begin_worker(ctx.arg::<u64>(0));
    0
}

#[fexit]
pub fn copy_up_worker_fexit(ctx: FExitContext) -> u32 {
    end_worker(&ctx);
    0
}

#[kprobe]
pub fn copy_up_worker_kprobe(ctx: ProbeContext) -> u32 {
    begin_worker(ctx.arg::<u64>(0).unwrap_or(0));
    0
}

#[kretprobe]
pub fn copy_up_worker_kretprobe(ctx: RetProbeContext) -> u32 {
    end_worker(&ctx);
    0
}

// Also what writes inode numbers to the xino files.
pair!(
    CopyUpWrite,
    begin_within(Operation::CopyUpWrite, Operation::CopyUpData),
    end_phase,
    i64,
    copy_up_write_fentry,
    copy_up_write_fexit,
    copy_up_write_kprobe,
    copy_up_write_kretprobe
);
