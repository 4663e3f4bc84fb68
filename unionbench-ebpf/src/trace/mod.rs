//! `unionbench trace`: every thread of the machine, one event for each call.
//!
//! A call that begins is kept as a frame of its thread, with what has to be
//! read before the work is done (the size before a truncation, the layer, the
//! system call). When it ends, the frame becomes an event: a head and the names
//! of the path, put together in a scratch of this processor and handed to the
//! ring buffer in one piece, as short as it is. A thread has an entry in `TASKS`
//! only while one of its calls runs.
//!
//! What the verifier of Linux 6.1 asks for here: an event is larger than the 512
//! bytes of stack, hence the scratch, and so is an idle entry, hence the static
//! that it is copied from. A bound that the compiler has proved is written again
//! by `masked`, behind which there is room for one more name, so that no check
//! is needed after the read. A search keeps an index that is out of range for
//! "none": copying an `Option` copies a register that was never written.

mod arguments;
mod aufs;
mod bundled;
mod fuse;
mod object;
mod overlay;
mod sync;
mod syscall;
mod task;

use aya_ebpf::Global;
use aya_ebpf::helpers::{
    bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_get_current_comm,
    bpf_get_current_pid_tgid, bpf_ktime_get_ns, generated,
};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{HashMap, PerCpuArray, RingBuf};
use unionbench_common::trace::{
    Call, Frame, Head, Offsets, SCRATCHES, Scratch, Settings, TALLIES, Tally, Task, UNKNOWN, note,
};

/// Overridden by the loading side; the verifier reads them as constants.
#[unsafe(no_mangle)]
static TRACE_OFFSETS: Global<Offsets> = Global::new(Offsets::NONE);
#[unsafe(no_mangle)]
static TRACE_SETTINGS: Global<Settings> = Global::new(Settings::ALL);

/// The benchmark loads the same object: the loading side of a trace gives these
/// maps the room that they need.
#[map]
static TRACE_EVENTS: RingBuf = RingBuf::with_byte_size(4096, 0);
#[map]
static TRACE_TASKS: HashMap<u32, Task> = HashMap::with_max_entries(1, 0);
#[map]
static TRACE_SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(SCRATCHES, 0);
#[map]
static TRACE_TALLY: PerCpuArray<[u64; TALLIES]> = PerCpuArray::with_max_entries(1, 0);

/// Reads one field without copying the rest to the stack.
macro_rules! offset {
    ($field:ident) => {{
        let all =
            (&raw const $crate::trace::TRACE_OFFSETS).cast::<unionbench_common::trace::Offsets>();
        // SAFETY: the static is a transparent wrapper of that type; the read is
        // volatile because the loading side writes another value.
        unsafe { core::ptr::read_volatile(&raw const (*all).$field) }
    }};
}
pub(crate) use offset;

macro_rules! setting {
    ($field:ident) => {{
        let all =
            (&raw const $crate::trace::TRACE_SETTINGS).cast::<unionbench_common::trace::Settings>();
        // SAFETY: as for the offsets.
        unsafe { core::ptr::read_volatile(&raw const (*all).$field) }
    }};
}
pub(crate) use setting;

#[inline(always)]
pub fn tally(what: Tally) {
    if let Some(tallies) = TRACE_TALLY.get_ptr_mut(0) {
        // SAFETY: the pointer is to this CPU's value and not null; every tally
        // has room in it.
        unsafe { (*tallies)[what as usize] += 1 };
    }
}

/// Whether calls of the current thread are asked for.
#[inline(always)]
pub fn is_wanted() -> bool {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    if tgid == setting!(own_tgid) {
        return false;
    }
    let wanted = setting!(tgid);
    if wanted != 0 && tgid != wanted {
        return false;
    }
    let cgroup = setting!(cgroup);
    if cgroup != 0 {
        let level = setting!(cgroup_level) as i32;
        // SAFETY: the helper has no preconditions.
        if unsafe { bpf_get_current_ancestor_cgroup_id(level) } != cgroup {
            return false;
        }
    }
    let comm = setting!(comm);
    if comm[0] == 0 {
        return true;
    }
    bpf_get_current_comm().is_ok_and(|own| own == comm)
}

/// Whether calls on this file system are asked for.
#[inline(always)]
pub fn is_device_wanted(device: u32) -> bool {
    let wanted = setting!(device);
    wanted == 0 || device == wanted
}

#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_ns() }
}

/// Who makes the call and where: what an event says of the current thread.
#[inline(always)]
fn sign(head: &mut Head) {
    let ids = bpf_get_current_pid_tgid();
    head.pid = (ids >> 32) as u32;
    head.tid = ids as u32;
    // SAFETY: the helper has no preconditions.
    head.cgroup = unsafe { bpf_get_current_cgroup_id() };
    head.comm = bpf_get_current_comm().unwrap_or([0; 16]);
}

/// Tells of a call that has ended. `SLOT` is the calling program's own.
#[inline(always)]
pub fn tell<const SLOT: u32>(frame: &Frame, ended_ns: u64, returned: i32) {
    let duration_ns = ended_ns.wrapping_sub(frame.start_ns);
    if duration_ns < setting!(min_latency_ns) {
        return;
    }
    const { assert!(SLOT < SCRATCHES) };
    let Some(scratch) = TRACE_SCRATCH.get_ptr_mut(SLOT) else { return };
    // SAFETY: the pointer is to this CPU's value and not null; no other program
    // uses this slot, and the kernel does not run one program within itself on
    // one processor.
    let scratch = unsafe { &mut *scratch };
    let head = &mut scratch.head;
    sign(head);
    head.start_ns = frame.start_ns;
    head.duration_ns = duration_ns;
    head.size = frame.size;
    head.cloned = frame.cloned;
    head.copied = frame.copied;
    head.spliced = frame.spliced;
    head.data_ns = frame.data_ns;
    head.sync_ns = frame.sync_ns;
    head.device = frame.device;
    head.call = frame.call;
    head.syscall = frame.syscall;
    head.flags = frame.flags;
    head.returned = returned;
    head.n_syncs = frame.n_syncs;
    head.layer = frame.layer;
    head.mode = frame.mode;
    head.notes = frame.notes;
    head.magic = 0;
    let dentry = frame.object as *const u8;
    if !dentry.is_null() {
        head.magic = object::magic(dentry);
        object::path(dentry, scratch);
    } else {
        head.path_len = 0;
        head.notes |= note::CUT;
    }
    hand_over(scratch);
}

/// Puts a finished scratch into the ring buffer, as long as its path is.
#[inline(always)]
pub fn hand_over(scratch: &mut Scratch) {
    tally(Tally::Events);
    let path_len = u64::from(scratch.head.path_len);
    // The verifier forgets bounds that it did not see; this one is the room
    // for a path.
    let size = size_of::<Head>() as u64 + crate::maps::masked::<8191>(path_len as usize) as u64;
    if size > size_of::<Scratch>() as u64 {
        return;
    }
    let map = (&raw const TRACE_EVENTS).cast_mut().cast();
    // SAFETY: the map is a ring buffer, and `size` bytes lie in the scratch.
    let result = unsafe { generated::bpf_ringbuf_output(map, (&raw mut *scratch).cast(), size, 0) };
    if result != 0 {
        tally(Tally::LostBuffer);
    }
}

/// A call's frame before anything is known of it.
#[inline(always)]
pub fn frame(call: Call) -> Frame {
    Frame { call: call as u32, ..Task::IDLE.frames[0] }
}

/// Whether this kernel has the member, and its place is known.
#[inline(always)]
pub fn is_known(offset: u32) -> bool {
    offset != UNKNOWN
}
