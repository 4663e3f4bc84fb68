//! What the callbacks share: the union, its open files, and how entries and
//! open files are replied.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fuser::{
    BackingId, FileAttr, FileHandle, FileType as Kind, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyXattr, Request,
};
use rustix::fs::{OFlags, Stat};
use rustix::io::Errno;

use super::ahead::{Ahead, Changes, Seen};
use super::convert::{attr, code, kind_of, nothing};
use super::turns::Watched;
use crate::create::{Make, Maker};
use crate::handle::{Handle, Handles};
use crate::node::Node;
use crate::options::{DataMode, MountOptions};
use crate::readdir::Listed;
use crate::union::Union;

/// Nothing but this mount changes what it shows, so the kernel may keep what
/// it was told.
pub(super) const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);

/// What the kernel may do with a file that it reads and writes through its page
/// cache: keep what it cached before, and spare itself the flush at each close,
/// since no writes are held back.
pub(super) fn cached_file() -> FopenFlags {
    FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH
}

/// How many names one listing step takes from the index.
pub(super) const BATCH: usize = 256;

/// A union and its open files, as the transport calls them.
#[derive(Debug)]
pub(super) struct Fs {
    pub(super) union: Arc<Union>,
    pub(super) handles: Handles,
    passthrough: bool,
    /// Files are used without being opened.
    pub(super) without_opens: bool,
    pub(super) no_opendir: bool,
    pub(super) turns: Watched,
    pub(super) changes: Arc<Changes>,
    /// None where a file may change without a request of the kernel's.
    ahead: Option<Ahead>,
    test_delay: u32,
}

impl Fs {
    pub(super) fn new(union: Union, options: &MountOptions, turns: Watched) -> Self {
        let data = options.data;
        let passthrough = data == DataMode::Passthrough && union.privileged;
        let (union, changes) = (Arc::new(union), Arc::new(Changes::default()));
        let ahead = if passthrough { None } else { Ahead::new(&union, &changes) };
        Self {
            union,
            handles: Handles::new(),
            passthrough,
            without_opens: data == DataMode::NoOpen,
            no_opendir: false,
            turns,
            changes,
            ahead,
            test_delay: options.test_delay,
        }
    }

    /// What `test_delay` asks for: turns of a loop that nothing optimises away.
    pub(super) fn delay(&self) {
        for turn in 0..self.test_delay {
            std::hint::black_box(turn);
        }
    }

    pub(super) fn reply_entry(&self, found: Result<(Arc<Node>, Stat), Errno>, reply: ReplyEntry) {
        match found {
            Ok((node, stat)) => {
                self.union.nodes.hold(&node);
                reply.entry(&FOREVER, &attr(&stat), Generation(node.generation.into()));
            }
            // Number 0 tells the kernel to remember that the name is absent.
            Err(Errno::NOENT) => {
                reply.entry(&FOREVER, &nothing(), Generation(0));
            }
            Err(e) => reply.error(code(e)),
        }
    }

    pub(super) fn make(
        &self,
        parent: INodeNo,
        name: &OsStr,
        what: Make<'_>,
        maker: Maker,
        reply: ReplyEntry,
    ) {
        let made = self.union.node(parent.0).and_then(|p| self.union.make(&p, name, what, maker));
        match made {
            Ok((node, stat, fd)) => {
                if let Some(fd) = fd.filter(|_| self.without_opens) {
                    self.handles.keep(node.clone(), fd);
                }
                self.reply_entry(Ok((node, stat)), reply);
            }
            Err(e) => reply.error(code(e)),
        }
    }

    /// The descriptor behind a handle, or of an inode used without an open.
    pub(super) fn fd(
        &self,
        ino: INodeNo,
        fh: FileHandle,
        write: bool,
    ) -> Result<Arc<OwnedFd>, Errno> {
        let handle = if fh.0 == 0 && self.without_opens {
            self.handles.implicit(&self.union, self.union.node(ino.0)?, write)?
        } else {
            self.handles.get(fh.0)?
        };
        self.handles.fd(&self.union, &handle)
    }

