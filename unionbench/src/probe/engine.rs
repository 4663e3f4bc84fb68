//! The ways of attaching to the kernel, and whether each works here.

use std::error::Error as StdError;
use std::fmt;
use std::io;

use aya::programs::{FEntry, KProbe, RawTracePoint};
use aya::{Ebpf, EbpfLoader};
use unionbench_common::ReplyOffsets;

use super::{ProbeError, attach, object, sampling};
use crate::record::EngineStatus;

/// A way of attaching to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Engine {
    /// Trampolines at a function's entry and exit; the cheapest. Functions
    /// built into the kernel only, Linux 5.5.
    Fentry,
    /// Breakpoints or ftrace at entry and return; functions of modules too.
    Kprobe,
    /// Static tracepoints, raw or by name.
    Tracepoint,
    /// Breakpoints in a program's own functions: the bundled union's daemon.
    Uprobe,
    /// Kernel stacks at fixed intervals.
    Sampling,
}

impl Engine {
    pub const ALL: [Self; 5] =
        [Self::Fentry, Self::Kprobe, Self::Tracepoint, Self::Uprobe, Self::Sampling];

    /// The name in records and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fentry => "fentry",
            Self::Kprobe => "kprobe",
            Self::Tracepoint => "tracepoint",
            Self::Uprobe => "uprobe",
            Self::Sampling => "sampling",
        }
    }

    /// Attaches one harmless probe and lets it go again.
    pub fn probe(self) -> Availability {
        match self.try_once() {
            Ok(()) => Availability::Available,
            Err(refusal) => self.explain(&refusal),
        }
    }

    fn try_once(self) -> Result<(), Refusal> {
        let mut ebpf = load().map_err(|error| Refusal::of(&error))?;
        match self {
            Self::Fentry => {
                let btf = attach::kernel_types().ok_or_else(|| {
                    Refusal::because("the kernel gives no types (CONFIG_DEBUG_INFO_BTF)")
                })?;
                let program: &mut FEntry = attach::program(&mut ebpf, "fsync_fentry")?;
                program.load("vfs_fsync_range", btf).map_err(|error| Refusal::of(&error))?;
                program.attach().map_err(|error| Refusal::of(&error))?;
            }
            Self::Kprobe => {
                let program: &mut KProbe = attach::program(&mut ebpf, "fsync_kprobe")?;
                program.load().map_err(|error| Refusal::of(&error))?;
                program.attach("vfs_fsync_range", 0).map_err(|error| Refusal::of(&error))?;
            }
            Self::Tracepoint => {
                let program: &mut RawTracePoint = attach::program(&mut ebpf, "sys_enter")?;
                program.load().map_err(|error| Refusal::of(&error))?;
                program.attach("sys_enter").map_err(|error| Refusal::of(&error))?;
            }
            Self::Uprobe => {
                attach::bundled_requests(&mut ebpf)?;
            }
            Self::Sampling => {
                attach::sampling(&mut ebpf, sampling::DEFAULT_HERTZ)?;
            }
        }
        Ok(())
    }

    fn explain(self, refusal: &Refusal) -> Availability {
        let remedy = match (self, refusal.errno) {
            _ if !object::is_embedded() => "build with probes: `cargo xtask build`",
            // Told with the reason already.
            _ if refusal.reason.contains("run as root") => "",
            (Self::Fentry, Some(libc::EPERM))
            | (Self::Kprobe, Some(libc::EPERM | libc::EACCES))
                if rustix::process::geteuid().is_root() =>
            {
                "this kernel's policy, or its container's, forbids function probes: measure in the lab instead"
            }
            (Self::Kprobe, Some(libc::ENOENT)) => {
                "this kernel has no kprobes (CONFIG_KPROBES): measure in the lab, or boot a distribution's kernel"
            }
            (Self::Fentry, _) => {
                "boot a kernel with CONFIG_DEBUG_INFO_BTF and ftrace, or rely on kprobe"
            }
            (_, Some(libc::EPERM | libc::EACCES)) => "run as root, or with CAP_BPF and CAP_PERFMON",
            (Self::Uprobe, _) => "boot a kernel with CONFIG_UPROBE_EVENTS",
            _ => "boot a kernel built with CONFIG_BPF_EVENTS",
        };
        Availability::Unavailable {
            errno: refusal.errno,
            reason: refusal.reason.clone(),
            remedy: remedy.to_owned(),
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether an engine works on this machine, for this user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Availability {
    Available,
    Unavailable { errno: Option<i32>, reason: String, remedy: String },
}

impl Availability {
    /// The form in which it is stored.
    pub fn into_record(self, engine: Engine) -> EngineStatus {
        let engine = engine.name().to_owned();
        match self {
            Self::Available => EngineStatus {
                engine,
                available: true,
                errno: None,
                reason: String::new(),
                remedy: String::new(),
            },
            Self::Unavailable { errno, reason, remedy } => {
                EngineStatus { engine, available: false, errno, reason, remedy }
            }
        }
    }
}

/// What the kernel, or the library, said when it refused one probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub errno: Option<i32>,
    pub reason: String,
}

impl Refusal {
    /// Reads errno from whatever I/O error lies at the bottom. The verifier's
    /// log, which can be long, is left out.
    pub fn of(error: &(dyn StdError + 'static)) -> Self {
        let mut errno = None;
        let mut reason = String::new();
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(io_error) = error.downcast_ref::<io::Error>() {
                errno = io_error.raw_os_error();
            }
            let text = error.to_string();
            let (text, log) = text.split_once("Verifier output:").unwrap_or((&text, ""));
            let text = text.trim().trim_end_matches('.');
            tracing::debug!(log, "the verifier's log");
            if !reason.contains(text) {
                reason.push_str(if reason.is_empty() { "" } else { ": " });
                reason.push_str(text);
            }
            next = error.source();
        }
        Self { errno, reason }
    }

    pub fn because(reason: impl Into<String>) -> Self {
        Self { errno: None, reason: reason.into() }
    }
}

/// The object with its maps made, no program loaded yet.
pub(super) fn load() -> Result<Ebpf, ProbeError> {
    load_with(&ReplyOffsets::NONE)
}

/// As [`load`], with what the programs for replies need to know.
pub(super) fn load_with(replies: &ReplyOffsets) -> Result<Ebpf, ProbeError> {
    let bytes = object::bytes().ok_or(ProbeError::NotBuilt)?;
    // The kernel's types take long to read, and are read once.
    let types = attach::kernel_types();
    EbpfLoader::new()
        .btf(types)
        .override_global("REPLY_OFFSETS", replies, true)
        .load(bytes)
        .map_err(|error| ProbeError::Load(Box::new(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remedy_is_told_once() {
        let denied = io::Error::from_raw_os_error(libc::EPERM);
        let load = ProbeError::Load(Box::new(aya::EbpfError::FileError {
            path: "object".into(),
            error: denied,
        }));
        let refusals = [
            Refusal::of(&load),
            Refusal { errno: Some(libc::EPERM), reason: "not permitted".into() },
        ];
        for (engine, refusal) in
            Engine::ALL.into_iter().flat_map(|e| refusals.each_ref().map(|r| (e, r)))
        {
            let Availability::Unavailable { reason, remedy, .. } = engine.explain(refusal) else {
                panic!("it was refused");
            };
            let told = format!("{reason}; {remedy}");
            assert!(told.matches("as root").count() <= 1, "{told}");
            assert!(told.len() > refusal.reason.len() + 2 || told.contains("as root"), "{told}");
        }
    }
}
