//! From the bytes of the ring buffer to an event.

use std::time::{SystemTime, UNIX_EPOCH};

use unionbench_common::trace::{Call, Head, NO_LAYER, NO_SIZE, note};

use super::cgroup::{Cgroups, container};
use super::event::{CopiedBy, Event, Kind, Object};
use super::mounts::Mounts;
use super::trigger;
use crate::probe::fuse_name;
use crate::unit::Nanos;

/// One event as the kernel side wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raw {
    head: Head,
    path: Vec<u8>,
}

impl Raw {
    /// None if there are fewer bytes than an event has.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        let head = Head {
            start_ns: word(&mut rest)?,
            duration_ns: word(&mut rest)?,
            cgroup: word(&mut rest)?,
            size: word(&mut rest)?,
            cloned: word(&mut rest)?,
            copied: word(&mut rest)?,
            spliced: word(&mut rest)?,
            data_ns: word(&mut rest)?,
            sync_ns: word(&mut rest)?,
            pid: half(&mut rest)?,
            tid: half(&mut rest)?,
            device: half(&mut rest)?,
            call: half(&mut rest)?,
            syscall: half(&mut rest)?,
            flags: half(&mut rest)?,
            returned: half(&mut rest)?.cast_signed(),
            n_syncs: half(&mut rest)?,
            layer: half(&mut rest)?,
            mode: half(&mut rest)?,
            notes: half(&mut rest)?,
            path_len: half(&mut rest)?,
            magic: half(&mut rest)?,
            reserved: half(&mut rest)?,
            comm: rest.split_off(..16)?.try_into().ok()?,
        };
        let path = rest.get(..head.path_len as usize)?.to_vec();
        Some(Self { head, path })
    }
}

fn word(rest: &mut &[u8]) -> Option<u64> {
    Some(u64::from_ne_bytes(rest.split_off(..8)?.try_into().ok()?))
}

fn half(rest: &mut &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(rest.split_off(..4)?.try_into().ok()?))
}

/// What is known of the machine beside the events.
#[derive(Debug)]
pub struct Decoder {
    mounts: Mounts,
    cgroups: Cgroups,
    /// Programs that are in place beside those that tell.
    further: Vec<&'static str>,
    /// From the monotonic clock to the one of the calendar.
    clock: Clock,
}

impl Decoder {
    pub fn new(mounts: Mounts, cgroups: Cgroups, further: Vec<&'static str>) -> Self {
        Self { mounts, cgroups, further, clock: Clock::now() }
    }

    /// None for what is on no union.
    pub fn event(&mut self, raw: &Raw) -> Option<Event> {
        let Raw { head, path } = raw;
        let call = Call::TOLD.into_iter().find(|call| *call as u32 == head.call)?;
        if matches!(call, Call::CopyUp) && self.was_done_elsewhere(head) {
            return None;
        }
        let device = rustix::fs::makedev(head.device >> 20, head.device & 0xf_ffff);
        let mount = self.mounts.find(device, head.pid);
        let file_system = match (mount, head.magic) {
            (Some(mount), _) => mount.file_system.clone(),
            (None, OVERLAYFS) => "overlay".to_owned(),
            (None, AUFS) => "aufs".to_owned(),
            // A FUSE file system that is no union, or a file on none at all.
            (None, _) => return None,
        };
        let mount = mount.map(|mount| mount.path.clone());
        let cgroup = self.cgroups.path(head.cgroup, head.pid);
        let object = object(head.mode);
        let is_copy_up = matches!(call, Call::CopyUp);
        let mut event = Event {
            kind: kind(call),
            at_unix_ns: self.clock.unix_ns(head.start_ns),
            latency_ns: Nanos(head.duration_ns),
            pid: head.pid,
            tid: head.tid,
            process: process(&head.comm),
            container: cgroup.as_deref().and_then(container),
            cgroup,
            device,
            mount,
            file_system,
            path: shown_as(path, head.notes),
            object,
            size_bytes: (head.size != NO_SIZE).then_some(head.size),
            layer: None,
            trigger: None,
            copied_bytes: None,
            copied_by: None,
            n_fsyncs: None,
            data_ns: None,
            fsync_ns: None,
            opcode: matches!(call, Call::Request).then(|| fuse_name(head.flags)),
            errno: head.returned,
        };
        if is_copy_up {
            // The union numbers its writable layer 0.
            event.layer = (head.layer != NO_LAYER).then(|| head.layer.checked_sub(1)).flatten();
            event.trigger = trigger::of(head, object);
            match head.magic {
                OVERLAYFS => self.add_work(head, &mut event),
                FUSE => told_work(head, &mut event),
                _ => {}
            }
        }
        Some(event)
    }

