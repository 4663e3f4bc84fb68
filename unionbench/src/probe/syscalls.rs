//! The system calls that have a histogram of their own. All are counted.

/// Number and name of each, at most `SYSCALL_SLOTS` of them. Numbers of
/// calls newer than the headers are the same on every architecture.
pub(super) fn timed() -> Vec<(u32, &'static str)> {
    let mut calls = Vec::new();
    macro_rules! add {
        ($($name:ident = $number:expr),* $(,)?) => {
            $(calls.push(($number as u32, stringify!($name)));)*
        };
    }
    add!(
        openat = libc::SYS_openat,
        openat2 = libc::SYS_openat2,
        close = libc::SYS_close,
        read = libc::SYS_read,
        write = libc::SYS_write,
        pread64 = libc::SYS_pread64,
        pwrite64 = libc::SYS_pwrite64,
        newfstatat = libc::SYS_newfstatat,
        fstat = libc::SYS_fstat,
        statx = libc::SYS_statx,
        faccessat = libc::SYS_faccessat,
        faccessat2 = libc::SYS_faccessat2,
        readlinkat = libc::SYS_readlinkat,
        getdents64 = libc::SYS_getdents64,
        lseek = libc::SYS_lseek,
        mkdirat = libc::SYS_mkdirat,
        mknodat = libc::SYS_mknodat,
        unlinkat = libc::SYS_unlinkat,
        linkat = libc::SYS_linkat,
        symlinkat = libc::SYS_symlinkat,
        renameat2 = libc::SYS_renameat2,
        fchmod = libc::SYS_fchmod,
        fchmodat = libc::SYS_fchmodat,
        fchmodat2 = libc::SYS_fchmodat2,
        fchown = libc::SYS_fchown,
        fchownat = libc::SYS_fchownat,
        truncate = libc::SYS_truncate,
        ftruncate = libc::SYS_ftruncate,
        fallocate = libc::SYS_fallocate,
        utimensat = libc::SYS_utimensat,
        setxattr = libc::SYS_setxattr,
        lsetxattr = libc::SYS_lsetxattr,
        fsetxattr = libc::SYS_fsetxattr,
        getxattr = libc::SYS_getxattr,
        lgetxattr = libc::SYS_lgetxattr,
        fsync = libc::SYS_fsync,
        fdatasync = libc::SYS_fdatasync,
        syncfs = libc::SYS_syncfs,
        copy_file_range = libc::SYS_copy_file_range,
        sendfile = libc::SYS_sendfile,
        mmap = libc::SYS_mmap,
        msync = libc::SYS_msync,
        futex = libc::SYS_futex,
    );
    #[cfg(target_arch = "x86_64")]
    add!(
        open = libc::SYS_open,
        stat = libc::SYS_stat,
        lstat = libc::SYS_lstat,
        access = libc::SYS_access,
        readlink = libc::SYS_readlink,
        mkdir = libc::SYS_mkdir,
        rmdir = libc::SYS_rmdir,
        unlink = libc::SYS_unlink,
        link = libc::SYS_link,
        symlink = libc::SYS_symlink,
        rename = libc::SYS_rename,
        renameat = libc::SYS_renameat,
        chmod = libc::SYS_chmod,
        chown = libc::SYS_chown,
        lchown = libc::SYS_lchown,
    );
    calls
}

/// The name of a system call; its number for one without a histogram.
pub(super) fn name(number: u32) -> String {
    timed()
        .into_iter()
        .find(|(known, _)| *known == number)
        .map_or_else(|| number.to_string(), |(_, name)| name.to_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use unionbench_common::op::{SYSCALL_NUMBERS, SYSCALL_SLOTS};

    use super::*;

    #[test]
    fn every_timed_call_has_room_and_a_number_of_its_own() {
        let calls = timed();
        assert!(calls.len() <= SYSCALL_SLOTS as usize);
        let numbers: BTreeSet<_> = calls.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers.len(), calls.len());
        assert!(numbers.iter().all(|number| *number < SYSCALL_NUMBERS));
    }
}