    /// The kernel's own way to the data, if this node may use it now: all open
    /// handles of an inode must agree on it, and share one backing file. A
    /// handle that gets none is counted as one that goes through the cache.
    pub(super) fn backing(
        &self,
        handle: &Handle,
        register: impl FnOnce(&OwnedFd) -> std::io::Result<BackingId>,
    ) -> Option<Arc<BackingId>> {
        if !self.passthrough {
            return None;
        }
        let node = &handle.node;
        // Two openers must not both find that no one has the file open, and
        // the data must not move meanwhile.
        let _tree = self.union.shared();
        let _alone = node.copying.lock();
        let known = {
            let state = node.state.lock();
            let way = state.opened.as_ref().map(|o| &o.way);
            let cached = way.is_some_and(|w| w.cached > 0);
            let known = way.and_then(|w| w.backing.upgrade());
            let passes = !cached && !state.metacopy && (state.upper || !self.union.writable);
            known.map(Some).or_else(|| passes.then_some(None))
        };
        let id = match known {
            Some(Some(known)) => return Some(known),
            Some(None) => {
                let flags = if self.union.writable { OFlags::RDWR } else { OFlags::RDONLY };
                let fd = self.union.open_data(node, flags);
                fd.ok().and_then(|fd| register(&fd).ok()).map(Arc::new)
            }
            None => None,
        };
        let mut state = node.state.lock();
        let way = &mut state.opened.get_or_insert_default().way;
        match &id {
            Some(id) => way.backing = Arc::downgrade(id),
            None => way.cached += 1,
        }
        id
    }

    /// Asks the kernel for what this session can use.
    pub(super) fn agree(&mut self, config: &mut KernelConfig) {
        let mut wanted = vec![
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_ASYNC_DIO,
            // The umask counts only where no default ACL says otherwise, which
            // the union finds out.
            InitFlags::FUSE_POSIX_ACL,
            InitFlags::FUSE_DONT_MASK,
        ];
        self.without_opens =
            self.without_opens && config.add_capabilities(InitFlags::FUSE_NO_OPEN_SUPPORT).is_ok();
        self.union.without_opens.store(self.without_opens, Ordering::Relaxed);
        if !self.without_opens {
            // Without an open, a truncation is a request of its own.
            wanted.push(InitFlags::FUSE_ATOMIC_O_TRUNC);
        }
        for flag in wanted {
            // An older kernel without one of these is slower, or knows no ACLs.
            let _ = config.add_capabilities(flag);
        }
        self.no_opendir = config.add_capabilities(InitFlags::FUSE_NO_OPENDIR_SUPPORT).is_ok();
        self.passthrough = self.passthrough
            && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
            && config.set_max_stack_depth(1).is_ok();
        if !self.passthrough {
            // The union then takes set-id bits and capabilities away from what
            // is written to, and the kernel does not ask for them before each
            // write. What passes the union by would keep them.
            let _ = config.add_capabilities(InitFlags::FUSE_HANDLE_KILLPRIV_V2);
        }
        let _ = config.set_max_write(1 << 20);
        let _ = config.set_max_background(64);
    }

    /// Takes the set-id bits of a file of the upper layer that a change of its
    /// data by this caller must not leave, for requests that do not say so: a
    /// truncating open never does. True if it had some. A layer's file loses its
    /// capabilities by the change itself.
    pub(super) fn drop_privileges(&self, req: &Request, node: &Arc<Node>) -> Result<bool, Errno> {
        if !self.union.has_set_id(node)? || may_keep_bits(req) {
            return Ok(false);
        }
        self.union.drop_privileges(node, |group| is_in_group(req, group))?;
        Ok(true)
    }

    /// Fills a listing with attributes, from `offset` on.
    pub(super) fn fill_plus(
        &self,
        dir: &Arc<Node>,
        offset: u64,
        reply: &mut ReplyDirectoryPlus,
    ) -> Result<(), Errno> {
        let (mut at, mut added) = (offset, 0);
        let mut known = self.ahead.iter().flat_map(|a| a.take(dir.ino, offset));
        let mut full = false;
        for (item, seen) in known.by_ref() {
            full = self.add_plus(&item, seen, reply);
            if full {
                break;
            }
            (at, added) = (item.next, added + 1);
        }
        if let Some(ahead) = &self.ahead {
            ahead.release(known);
        }
        while !full {
            let batch = self.union.list(dir, at, BATCH)?;
            if batch.is_empty() {
                return Ok(());
            }
            for item in &batch {
                let seen = self.see(dir, item);
                full = self.add_plus(item, seen, reply);
                if full {
                    break;
                }
                (at, added) = (item.next, added + 1);
            }
        }
        if let Some(ahead) = &self.ahead {
            // Names differ in length, so the next reply may hold some more.
            ahead.ask(dir, at, added + added / 8);
        }
        Ok(())
    }

