//! The maps, and the few ways they are touched. Tables of counts are one value
//! each, so that the loading side reads one in one call.

use core::arch::asm;

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, PerCpuArray, PerCpuHashMap, RingBuf, StackTrace};
use unionbench_common::hist::BUCKETS;
use unionbench_common::op::{COUNTERS, HISTOGRAMS, LAYER_TURNS, SYSCALL_NUMBERS};
use unionbench_common::thread::{SLOTS, slot};
use unionbench_common::{Control, Counter, Histogram, LayerTurn, Thread};

#[map]
static CONTROL: Array<Control> = Array::with_max_entries(1, 0);

/// The workload's threads, by the slots of their ids.
#[map]
static THREADS: Array<Thread> = Array::with_max_entries(SLOTS, 0);

#[map]
static HISTOGRAM: PerCpuArray<Histogram> = PerCpuArray::with_max_entries(HISTOGRAMS, 0);

#[map]
static COUNTER: PerCpuArray<[u64; COUNTERS as usize]> = PerCpuArray::with_max_entries(1, 0);

/// Finished system calls by number.
#[map]
pub static SYSCALLS: PerCpuArray<[u64; SYSCALL_NUMBERS as usize]> =
    PerCpuArray::with_max_entries(1, 0);

/// By number of the system call: the index of its histogram, zero for none.
#[map]
pub static SYSCALL_HISTOGRAM: Array<u32> = Array::with_max_entries(SYSCALL_NUMBERS, 0);

/// Finished copy-ups by the number of the system call that caused them.
#[map]
pub static COPY_UPS: PerCpuArray<[u64; SYSCALL_NUMBERS as usize]> =
    PerCpuArray::with_max_entries(1, 0);

/// Layers by their turn in the lookup that asked them.
#[map]
pub static LAYERS: PerCpuArray<[LayerTurn; LAYER_TURNS as usize]> =
    PerCpuArray::with_max_entries(1, 0);

/// Copy-ups. 1 MiB holds 21,000 of them; it is drained when a phase ends.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// Copy-ups whose work may be done by another thread, by the address of their
/// description, until that work begins.
#[map]
pub static HANDED_OVER: HashMap<u64, u8> = HashMap::with_max_entries(4096, 0);

/// Running FUSE requests.
#[map]
pub static FUSE_REQUESTS: HashMap<FuseKey, FuseStart> = HashMap::with_max_entries(16384, 0);

/// The request that a thread of the bundled union's took last, by thread.
#[map]
pub static TAKEN: HashMap<u64, Taken> = HashMap::with_max_entries(1024, 0);

/// When the running copy-up of a thread of the bundled union's began.
#[map]
pub static BUNDLED_COPY_UPS: HashMap<u64, u64> = HashMap::with_max_entries(1024, 0);

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

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Taken {
    pub unique: u64,
    pub at_ns: u64,
}

/// The current thread's slot; none if it is not of the workload or no phase
/// runs. A map value never moves while its program runs, and only this thread
/// writes to it: a thread is on one CPU at a time, and the programs that use
/// the slot run in the thread's own context.
#[inline(always)]
pub fn thread() -> Option<&'static mut Thread> {
    let tid = bpf_get_current_pid_tgid() as u32;
    let entry = THREADS.get_ptr_mut(slot(tid))?;
    // SAFETY: the pointer comes from the map and is not null; see above for why
    // nothing else writes to a slot that is this thread's.
    let entry = unsafe { &mut *entry };
    if entry.tid == tid {
        return Some(entry);
    }
    let by_process = CONTROL.get(0).is_some_and(|control| control.tgid != 0);
    (by_process && join(entry)).then_some(entry)
}

/// A thread of a process that is watched as a whole takes its slot when it is
/// first seen. A function of its own: within the callers it would occupy
/// registers that every probed call has to save.
#[inline(never)]
fn join(entry: &mut Thread) -> bool {
    let Some(control) = CONTROL.get(0) else { return false };
    if control.enabled == 0 {
        return false;
    }
    let ids = bpf_get_current_pid_tgid();
    let (tgid, tid) = ((ids >> 32) as u32, ids as u32);
    if control.tgid != tgid {
        return false;
    }
    if entry.tid != 0 {
        count(Counter::LostThreads);
        return false;
    }
    entry.tid = tid;
    true
}

/// A slot for the current thread, which works for one that is watched. Whoever
/// takes it gives it back.
#[inline(always)]
pub fn lend() -> Option<&'static mut Thread> {
    let tid = bpf_get_current_pid_tgid() as u32;
    let entry = THREADS.get_ptr_mut(slot(tid))?;
    // SAFETY: as in `thread`.
    let entry = unsafe { &mut *entry };
    if entry.tid != 0 {
        count(Counter::LostThreads);
        return None;
    }
    entry.tid = tid;
    Some(entry)
}

/// Whether the current thread is the workload's. For programs that may
/// interrupt another program of the same thread and must not touch its slot.
#[inline(always)]
pub fn is_watched() -> bool {
    let ids = bpf_get_current_pid_tgid();
    let tid = ids as u32;
    let Some(entry) = THREADS.get(slot(tid)) else { return false };
    if entry.tid == tid {
        return true;
    }
    CONTROL.get(0).is_some_and(|control| {
        control.tgid != 0 && control.enabled != 0 && control.tgid == (ids >> 32) as u32
    })
}

/// Whether a phase runs: for ends seen in another thread than the beginning.
#[inline(always)]
pub fn is_enabled() -> bool {
    CONTROL.get(0).is_some_and(|control| control.enabled != 0)
}

#[inline(always)]
pub fn count(counter: Counter) {
    add(counter, 1);
}

#[inline(always)]
pub fn add(counter: Counter, amount: u64) {
    if let Some(counters) = COUNTER.get_ptr_mut(0) {
        // SAFETY: the pointer is to this CPU's value and not null; every counter
        // has room in it.
        unsafe { (*counters)[counter as usize] += amount };
    }
}

/// Counts one more of what has this number; false if the table ends before it.
#[inline(always)]
pub fn count_number(table: &PerCpuArray<[u64; SYSCALL_NUMBERS as usize]>, number: u32) -> bool {
    const LAST: usize = SYSCALL_NUMBERS as usize - 1;
    if number as usize > LAST {
        return false;
    }
    let Some(numbers) = table.get_ptr_mut(0) else { return false };
    // SAFETY: the pointer is to this CPU's value and not null.
    let numbers = unsafe { &mut *numbers };
    match numbers.get_mut(masked::<LAST>(number as usize)) {
        Some(seen) => {
            *seen += 1;
            true
        }
        None => false,
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
