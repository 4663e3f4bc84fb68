//! The maps, and the few ways they are touched.

use core::arch::asm;

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, PerCpuArray, PerCpuHashMap, RingBuf, StackTrace};
use unionbench_common::hist::BUCKETS;
use unionbench_common::op::{COUNTERS, HISTOGRAMS, SYSCALL_NUMBERS};
use unionbench_common::{Control, Counter, Histogram, Thread};

#[map]
static CONTROL: Array<Control> = Array::with_max_entries(1, 0);

/// The workload's threads by thread id.
#[map]
static THREADS: HashMap<u32, Thread> = HashMap::with_max_entries(4096, 0);

/// A thread with no running call, never written to. Made on a program's
/// stack it would take 208 of its 512 bytes, and a loop to clear them.
#[map]
static IDLE: Array<Thread> = Array::with_max_entries(1, 0);

#[map]
static HISTOGRAM: PerCpuArray<Histogram> = PerCpuArray::with_max_entries(HISTOGRAMS, 0);

#[map]
static COUNTER: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTERS, 0);

/// Finished system calls by number.
#[map]
pub static SYSCALLS: PerCpuArray<u64> = PerCpuArray::with_max_entries(SYSCALL_NUMBERS, 0);

/// By number of the system call: the index of its histogram, zero for none.
#[map]
pub static SYSCALL_HISTOGRAM: Array<u32> = Array::with_max_entries(SYSCALL_NUMBERS, 0);

/// Copy-ups. 1 MiB holds 21,000 of them; it is drained when a phase ends.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// Running FUSE requests.
#[map]
pub static FUSE_REQUESTS: HashMap<FuseKey, FuseStart> = HashMap::with_max_entries(16384, 0);

#[map]
pub static STACKS: StackTrace = StackTrace::with_max_entries(16384, 0);

/// Samples by the id of their stack.
#[map]
pub static SAMPLES: PerCpuHashMap<u32, u64> = PerCpuHashMap::with_max_entries(16384, 0);

/// `unique` counts requests of one connection, so both make the key.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FuseKey {
    pub unique: u64,
    pub connection: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct FuseStart {
    pub start_ns: u64,
    pub opcode: u64,
}

/// The current thread's entry; none if no phase runs or it is not of the
/// workload. A map value never moves while its program runs, and only this
/// thread writes to it: a thread is on one CPU at a time, and the programs
/// that use the entry run in the thread's own context.
#[inline(always)]
pub fn thread() -> Option<&'static mut Thread> {
    let control = CONTROL.get(0)?;
    if control.enabled == 0 {
        return None;
    }
    let ids = bpf_get_current_pid_tgid();
    let (tgid, tid) = ((ids >> 32) as u32, ids as u32);
    if let Some(entry) = THREADS.get_ptr_mut(tid) {
        // SAFETY: the pointer comes from the map and is not null; see above
        // for why nothing else writes to it meanwhile.
        return Some(unsafe { &mut *entry });
    }
    if control.tgid == 0 || control.tgid != tgid {
        return None;
    }
    if THREADS.insert(tid, IDLE.get(0)?, 0).is_err() {
        count(Counter::LostThreads);
        return None;
    }
    let entry = THREADS.get_ptr_mut(tid)?;
    // SAFETY: as above.
    Some(unsafe { &mut *entry })
}

/// Whether the current thread is the workload's. For programs that may
/// interrupt another program of the same thread and must not touch its entry.
#[inline(always)]
pub fn is_watched() -> bool {
    let Some(control) = CONTROL.get(0) else { return false };
    if control.enabled == 0 {
        return false;
    }
    let ids = bpf_get_current_pid_tgid();
    let of_process = control.tgid != 0 && control.tgid == (ids >> 32) as u32;
    of_process || THREADS.get_ptr(ids as u32).is_some()
}

/// Whether a phase runs: for ends seen in another thread than the beginning.
#[inline(always)]
pub fn is_enabled() -> bool {
    CONTROL.get(0).is_some_and(|control| control.enabled != 0)
}

#[inline(always)]
pub fn count(counter: Counter) {
    if let Some(value) = COUNTER.get_ptr_mut(counter as u32) {
        // SAFETY: the pointer is into this CPU's value and not null.
        unsafe { *value += 1 };
    }
}

/// Adds a value to a histogram of this CPU.
#[inline(always)]
pub fn record(index: u32, value: u64, failed: bool) {
    if let Some(histogram) = HISTOGRAM.get_ptr_mut(index) {
        // SAFETY: the pointer is into this CPU's value and not null.
        let histogram = unsafe { &mut *histogram };
        histogram.record_bounded(value, masked::<{ BUCKETS - 1 }>);
        histogram.failed += failed as u64;
    }
}

/// Cuts an index to the bits of the mask, in a way the compiler cannot see
/// through. It would otherwise drop a bound that it has proved, and the
/// verifier, which has not, would refuse the program.
#[inline(always)]
pub fn masked<const MASK: usize>(index: usize) -> usize {
    const { assert!((MASK + 1).is_power_of_two() && MASK <= i32::MAX as usize) };
    let mut index = index;
    // SAFETY: one instruction on one register.
    unsafe { asm!("{index} &= {mask}", index = inout(reg) index, mask = const MASK) };
    index
}
