//! Where the workload's threads are, some thousand times a second.

use aya_ebpf::macros::perf_event;
use aya_ebpf::programs::PerfEventContext;
use aya_ebpf::programs::tracing::StackIdContext as _;
use unionbench_common::Counter;

use crate::maps::{SAMPLES, STACKS, count, is_watched};

const EFAULT: i32 = -14;

#[perf_event]
pub fn sample(ctx: PerfEventContext) -> u32 {
    if !is_watched() {
        return 0;
    }
    count(Counter::Samples);
    match ctx.get_stackid(&STACKS, 0) {
        Ok(id) => keep(id as u32),
        // There is no kernel stack while the thread runs its own code.
        Err(error) if error as i32 == EFAULT => count(Counter::UserSamples),
        // Another stack has the same hash, or the map is full.
        Err(_) => count(Counter::LostStacks),
    }
    0
}

#[inline(always)]
fn keep(id: u32) {
    if let Some(seen) = SAMPLES.get_ptr_mut(id) {
        // SAFETY: the pointer is into this CPU's value and not null.
        unsafe { *seen += 1 };
    } else if SAMPLES.insert(id, 1, 0).is_err() {
        count(Counter::LostStacks);
    }
}
