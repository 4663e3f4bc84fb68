//! Every system call of the workload, from its entry to its exit.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;
use unionbench_common::Counter;

use crate::maps::{SYSCALL_HISTOGRAM, SYSCALLS, count, count_number, record, thread};

/// Prototype: `(struct pt_regs *regs, long id)`.
#[raw_tracepoint]
pub fn sys_enter(ctx: RawTracePointContext) -> i32 {
    if let Some(thread) = thread() {
        thread.syscall = ctx.arg::<u32>(1);
        // SAFETY: the helper has no preconditions.
        thread.syscall_start_ns = unsafe { bpf_ktime_get_ns() };
    }
    0
}

/// Prototype: `(struct pt_regs *regs, long ret)`. A call is counted when it
/// has ended, so that one begun before the phase is not of the phase.
#[raw_tracepoint]
pub fn sys_exit(ctx: RawTracePointContext) -> i32 {
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    let Some(thread) = thread() else { return 0 };
    let start = thread.syscall_start_ns;
    if start == 0 {
        return 0;
    }
    thread.syscall_start_ns = 0;
    if !count_number(&SYSCALLS, thread.syscall) {
        count(Counter::LostNumbers);
        return 0;
    }
    if let Some(&index) = SYSCALL_HISTOGRAM.get(thread.syscall)
        && index != 0
    {
        let returned = ctx.arg::<i64>(1);
        record(index, now.wrapping_sub(start), (-4095..0).contains(&returned));
    }
    0
}
