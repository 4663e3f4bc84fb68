//! A function's beginning and end, whatever engine reports them.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_log_ebpf::warn;
use unionbench_common::op::{FUSE_BASE, FUSE_OPCODES, LAYER_TURNS};
use unionbench_common::thread::MAX_DEPTH;
use unionbench_common::{CopyUpEvent, Counter, Frame, Operation, Thread};

use crate::maps::{
    COPY_UPS, EVENTS, HANDED_OVER, LAYERS, add, count, count_number, lend, masked, record, thread,
};

/// A running call begins.
#[inline(always)]
pub fn begin(operation: Operation, note: u64) {
    if let Some(thread) = thread() {
        push(thread, operation, note);
    }
}

/// As [`begin`], for one of several functions of an operation that may call one
/// another: the outermost begins it. The first of their ends finds its frame,
/// and the others none.
#[inline(always)]
pub fn begin_once(operation: Operation) {
    let Some(thread) = thread() else { return };
    if innermost(thread) != Some(operation as u32) {
        push(thread, operation, 0);
    }
}

/// As [`begin`], for a function that is of interest as a part of another
/// operation only.
#[inline(always)]
pub fn begin_within(operation: Operation, outer: Operation) {
    let Some(thread) = thread() else { return };
    if innermost(thread) == Some(outer as u32) {
        push(thread, operation, 0);
    }
}

/// As [`begin`], for a function that is of interest within a copy-up only.
#[inline(always)]
pub fn begin_phase(operation: Operation) {
    if let Some(thread) = thread()
        && thread.copy_ups > 0
    {
        push(thread, operation, 0);
    }
}

/// A copy-up begins whose work another thread may do: it will be called with
/// the same `key`.
#[inline(always)]
pub fn begin_handed_over(key: u64) {
    let Some(thread) = thread() else { return };
    // A key that finds no room leaves the phases of this copy-up unseen.
    if HANDED_OVER.insert(key, 0, 0).is_err() {
        count(Counter::LostThreads);
    }
    push(thread, Operation::CopyUp, CopyUpEvent::UNKNOWN_SIZE);
}

/// The work of a copy-up begins, in its caller's thread or in another one,
/// which is watched until the work ends.
#[inline(always)]
pub fn begin_worker(key: u64) {
    let handed_over = HANDED_OVER.remove(&key).is_ok();
    if let Some(thread) = thread() {
        if thread.copy_ups > 0 {
            push(thread, Operation::CopyUpWorker, 0);
        }
    } else if handed_over && let Some(thread) = lend() {
        push(thread, Operation::CopyUpWorker, 0);
    }
}

/// The end of what [`begin_worker`] began.
#[inline(always)]
pub fn end_worker<C: EbpfContext>(ctx: &C) {
    end_phase(ctx, Operation::CopyUpWorker, 0);
    // The caller's own thread still has the copy-up's frame.
    if let Some(thread) = thread()
        && thread.depth == 0
    {
        *thread = Thread::IDLE;
    }
}

/// A layer is asked for a name: the innermost lookup visits one more.
#[inline(always)]
pub fn begin_layer() {
    let Some(thread) = thread() else { return };
    count(Counter::LayerVisits);
    let mut turn = u64::from(LAYER_TURNS);
    if thread.depth > 0 && thread.depth as usize <= MAX_DEPTH {
        let frame = frame(thread, thread.depth - 1);
        if frame.operation == Operation::Lookup as u32 {
            turn = frame.note;
            frame.note += 1;
        }
    }
    push(thread, Operation::LayerLookup, turn);
}

/// A call ends with what the function returned, or zero where that is of no
/// interest and was not read.
#[inline(always)]
pub fn end<C: EbpfContext>(ctx: &C, operation: Operation, returned: i64) {
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    let Some(thread) = thread() else { return };
    let Some(frame) = pop(thread, operation) else { return };
    let duration = now.wrapping_sub(frame.start_ns);
    record(operation as u32, duration, false);
    match operation {
        Operation::Lookup => record(Operation::LayersVisited as u32, frame.note, false),
        Operation::LayerLookup => add_turn(frame.note, duration),
        Operation::CopyUp => {
            if returned == 0 {
                add_cause(thread);
            }
            tell(ctx, &frame, duration, returned as i32, thread.depth);
        }
        Operation::Fsync if thread.copy_ups > 0 => {
            record(Operation::CopyUpFsync as u32, duration, false);
        }
        Operation::CopyUpClone => add_bytes(Counter::BytesCloned, returned),
        Operation::CopyUpSplice => add_bytes(Counter::BytesSpliced, returned),
        Operation::CopyUpCopy => add_bytes(Counter::BytesCopied, returned),
        Operation::CopyUpWrite => add_bytes(Counter::BytesWritten, returned),
        Operation::FuseRequest => record_fuse(frame.note, duration),
        _ => {}
    }
}

