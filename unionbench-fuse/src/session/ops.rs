//! One callback for each request. They are all one implementation of the
//! transport's trait, which is why the file is long.

use std::ffi::OsStr;
use std::path::Path;
use std::time::SystemTime;

use fuser::{
    FileHandle, Filesystem, FopenFlags, Generation, INodeNo, KernelConfig, LockOwner, OpenFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::{FallocateFlags, FileType, OFlags, RenameFlags, SeekFrom};
use rustix::io::Errno;

use super::convert::{attr, code, decode_device, kind_of, timespec};
use super::serving::{
    BATCH, FOREVER, Fs, cached_file, is_in_group, maker, reply_empty, reply_xattr, sees_trusted,
    unknown,
};
use crate::attr::Change;
use crate::counters::Counters;
use crate::create::Make;
use crate::handle::Handle;
use crate::rename::End;

impl Filesystem for Fs {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        self.agree(config);
        Ok(())
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let _turn = self.turns.take(req);
        let _tree = self.union.shared();
        let found = self.union.node(parent.0).and_then(|p| self.union.lookup(&p, name));
        self.delay();
        self.reply_entry(found, reply);
    }

    fn forget(&self, req: &Request, ino: INodeNo, nlookup: u64) {
        let _turn = self.turns.take(req);
        self.union.nodes.forget(ino.0, nlookup);
        if self.union.no_open() && self.union.nodes.get(ino.0).is_none_or(|n| !n.is_known()) {
            self.handles.forget(ino.0);
            self.union.nodes.forget(ino.0, 0);
        }
    }

    fn getattr(&self, req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let _turn = self.turns.take(req);
        let _tree = self.union.shared();
        match self.union.node(ino.0).and_then(|n| self.union.stat(&n)) {
            Ok(stat) => reply.attr(&FOREVER, &attr(&stat)),
            Err(e) => reply.error(code(e)),
        }
    }

    fn setattr(
        &self,
        req: &Request,
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
        let _turn = self.turns.take(req);
        let _change = self.changes.begin();
        let change =
            Change { mode, uid, gid, size, atime: atime.map(timespec), mtime: mtime.map(timespec) };
        let changed = self.union.node(ino.0).and_then(|n| {
            let stat = self.union.change(&n, &change)?;
            if size.is_some() && self.drop_privileges(req, &n)? {
                let _tree = self.union.shared();
                return self.union.stat(&n);
            }
            Ok(stat)
        });
        match changed {
            Ok(stat) => reply.attr(&FOREVER, &attr(&stat)),
            Err(e) => reply.error(code(e)),
        }
    }

    fn readlink(&self, req: &Request, ino: INodeNo, reply: ReplyData) {
        let _turn = self.turns.take(req);
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
        let _turn = self.turns.take(req);
        let _change = self.changes.begin();
        let what = match FileType::from_raw_mode(mode) {
            FileType::RegularFile => Make::File,
            kind => Make::Special(kind, decode_device(rdev)),
        };
        self.make(parent, name, what, maker(req, mode, umask), reply);
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
        let _turn = self.turns.take(req);
        let _change = self.changes.begin();
        self.make(parent, name, Make::Directory, maker(req, mode, umask), reply);
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let _turn = self.turns.take(req);
        let _change = self.changes.begin();
        self.make(parent, name, Make::Symlink(target), maker(req, 0o777, 0), reply);
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let _turn = self.turns.take(req);
        let _change = self.changes.begin();
        let done = self.union.node(parent.0).and_then(|p| self.union.unlink(&p, name));
        reply_empty(done, reply);
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let _turn = self.turns.take(req);
        let _change = self.changes.begin();
        let done = self.union.node(parent.0).and_then(|p| self.union.rmdir(&p, name));
        reply_empty(done, reply);
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: fuser::RenameFlags,
        reply: ReplyEmpty,
    ) {
        let _turn = self.turns.take(req);
        let _change = self.changes.begin();
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
        req: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        let _turn = self.turns.take(req);
        let _change = self.changes.begin();
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

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let _turn = self.turns.take(req);
        if self.without_opens {
            return reply.error(code(Errno::NOSYS));
        }
        let flags = OFlags::from_bits_retain(flags.0 as u32);
        let changes = flags.intersects(OFlags::ACCMODE | OFlags::TRUNC);
        let _change = changes.then(|| self.changes.begin());
        let opened = self.union.node(ino.0).and_then(|n| {
            let (access, fd) = self.union.open_file(&n, flags)?;
            if flags.contains(OFlags::TRUNC) {
                self.drop_privileges(req, &n)?;
            }
            Ok(Handle::new(n, access, fd))
        });
        let mut handle = match opened {
            Ok(handle) => handle,
            Err(e) => return reply.error(code(e)),
        };
        handle.backing = self.backing(&handle, |fd| reply.open_backing(fd));
        let backing = handle.backing.clone();
        let fh = FileHandle(self.handles.add(handle));
        match backing {
            Some(id) => reply.opened_passthrough(fh, FopenFlags::empty(), &id),
            None => reply.opened(fh, cached_file()),
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
        let _turn = self.turns.take(req);
        let _change = self.changes.begin();
        if self.without_opens {
            // The kernel then makes a file and uses it without an open, which
            // also spares the release.
            return reply.error(code(Errno::NOSYS));
        }
        let maker = maker(req, mode, umask);
        let made =
            self.union.node(parent.0).and_then(|p| self.union.make(&p, name, Make::File, maker));
        let (node, stat, fd) = match made {
            Ok((node, stat, Some(fd))) => (node, stat, fd),
            Ok(_) => return reply.error(code(Errno::IO)),
            Err(e) => return reply.error(code(e)),
        };
        self.union.nodes.hold(&node);
        let (generation, attr) = (Generation(node.generation.into()), attr(&stat));
        let mut handle = Handle::new(node, OFlags::RDWR, fd);
        handle.backing = self.backing(&handle, |fd| reply.open_backing(fd));
        let backing = handle.backing.clone();
        let fh = FileHandle(self.handles.add(handle));
        match backing {
            Some(id) => {
                let none = FopenFlags::empty();
                reply.created_passthrough(&FOREVER, &attr, generation, fh, none, &id);
            }
            None => reply.created(&FOREVER, &attr, generation, fh, cached_file()),
        }
    }

    fn read(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let _turn = self.turns.take(req);
        let read = || {
            let fd = self.fd(ino, fh, false)?;
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
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write: WriteFlags,
        _flags: OpenFlags,
        _lock: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let _turn = self.turns.take(req);
        let _change = self.changes.begin();
        let written = self.fd(ino, fh, true).and_then(|fd| {
            if write.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID) {
                let node = self.union.node(ino.0)?;
                self.union.drop_privileges(&node, |group| is_in_group(req, group))?;
            }
            rustix::io::pwrite(&*fd, data, offset)
        });
        match written {
            Ok(n) => reply.written(n as u32),
            Err(e) => reply.error(code(e)),
        }
    }

    fn flush(
        &self,
        req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock: LockOwner,
        reply: ReplyEmpty,
    ) {
        let _turn = self.turns.take(req);
        // Writes are not held back, so the kernel need not ask again.
        reply.error(code(Errno::NOSYS));
    }

    fn release(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let _turn = self.turns.take(req);
        self.handles.remove(fh.0);
        reply.ok();
    }

    fn fsync(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        let _turn = self.turns.take(req);
        Counters::add(&self.union.counters.fsyncs, 1);
        let synced = self.fd(ino, fh, false).and_then(|fd| {
            if datasync { rustix::fs::fdatasync(&*fd) } else { rustix::fs::fsync(&*fd) }
        });
        reply_empty(synced, reply);
    }

    fn opendir(&self, req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let _turn = self.turns.take(req);
        if self.no_opendir {
            // The kernel then opens directories without asking, and keeps
            // their listings.
            return reply.error(code(Errno::NOSYS));
        }
        reply.opened(FileHandle(0), FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn readdir(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let _turn = self.turns.take(req);
        let mut fill = || {
            let dir = self.union.node(ino.0)?;
            let mut at = offset;
            loop {
                let batch = self.union.list(&dir, at, BATCH)?;
                let Some(last) = batch.last() else { return Ok(()) };
                at = last.next;
                for item in &batch {
                    let ino = match self.union.listed_ino(&dir, item) {
                        Err(Errno::NOENT | Errno::STALE) => continue,
                        ino => ino.unwrap_or_else(|_| unknown(item)),
                    };
                    if reply.add(INodeNo(ino), item.next, kind_of(item.found.kind), &item.name) {
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
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let _turn = self.turns.take(req);
        let filled = self.union.node(ino.0).and_then(|d| self.fill_plus(&d, offset, &mut reply));
        match filled {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(code(e)),
        }
    }

    fn fsyncdir(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        let _turn = self.turns.take(req);
        Counters::add(&self.union.counters.fsyncs, 1);
        reply_empty(self.union.node(ino.0).and_then(|n| self.union.sync_dir(&n)), reply);
    }

    fn statfs(&self, req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let _turn = self.turns.take(req);
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
        req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let _turn = self.turns.take(req);
        let _change = self.changes.begin();
        reply_empty(
            self.union.node(ino.0).and_then(|n| self.union.set_xattr(&n, name, value, flags)),
            reply,
        );
    }

    fn getxattr(&self, req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let _turn = self.turns.take(req);
        reply_xattr(
            self.union.node(ino.0).and_then(|n| self.union.get_xattr(&n, name)),
            size,
            reply,
        );
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let _turn = self.turns.take(req);
        let shown = |name: &[u8]| !name.starts_with(b"trusted.") || sees_trusted(req);
        reply_xattr(
            self.union.node(ino.0).and_then(|n| self.union.list_xattr(&n, shown)),
            size,
            reply,
        );
    }

    fn removexattr(&self, req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let _turn = self.turns.take(req);
        let _change = self.changes.begin();
        reply_empty(self.union.node(ino.0).and_then(|n| self.union.remove_xattr(&n, name)), reply);
    }

    fn fallocate(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let _turn = self.turns.take(req);
        let _change = self.changes.begin();
        let flags = FallocateFlags::from_bits_retain(mode as u32);
        reply_empty(
            self.fd(ino, fh, true).and_then(|fd| {
                self.drop_privileges(req, &self.union.node(ino.0)?)?;
                rustix::fs::fallocate(&*fd, flags, offset, length)
            }),
            reply,
        );
    }

    fn lseek(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let _turn = self.turns.take(req);
        let to = match whence {
            libc::SEEK_DATA => SeekFrom::Data(offset as u64),
            libc::SEEK_HOLE => SeekFrom::Hole(offset as u64),
            _ => return reply.error(code(Errno::INVAL)),
        };
        match self.fd(ino, fh, false).and_then(|fd| rustix::fs::seek(&*fd, to)) {
            Ok(at) => reply.offset(at as i64),
            Err(e) => reply.error(code(e)),
        }
    }

    fn copy_file_range(
        &self,
        req: &Request,
        ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: fuser::CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let _turn = self.turns.take(req);
        let _change = self.changes.begin();
        let copy = || {
            let (from, to) = (self.fd(ino_in, fh_in, false)?, self.fd(ino_out, fh_out, true)?);
            self.drop_privileges(req, &self.union.node(ino_out.0)?)?;
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
