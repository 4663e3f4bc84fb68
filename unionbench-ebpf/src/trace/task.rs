//! The running calls of the current thread.

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use unionbench_common::trace::{Call, Frame, TRACE_DEPTH, Tally, Task};

use super::{TRACE_TASKS, now, tally, tell};
use crate::maps::masked;

const TOP: usize = TRACE_DEPTH - 1;

/// Too large for the stack of a program.
static IDLE: Task = Task::IDLE;

#[inline(always)]
fn tid() -> u32 {
    bpf_get_current_pid_tgid() as u32
}

/// The thread's entry while a call of it runs.
#[inline(always)]
pub fn current() -> Option<&'static mut Task> {
    let task = TRACE_TASKS.get_ptr_mut(tid())?;
    // SAFETY: the pointer is not null, only this thread touches the entry, and
    // it is removed by this thread alone.
    Some(unsafe { &mut *task })
}

/// Keeps a call that begins. The clock is read last: what it takes to know the
/// object is not the call's own time.
#[inline(always)]
pub fn push(frame: &Frame) {
    let task = match current() {
        Some(task) => task,
        None => {
            if TRACE_TASKS.insert(tid(), &IDLE, 0).is_err() {
                tally(Tally::LostCalls);
                return;
            }
            match current() {
                Some(task) => task,
                None => return,
            }
        }
    };
    forget_returned(task, frame.stack);
    let depth = task.depth as usize;
    task.depth += 1;
    if depth >= TRACE_DEPTH {
        tally(Tally::LostCalls);
        return;
    }
    let Some(slot) = task.frames.get_mut(masked::<TOP>(depth)) else { return };
    *slot = *frame;
    if frame.call == Call::CopyUp as u32 {
        task.copy_ups += 1;
    }
    slot.start_ns = now();
}

/// Drops frames whose ends were missed: the stack has grown back past them.
#[inline(always)]
fn forget_returned(task: &mut Task, stack: u64) {
    if stack == 0 {
        return;
    }
    for _ in 0..TRACE_DEPTH {
        let depth = task.depth as usize;
        if depth == 0 || depth > TRACE_DEPTH {
            return;
        }
        let Some(top) = task.frames.get(masked::<TOP>(depth - 1)) else { return };
        if top.stack == 0 || top.stack > stack {
            return;
        }
        if top.call == Call::CopyUp as u32 {
            task.copy_ups = task.copy_ups.saturating_sub(1);
        }
        if top.call <= Call::Request as u32 {
            tally(Tally::LostEnds);
        }
        task.depth -= 1;
    }
}

/// The innermost running call.
#[inline(always)]
pub fn top(task: &mut Task) -> Option<&mut Frame> {
    let depth = task.depth as usize;
    if depth == 0 || depth > TRACE_DEPTH {
        return None;
    }
    task.frames.get_mut(masked::<TOP>(depth - 1))
}

/// The innermost running call of this kind. It walks upwards and keeps the last
/// match: downwards, the verifier loses the lower bound of the index.
#[inline(always)]
pub fn innermost(task: &mut Task, call: Call) -> Option<(u32, &mut Frame)> {
    // No `Option`: its empty payload is a register that was never written, which
    // the verifier refuses to see copied.
    let mut found = TRACE_DEPTH;
    for index in 0..TRACE_DEPTH {
        if index as u32 >= task.depth {
            break;
        }
        if task.frames[index].call == call as u32 {
            found = index;
        }
    }
    if found >= TRACE_DEPTH {
        return None;
    }
    let index = found;
    let frame = task.frames.get_mut(masked::<TOP>(index))?;
    Some((index as u32, frame))
}

/// Takes the innermost frame of this kind, and those above it. The entry stays
/// until [`release`].
#[inline(always)]
pub fn pop(task: &mut Task, call: Call) -> Option<&mut Frame> {
    if task.depth as usize > TRACE_DEPTH {
        // It began without a frame.
        task.depth -= 1;
        return None;
    }
    let copy_ups = task.copy_ups;
    let task: *mut Task = task;
    // SAFETY: only this thread touches the entry; the frame that is handed out
    // lies beside the numbers that are changed.
    let (index, frame) = innermost(unsafe { &mut *task }, call)?;
    // SAFETY: as above.
    unsafe {
        (*task).depth = index;
        if call as u32 == Call::CopyUp as u32 {
            (*task).copy_ups = copy_ups.saturating_sub(1);
        }
    }
    Some(frame)
}

/// Removes the entry once nothing of the thread runs.
#[inline(always)]
pub fn release(task: &mut Task) {
    if task.depth == 0 {
        let _ = TRACE_TASKS.remove(tid());
    }
}

/// The end of a call that is told of.
#[inline(always)]
pub fn end<const SLOT: u32>(call: Call, returned: i32, keep: impl Fn(&Frame) -> bool) {
    let ended_ns = now();
    let Some(task) = current() else { return };
    if let Some(frame) = pop(task, call)
        && keep(frame)
    {
        tell::<SLOT>(frame, ended_ns, returned);
    }
    if let Some(task) = current() {
        release(task);
    }
}

/// The end of a call that is not told of.
#[inline(always)]
pub fn end_quietly(call: Call) {
    if let Some(task) = current() {
        pop(task, call);
        release(task);
    }
}
