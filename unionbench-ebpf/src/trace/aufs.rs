//! aufs: the same kinds. A copy-up is seen in the thread that asked for it; a
//! worker of the kernel may move the data.

use unionbench_common::trace::{Call, NO_LAYER, note};

use super::arguments::{Arguments, entry, error_of, exit};
use super::object::{self, read};
use super::overlay::{begin, begin_plain, end_lookup};
use super::task::{self, push};
use super::{offset, syscall};

const COPY_UP: u32 = 6;
const LOOKUP: u32 = 7;
const WHITEOUT: u32 = 8;
const READDIR: u32 = 9;

// au_do_sio_cpup_simple(struct au_cp_generic *cpg)
entry!(trace_aufs_copy_up_fentry, trace_aufs_copy_up_kprobe, begin_copy_up);
exit!(trace_aufs_copy_up_fexit, trace_aufs_copy_up_kretprobe, |returned| task::end::<COPY_UP>(
    Call::CopyUp,
    returned as i32,
    |_| true
));

#[inline(always)]
fn begin_copy_up(arguments: &impl Arguments) {
    let order = arguments.pointer(0);
    let Some(dentry) = read::<*const u8>(order, offset!(aufs_copy_dentry)) else { return };
    let Some(mut frame) = begin(Call::CopyUp, dentry, arguments.stack()) else { return };
    (frame.mode, frame.size) = object::mode_and_size(dentry);
    frame.layer = source(order);
    syscall::note_in(&mut frame);
    frame.notes |= note::DONE;
    push(&frame);
}

/// The index of the branch that the object comes from; the writable one is 0.
#[inline(always)]
fn source(order: *const u8) -> u32 {
    let at = offset!(aufs_copy_source);
    let index = match offset!(aufs_index_bytes) {
        1 => read::<i8>(order, at).map(i32::from),
        2 => read::<i16>(order, at).map(i32::from),
        _ => None,
    };
    index.filter(|index| *index >= 0).map_or(NO_LAYER, |index| index as u32)
}

// au_lkup_dentry(struct dentry *dentry, ...)
entry!(trace_aufs_lookup_fentry, trace_aufs_lookup_kprobe, |arguments: &_| begin_plain(
    Call::Lookup,
    0,
    arguments
));
exit!(trace_aufs_lookup_fexit, trace_aufs_lookup_kretprobe, |returned: i64| end_lookup::<LOOKUP>(
    // It gives a number of branches, or an error, as an int.
    i64::from(returned as i32)
));

// au_wh_create(struct dentry *dentry, aufs_bindex_t bindex, struct dentry *h_parent)
entry!(trace_aufs_whiteout_fentry, trace_aufs_whiteout_kprobe, begin_whiteout);
exit!(trace_aufs_whiteout_fexit, trace_aufs_whiteout_kretprobe, |returned| task::end::<WHITEOUT>(
    Call::Remove,
    error_of(returned),
    |_| true
));

#[inline(always)]
fn begin_whiteout(arguments: &impl Arguments) {
    let dentry = arguments.pointer(0);
    let Some(mut frame) = begin(Call::Remove, dentry, arguments.stack()) else { return };
    (frame.mode, frame.size) = object::mode_and_size(dentry);
    syscall::note_in(&mut frame);
    push(&frame);
}

// au_vdir_init(struct file *file)
entry!(trace_aufs_readdir_fentry, trace_aufs_readdir_kprobe, begin_readdir);
exit!(trace_aufs_readdir_fexit, trace_aufs_readdir_kretprobe, |returned: i64| {
    task::end::<READDIR>(Call::Readdir, returned as i32, |_| true)
});

#[inline(always)]
fn begin_readdir(arguments: &impl Arguments) {
    let file = arguments.pointer(0);
    let Some(dentry) = read::<*const u8>(file, offset!(file_dentry)) else { return };
    let Some(mut frame) = begin(Call::Readdir, dentry, arguments.stack()) else { return };
    (frame.mode, frame.size) = object::mode_and_size(dentry);
    push(&frame);
}
