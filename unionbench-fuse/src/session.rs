//! From FUSE requests to operations: each callback decodes, calls one
//! operation of the union, and replies. The transport is `fuser`; nothing
//! below this module but an open file's backing number knows it.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno as Code, FileAttr, FileHandle, FileType as Kind, Filesystem,
    FopenFlags, Generation, INodeNo, InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, Session, SessionACL,
    TimeOrNow, WriteFlags,
};
use rustix::fs::{FallocateFlags, FileType, OFlags, RenameFlags, SeekFrom, Stat, Timespec};
use rustix::io::Errno;

use crate::attr::Change;
use crate::counters::Counters;
use crate::create::{Make, Maker};
use crate::file::{Handle, Handles};
use crate::node::Node;
use crate::options::{DataMode, MountOptions};
use crate::readdir::Listed;
use crate::rename::End;
use crate::union::{MountError, Union};

/// Nothing but this mount changes what it shows, so the kernel may keep what
/// it was told.
const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);

/// How many names one listing step takes from the index.
const BATCH: usize = 256;

/// A mount served by threads of this process; dropping it unmounts.
#[derive(Debug)]
pub struct Mounted {
    session: BackgroundSession,
    counters: Arc<Counters>,
}

impl Mounted {
    /// What the union counts while it serves.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Unmounts and waits for the threads.
    pub fn unmount(self) -> std::io::Result<()> {
        self.session.umount_and_join()
    }
}

/// Mounts the union at `path` and serves it from threads of this process.
/// Sets the process's umask to 0, since modes come ready from the kernel.
pub fn mount(options: &MountOptions, path: &Path) -> Result<Mounted, MountError> {
    let (session, counters) = start(options, path)?;
    let session =
        session.spawn().map_err(|source| MountError::Session { path: path.into(), source })?;
    Ok(Mounted { session, counters })
}

/// Mounts the union at `path` and serves it until it is unmounted. `ready` is
/// called once the mount can be used.
pub fn serve(options: &MountOptions, path: &Path, ready: impl FnOnce()) -> Result<(), MountError> {
    let (session, _) = start(options, path)?;
    ready();
    session.run().map_err(|source| MountError::Session { path: path.into(), source })
}

fn start(options: &MountOptions, path: &Path) -> Result<(Session<Fs>, Arc<Counters>), MountError> {
    let union = Union::open(options)?;
    let counters = union.counters();
    let passthrough = options.data == DataMode::Passthrough && rustix::process::geteuid().is_root();
    rustix::process::umask(rustix::fs::Mode::empty());
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("unionbench".into()),
        MountOption::Subtype("unionbench".into()),
        MountOption::DefaultPermissions,
    ];
    if !union.writable {
        config.mount_options.push(MountOption::RO);
    }
    if rustix::process::geteuid().is_root() {
        config.mount_options.extend([MountOption::Dev, MountOption::Suid]);
    }
    if options.allow_other {
        config.acl = SessionACL::All;
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    config.n_threads = Some(if options.threads == 0 { cores.min(4) } else { options.threads });
    config.clone_fd = true;
    let fs = Fs { union, handles: Handles::new(), passthrough, no_opendir: false };
    let session = Session::new(fs, path, &config)
        .map_err(|source| MountError::Session { path: path.into(), source })?;
    Ok((session, counters))
}

#[derive(Debug)]
struct Fs {
    union: Union,
    handles: Handles,
    passthrough: bool,
    no_opendir: bool,
}

fn code(e: Errno) -> Code {
    Code::from_i32(e.raw_os_error())
}

