//! The observer that attaches real probes.
//!
//! A session is opened once for each file system and attached from its first
//! phase with probes until another file system or a round without probes is
//! next: programs left attached would be run there, if only to find the filter
//! off.

use std::collections::BTreeMap;

use super::observe::{Observations, Observer};
use crate::probe::{self, Family, ProbeError, Request, Session, Watch};
use crate::record::{EngineStatus, KernelHistogram, ProbeStatus};

/// Probes for whichever backend is measured.
pub struct Probes {
    engines: Vec<EngineStatus>,
    sessions: BTreeMap<Family, Session>,
    /// The one whose phase runs.
    begun: Option<Family>,
    /// Every probe that was tried, and how often its operation was seen, by
    /// operation, backend and symbol.
    tried: BTreeMap<(String, String, String), (ProbeStatus, u64)>,
    /// Why the running phase is not watched.
    failure: Option<String>,
    sampling_hertz: Option<u32>,
}

impl Probes {
    /// Finds out what works here.
    pub fn new() -> Self {
        Self {
            engines: probe::engines(),
            sessions: BTreeMap::new(),
            begun: None,
            failure: None,
            tried: BTreeMap::new(),
            sampling_hertz: Some(probe::DEFAULT_HERTZ),
        }
    }

    /// Without sampling, whose interrupts fall on operations as they like:
    /// where instructions are counted, only what probes cost each operation
    /// shall stand between rounds with and without them.
    pub fn without_sampling() -> Self {
        Self { sampling_hertz: None, ..Self::new() }
    }

    fn start(&mut self, kind: &str, tids: &[u32]) -> Result<(), ProbeError> {
        let family = Family::of_backend(kind);
        self.begun = None;
        if !self.sessions.contains_key(&family) {
            let sampling_hertz = self.sampling_hertz;
            let session =
                Session::open(&Request { family, functions: true, sampling_hertz, replies: true })?;
            for status in session.status() {
                let key = (status.operation.clone(), status.backend.clone(), status.symbol.clone());
                self.tried.entry(key).or_insert((status, 0));
            }
            self.sessions.insert(family, session);
        }
        if let Some(session) = self.sessions.get_mut(&family) {
            session.begin(Watch::Threads(tids))?;
            self.begun = Some(family);
        }
        Ok(())
    }

    fn stop(&mut self) -> Result<Observations, ProbeError> {
        let session = self.begun.take().and_then(|family| self.sessions.get_mut(&family));
        let Some(session) = session else { return Ok(Observations::default()) };
        let seen = session.end()?;
        for ((operation, ..), (_, fired)) in &mut self.tried {
            *fired += seen
                .histogram(operation)
                .map(|histogram| histogram.count)
                .or_else(|| seen.counter(operation))
                .unwrap_or(0);
        }
        Ok(Observations {
            kernel: seen.kernel.into_iter().filter(|h| h.count > 0 && !is_barrier(h)).collect(),
            counters: seen.counters,
            layers: seen.layers,
            sampling: seen.sampling,
            losses: seen.losses,
            failure: None,
        })
    }
}

impl Default for Probes {
    fn default() -> Self {
        Self::new()
    }
}

/// The driver's threads wait for one another on futexes while the probes watch;
/// no workload calls them.
fn is_barrier(histogram: &KernelHistogram) -> bool {
    histogram.operation == "syscall:futex"
}

fn is_function(probe: &ProbeStatus) -> bool {
    probe.engine == "fentry" || probe.engine == "kprobe"
}

impl Observer for Probes {
    fn begin(&mut self, kind: &str, tids: &[u32]) {
        self.failure = self.start(kind, tids).err().map(|error| {
            self.begun = None;
            format!("no probes watched {kind}: {}", super::chain(&error))
        });
    }

    fn end(&mut self) -> Observations {
        let mut seen = self.stop().unwrap_or_else(|error| Observations {
            failure: Some(format!("what the probes saw was lost: {}", super::chain(&error))),
            ..Observations::default()
        });
        seen.failure = self.failure.take().or(seen.failure);
        seen
    }

    fn rest_but(&mut self, kind: Option<&str>) {
        let next = kind.map(Family::of_backend);
        for (_, session) in self.sessions.iter_mut().filter(|(family, _)| Some(**family) != next) {
            session.rest();
        }
    }

    fn engines(&self) -> Vec<EngineStatus> {
        self.engines.clone()
    }

    fn probes(&self) -> Vec<ProbeStatus> {
        let told = self.tried.values().map(|(status, fired)| {
            let mut status = status.clone();
            // Counters are stored even when zero; a function that nobody
            // called, or that was inlined, leaves no figure at all.
            if status.attached && is_function(&status) && *fired == 0 {
                status.reason = "attached, but it never fired in this run".to_owned();
            }
            status
        });
        told.collect()
    }

    fn attached(&self, kind: &str, operation: &str) -> Option<ProbeStatus> {
        let family = Family::of_backend(kind);
        if !family.always_runs(operation) {
            return None;
        }
        let found = self.tried.values().map(|(status, _)| status).find(|status| {
            status.attached && status.operation == operation && status.backend == family.name()
        });
        found.cloned()
    }

    fn sees(&self) -> bool {
        probe::is_embedded() && self.engines.iter().any(|engine| engine.available)
    }
}
