//! overlayfs: copy-ups and their parts, lookups, whiteouts, merged listings.

use unionbench_common::trace::{Call, Frame, NO_LAYER, NO_SIZE, NO_SYSCALL, Tally, Task, note};

use super::arguments::{Arguments, entry, error_of, exit};
use super::object::{self, read};
use super::task::{self, current, innermost, pop, push, top};
use super::{frame, is_device_wanted, is_wanted, now, offset, syscall, tally};

// Slots of scratches; a program's own, see `tell`.
const COPY_UP: u32 = 0;
const LOOKUP: u32 = 1;
const UNLINK: u32 = 2;
const RMDIR: u32 = 3;
const RENAME: u32 = 4;
const READDIR: u32 = 5;

const RENAME_WHITEOUT: u32 = 1 << 2;

// ovl_copy_up_flags(struct dentry *dentry, int flags)
entry!(trace_target_fentry, trace_target_kprobe, begin_target);
exit!(trace_target_fexit, trace_target_kretprobe, |_| task::end_quietly(Call::Target));

#[inline(always)]
fn begin_target(arguments: &impl Arguments) {
    if is_wanted() {
        let mut frame = frame(Call::Target);
        frame.object = arguments.pointer(0) as u64;
        frame.stack = arguments.stack();
        push(&frame);
    }
}

// ovl_copy_up_one(struct dentry *parent, struct dentry *dentry, int flags)
entry!(trace_copy_up_fentry, trace_copy_up_kprobe, begin_copy_up);
exit!(trace_copy_up_fexit, trace_copy_up_kretprobe, end_copy_up);

#[inline(always)]
fn begin_copy_up(arguments: &impl Arguments) {
    let dentry = arguments.pointer(1);
    let Some(mut frame) = begin(Call::CopyUp, dentry, arguments.stack()) else { return };
    (frame.mode, frame.size) = object::mode_and_size(dentry);
    frame.layer = object::overlay_layer(dentry);
    syscall::note_in(&mut frame);
    if let Some(task) = current()
        && let Some((_, target)) = innermost(task, Call::Target)
    {
        frame.notes |= note::TARGET_KNOWN;
        if target.object == frame.object {
            frame.notes |= note::TARGET;
        }
    }
    push(&frame);
}

/// Where another thread was first, nothing was done: the reading side leaves
/// those out, if it knows that [`mark`] is in place.
#[inline(always)]
fn end_copy_up(returned: i64) {
    task::end::<COPY_UP>(Call::CopyUp, returned as i32, |_| true);
}

// ovl_copy_up_end(struct dentry *dentry): only who did the work gets there.
entry!(trace_copy_up_done_fentry, trace_copy_up_done_kprobe, |_: &_| mark(Call::CopyUp));

#[inline(always)]
fn mark(call: Call) {
    if let Some(task) = current()
        && let Some((_, frame)) = innermost(task, call)
    {
        frame.notes |= note::DONE;
    }
}

// ovl_copy_up_file, ovl_copy_up_data
entry!(trace_data_fentry, trace_data_kprobe, |arguments: &_| begin_part(Call::Data, arguments));
exit!(trace_data_fexit, trace_data_kretprobe, |_| end_data());

// vfs_fsync_range and vfs_fsync, of which one may call the other.
entry!(trace_sync_fentry, trace_sync_kprobe, |arguments: &_| begin_part(Call::Sync, arguments));
exit!(trace_sync_fexit, trace_sync_kretprobe, |_| end_sync());
entry!(trace_sync_whole_fentry, trace_sync_whole_kprobe, |arguments: &_| begin_part(
    Call::Sync,
    arguments
));
exit!(trace_sync_whole_fexit, trace_sync_whole_kretprobe, |_| end_sync());

/// The outermost of the same kind within a copy-up begins it.
#[inline(always)]
fn begin_part(call: Call, arguments: &impl Arguments) {
    let Some(task) = current() else { return };
    if task.copy_ups == 0 || top(task).is_some_and(|frame| frame.call == call as u32) {
        return;
    }
    let mut frame = frame(call);
    frame.stack = arguments.stack();
    push(&frame);
}

#[inline(always)]
fn end_data() {
    let ended_ns = now();
    let Some(took) = end_part(Call::Data, ended_ns) else { return };
    if let Some(frame) = copy_up() {
        frame.data_ns = frame.data_ns.wrapping_add(took);
    }
}

#[inline(always)]
fn end_sync() {
    let ended_ns = now();
    let Some(took) = end_part(Call::Sync, ended_ns) else { return };
    let Some(task) = current() else { return };
    let within_data = top(task).is_some_and(|frame| frame.call == Call::Data as u32);
    if let Some((_, frame)) = innermost(task, Call::CopyUp) {
        frame.n_syncs += 1;
        frame.sync_ns += took;
        if within_data {
            // What its end adds is the time with this in it.
            frame.data_ns = frame.data_ns.wrapping_sub(took);
        }
    }
}

#[inline(always)]
fn end_part(call: Call, ended_ns: u64) -> Option<u64> {
    let task = current()?;
    if task.copy_ups == 0 {
        return None;
    }
    pop(task, call).map(|frame| ended_ns.wrapping_sub(frame.start_ns))
}

#[inline(always)]
fn copy_up() -> Option<&'static mut Frame> {
    let task: &'static mut Task = current()?;
    if task.copy_ups == 0 {
        return None;
    }
    innermost(task, Call::CopyUp).map(|(_, frame)| frame)
}