fn kind_of(kind: FileType) -> Kind {
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

fn time(sec: i64, nsec: u64) -> SystemTime {
    let whole = Duration::from_secs(sec.unsigned_abs());
    let base = if sec < 0 { UNIX_EPOCH - whole } else { UNIX_EPOCH + whole };
    base + Duration::from_nanos(nsec)
}

fn timespec(time: TimeOrNow) -> Timespec {
    let TimeOrNow::SpecificTime(time) = time else {
        return Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
    };
    match time.duration_since(UNIX_EPOCH) {
        Ok(d) => Timespec { tv_sec: d.as_secs() as i64, tv_nsec: i64::from(d.subsec_nanos()) },
        Err(before) => {
            let d = before.duration();
            let nsec = i64::from(d.subsec_nanos());
            let borrow = i64::from(nsec > 0);
            Timespec {
                tv_sec: -(d.as_secs() as i64) - borrow,
                tv_nsec: (1_000_000_000 - nsec) % 1_000_000_000,
            }
        }
    }
}

fn attr(stat: &Stat) -> FileAttr {
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
fn nothing() -> FileAttr {
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

fn encode_device(device: u64) -> u32 {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

fn decode_device(device: u32) -> u64 {
    rustix::fs::makedev((device & 0xfff00) >> 8, (device & 0xff) | ((device >> 12) & 0xfff00))
}

impl Fs {
    fn reply_entry(&self, found: Result<(Arc<Node>, Stat), Errno>, reply: ReplyEntry) {
        match found {
            Ok((node, stat)) => {
                self.union.nodes.hold(&node);
                reply.entry(&FOREVER, &attr(&stat), Generation(node.generation));
            }
            // Number 0 tells the kernel to remember that the name is absent.
            Err(Errno::NOENT) => {
                reply.entry(&FOREVER, &nothing(), Generation(0));
            }
            Err(e) => reply.error(code(e)),
        }
    }

    fn make(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        what: Make<'_>,
        mode: u32,
        reply: ReplyEntry,
    ) {
        let maker = Maker { uid: req.uid(), gid: req.gid(), mode };
        let made = self.union.node(parent.0).and_then(|p| self.union.make(&p, name, what, maker));
        match made {
            Ok((node, stat, _)) => self.reply_entry(Ok((node, stat)), reply),
            Err(e) => reply.error(code(e)),
        }
    }

    /// The file behind a handle.
    fn fd(&self, fh: FileHandle) -> Result<Arc<std::os::fd::OwnedFd>, Errno> {
        self.handles.get(fh.0)?.fd(&self.union)
    }

    /// The kernel's own way to the data, if this node may use it now: all open
    /// handles of an inode must agree on it, and share one backing file.
    fn backing(
        &self,
        handle: &Handle,
        register: impl FnOnce(&std::os::fd::OwnedFd) -> std::io::Result<fuser::BackingId>,
    ) -> Option<Arc<fuser::BackingId>> {
        if !self.passthrough {
            return None;
        }
        let node = &handle.node;
        let upper = node.in_upper();
        if self.union.writable && !upper {
            return None;
        }
        let mut way = node.way.lock();
        if let Some(known) = way.backing.upgrade() {
            return Some(known);
        }
        if way.cached > 0 || node.state.lock().metacopy {
            return None;
        }
        let flags = if self.union.writable { OFlags::RDWR } else { OFlags::RDONLY };
        let _tree = self.union.shared();
        let fd = self.union.spot(node).ok()?.at(&self.union).open(flags).ok()?;
        let id = Arc::new(register(&fd).ok()?);
        way.backing = Arc::downgrade(&id);
        Some(id)
    }

    fn close(&self, fh: u64) {
        if let Ok(handle) = self.handles.get(fh)
            && handle.backing.is_none()
        {
            let mut way = handle.node.way.lock();
            way.cached = way.cached.saturating_sub(1);
        }
        self.handles.remove(fh);
    }
}

/// Replies with nothing, or with the errno.
fn reply_empty(done: Result<(), Errno>, reply: ReplyEmpty) {
    match done {
        Ok(()) => reply.ok(),
        Err(e) => reply.error(code(e)),
    }
}

/// Replies with an attribute's value or its length, as asked.
fn reply_xattr(value: Result<Vec<u8>, Errno>, size: u32, reply: ReplyXattr) {
    match value {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(code(Errno::RANGE)),
        Ok(value) => reply.data(&value),
        Err(e) => reply.error(code(e)),
    }
}

impl Filesystem for Fs {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let wanted = [
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_ASYNC_DIO,
        ];
        for flag in wanted {
            // An older kernel without one of these is only slower.
            let _ = config.add_capabilities(flag);
        }
        self.no_opendir = config.add_capabilities(InitFlags::FUSE_NO_OPENDIR_SUPPORT).is_ok();
        self.passthrough = self.passthrough
            && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
            && config.set_max_stack_depth(1).is_ok();
        let _ = config.set_max_write(1 << 20);
        let _ = config.set_max_background(64);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let _tree = self.union.shared();
        let found = self.union.node(parent.0).and_then(|p| self.union.lookup(&p, name));
        self.reply_entry(found, reply);
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.union.nodes.forget(ino.0, nlookup);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let _tree = self.union.shared();
        match self.union.node(ino.0).and_then(|n| self.union.stat(&n)) {
            Ok(stat) => reply.attr(&FOREVER, &attr(&stat)),
            Err(e) => reply.error(code(e)),
        }
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let change =
            Change { mode, uid, gid, size, atime: atime.map(timespec), mtime: mtime.map(timespec) };
        match self.union.node(ino.0).and_then(|n| self.union.change(&n, &change)) {
            Ok(stat) => reply.attr(&FOREVER, &attr(&stat)),
            Err(e) => reply.error(code(e)),
        }
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        match self.union.node(ino.0).and_then(|n| self.union.read_link(&n)) {
            Ok(target) => reply.data(&target),
            Err(e) => reply.error(code(e)),
        }
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let what = match FileType::from_raw_mode(mode) {
            FileType::RegularFile => Make::File,
            kind => Make::Special(kind, decode_device(rdev)),
        };
        self.make(req, parent, name, what, mode & !umask, reply);
    }

    fn mkdir(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        self.make(req, parent, name, Make::Directory, mode & !umask, reply);
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        self.make(req, parent, name, Make::Symlink(target), 0o777, reply);
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let done = self.union.node(parent.0).and_then(|p| self.union.unlink(&p, name));
        reply_empty(done, reply);
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let done = self.union.node(parent.0).and_then(|p| self.union.rmdir(&p, name));
        reply_empty(done, reply);
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: fuser::RenameFlags,
        reply: ReplyEmpty,
    ) {
        let renamed = || {
            let (old, new) = (self.union.node(parent.0)?, self.union.node(newparent.0)?);
            let flags = RenameFlags::from_bits_retain(flags.bits());
            self.union.rename(
                End { parent: &old, name },
                End { parent: &new, name: newname },
                flags,
            )
        };
        reply_empty(renamed(), reply);
    }

    fn link(
        &self,
        _req: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        let linked = || {
            let (node, parent) = (self.union.node(ino.0)?, self.union.node(newparent.0)?);
            let stat = self.union.link(&node, &parent, newname)?;
            Ok((node, stat))
        };
        match linked() {
            Err(e) => reply.error(code(e)),
            found => self.reply_entry(found, reply),
        }
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let opened = self.union.node(ino.0).and_then(|n| {
            let (flags, fd) = self.union.open_file(&n, flags.0)?;
            Ok(Handle::new(n, flags, fd))
        });
        let mut handle = match opened {
            Ok(handle) => handle,
            Err(e) => return reply.error(code(e)),
        };
        handle.backing = self.backing(&handle, |fd| reply.open_backing(fd));
        match handle.backing.clone() {
            Some(id) => reply.opened_passthrough(
                FileHandle(self.handles.add(handle)),
                FopenFlags::empty(),
                &id,
            ),
            None => {
                handle.node.way.lock().cached += 1;
                reply.opened(FileHandle(self.handles.add(handle)), FopenFlags::FOPEN_KEEP_CACHE);
            }
        }
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let maker = Maker { uid: req.uid(), gid: req.gid(), mode: mode & !umask };
        let made =
            self.union.node(parent.0).and_then(|p| self.union.make(&p, name, Make::File, maker));
        let (node, stat, fd) = match made {
            Ok((node, stat, Some(fd))) => (node, stat, fd),
            Ok(_) => return reply.error(code(Errno::IO)),
            Err(e) => return reply.error(code(e)),
        };
        self.union.nodes.hold(&node);
        let generation = Generation(node.generation);
        let mut handle = Handle::new(node, OFlags::RDWR, fd);
        handle.backing = self.backing(&handle, |fd| reply.open_backing(fd));
        match handle.backing.clone() {
            Some(id) => {
                let fh = FileHandle(self.handles.add(handle));
                reply.created_passthrough(
                    &FOREVER,
                    &attr(&stat),
                    generation,
                    fh,
                    FopenFlags::empty(),
                    &id,
                );
            }
            None => {
                handle.node.way.lock().cached += 1;
                let fh = FileHandle(self.handles.add(handle));
                reply.created(&FOREVER, &attr(&stat), generation, fh, FopenFlags::FOPEN_KEEP_CACHE);
            }
        }
    }

    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = || {
            let fd = self.fd(fh)?;
            let mut buf = Vec::with_capacity(size as usize);
            rustix::io::pread(&*fd, rustix::buffer::spare_capacity(&mut buf), offset)?;
            Ok(buf)
        };
        match read() {
            Ok(data) => reply.data(&data),
            Err(e) => reply.error(code(e)),
        }
    }

    fn write(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write: WriteFlags,
        _flags: OpenFlags,
        _lock: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.fd(fh).and_then(|fd| rustix::io::pwrite(&*fd, data, offset)) {
            Ok(n) => reply.written(n as u32),
            Err(e) => reply.error(code(e)),
        }
    }

    fn flush(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock: LockOwner,
        reply: ReplyEmpty,
    ) {
        // Writes are not held back, so the kernel need not ask again.
        reply.error(code(Errno::NOSYS));
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.close(fh.0);
        reply.ok();
    }

    fn fsync(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        let synced = self.fd(fh).and_then(|fd| {
            if datasync { rustix::fs::fdatasync(&*fd) } else { rustix::fs::fsync(&*fd) }
        });
        reply_empty(synced, reply);
    }

    fn opendir(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        if self.no_opendir {
            // The kernel then opens directories without asking, and keeps
            // their listings.
            return reply.error(code(Errno::NOSYS));
        }
        reply.opened(FileHandle(0), FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn readdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let mut fill = || {
            let dir = self.union.node(ino.0)?;
            let mut at = offset;
            loop {
                let batch = self.union.list(&dir, at, BATCH)?;
                let Some(last) = batch.last() else { return Ok(()) };
                at = last.next;
                for item in &batch {
                    let Ok(ino) = self.union.listed_ino(&dir, item) else { continue };
                    if reply.add(INodeNo(ino), item.next, kind_of(item.kind), &item.name) {
                        return Ok(());
                    }
                }
            }
        };
        match fill() {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(code(e)),
        }
    }

    fn readdirplus(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let mut fill = || {
            let dir = self.union.node(ino.0)?;
            let mut at = offset;
            loop {
                let batch = self.union.list(&dir, at, BATCH)?;
                let Some(last) = batch.last() else { return Ok(()) };
                at = last.next;
                for item in &batch {
                    if self.add_plus(&dir, item, &mut reply) {
                        return Ok(());
                    }
                }
            }
        };
        match fill() {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(code(e)),
        }
    }

    fn fsyncdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        reply_empty(self.union.node(ino.0).and_then(|n| self.union.sync_dir(&n)), reply);
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        match rustix::fs::fstatvfs(self.union.layers[0].root()) {
            Ok(s) => reply.statfs(
                s.f_blocks,
                s.f_bfree,
                s.f_bavail,
                s.f_files,
                s.f_ffree,
                s.f_bsize as u32,
                s.f_namemax as u32,
                s.f_frsize as u32,
            ),
            Err(e) => reply.error(code(e)),
        }
    }

    fn setxattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        reply_empty(
            self.union.node(ino.0).and_then(|n| self.union.set_xattr(&n, name, value, flags)),
            reply,
        );
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        reply_xattr(
            self.union.node(ino.0).and_then(|n| self.union.get_xattr(&n, name)),
            size,
            reply,
        );
    }

    fn listxattr(&self, _req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        reply_xattr(self.union.node(ino.0).and_then(|n| self.union.list_xattr(&n)), size, reply);
    }

    fn removexattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty(self.union.node(ino.0).and_then(|n| self.union.remove_xattr(&n, name)), reply);
    }

    fn fallocate(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let flags = FallocateFlags::from_bits_retain(mode as u32);
        reply_empty(
            self.fd(fh).and_then(|fd| rustix::fs::fallocate(&*fd, flags, offset, length)),
            reply,
        );
    }

    fn lseek(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let to = match whence {
            libc::SEEK_DATA => SeekFrom::Data(offset as u64),
            libc::SEEK_HOLE => SeekFrom::Hole(offset as u64),
            _ => return reply.error(code(Errno::INVAL)),
        };
        match self.fd(fh).and_then(|fd| rustix::fs::seek(&*fd, to)) {
            Ok(at) => reply.offset(at as i64),
            Err(e) => reply.error(code(e)),
        }
    }

    fn copy_file_range(
        &self,
        _req: &Request,
        _ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        _ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: fuser::CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let copy = || {
            let (from, to) = (self.fd(fh_in)?, self.fd(fh_out)?);
            let (mut source, mut target) = (offset_in, offset_out);
            // The reply counts in 32 bits.
            let len = len.min(1 << 30) as usize;
            rustix::fs::copy_file_range(&*from, Some(&mut source), &*to, Some(&mut target), len)
        };
        match copy() {
            Ok(n) => reply.written(n as u32),
            Err(e) => reply.error(code(e)),
        }
    }
}

impl Fs {
    /// Adds a name with its attributes; true if the reply is full. Each name
    /// added is one more reference that the kernel holds.
    fn add_plus(&self, dir: &Arc<Node>, item: &Listed, reply: &mut ReplyDirectoryPlus) -> bool {
        if item.next < 3 {
            let ino = INodeNo(item.ino);
            let dot = FileAttr { kind: Kind::Directory, ..nothing() };
            return reply.add(ino, item.next, &item.name, &Duration::ZERO, &dot, Generation(0));
        }
        let _tree = self.union.shared();
        // A name that went away since the batch was taken is left out.
        let Ok((node, stat)) = self.union.child(dir, &item.name, item.kind, item.layer, &item.dirs)
        else {
            return false;
        };
        let generation = Generation(node.generation);
        let full =
            reply.add(INodeNo(node.ino), item.next, &item.name, &FOREVER, &attr(&stat), generation);
        if !full {
            self.union.nodes.hold(&node);
        }
        full
    }
}
