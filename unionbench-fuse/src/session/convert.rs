//! Between the protocol's values and the system calls'.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{Errno as Code, FileAttr, FileType as Kind, INodeNo, TimeOrNow};
use rustix::fs::{FileType, Stat, Timespec};
use rustix::io::Errno;

pub(super) fn code(e: Errno) -> Code {
    Code::from_i32(e.raw_os_error())
}

pub(super) fn kind_of(kind: FileType) -> Kind {
    match kind {
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::NamedPipe,
        FileType::CharacterDevice => Kind::CharDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        FileType::Socket => Kind::Socket,
        _ => Kind::RegularFile,
    }
}

pub(super) fn time(sec: i64, nsec: u64) -> SystemTime {
    let whole = Duration::from_secs(sec.unsigned_abs());
    let base = if sec < 0 { UNIX_EPOCH - whole } else { UNIX_EPOCH + whole };
    base + Duration::from_nanos(nsec)
}

pub(super) fn timespec(time: TimeOrNow) -> Timespec {
    let TimeOrNow::SpecificTime(time) = time else {
        return Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
    };
    match time.duration_since(UNIX_EPOCH) {
        Ok(d) => Timespec { tv_sec: d.as_secs() as i64, tv_nsec: i64::from(d.subsec_nanos()) },
        // fuser 0.18 takes nanoseconds from a time before 1970 instead of adding
        // them, so this is what the kernel said.
        Err(before) => {
            let d = before.duration();
            Timespec { tv_sec: -(d.as_secs() as i64), tv_nsec: i64::from(d.subsec_nanos()) }
        }
    }
}

pub(super) fn attr(stat: &Stat) -> FileAttr {
    FileAttr {
        ino: INodeNo(stat.st_ino),
        size: stat.st_size as u64,
        blocks: stat.st_blocks as u64,
        atime: time(stat.st_atime, stat.st_atime_nsec),
        mtime: time(stat.st_mtime, stat.st_mtime_nsec),
        ctime: time(stat.st_ctime, stat.st_ctime_nsec),
        crtime: UNIX_EPOCH,
        kind: kind_of(FileType::from_raw_mode(stat.st_mode)),
        perm: (stat.st_mode & 0o7777) as u16,
        nlink: stat.st_nlink as u32,
        uid: stat.st_uid,
        gid: stat.st_gid,
        // The protocol carries the kernel's 12+20 bit device encoding.
        rdev: encode_device(stat.st_rdev),
        blksize: stat.st_blksize as u32,
        flags: 0,
    }
}

/// The attributes of what is not there.
pub(super) fn nothing() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: Kind::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

pub(super) fn encode_device(device: u64) -> u32 {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

pub(super) fn decode_device(device: u32) -> u64 {
    rustix::fs::makedev((device & 0xfff00) >> 8, (device & 0xff) | ((device >> 12) & 0xfff00))
}
