//! What made an object be copied up, from the system call that its thread was
//! in.

use unionbench_common::trace::{Head, NO_SYSCALL, note};

use super::event::{Object, Trigger};

const O_CREAT: u32 = libc::O_CREAT.cast_unsigned();
const O_TRUNC: u32 = libc::O_TRUNC.cast_unsigned();

/// The trigger; absent if the system call is not known. An object that is not
/// the one which the call is about leads to it.
pub fn of(head: &Head, object: Option<Object>) -> Option<Trigger> {
    if head.notes & note::TARGET_KNOWN != 0 && head.notes & note::TARGET == 0 {
        return Some(Trigger::Parent);
    }
    let trigger = of_call(head.syscall, head.flags, head.notes & note::FLAGS != 0, object)?;
    // Where the target is not known, a directory on the way to a file that is
    // opened can still be told from one that was asked for.
    let opened = matches!(trigger, Trigger::OpenWrite | Trigger::OpenTruncate | Trigger::Truncate);
    if opened && object == Some(Object::Directory) {
        return Some(Trigger::Parent);
    }
    Some(trigger)
}

fn of_call(number: u32, flags: u32, has_flags: bool, object: Option<Object>) -> Option<Trigger> {
    if number == NO_SYSCALL {
        return None;
    }
    let number = libc::c_long::from(number);
    if matches!(number, libc::SYS_openat | libc::SYS_openat2) || is_old_open(number) {
        if !has_flags {
            return None;
        }
        // A directory is never opened for writing: something is made in it.
        return Some(match object {
            Some(Object::Directory) if flags & O_CREAT != 0 => Trigger::Create,
            _ if flags & O_TRUNC != 0 => Trigger::OpenTruncate,
            _ => Trigger::OpenWrite,
        });
    }
    Some(named(number).or_else(|| old(number)).unwrap_or(Trigger::Other))
}

fn named(number: libc::c_long) -> Option<Trigger> {
    // Calls newer than the headers have one number on every architecture.
    const SETXATTRAT: libc::c_long = 463;
    const REMOVEXATTRAT: libc::c_long = 466;
    const FILE_SETATTR: libc::c_long = 469;
    Some(match number {
        libc::SYS_truncate | libc::SYS_ftruncate => Trigger::Truncate,
        libc::SYS_fchmod | libc::SYS_fchmodat | libc::SYS_fchmodat2 => Trigger::Chmod,
        libc::SYS_fchown | libc::SYS_fchownat => Trigger::Chown,
        libc::SYS_utimensat => Trigger::Utimes,
        libc::SYS_setxattr | libc::SYS_lsetxattr | libc::SYS_fsetxattr | SETXATTRAT => {
            Trigger::Setxattr
        }
        libc::SYS_removexattr | libc::SYS_lremovexattr | libc::SYS_fremovexattr | REMOVEXATTRAT => {
            Trigger::Removexattr
        }
        // aufs waits for the first write through a file that was opened for it.
        libc::SYS_write
        | libc::SYS_writev
        | libc::SYS_pwrite64
        | libc::SYS_pwritev
        | libc::SYS_pwritev2
        | libc::SYS_sendfile
        | libc::SYS_splice
        | libc::SYS_copy_file_range
        | libc::SYS_fallocate
        | libc::SYS_mmap => Trigger::OpenWrite,
        libc::SYS_linkat => Trigger::Link,
        libc::SYS_renameat | libc::SYS_renameat2 => Trigger::Rename,
        libc::SYS_unlinkat => Trigger::Unlink,
        libc::SYS_mkdirat => Trigger::Mkdir,
        libc::SYS_mknodat | libc::SYS_symlinkat | libc::SYS_bind => Trigger::Create,
        FILE_SETATTR => Trigger::Other,
        _ => return None,
    })
}

