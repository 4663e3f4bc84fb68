//! Programs that do nothing: what is left of a probe's cost with them is the
//! engine's own.

use aya_ebpf::macros::{fentry, fexit, kprobe, kretprobe, raw_tracepoint};
use aya_ebpf::programs::{
    FEntryContext, FExitContext, ProbeContext, RawTracePointContext, RetProbeContext,
};

#[fentry]
pub fn nothing_fentry(_ctx: FEntryContext) -> u32 {
    0
}

#[fexit]
pub fn nothing_fexit(_ctx: FExitContext) -> u32 {
    0
}

#[kprobe]
pub fn nothing_kprobe(_ctx: ProbeContext) -> u32 {
    0
}

#[kretprobe]
pub fn nothing_kretprobe(_ctx: RetProbeContext) -> u32 {
    0
}

#[raw_tracepoint]
pub fn nothing_sys_enter(_ctx: RawTracePointContext) -> i32 {
    0
}

#[raw_tracepoint]
pub fn nothing_sys_exit(_ctx: RawTracePointContext) -> i32 {
    0
}
