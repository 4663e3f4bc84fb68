//! One set of attached probes, and the phases it watches.

use std::fs;

use aya::Ebpf;
use aya::maps::Array;
use aya_log::EbpfLogger;
use unionbench_common::thread::{SLOTS, slot};
use unionbench_common::{Control, ReplyOffsets, Thread, Wait};

use super::attach::{self, Attached, Target, attached};
use super::btf::Types;
use super::catalogue::Family;
use super::drain::{self, Observations, map_mut};
use super::engine::{self, Engine};
use super::kallsyms::Kallsyms;
use super::{ProbeError, sampling, tracefs};
use crate::record::{EngineStatus, ProbeStatus};

/// What a session shall watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Whose functions, and whose samples count as the file system's.
    pub family: Family,
    /// Function probes (fentry or kprobe). They cost some hundred
    /// nanoseconds a call, so a round for plain latency leaves them out.
    pub functions: bool,
    /// Samples a second and processor; none for no sampling.
    pub sampling_hertz: Option<u32>,
    /// When the callers of FUSE requests run again: a program at every switch of
    /// the scheduler's while a phase runs.
    pub replies: bool,
}

impl Request {
    /// Everything that is known about a family.
    pub fn everything(family: Family) -> Self {
        let sampling_hertz = Some(sampling::DEFAULT_HERTZ);
        Self { family, functions: true, sampling_hertz, replies: true }
    }
}

/// Whose calls count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watch<'a> {
    /// These threads, by the kernel's thread id (`gettid`).
    Threads(&'a [u32]),
    /// All threads of this process, also those that start later.
    Process(u32),
}

/// Loaded probes, attached while a phase runs. Dropping it detaches them.
pub struct Session {
    ebpf: Ebpf,
    logger: Option<EbpfLogger<&'static dyn log::Log>>,
    request: Request,
    probes: Vec<Attached>,
    slots: Slots,
    running: bool,
}

impl Session {
    /// Loads the object and attaches all that the kernel takes.
    ///
    /// Errors: the program holds no object, or the kernel refuses BPF to this
    /// user altogether.
    pub fn open(request: &Request) -> Result<Self, ProbeError> {
        refuse_pid_namespace()?;
        tracefs::visible(|| Self::open_here(*request))
    }

    fn open_here(request: Request) -> Result<Self, ProbeError> {
        let has_replies = request.replies && request.family.is_fuse();
        let replies = if has_replies { reply_offsets() } else { ReplyOffsets::NONE };
        let mut ebpf = engine::load_with(&replies)?;
        let mut probes = Vec::new();
        if request.functions {
            probes.extend(attach::functions(&mut ebpf, request.family));
        }
        probes.extend(attach::evidence(&mut ebpf));
        if request.family.is_fuse() {
            probes.push(attach::fuse_requests(&mut ebpf, request.functions));
        }
        if has_replies {
            probes.push(attach::fuse_replies(&mut ebpf, &replies));
        }
        if request.family == Family::Bundled {
            probes.extend(attach::bundled(&mut ebpf));
        }
        if let Some(hertz) = request.sampling_hertz {
            let result = attach::sampling(&mut ebpf, hertz);
            let clock = "cpu-clock";
            probes.push(attached(Target::Samples, request.family, Engine::Sampling, clock, result));
        }
        // Last, so that the others' attaching is not seen.
        drain::choose_syscalls(&mut ebpf)?;
        probes.push(attach::syscalls(&mut ebpf));
        // Diagnostics are welcome, not needed: counters tell of every loss.
        let logger = EbpfLogger::init(&mut ebpf)
            .inspect_err(|error| tracing::debug!(%error, "the kernel side cannot log"))
            .ok();
        Ok(Self { ebpf, logger, request, probes, slots: Slots::Of(Vec::new()), running: false })
    }

    /// Each probe that was tried: attached to what by which engine, or
    /// refused with errno and reason.
    pub fn status(&self) -> Vec<ProbeStatus> {
        self.probes.iter().map(Attached::status).collect()
    }

    /// Empties every map and turns the filter on.
    pub fn begin(&mut self, watch: Watch<'_>) -> Result<(), ProbeError> {
        if self.running {
            // A phase that was given up: what it left must not be counted.
            self.end()?;
        }
        let tgid = match watch {
            Watch::Process(id) => {
                self.slots = Slots::All;
                id
            }
            Watch::Threads(ids) => {
                self.slots = Slots::Of(ids.to_vec());
                0
            }
        };
        self.attach()?;
        self.running = true;
        self.control(Control { enabled: 1, tgid })?;
        self.occupy()
    }

    /// Gives each named thread its slot: the calling thread last, so that it is
    /// not seen giving the others theirs.
    fn occupy(&mut self) -> Result<(), ProbeError> {
        let Slots::Of(ids) = &self.slots else { return Ok(()) };
        let own = rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned();
        let mut ids = ids.clone();
        ids.sort_by_key(|id| *id == own);
        let fault = |source| ProbeError::Map { name: "THREADS", source };
        let mut threads: Array<_, Thread> = map_mut(&mut self.ebpf, "THREADS")?;
        for id in ids {
            let there = threads.get(&slot(id), 0).map_err(fault)?.tid;
            if there != 0 && there != id {
                return Err(ProbeError::SharedSlot { first: there, second: id });
            }
            threads.set(slot(id), Thread { tid: id, ..Thread::IDLE }, 0).map_err(fault)?;
        }
        Ok(())
    }