/// Calls that only x86-64 still has beside those with `at`.
#[cfg(target_arch = "x86_64")]
fn old(number: libc::c_long) -> Option<Trigger> {
    Some(match number {
        libc::SYS_chmod => Trigger::Chmod,
        libc::SYS_chown | libc::SYS_lchown => Trigger::Chown,
        libc::SYS_utime | libc::SYS_utimes | libc::SYS_futimesat => Trigger::Utimes,
        libc::SYS_link => Trigger::Link,
        libc::SYS_rename => Trigger::Rename,
        libc::SYS_unlink | libc::SYS_rmdir => Trigger::Unlink,
        libc::SYS_mkdir => Trigger::Mkdir,
        libc::SYS_mknod | libc::SYS_symlink => Trigger::Create,
        _ => return None,
    })
}

#[cfg(not(target_arch = "x86_64"))]
fn old(_: libc::c_long) -> Option<Trigger> {
    None
}

#[cfg(target_arch = "x86_64")]
fn is_old_open(number: libc::c_long) -> bool {
    matches!(number, libc::SYS_open | libc::SYS_creat)
}

#[cfg(not(target_arch = "x86_64"))]
fn is_old_open(_: libc::c_long) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(
        number: libc::c_long,
        flags: Option<libc::c_int>,
        notes: u32,
        object: Object,
        expected: Option<Trigger>,
    ) {
        let has_flags = if flags.is_some() { note::FLAGS } else { 0 };
        let head = Head {
            syscall: u32::try_from(number).expect("a number of a system call"),
            flags: flags.unwrap_or(0).cast_unsigned(),
            notes: notes | has_flags,
            ..Head::EMPTY
        };
        assert_eq!(of(&head, Some(object)), expected, "call {number}, flags {flags:?}");
    }

    const ASKED: u32 = note::TARGET_KNOWN | note::TARGET;
    const ON_THE_WAY: u32 = note::TARGET_KNOWN;

    #[test]
    fn an_open_is_told_by_its_flags() {
        use Object::{Directory, File};
        let write = Some(libc::O_WRONLY);
        let truncate = Some(libc::O_WRONLY | libc::O_TRUNC | libc::O_CREAT);
        let create = Some(libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL);
        check(libc::SYS_openat, write, ASKED, File, Some(Trigger::OpenWrite));
        check(libc::SYS_openat2, truncate, ASKED, File, Some(Trigger::OpenTruncate));
        check(libc::SYS_openat, create, ASKED, Directory, Some(Trigger::Create));
        check(libc::SYS_openat, write, ON_THE_WAY, Directory, Some(Trigger::Parent));
        // The flags lay in memory that could not be read.
        check(libc::SYS_openat2, None, ASKED, File, None);
    }

    #[test]
    fn other_calls_are_told_by_their_names() {
        use Object::{Directory, File};
        for (number, expected) in [
            (libc::SYS_fchmodat, Trigger::Chmod),
            (libc::SYS_fchownat, Trigger::Chown),
            (libc::SYS_utimensat, Trigger::Utimes),
            (libc::SYS_lsetxattr, Trigger::Setxattr),
            (libc::SYS_fremovexattr, Trigger::Removexattr),
            (libc::SYS_linkat, Trigger::Link),
            (libc::SYS_renameat2, Trigger::Rename),
            (libc::SYS_truncate, Trigger::Truncate),
            (libc::SYS_pwrite64, Trigger::OpenWrite),
            (libc::SYS_ioctl, Trigger::Other),
        ] {
            check(number, None, ASKED, File, Some(expected));
        }
        check(libc::SYS_unlinkat, None, ASKED, Directory, Some(Trigger::Unlink));
        check(libc::SYS_mkdirat, None, ASKED, Directory, Some(Trigger::Mkdir));
        check(libc::SYS_fchownat, None, ON_THE_WAY, Directory, Some(Trigger::Parent));
    }

    #[test]
    fn a_directory_above_an_opened_file_is_told_without_the_target() {
        let write = Some(libc::O_RDWR);
        check(libc::SYS_openat, write, 0, Object::Directory, Some(Trigger::Parent));
        check(libc::SYS_openat, write, 0, Object::File, Some(Trigger::OpenWrite));
    }

    #[test]
    fn without_a_system_call_nothing_is_told() {
        let head = Head { syscall: NO_SYSCALL, notes: ASKED, ..Head::EMPTY };
        assert_eq!(of(&head, Some(Object::File)), None);
    }
}
