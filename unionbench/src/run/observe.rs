//! What watches a phase from the kernel's side.

use crate::record::{Counter, EngineStatus, KernelHistogram, Losses, ProbeStatus, Sampling};

/// What one phase's probes saw.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observations {
    pub kernel: Vec<KernelHistogram>,
    pub counters: Vec<Counter>,
    pub sampling: Option<Sampling>,
    pub losses: Losses,
    /// Why the phase was not watched, or what was seen could not be read.
    pub failure: Option<String>,
}

/// Probes as the run sees them.
pub trait Observer {
    /// Forgets what was seen and looks at these threads from now on. `kind` is
    /// the backend that is measured. A failure is told by `end`: the phase is
    /// measured all the same, without the kernel's side.
    fn begin(&mut self, kind: &str, tids: &[u32]);
    /// Stops looking; what was seen since `begin`.
    fn end(&mut self) -> Observations;
    /// Every engine that was thought of.
    fn engines(&self) -> Vec<EngineStatus>;
    /// Every probe that concerns the run.
    fn probes(&self) -> Vec<ProbeStatus>;
    /// Something can be seen: rounds with probes make sense.
    fn sees(&self) -> bool;
}

/// No probes: the program was built without them or they were not asked for.
#[derive(Debug, Clone, Default)]
pub struct Blind {
    pub engines: Vec<EngineStatus>,
}

impl Observer for Blind {
    fn begin(&mut self, _: &str, _: &[u32]) {}
    fn end(&mut self) -> Observations {
        Observations::default()
    }
    fn engines(&self) -> Vec<EngineStatus> {
        self.engines.clone()
    }
    fn probes(&self) -> Vec<ProbeStatus> {
        Vec::new()
    }
    fn sees(&self) -> bool {
        false
    }
}