    /// Turns the filter off and hands over what was seen since `begin`.
    pub fn end(&mut self) -> Result<Observations, ProbeError> {
        let off = Control { enabled: 0, tgid: 0 };
        if matches!(self.slots, Slots::All) {
            // Else its threads would take slots that were just emptied.
            self.control(off)?;
        }
        self.forget_threads()?;
        self.control(off)?;
        self.running = false;
        let mut seen = drain::take(&mut self.ebpf, &self.probes)?;
        if let Some(hertz) = self.sampling_hertz() {
            let stacks = sampling::take_stacks(&mut self.ebpf)?;
            let n = seen.counter("samples").unwrap_or(0);
            let table = Kallsyms::current();
            if table.has_addresses() {
                seen.sampling =
                    Some(sampling::shares(self.request.family, n, hertz, &stacks, &table));
            } else {
                tracing::warn!("samples have no names: /proc/kallsyms hides addresses");
            }
        }
        if let Some(logger) = &mut self.logger {
            logger.flush();
        }
        Ok(seen)
    }

    fn attach(&mut self) -> Result<(), ProbeError> {
        let ebpf = &mut self.ebpf;
        let again = || {
            self.probes
                .iter_mut()
                .flat_map(|probe| &mut probe.links)
                .try_for_each(|link| link.attach_again(ebpf))
        };
        // Some are attached by name, through a tracefs.
        tracefs::visible(again).map_err(|refusal| ProbeError::Attach(refusal.reason))
    }

    /// Takes the programs off until the next phase begins: those that stay on
    /// are run, if only to find that nothing is watched.
    pub fn rest(&mut self) {
        for link in self.probes.iter_mut().flat_map(|probe| &mut probe.links) {
            if let Err(refusal) = link.detach(&mut self.ebpf) {
                tracing::warn!(reason = refusal.reason, "a probe stays attached");
            }
        }
    }

    fn sampling_hertz(&self) -> Option<u32> {
        let sampled = |probe: &Attached| probe.target == Target::Samples && probe.refusal.is_none();
        self.request.sampling_hertz.filter(|_| self.probes.iter().any(sampled))
    }

    fn control(&mut self, control: Control) -> Result<(), ProbeError> {
        let mut word: Array<_, Control> = map_mut(&mut self.ebpf, "CONTROL")?;
        word.set(0, control, 0).map_err(|source| ProbeError::Map { name: "CONTROL", source })
    }

    /// Empties the slots of named threads, or all where threads joined as a
    /// process's: the calling thread's first, so that it is not seen further.
    fn forget_threads(&mut self) -> Result<(), ProbeError> {
        let own = slot(rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned());
        let mut taken: Vec<u32> = match std::mem::replace(&mut self.slots, Slots::Of(Vec::new())) {
            Slots::All => (0..SLOTS).collect(),
            Slots::Of(ids) => ids.into_iter().map(slot).collect(),
        };
        taken.sort_by_key(|slot| *slot != own);
        let mut threads: Array<_, Thread> = map_mut(&mut self.ebpf, "THREADS")?;
        for slot in &taken {
            threads
                .set(*slot, Thread::IDLE, 0)
                .map_err(|source| ProbeError::Map { name: "THREADS", source })?;
        }
        if !self.request.family.is_fuse() {
            return Ok(());
        }
        // An answer of this phase must not be waited for in the next one.
        let mut waits: Array<_, Wait> = map_mut(&mut self.ebpf, "WAITS")?;
        for slot in taken {
            waits
                .set(slot, Wait::NONE, 0)
                .map_err(|source| ProbeError::Map { name: "WAITS", source })?;
        }
        Ok(())
    }
}

/// Where this kernel keeps what the programs for replies read.
fn reply_offsets() -> ReplyOffsets {
    let places = || {
        let kernel = Types::of_kernel()?;
        let fuse = kernel.of_module("fuse");
        let fuse = fuse.as_ref().unwrap_or(&kernel);
        let header = fuse.offset("fuse_req", "in")?;
        Some(ReplyOffsets {
            task_pid: kernel.offset("task_struct", "pid")?,
            request_flags: fuse.offset("fuse_req", "flags")?,
            request_opcode: header + fuse.offset("fuse_in_header", "opcode")?,
            reserved: 0,
        })
    };
    places().unwrap_or(ReplyOffsets::NONE)
}

/// Which slots a phase may have filled.
enum Slots {
    Of(Vec<u32>),
    All,
}

/// Whether each engine works here, in the form that is stored.
pub fn engines() -> Vec<EngineStatus> {
    tracefs::visible(|| {
        Engine::ALL.into_iter().map(|engine| engine.probe().into_record(engine)).collect()
    })
}

/// Thread ids inside a pid namespace are not those the kernel side sees.
fn refuse_pid_namespace() -> Result<(), ProbeError> {
    /// The inode of the first namespace, `PROC_PID_INIT_INO` of the kernel.
    const FIRST: &str = "pid:[4026531836]";
    match fs::read_link("/proc/self/ns/pid") {
        Ok(own) if own.as_os_str() != FIRST => Err(ProbeError::PidNamespace),
        _ => Ok(()),
    }
}