/// As [`end`], for a call that [`begin_phase`] may have left out.
#[inline(always)]
pub fn end_phase<C: EbpfContext>(ctx: &C, operation: Operation, returned: i64) {
    let within = thread().is_some_and(|thread| thread.copy_ups > 0);
    if within {
        end(ctx, operation, returned);
    }
}

/// What the innermost running call is.
#[inline(always)]
fn innermost(thread: &mut Thread) -> Option<u32> {
    if thread.depth == 0 || thread.depth as usize > MAX_DEPTH {
        return None;
    }
    Some(frame(thread, thread.depth - 1).operation)
}

/// A frame; the index is less than [`MAX_DEPTH`], or another frame is named.
/// The verifier of Linux 6.1 forgets on some paths that it was compared.
#[inline(always)]
fn frame(thread: &mut Thread, index: u32) -> &mut Frame {
    let index = masked::<{ MAX_DEPTH - 1 }>(index as usize);
    // SAFETY: the mask leaves no other index than those of the frames.
    unsafe { thread.frames.get_unchecked_mut(index) }
}

#[inline(always)]
fn push(thread: &mut Thread, operation: Operation, note: u64) {
    let depth = thread.depth;
    if depth == 0 {
        // Also after ends that were missed.
        (thread.depth, thread.copy_ups) = (1, 0);
    } else {
        thread.depth = depth + 1;
    }
    if depth as usize >= MAX_DEPTH {
        count(Counter::LostFrames);
        return;
    }
    if is_copy_up(operation as u32) {
        thread.copy_ups += 1;
    }
    let frame = frame(thread, depth);
    frame.operation = operation as u32;
    frame.note = note;
    // Read last: what stands above is not the call's own time.
    // SAFETY: the helper has no preconditions.
    frame.start_ns = unsafe { bpf_ktime_get_ns() };
}

#[inline(always)]
fn add_turn(turn: u64, duration: u64) {
    // A layer that was asked outside a lookup has no turn.
    if turn >= u64::from(LAYER_TURNS) {
        return;
    }
    let Some(turns) = LAYERS.get_ptr_mut(0) else { return };
    // SAFETY: the pointer is to this CPU's value and not null.
    let turns = unsafe { &mut *turns };
    if let Some(sums) = turns.get_mut(masked::<{ LAYER_TURNS as usize - 1 }>(turn as usize)) {
        sums.asked += 1;
        sums.spent_ns += duration;
    }
}

/// A copy-up was caused by the system call that its thread is in.
#[inline(always)]
fn add_cause(thread: &Thread) {
    if thread.syscall_start_ns == 0 {
        return;
    }
    count_number(&COPY_UPS, thread.syscall);
}

#[inline(always)]
fn add_bytes(counter: Counter, returned: i64) {
    if returned > 0 {
        add(counter, returned as u64);
    }
}

#[inline(always)]
fn record_fuse(opcode: u64, duration: u64) {
    if opcode < u64::from(FUSE_OPCODES) {
        record(FUSE_BASE + opcode as u32, duration, false);
    } else {
        count(Counter::LostNumbers);
    }
}

/// Takes the innermost frame of this operation, and drops those above it,
/// whose ends were missed. An end without a frame belongs to a call that
/// began before the phase, and is no loss.
#[inline(always)]
fn pop(thread: &mut Thread, operation: Operation) -> Option<Frame> {
    let index = thread.depth.wrapping_sub(1);
    if index >= MAX_DEPTH as u32 {
        // None is running, or so many that this one has no frame.
        thread.depth = thread.depth.saturating_sub(1);
        return None;
    }
    let top = *frame(thread, index);
    if top.operation != operation as u32 {
        let mut found = top;
        return below(thread, operation as u32, &mut found).then_some(found);
    }
    thread.depth = index;
    if is_copy_up(operation as u32) {
        thread.copy_ups = thread.copy_ups.saturating_sub(1);
    }
    Some(top)
}