    /// Another thread was first with the same object: nothing failed, and
    /// nothing was done.
    fn was_done_elsewhere(&self, head: &Head) -> bool {
        self.further.contains(&"trace_copy_up_done")
            && head.returned == 0
            && head.notes & note::DONE == 0
    }

    /// Bytes and synchronising, as far as probes for them are in place.
    fn add_work(&self, head: &Head, event: &mut Event) {
        let has = |programs: &str| self.further.contains(&programs);
        if has("trace_clone") && has("trace_splice") {
            event.copied_bytes = Some(head.cloned + head.copied + head.spliced);
            event.copied_by = Some(match (head.cloned, head.copied, head.spliced) {
                (0, 0, 0) => CopiedBy::Nothing,
                (1.., _, _) => CopiedBy::Clone,
                (0, copied, spliced) if copied > spliced => CopiedBy::CopyFileRange,
                _ => CopiedBy::Splice,
            });
        }
        if has("trace_data") {
            event.data_ns = Some(Nanos(head.data_ns));
        }
        if has("trace_sync") || has("trace_sync_whole") {
            event.n_fsyncs = Some(head.n_syncs);
            event.fsync_ns = Some(Nanos(head.sync_ns));
        }
    }
}

/// What the bundled union's daemon tells of itself; what it read and wrote
/// stands where other unions splice. What each part took it does not know.
fn told_work(head: &Head, event: &mut Event) {
    event.copied_bytes = Some(head.cloned + head.copied + head.spliced);
    event.copied_by = Some(match (head.cloned, head.copied, head.spliced) {
        (0, 0, 0) => CopiedBy::Nothing,
        (1.., _, _) => CopiedBy::Clone,
        (0, copied, rewritten) if copied >= rewritten => CopiedBy::CopyFileRange,
        _ => CopiedBy::ReadWrite,
    });
    event.n_fsyncs = Some(head.n_syncs);
}

const FUSE: u32 = 0x6573_5546;
const OVERLAYFS: u32 = 0x794c_7630;
const AUFS: u32 = 0x6175_6673;

fn kind(call: Call) -> Kind {
    match call {
        Call::CopyUp => Kind::Copyup,
        Call::Lookup => Kind::Lookup,
        Call::Remove => Kind::Whiteout,
        Call::Readdir => Kind::Readdir,
        Call::Request => Kind::Requests,
        // The rest is not told of.
        Call::Fsync | Call::Target | Call::Data | Call::Sync => Kind::Fsync,
    }
}

fn object(mode: u32) -> Option<Object> {
    match mode & libc::S_IFMT {
        0 => None,
        libc::S_IFREG => Some(Object::File),
        libc::S_IFDIR => Some(Object::Directory),
        libc::S_IFLNK => Some(Object::Symlink),
        _ => Some(Object::Special),
    }
}

fn process(comm: &[u8; 16]) -> String {
    let end = comm.iter().position(|byte| *byte == 0).unwrap_or(comm.len());
    String::from_utf8_lossy(&comm[..end]).into_owned()
}

/// The path in whichever way the kernel side wrote it.
fn shown_as(path: &[u8], notes: u32) -> Option<String> {
    let is_cut = notes & note::CUT != 0;
    if notes & note::FROM_ROOT == 0 {
        return shown(path, is_cut);
    }
    let mut names: Vec<u8> = Vec::with_capacity(path.len() + 1);
    // A name that was cut in two is no name.
    let whole = if is_cut { path.iter().position(|byte| *byte == b'/') } else { Some(0) };
    let path = &path[whole.unwrap_or(path.len())..];
    for name in path.rsplit(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
        names.extend(name);
        names.push(0);
    }
    shown(&names, is_cut)
}