// Only the results of these are of interest: bytes, or an error.
exit!(trace_clone_fexit, trace_clone_kretprobe, |returned: i64| {
    if let Some(frame) = copy_up().filter(|_| returned > 0) {
        frame.cloned += returned as u64;
    }
});
exit!(trace_copy_fexit, trace_copy_kretprobe, |returned: i64| {
    if let Some(frame) = copy_up().filter(|_| returned > 0) {
        frame.copied += returned as u64;
    }
});
exit!(trace_splice_fexit, trace_splice_kretprobe, |returned: i64| {
    if let Some(frame) = copy_up().filter(|_| returned > 0) {
        frame.spliced += returned as u64;
    }
});

// ovl_lookup(struct inode *dir, struct dentry *dentry, unsigned int flags)
entry!(trace_lookup_fentry, trace_lookup_kprobe, |arguments: &_| begin_plain(
    Call::Lookup,
    1,
    arguments
));
exit!(trace_lookup_fexit, trace_lookup_kretprobe, |returned| end_lookup::<LOOKUP>(returned));

/// What was found is known at the end only.
#[inline(always)]
pub fn end_lookup<const SLOT: u32>(returned: i64) {
    if let Some(task) = current()
        && let Some((_, frame)) = innermost(task, Call::Lookup)
    {
        let dentry = frame.object as *const u8;
        (frame.mode, frame.size) = object::mode_and_size(dentry);
    }
    task::end::<SLOT>(Call::Lookup, error_of(returned), |_| true);
}

// ovl_unlink and ovl_rmdir(struct inode *dir, struct dentry *dentry)
entry!(trace_unlink_fentry, trace_unlink_kprobe, |arguments: &_| begin_remove(1, arguments));
exit!(trace_unlink_fexit, trace_unlink_kretprobe, end_remove::<UNLINK>);
entry!(trace_rmdir_fentry, trace_rmdir_kprobe, |arguments: &_| begin_remove(1, arguments));
exit!(trace_rmdir_fexit, trace_rmdir_kretprobe, end_remove::<RMDIR>);
// ovl_rename(idmap or namespace, struct inode *olddir, struct dentry *old, ...)
entry!(trace_rename_fentry, trace_rename_kprobe, |arguments: &_| begin_remove(2, arguments));
exit!(trace_rename_fexit, trace_rename_kretprobe, end_remove::<RENAME>);
// ovl_cleanup_and_whiteout, whatever its arguments.
entry!(trace_whiteout_fentry, trace_whiteout_kprobe, |_: &_| mark(Call::Remove));
// vfs_rename(struct renamedata *rd)
entry!(trace_vfs_rename_fentry, trace_vfs_rename_kprobe, |arguments: &_| mark_renamed(arguments));

#[inline(always)]
fn begin_remove(index: usize, arguments: &impl Arguments) {
    let dentry = arguments.pointer(index);
    let Some(mut frame) = begin(Call::Remove, dentry, arguments.stack()) else { return };
    (frame.mode, frame.size) = object::mode_and_size(dentry);
    syscall::note_in(&mut frame);
    push(&frame);
}

#[inline(always)]
fn end_remove<const SLOT: u32>(returned: i64) {
    task::end::<SLOT>(Call::Remove, returned as i32, |frame| frame.notes & note::DONE != 0);
}

/// A rename that leaves a whiteout where the old name was.
#[inline(always)]
fn mark_renamed(arguments: &impl Arguments) {
    let Some(task) = current() else { return };
    if let Some((_, frame)) = innermost(task, Call::Remove)
        && read::<u32>(arguments.pointer(0), offset!(rename_flags))
            .is_some_and(|flags| flags & RENAME_WHITEOUT != 0)
    {
        frame.notes |= note::DONE;
    }
}

// ovl_dir_read_merged(struct dentry *dentry, ...), ovl_cache_get(struct dentry *)
entry!(trace_readdir_fentry, trace_readdir_kprobe, |arguments: &_| begin_plain(
    Call::Readdir,
    0,
    arguments
));
exit!(trace_readdir_fexit, trace_readdir_kretprobe, |returned| task::end::<READDIR>(
    Call::Readdir,
    error_of(returned),
    |_| true
));

/// A call about the dentry in this argument.
#[inline(always)]
pub fn begin_plain(call: Call, index: usize, arguments: &impl Arguments) {
    let Some(mut frame) = begin(call, arguments.pointer(index), arguments.stack()) else { return };
    if matches!(call, Call::Readdir) {
        (frame.mode, frame.size) = object::mode_and_size(frame.object as *const u8);
    }
    push(&frame);
}

/// A frame, if thread and file system are asked for.
#[inline(always)]
pub fn begin(call: Call, dentry: *const u8, stack: u64) -> Option<Frame> {
    if !is_wanted() {
        return None;
    }
    // A function that the compiler has changed may have other arguments.
    if !object::is_union(dentry) {
        tally(Tally::LostCalls);
        return None;
    }
    let device = object::device(dentry);
    if !is_device_wanted(device) {
        return None;
    }
    let mut frame = frame(call);
    frame.object = dentry as u64;
    frame.stack = stack;
    frame.device = device;
    frame.layer = NO_LAYER;
    frame.size = NO_SIZE;
    frame.syscall = NO_SYSCALL;
    Some(frame)
}
