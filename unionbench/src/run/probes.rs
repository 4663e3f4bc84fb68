//! The observer that attaches real probes.
//!
//! A session lives from `begin` to `end` of one phase: programs left attached
//! would be run, if only to find the filter off, by the rounds without probes
//! that stand beside.

use std::collections::{BTreeMap, BTreeSet};

use super::observe::{Observations, Observer};
use crate::probe::{self, Family, ProbeError, Request, Session, Watch};
use crate::record::{EngineStatus, ProbeStatus};

/// Probes for whichever backend is measured.
pub struct Probes {
    engines: Vec<EngineStatus>,
    session: Option<Session>,
    /// Why the running phase is not watched.
    failure: Option<String>,
    /// Families none of whose functions can be probed here: asking the kernel
    /// again before every phase would take half a second and change nothing.
    refused: BTreeSet<Family>,
    /// Every probe that was tried, and how often it fired, by operation and
    /// backend.
    tried: BTreeMap<(String, String), (ProbeStatus, u64)>,
}

impl Probes {
    /// Finds out what works here.
    pub fn new() -> Self {
        Self {
            engines: probe::engines(),
            session: None,
            failure: None,
            refused: BTreeSet::new(),
            tried: BTreeMap::new(),
        }
    }

    fn start(&mut self, kind: &str, tids: &[u32]) -> Result<(), ProbeError> {
        let family = Family::of_backend(kind);
        let functions = !self.refused.contains(&family);
        let request = Request { functions, ..Request::everything(family) };
        let session = self.session.insert(Session::open(&request)?);
        let status = session.status();
        if functions && !status.iter().any(|probe| probe.attached && is_function(probe)) {
            self.refused.insert(family);
        }
        for status in status {
            let key = (status.operation.clone(), status.backend.clone());
            self.tried.entry(key).or_insert((status, 0));
        }
        session.begin(Watch::Threads(tids))
    }

    fn stop(&mut self) -> Result<Observations, ProbeError> {
        let Some(mut session) = self.session.take() else { return Ok(Observations::default()) };
        let seen = session.end()?;
        for ((operation, _), (_, fired)) in &mut self.tried {
            *fired += seen.histogram(operation).map_or(0, |histogram| histogram.count);
        }
        Ok(Observations {
            kernel: seen.kernel.into_iter().filter(|histogram| histogram.count > 0).collect(),
            counters: seen.counters,
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

fn is_function(probe: &ProbeStatus) -> bool {
    probe.engine == "fentry" || probe.engine == "kprobe"
}

impl Observer for Probes {
    fn begin(&mut self, kind: &str, tids: &[u32]) {
        self.failure = self.start(kind, tids).err().map(|error| {
            self.session = None;
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

    fn sees(&self) -> bool {
        probe::is_embedded() && self.engines.iter().any(|engine| engine.available)
    }
}
