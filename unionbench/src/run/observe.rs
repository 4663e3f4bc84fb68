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

impl Observations {
    /// What is wrong if this probe, whose operation is known to have run, saw
    /// nothing of it.
    pub fn silent(&self, probe: &ProbeStatus) -> Option<String> {
        let fired = self.kernel.iter().any(|seen| seen.operation == probe.operation);
        (!fired).then(|| {
            format!(
                "the probe of {} ({} on {}) never fired though the phase made it run: the function \
                 is inlined, or this kernel goes another way",
                probe.operation, probe.engine, probe.symbol
            )
        })
    }
}

/// Probes as the run sees them.
pub trait Observer {
    /// Forgets what was seen and looks at these threads from now on. `kind` is
    /// the backend that is measured. A failure is told by `end`: the phase is
    /// measured all the same, without the kernel's side.
    fn begin(&mut self, kind: &str, tids: &[u32]);
    /// Stops looking; what was seen since `begin`.
    fn end(&mut self) -> Observations;
    /// Takes probes off, but those for `kind` of backend, whose phases are next.
    fn rest_but(&mut self, kind: Option<&str>);
    /// Every engine that was thought of.
    fn engines(&self) -> Vec<EngineStatus>;
    /// Every probe that concerns the run.
    fn probes(&self) -> Vec<ProbeStatus>;
    /// The probe that watches this operation of this kind of backend, if one is
    /// attached at a function that always runs then.
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
    fn rest_but(&mut self, _: Option<&str>) {}
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_that_saw_nothing_of_what_ran_is_told() {
        let probe = ProbeStatus {
            operation: "copy_up".to_owned(),
            backend: "overlayfs".to_owned(),
            engine: "kprobe".to_owned(),
            symbol: "ovl_copy_up_one".to_owned(),
            attached: true,
            errno: None,
            reason: String::new(),
        };
        let mut seen = Observations::default();
        let reason = seen.silent(&probe).expect("nothing was seen");
        assert!(reason.contains("ovl_copy_up_one) never fired"), "{reason}");
        seen.kernel.push(KernelHistogram {
            operation: "copy_up".to_owned(),
            engine: "kprobe".to_owned(),
            symbol: "ovl_copy_up_one".to_owned(),
            count: 1,
            sum: 5,
            min: 5,
            max: 5,
            buckets: vec![(5, 6, 1)],
        });
        assert_eq!(seen.silent(&probe), None);
    }
}
