//! The stream of events.
//!
//! [`Tracer::open`] loads and attaches; [`Tracer::next`] gives one event after
//! the other and waits for the next; [`Tracer::stop`] takes the programs off,
//! after which `next` still gives what is left and then none; [`Tracer::end`]
//! tells how it ended. Nothing runs between events: the kernel wakes a waiting
//! reader.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aya::maps::{MapData, RingBuf};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use unionbench_common::trace::{Settings, Tally};

use super::cgroup::Cgroups;
use super::decode::{Decoder, Raw};
use super::event::{End, Event, FORMAT, Header, Kind, Mount};
use super::mounts::Mounts;
use super::probes::Unions;
use super::{places, probes};
use crate::probe::{ProbeError, SystemWide};
use crate::sys::mount::has_file_system;
use crate::unit::{Bytes, Nanos};

/// What shall be traced.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    pub kinds: Vec<Kind>,
    /// A path on the one union that is of interest; all of them without.
    pub mount: Option<PathBuf>,
    /// The id of a process, as the kernel counts them.
    pub pid: Option<u32>,
    /// The name of a process, of which the kernel keeps 15 bytes.
    pub comm: Option<String>,
    /// A control group, with all below it.
    pub cgroup: Option<String>,
    /// A container by its id, or the beginning of it.
    pub container: Option<String>,
    pub min_latency: Nanos,
    /// Room for events that were not read yet; `DEFAULT_BUFFER` for zero.
    pub buffer: Bytes,
}

/// Some 60,000 events with paths of a hundred bytes.
pub const DEFAULT_BUFFER: Bytes = Bytes(16 << 20);

/// Why there is no trace.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    #[error("cannot trace: {0}")]
    Usage(String),
    /// None of the kinds can be seen here: each with the reason.
    #[error("cannot trace {what} on this kernel: {reasons}; {remedy}")]
    Unsupported { what: String, reasons: String, remedy: String },
    #[error("cannot trace")]
    Probe(#[from] ProbeError),
    #[error("cannot wait for events")]
    Wait(#[source] std::io::Error),
}

/// Events of one kind on one kind of union.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub kind: Kind,
    pub union: &'static str,
    /// By which engine and function, or why not.
    pub seen: Result<String, String>,
}

/// A running trace.
pub struct Tracer {
    kernel: SystemWide,
    events: RingBuf<MapData>,
    decoder: Decoder,
    header: Header,
    unseen: Vec<String>,
    sources: Vec<Source>,
    began: Instant,
    stopped: Option<Duration>,
    n_events: u64,
    container: Option<String>,
}

impl Tracer {
    /// Begins to trace.
    ///
    /// Errors: a filter that names nothing, no kind that can be seen here, or
    /// no right to load programs into the kernel.
    pub fn open(request: &Request) -> Result<Self, TraceError> {
        let mounts = Mounts::here();
        let mut cgroups = Cgroups::new();
        let (settings, container) = settings(request, &mounts, &mut cgroups)?;
        let buffer = if request.buffer.0 == 0 { DEFAULT_BUFFER } else { request.buffer };
        let offsets = places::of_running_kernel();
        let (mut kernel, events) = SystemWide::load(&offsets, &settings, buffer)?;
        let mut engines = BTreeMap::new();
        let mut unseen = Vec::new();
        let mut sources = Vec::new();
        let mut further = Vec::new();
        let began_unix_ns = unix_ns();
        let mut n_seen = 0;
        let watched = watched(&mounts, settings.device);
        let unions = unions(&watched, settings.device);
        for kind in &request.kinds {
            let mut coverage = probes::attach(&mut kernel, *kind, unions);
            if is_of_daemons(*kind) {
                coverage.unseen.extend(foreign(&watched));
            }
            let sentence = coverage.sentence();
            sources.extend(coverage.sources(*kind));
            if !coverage.seen.is_empty() {
                n_seen += 1;
            }
            let mut reasons: Vec<_> =
                coverage.unseen.iter().map(|(union, why)| format!("{union}: {why}")).collect();
            reasons.dedup();
            if coverage.seen.is_empty() && reasons.is_empty() {
                reasons.push(probes::OF_DAEMONS.to_owned());
            }
            if !reasons.is_empty() {
                unseen.push(format!("{}: {}", kind.name(), reasons.join("; ")));
            }
            engines.insert(kind.name().to_owned(), sentence);
            further.extend(coverage.further);
        }
        if n_seen == 0 {
            return Err(unsupported(&request.kinds, &unseen));
        }
        let header = Header {
            format: FORMAT,
            program: format!("unionbench {}", env!("CARGO_PKG_VERSION")),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            began_unix_ns,
            kinds: request.kinds.clone(),
            engines,
            mounts: mounts.all(),
        };
        let decoder = Decoder::new(mounts, cgroups, further);
        Ok(Self {
            kernel,
            events,
            decoder,
            header,
            unseen,
            sources,
            began: Instant::now(),
            stopped: None,
            n_events: 0,
            container,
        })
    }