/// Cuts the frames down to the innermost one of an operation, and that one
/// too, and tells it; false if there is none. It walks upwards and keeps the last match:
/// downwards, the verifier loses the lower bound of the index. Nothing else is
/// told of a frame here, since the verifier follows every combination of what
/// the eight may be. A function of its own, as [`crate::maps::thread`] says of
/// another.
#[inline(never)]
fn below(thread: &mut Thread, operation: u32, found: &mut Frame) -> bool {
    const NONE: u32 = MAX_DEPTH as u32;
    let mut depth = NONE;
    for (index, frame) in thread.frames.iter().enumerate() {
        if index as u32 >= thread.depth {
            break;
        }
        if frame.operation == operation {
            depth = index as u32;
            *found = *frame;
        }
    }
    if depth == NONE {
        return false;
    }
    count(Counter::LostEnds);
    thread.depth = depth;
    if is_copy_up(operation) {
        thread.copy_ups = thread.copy_ups.saturating_sub(1);
    }
    true
}

#[inline(always)]
fn is_copy_up(operation: u32) -> bool {
    operation == Operation::CopyUp as u32 || operation == Operation::CopyUpWorker as u32
}

#[inline(always)]
pub fn tell<C: EbpfContext>(ctx: &C, frame: &Frame, duration_ns: u64, returned: i32, depth: u32) {
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

/// The four programs of one role: `pair!(Operation, begin, end, type of the
/// return value or `none`, fentry, fexit, kprobe, kretprobe)`. Integers are read as `i32`, since the upper half of
/// the register is not defined; pointers and sizes as `i64`.
macro_rules! pair {
    ($operation:ident, $begin:expr, $end:path, none, $fentry:ident, $fexit:ident, $kprobe:ident, $kretprobe:ident) => {
        #[aya_ebpf::macros::fentry]
        pub fn $fentry(_ctx: aya_ebpf::programs::FEntryContext) -> u32 {
            $begin;
            0
        }

        #[aya_ebpf::macros::fexit]
        pub fn $fexit(ctx: aya_ebpf::programs::FExitContext) -> u32 {
            $end(&ctx, unionbench_common::Operation::$operation, 0);
            0
        }

        #[aya_ebpf::macros::kprobe]
        pub fn $kprobe(_ctx: aya_ebpf::programs::ProbeContext) -> u32 {
            $begin;
            0
        }

        #[aya_ebpf::macros::kretprobe]
        pub fn $kretprobe(ctx: aya_ebpf::programs::RetProbeContext) -> u32 {
            $end(&ctx, unionbench_common::Operation::$operation, 0);
            0
        }
    };
    ($operation:ident, $begin:expr, $end:path, $returned:ty, $fentry:ident, $fexit:ident, $kprobe:ident, $kretprobe:ident) => {
        #[aya_ebpf::macros::fentry]
        pub fn $fentry(_ctx: aya_ebpf::programs::FEntryContext) -> u32 {
            $begin;
            0
        }

        #[aya_ebpf::macros::fexit]
        pub fn $fexit(ctx: aya_ebpf::programs::FExitContext) -> u32 {
            let returned = ctx.ret::<$returned>().unwrap_or(0);
            $end(&ctx, unionbench_common::Operation::$operation, returned as i64);
            0
        }

        #[aya_ebpf::macros::kprobe]
        pub fn $kprobe(_ctx: aya_ebpf::programs::ProbeContext) -> u32 {
            $begin;
            0
        }

        #[aya_ebpf::macros::kretprobe]
        pub fn $kretprobe(ctx: aya_ebpf::programs::RetProbeContext) -> u32 {
            let returned = ctx.ret::<$returned>();
            $end(&ctx, unionbench_common::Operation::$operation, returned as i64);
            0
        }
    };
}
pub(crate) use pair;

/// The two programs of a function whose calls are only counted.
macro_rules! counted {
    ($counter:ident, $fentry:ident, $kprobe:ident) => {
        #[aya_ebpf::macros::fentry]
        pub fn $fentry(_ctx: aya_ebpf::programs::FEntryContext) -> u32 {
            if $crate::maps::is_watched() {
                $crate::maps::count(unionbench_common::Counter::$counter);
            }
            0
        }

        #[aya_ebpf::macros::kprobe]
        pub fn $kprobe(_ctx: aya_ebpf::programs::ProbeContext) -> u32 {
            if $crate::maps::is_watched() {
                $crate::maps::count(unionbench_common::Counter::$counter);
            }
            0
        }
    };
}
pub(crate) use counted;
