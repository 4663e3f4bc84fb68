//! What watches a phase from the kernel's side.

use crate::record::{
    Counter, EngineStatus, KernelHistogram, LayerVisits, Losses, ProbeStatus, Sampling,
};

/// What one phase's probes saw.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observations {
    pub kernel: Vec<KernelHistogram>,
    pub layers: Vec<LayerVisits>,
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
    /// No phase follows at once: probes are taken off.
    fn rest(&mut self);
    /// Every engine that was thought of.
    fn engines(&self) -> Vec<EngineStatus>;
    /// Every probe that concerns the run.
    fn probes(&self) -> Vec<ProbeStatus>;
    /// The probe that watches this operation of this kind of backend, if one is
    /// attached.
    fn attached(&self, kind: &str, operation: &str) -> Option<ProbeStatus>;
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
    fn rest(&mut self) {}
    fn end(&mut self) -> Observations {
        Observations::default()
    }
    fn engines(&self) -> Vec<EngineStatus> {
        self.engines.clone()
    }
    fn probes(&self) -> Vec<ProbeStatus> {
        Vec::new()
    }
    fn attached(&self, _: &str, _: &str) -> Option<ProbeStatus> {
        None
    }
    fn sees(&self) -> bool {
        false
    }
}