    /// What stands at the beginning of a recording.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The kinds that were asked for and cannot be seen, each with the reason.
    pub fn unseen(&self) -> &[String] {
        &self.unseen
    }

    /// Each kind on each kind of union that there may be: seen, or why not.
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// The next event, in the order in which calls ended on each processor.
    /// None if there is none within this time, or a signal came, or the trace
    /// was stopped and all has been given.
    pub fn next(&mut self, timeout: Duration) -> Result<Option<Event>, TraceError> {
        let deadline = Instant::now() + timeout;
        loop {
            while let Some(item) = self.events.next() {
                let raw = Raw::read(&item);
                drop(item);
                let Some(raw) = raw else { continue };
                let Some(event) = self.decoder.event(&raw) else { continue };
                if is_wanted(self.container.as_deref(), &event) {
                    self.n_events += 1;
                    return Ok(Some(event));
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.stopped.is_some() || !self.wait(left)? {
                return Ok(None);
            }
        }
    }

    /// Whether the wait ended because of an event.
    fn wait(&self, time: Duration) -> Result<bool, TraceError> {
        let timeout = Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(time.subsec_nanos()),
        };
        let mut fds = [PollFd::from_borrowed_fd(self.events.as_fd(), PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(n) => Ok(n > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(TraceError::Wait(error.into())),
        }
    }

    /// Takes the programs off.
    pub fn stop(&mut self) {
        if self.stopped.is_none() {
            self.kernel.detach();
            self.stopped = Some(self.began.elapsed());
        }
    }

    /// Events that happened and were not and will not be given.
    pub fn n_lost(&self) -> Result<u64, TraceError> {
        let tallies = self.kernel.tallies()?;
        Ok([Tally::LostBuffer, Tally::LostCalls, Tally::LostEnds]
            .into_iter()
            .map(|tally| tallies[tally as usize])
            .sum())
    }

    /// Stops, if that has not been done, and tells how it went.
    pub fn end(&mut self) -> Result<End, TraceError> {
        self.stop();
        Ok(End {
            duration_ns: nanos(self.stopped.unwrap_or_default()),
            n_events: self.n_events,
            n_lost: self.n_lost()?,
        })
    }
}

/// The unions that are asked for.
fn watched(mounts: &Mounts, device: u32) -> Vec<Mount> {
    let all = mounts.all().into_iter();
    all.filter(|mount| device == 0 || kernel_device(mount.device) == device).collect()
}

/// Without `--mount`, those of the kernel may be mounted at any time.
fn unions(watched: &[Mount], device: u32) -> Unions {
    let is_of_kernel = |mount: &Mount| matches!(mount.file_system.as_str(), "overlay" | "aufs");
    Unions {
        of_kernel: device == 0 || watched.iter().any(is_of_kernel),
        bundled: watched.iter().any(|mount| mount.file_system == probes::BUNDLED),
    }
}

/// What a daemon does by itself, and tells nobody.
fn is_of_daemons(kind: Kind) -> bool {
    matches!(kind, Kind::Copyup | Kind::Lookup | Kind::Whiteout | Kind::Readdir)
}

/// Unions of other programs' daemons, which have no functions to watch.
fn foreign(watched: &[Mount]) -> Vec<(&'static str, String)> {
    let is_foreign =
        |m: &&Mount| m.file_system.starts_with("fuse.") && m.file_system != probes::BUNDLED;
    watched
        .iter()
        .filter(is_foreign)
        .map(|mount| {
            let (path, kind) = (&mount.path, &mount.file_system);
            ("fuse", format!("the daemon of {path} ({kind}) tells nothing of it: trace `requests`"))
        })
        .collect()
}

/// A container that was not there at the beginning is looked for in events.
fn is_wanted(container: Option<&str>, event: &Event) -> bool {
    match (container, &event.container) {
        (None, _) => true,
        (Some(wanted), Some(found)) => found.id.starts_with(wanted),
        (Some(_), None) => false,
    }
}

fn nanos(time: Duration) -> Nanos {
    Nanos(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

fn unix_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    nanos(now).0
}

/// The filters that the kernel side applies, and the container that it cannot
/// tell because it does not run yet.
fn settings(
    request: &Request,
    mounts: &Mounts,
    cgroups: &mut Cgroups,
) -> Result<(Settings, Option<String>), TraceError> {
    if let Some(pid) = request.pid
        && !std::path::Path::new(&format!("/proc/{pid}")).exists()
    {
        return Err(TraceError::Usage(format!("no process has the number {pid}")));
    }
    let mut settings = Settings {
        min_latency_ns: request.min_latency.0,
        tgid: request.pid.unwrap_or(0),
        own_tgid: std::process::id(),
        tell_requests: u32::from(request.kinds.contains(&Kind::Requests)),
        note_callers: u32::from(request.kinds.contains(&Kind::Copyup)),
        ..Settings::ALL
    };
    if let Some(path) = &request.mount {
        let found = rustix::fs::stat(path).map_err(|error| {
            TraceError::Usage(format!("{} cannot be looked at: {error}", path.display()))
        })?;
        let device = directory_device(path).unwrap_or(found.st_dev);
        if !mounts.is_here(device) {
            return Err(TraceError::Usage(format!(
                "{} lies on no union: name a path on one of {}",
                path.display(),
                names(&mounts.all())
            )));
        }
        settings.device = kernel_device(device);
    }
    if let Some(comm) = &request.comm {
        // The kernel keeps 15 bytes and a zero.
        let kept = comm.len().min(15);
        settings.comm[..kept].copy_from_slice(&comm.as_bytes()[..kept]);
    }
    let mut later = None;
    let path = match (&request.cgroup, &request.container) {
        (Some(path), _) => Some(path.clone()),
        (None, Some(id)) => {
            let found = cgroups.of_container(id);
            later = found.is_none().then(|| id.clone());
            found
        }
        (None, None) => None,
    };
    if let Some(path) = path {
        let Some((id, level)) = cgroups.find(&path) else {
            return Err(TraceError::Usage(format!(
                "there is no control group {path}: `systemd-cgls` lists those there are"
            )));
        };
        // All processes are below the root.
        if level > 0 {
            (settings.cgroup, settings.cgroup_level) = (id, level);
        }
    }
    Ok((settings, later))
}

fn names(mounts: &[Mount]) -> String {
    let paths: Vec<&str> = mounts.iter().map(|mount| mount.path.as_str()).collect();
    if paths.is_empty() {
        "the unions, of which none is mounted here".to_owned()
    } else {
        paths.join(", ")
    }
}

/// A file of overlayfs may show the device of its layer; its folder does not.
fn directory_device(path: &std::path::Path) -> Option<u64> {
    let path = path.canonicalize().ok()?;
    let folder = if path.is_dir() { path.as_path() } else { path.parent()? };
    Some(rustix::fs::stat(folder).ok()?.st_dev)
}

/// The number as the kernel keeps it: 12 bits and 20.
fn kernel_device(device: u64) -> u32 {
    rustix::fs::major(device) << 20 | rustix::fs::minor(device)
}

fn unsupported(kinds: &[Kind], unseen: &[String]) -> TraceError {
    let names: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
    TraceError::Unsupported {
        what: names.join(", "),
        reasons: unseen.join("; "),
        remedy: remedy(has_file_system("overlay")),
    }
}

/// What else there is. A file system that the kernel knows needs no module.
fn remedy(has_overlay: bool) -> String {
    let module = if has_overlay { "" } else { "load the union's module (`modprobe overlay`), or " };
    format!(
        "`fsync` and `requests` need no function probes; for the rest {module}boot a kernel with CONFIG_KPROBES, or try it in the lab: `unionbench lab run`"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_numbered_as_in_the_kernel() {
        assert_eq!(kernel_device(rustix::fs::makedev(0, 51)), 51);
        assert_eq!(kernel_device(rustix::fs::makedev(8, 300)), 8 << 20 | 300);
    }

    #[test]
    fn a_module_is_to_be_loaded_only_where_it_is_not() {
        assert!(
            remedy(false)
                .contains("for the rest load the union's module (`modprobe overlay`), or boot")
        );
        assert!(
            remedy(true).contains("for the rest boot a kernel")
                && !remedy(true).contains("modprobe")
        );
    }

    #[test]
    fn a_name_is_cut_as_the_kernel_cuts_it() {
        let request = Request { comm: Some("a-name-of-twenty-byt".into()), ..Request::default() };
        let (settings, _) =
            settings(&request, &Mounts::default(), &mut Cgroups::new()).expect("a plain filter");
        assert_eq!(&settings.comm, b"a-name-of-twent\0");
    }
}
