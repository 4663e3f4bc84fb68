//! Programs at their places. A loaded program is attached and detached again
//! and again: the kernel verifies it once, at loading, and that is most of its
//! cost; left attached, it would be run by the rounds without probes that
//! stand beside.

use aya::Ebpf;
use aya::programs::fentry::FEntryLinkId;
use aya::programs::fexit::FExitLinkId;
use aya::programs::kprobe::KProbeLinkId;
use aya::programs::perf_event::{
    PerfEventConfig, PerfEventLinkId, PerfEventScope, SamplePolicy, SoftwareEvent,
};
use aya::programs::raw_trace_point::RawTracePointLinkId;
use aya::programs::trace_point::TracePointLinkId;
use aya::programs::uprobe::{UProbeLinkId, UProbeScope};
use aya::programs::{FEntry, FExit, KProbe, PerfEvent, RawTracePoint, TracePoint, UProbe};

use super::attach::program;
use super::engine::Refusal;
use super::sampling::period_ns;

/// The file this process runs.
const OWN_FILE: &str = "/proc/self/exe";

/// Where in this program's file the function at an address lies. Its name would
/// do only where the file has its symbols; in the lab's guest it has none.
fn own_offset(address: usize) -> Result<u64, Refusal> {
    let maps = std::fs::read_to_string("/proc/self/maps").map_err(|error| Refusal::of(&error))?;
    offset_in(&maps, address as u64)
        .ok_or_else(|| Refusal::because("the function is in no mapped file of this process"))
}

/// The offset in its file of an address, by the lines of `/proc/PID/maps`.
fn offset_in(maps: &str, address: u64) -> Option<u64> {
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    maps.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let (start, end, offset) = (hex(start)?, hex(end)?, hex(fields.nth(1)?)?);
        (start..end).contains(&address).then(|| address - start + offset)
    })
}

/// Where a program is attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// The function it was loaded for.
    Entry,
    Exit,
    Kprobe(String),
    Raw(String),
    /// A function of this program, by its address here, in every process that
    /// runs the same file.
    Own(usize),
    /// The tracepoint of the program's own name in this category.
    Named(&'static str),
    /// The software clock of a processor.
    Clock {
        cpu: u32,
        hertz: u32,
    },
}

/// A loaded program and its place; attached, unless it was detached.
#[derive(Debug)]
pub(super) struct Link {
    program: String,
    place: Place,
    id: Option<Id>,
}

#[derive(Debug)]
enum Id {
    Entry(FEntryLinkId),
    Exit(FExitLinkId),
    Kprobe(KProbeLinkId),
    Raw(RawTracePointLinkId),
    Own(UProbeLinkId),
    Named(TracePointLinkId),
    Clock(PerfEventLinkId),
}

impl Link {
    /// Attaches a loaded program.
    pub fn attach(ebpf: &mut Ebpf, program: String, place: Place) -> Result<Self, Refusal> {
        let mut link = Self { program, place, id: None };
        link.attach_again(ebpf)?;
        Ok(link)
    }

    /// Attaches it if it is detached.
    pub fn attach_again(&mut self, ebpf: &mut Ebpf) -> Result<(), Refusal> {
        if self.id.is_some() {
            return Ok(());
        }
        let refuse = |error| Refusal::of(&error);
        let id = match &self.place {
            Place::Entry => program::<FEntry>(ebpf, &self.program)?.attach().map(Id::Entry),
            Place::Exit => program::<FExit>(ebpf, &self.program)?.attach().map(Id::Exit),
            Place::Kprobe(symbol) => {
                program::<KProbe>(ebpf, &self.program)?.attach(symbol.as_str(), 0).map(Id::Kprobe)
            }
            Place::Raw(name) => {
                program::<RawTracePoint>(ebpf, &self.program)?.attach(name).map(Id::Raw)
            }
            Place::Own(function) => program::<UProbe>(ebpf, &self.program)?
                .attach(own_offset(*function)?, OWN_FILE, UProbeScope::AllProcesses)
                .map(Id::Own),
            Place::Named(category) => program::<TracePoint>(ebpf, &self.program)?
                .attach(category, &self.program)
                .map(Id::Named),
            Place::Clock { cpu, hertz } => program::<PerfEvent>(ebpf, &self.program)?
                .attach(
                    PerfEventConfig::Software(SoftwareEvent::CpuClock),
                    PerfEventScope::AllProcessesOneCpu { cpu: *cpu },
                    SamplePolicy::Period(period_ns(*hertz)),
                    false,
                )
                .map(Id::Clock),
        };
        self.id = Some(id.map_err(refuse)?);
        Ok(())
    }

    /// Detaches it if it is attached.
    pub fn detach(&mut self, ebpf: &mut Ebpf) -> Result<(), Refusal> {
        let Some(id) = self.id.take() else { return Ok(()) };
        let name = &self.program;
        let detached = match id {
            Id::Entry(id) => program::<FEntry>(ebpf, name)?.detach(id),
            Id::Exit(id) => program::<FExit>(ebpf, name)?.detach(id),
            Id::Kprobe(id) => program::<KProbe>(ebpf, name)?.detach(id),
            Id::Raw(id) => program::<RawTracePoint>(ebpf, name)?.detach(id),
            Id::Own(id) => program::<UProbe>(ebpf, name)?.detach(id),
            Id::Named(id) => program::<TracePoint>(ebpf, name)?.detach(id),
            Id::Clock(id) => program::<PerfEvent>(ebpf, name)?.detach(id),
        };
        detached.map_err(|error| Refusal::of(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_in_its_file() {
        let maps = "5500-5600 r--p 00000000 fe:00 17 /a b\n5600-5800 r-xp 00000100 fe:00 17 /a b\n";
        assert_eq!(offset_in(maps, 0x5642), Some(0x142));
        assert_eq!(offset_in(maps, 0x5501), Some(1));
        assert_eq!(offset_in(maps, 0x5800), None);
    }
}