/// The path of names that lead up from the object. One that was cut begins with
/// dots in place of the root.
fn shown(names: &[u8], is_cut: bool) -> Option<String> {
    // A name that lies over the edge is no name.
    let kept = names.iter().rposition(|byte| *byte == 0).map_or(0, |last| last + 1);
    let names = &names[..kept];
    if names.is_empty() {
        return (!is_cut).then(|| "/".to_owned());
    }
    let mut path = String::from(if is_cut { "..." } else { "" });
    let names = names.strip_suffix(&[0]).unwrap_or(names);
    for name in names.rsplit(|byte| *byte == 0) {
        path.push('/');
        for chunk in name.utf8_chunks() {
            path.push_str(chunk.valid());
            for byte in chunk.invalid() {
                path.push_str(&format!("\\x{byte:02x}"));
            }
        }
    }
    Some(path)
}

/// The difference of the two clocks, as it is at the beginning: a step of the
/// calendar's clock during a trace does not make events go back.
#[derive(Debug, Clone, Copy)]
struct Clock {
    offset_ns: u64,
}

impl Clock {
    fn now() -> Self {
        let monotonic = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let monotonic_ns =
            monotonic.tv_sec.cast_unsigned() * 1_000_000_000 + monotonic.tv_nsec.cast_unsigned();
        let unix_ns = u64::try_from(unix.as_nanos()).unwrap_or(u64::MAX);
        Self { offset_ns: unix_ns.saturating_sub(monotonic_ns) }
    }

    fn unix_ns(self, monotonic_ns: u64) -> u64 {
        self.offset_ns.saturating_add(monotonic_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_written_from_the_root() {
        let show = |names: &[u8], cut| shown(names, cut);
        assert_eq!(show(b"passwd\0etc\0", false).as_deref(), Some("/etc/passwd"));
        assert_eq!(show(b"", false).as_deref(), Some("/"));
        assert_eq!(show(b"", true), None);
        assert_eq!(show(b"deep\0down\0ha", true).as_deref(), Some(".../down/deep"));
        assert_eq!(show(b"deep\0down\0", true).as_deref(), Some(".../down/deep"));
        assert_eq!(show(b"a\xff\xc3\xa9\0", false).as_deref(), Some("/a\\xffé"));
    }

    #[test]
    fn a_daemons_path_is_shown_as_the_kernels() {
        assert_eq!(shown_as(b"a/b", note::FROM_ROOT).as_deref(), Some("/a/b"));
        assert_eq!(shown_as(b"ut/b/c", note::FROM_ROOT | note::CUT).as_deref(), Some(".../b/c"));
        assert_eq!(shown_as(b"", note::FROM_ROOT | note::CUT), None);
        assert_eq!(shown_as(b"b\0a\0", 0).as_deref(), Some("/a/b"));
    }

    #[test]
    fn who_came_second_to_a_copy_up_did_none() {
        let raw = |notes, returned| Raw {
            head: Head {
                call: Call::CopyUp as u32,
                magic: OVERLAYFS,
                syscall: unionbench_common::trace::NO_SYSCALL,
                notes,
                returned,
                ..Head::EMPTY
            },
            path: b"file\0".to_vec(),
        };
        let decoder = |further| Decoder::new(Mounts::default(), Cgroups::default(), further);
        let mut watched = decoder(vec!["trace_copy_up_done"]);
        assert!(watched.event(&raw(note::DONE, 0)).is_some());
        assert!(watched.event(&raw(0, -28)).is_some());
        assert!(watched.event(&raw(0, 0)).is_none());
        assert!(decoder(Vec::new()).event(&raw(0, 0)).is_some());
    }

    #[test]
    fn an_event_that_is_cut_short_is_none() {
        assert_eq!(Raw::read(&[0; 20]), None);
        let mut bytes = vec![0; size_of::<Head>()];
        assert!(Raw::read(&bytes).is_some());
        // It announces a path that does not follow.
        let at = std::mem::offset_of!(Head, path_len);
        bytes[at] = 9;
        assert_eq!(Raw::read(&bytes), None);
    }
}
