//! A function's beginning and end, whatever engine reports them.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_log_ebpf::warn;
use unionbench_common::thread::MAX_DEPTH;
use unionbench_common::{CopyUpEvent, Counter, Frame, Operation, Thread};

use crate::maps::{EVENTS, count, masked, record, thread};

/// A running call begins.
#[inline(always)]
pub fn begin(operation: Operation, note: u64) {
    let Some(thread) = thread() else { return };
    let depth = thread.depth as usize;
    thread.depth += 1;
    match thread.frames.get_mut(depth) {
        Some(frame) => {
            frame.operation = operation as u32;
            frame.note = note;
            // Read last: what stands above is not the call's own time.
            // SAFETY: the helper has no preconditions.
            frame.start_ns = unsafe { bpf_ktime_get_ns() };
        }
        None => count(Counter::LostFrames),
    }
}

/// A call ends with what the function returned.
#[inline(always)]
pub fn end<C: EbpfContext>(ctx: &C, operation: Operation, returned: i64) {
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    let Some(thread) = thread() else { return };
    if thread.depth as usize > MAX_DEPTH {
        thread.depth -= 1;
        return;
    }
    let Some(frame) = pop(thread, operation) else { return };
    let duration = now.wrapping_sub(frame.start_ns);
    // The kernel returns errors as the last 4095 values of its type.
    let failed = (-4095..0).contains(&returned);
    record(operation as u32, duration, failed);
    match operation {
        Operation::Lookup => record(Operation::LayersVisited as u32, frame.note, false),
        Operation::CopyUp => tell(ctx, &frame, duration, returned as i32, thread.depth),
        _ => {}
    }
}

/// A layer is asked for a name: the innermost lookup visits one more.
#[inline(always)]
pub fn visit_layer() {
    let Some(thread) = thread() else { return };
    count(Counter::LayerVisits);
    if thread.depth == 0 || thread.depth as usize > MAX_DEPTH {
        return;
    }
    let top = masked::<{ MAX_DEPTH - 1 }>(thread.depth as usize - 1);
    if let Some(frame) = thread.frames.get_mut(top)
        && frame.operation == Operation::Lookup as u32
    {
        frame.note += 1;
    }
}

/// Takes the innermost frame of this operation, and drops those above it,
/// whose ends were missed. An end without a frame belongs to a call that
/// began before the phase, and is no loss.
///
/// It walks upwards and keeps the last match: downwards, the verifier loses
/// the lower bound of the index.
#[inline(always)]
fn pop(thread: &mut Thread, operation: Operation) -> Option<Frame> {
    let depth = thread.depth;
    let mut found = None;
    for (index, frame) in thread.frames.iter().enumerate() {
        if index as u32 >= depth {
            break;
        }
        if frame.operation == operation as u32 {
            found = Some((index as u32, *frame));
        }
    }
    let (index, frame) = found?;
    if index + 1 != depth {
        count(Counter::LostEnds);
    }
    thread.depth = index;
    Some(frame)
}

#[inline(always)]
fn tell<C: EbpfContext>(ctx: &C, frame: &Frame, duration_ns: u64, returned: i32, depth: u32) {
    let Some(mut entry) = EVENTS.reserve::<CopyUpEvent>(0) else {
        count(Counter::LostEvents);
        warn!(ctx, "the ring buffer is full: a copy-up was counted, but its event is lost");
        return;
    };
    entry.write(CopyUpEvent {
        start_ns: frame.start_ns,
        duration_ns,
        size: frame.note,
        tid: aya_ebpf::helpers::bpf_get_current_pid_tgid() as u32,
        returned,
        depth,
        reserved: 0,
    });
    entry.submit(0);
}

/// The four programs of one role: `pair!(Operation, note, type of the return
/// value, fentry, fexit, kprobe, kretprobe)`. Integers are read as `i32`, since the upper half of
/// the register is not defined; pointers as `i64`.
macro_rules! pair {
    ($operation:ident, $note:expr, $returned:ty, $fentry:ident, $fexit:ident, $kprobe:ident, $kretprobe:ident) => {
        #[aya_ebpf::macros::fentry]
        pub fn $fentry(_ctx: aya_ebpf::programs::FEntryContext) -> u32 {
            $crate::call::begin(unionbench_common::Operation::$operation, $note);
            0
        }

        #[aya_ebpf::macros::fexit]
        pub fn $fexit(ctx: aya_ebpf::programs::FExitContext) -> u32 {
            let returned = ctx.ret::<$returned>().unwrap_or(0);
            $crate::call::end(&ctx, unionbench_common::Operation::$operation, returned as i64);
            0
        }

        #[aya_ebpf::macros::kprobe]
        pub fn $kprobe(_ctx: aya_ebpf::programs::ProbeContext) -> u32 {
            $crate::call::begin(unionbench_common::Operation::$operation, $note);
            0
        }

        #[aya_ebpf::macros::kretprobe]
        pub fn $kretprobe(ctx: aya_ebpf::programs::RetProbeContext) -> u32 {
            let returned = ctx.ret::<$returned>();
            $crate::call::end(&ctx, unionbench_common::Operation::$operation, returned as i64);
            0
        }
    };
}
pub(crate) use pair;
