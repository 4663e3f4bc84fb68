//! One set of attached probes, and the phases it watches.

use std::fs;

use aya::Ebpf;
use aya::maps::{Array, HashMap};
use aya::programs::PerfEvent;
use aya_log::EbpfLogger;
use unionbench_common::{Control, Thread};

use super::attach::{self, Attached, Target, attached};
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
}

impl Request {
    /// Everything that is known about a family.
    pub fn everything(family: Family) -> Self {
        Self { family, functions: true, sampling_hertz: Some(sampling::DEFAULT_HERTZ) }
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

/// Attached probes. Dropping it detaches them.
pub struct Session {
    ebpf: Ebpf,
    logger: Option<EbpfLogger<&'static dyn log::Log>>,
    request: Request,
    probes: Vec<Attached>,
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
        let mut ebpf = engine::load()?;
        let mut probes = Vec::new();
        if request.functions {
            probes.extend(attach::functions(&mut ebpf, request.family));
        }
        probes.extend(attach::evidence(&mut ebpf));
        if request.family == Family::Fuse {
            probes.push(attach::fuse_requests(&mut ebpf));
        }
        if let Some(hertz) = request.sampling_hertz {
            let result = attach::program::<PerfEvent>(&mut ebpf, "sample")
                .and_then(|program| sampling::attach(program, hertz));
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
        Ok(Self { ebpf, logger, request, probes, running: false })
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
        let mut threads: HashMap<_, u32, Thread> = map_mut(&mut self.ebpf, "THREADS")?;
        let tgid = match watch {
            Watch::Process(id) => id,
            Watch::Threads(ids) => {
                for id in ids {
                    threads
                        .insert(id, Thread::IDLE, 0)
                        .map_err(|source| ProbeError::Map { name: "THREADS", source })?;
                }
                0
            }
        };
        self.running = true;
        self.control(Control { enabled: 1, tgid })
    }

    /// Turns the filter off and hands over what was seen since `begin`.
    pub fn end(&mut self) -> Result<Observations, ProbeError> {
        self.control(Control { enabled: 0, tgid: 0 })?;
        self.running = false;
        self.forget_threads()?;
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

    /// Probes that are attached and counted nothing, of the operations that
    /// are known to have run. Each is an error of the record, not a zero: the
    /// function was inlined, or this kernel goes another way.
    pub fn never_fired(&self, seen: &Observations, ran: &[&str]) -> Vec<ProbeStatus> {
        let silent = |status: &ProbeStatus| {
            status.attached
                && ran.contains(&status.operation.as_str())
                && seen.histogram(&status.operation).is_some_and(|histogram| histogram.count == 0)
        };
        let mut found: Vec<_> = self.status().into_iter().filter(silent).collect();
        for status in &mut found {
            status.reason = format!(
                "{} never fired though {} ran: it is inlined, or this kernel goes another way",
                status.symbol, status.operation
            );
        }
        found
    }

    fn sampling_hertz(&self) -> Option<u32> {
        let sampled = |probe: &Attached| probe.target == Target::Samples && probe.refusal.is_none();
        self.request.sampling_hertz.filter(|_| self.probes.iter().any(sampled))
    }

    fn control(&mut self, control: Control) -> Result<(), ProbeError> {
        let mut word: Array<_, Control> = map_mut(&mut self.ebpf, "CONTROL")?;
        word.set(0, control, 0).map_err(|source| ProbeError::Map { name: "CONTROL", source })
    }

    /// Takes out named threads, and those that joined as a process's.
    fn forget_threads(&mut self) -> Result<(), ProbeError> {
        let fault = |source| ProbeError::Map { name: "THREADS", source };
        let mut threads: HashMap<_, u32, Thread> = map_mut(&mut self.ebpf, "THREADS")?;
        let ids: Result<Vec<u32>, _> = threads.keys().collect();
        for id in ids.map_err(fault)? {
            threads.remove(&id).map_err(fault)?;
        }
        Ok(())
    }
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