    fn see(&self, dir: &Arc<Node>, item: &Listed) -> Seen {
        if item.next < 3 {
            return Err(Errno::ISDIR);
        }
        let _tree = self.union.shared();
        self.union.child(dir, &item.name, &item.found)
    }

    /// Adds a name with its attributes; true if the reply is full. Each name
    /// added is one more reference that the kernel holds.
    fn add_plus(&self, item: &Listed, seen: Seen, reply: &mut ReplyDirectoryPlus) -> bool {
        if item.next < 3 {
            let ino = INodeNo(item.found.ino);
            let dot = FileAttr { ino, kind: Kind::Directory, ..nothing() };
            return reply.add(ino, item.next, &item.name, &Duration::ZERO, &dot, Generation(0));
        }
        let (node, stat) = match seen {
            Ok(found) => found,
            // It went away since the batch was taken.
            Err(Errno::NOENT | Errno::STALE) => return false,
            // What is damaged is listed all the same; its lookup will say why.
            Err(_) => {
                let ino = INodeNo(unknown(item));
                let kind = kind_of(item.found.kind);
                // The kernel lists a name with such a size, and knows it not.
                let bare = FileAttr { ino, kind, size: u64::MAX, ..nothing() };
                let none = Generation(0);
                return reply.add(ino, item.next, &item.name, &Duration::ZERO, &bare, none);
            }
        };
        let generation = Generation(node.generation.into());
        let full =
            reply.add(INodeNo(node.ino), item.next, &item.name, &FOREVER, &attr(&stat), generation);
        if full {
            let ino = node.ino;
            drop(node);
            self.union.nodes.forget(ino, 0);
        } else {
            self.union.nodes.hold(&node);
        }
        full
    }
}

/// A number for a listed name whose object cannot be reached.
pub(super) fn unknown(item: &Listed) -> u64 {
    u64::MAX - item.next
}

/// True if the caller has `CAP_FSETID`.
fn may_keep_bits(req: &Request) -> bool {
    const FSETID: u32 = 4;
    has_capability(req, FSETID)
}

/// True if the caller may see attributes of the namespace `trusted.`, for which
/// it takes `CAP_SYS_ADMIN`.
pub(super) fn sees_trusted(req: &Request) -> bool {
    const SYS_ADMIN: u32 = 21;
    has_capability(req, SYS_ADMIN)
}

/// A caller that cannot be seen from here has none.
fn has_capability(req: &Request, number: u32) -> bool {
    let effective = status_line(req, "CapEff:");
    let effective = effective.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    effective.is_some_and(|set| set >> number & 1 == 1)
}

/// True if the group is the caller's own or one of his others.
pub(super) fn is_in_group(req: &Request, group: u32) -> bool {
    let others = || status_line(req, "Groups:");
    req.gid() == group
        || others().is_some_and(|list| {
            list.split_ascii_whitespace().any(|other| other.parse() == Ok(group))
        })
}

/// What the kernel says of the caller under a heading (proc_pid_status(5)).
fn status_line(req: &Request, heading: &str) -> Option<String> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", req.pid())).ok()?;
    status.lines().find_map(|line| line.strip_prefix(heading).map(ToOwned::to_owned))
}

/// Who asks for a new object.
pub(super) fn maker(req: &Request, mode: u32, umask: u32) -> Maker {
    Maker { uid: req.uid(), gid: req.gid(), mode, umask }
}

/// Replies with nothing, or with the errno.
pub(super) fn reply_empty(done: Result<(), Errno>, reply: ReplyEmpty) {
    match done {
        Ok(()) => reply.ok(),
        Err(e) => reply.error(code(e)),
    }
}

/// Replies with an attribute's value or its length, as asked.
pub(super) fn reply_xattr(value: Result<Vec<u8>, Errno>, size: u32, reply: ReplyXattr) {
    match value {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(code(Errno::RANGE)),
        Ok(value) => reply.data(&value),
        Err(e) => reply.error(code(e)),
    }
}
