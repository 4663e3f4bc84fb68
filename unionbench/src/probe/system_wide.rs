//! The programs of `unionbench trace`: loaded for all threads of the machine,
//! with what they shall leave out as constants.

use aya::maps::{Map, MapData, MapError, PerCpuArray, RingBuf};
use aya::programs::TracePoint;
use aya::{Ebpf, EbpfLoader};
use unionbench_common::trace::{BUNDLED_CALLS, Offsets, Settings, TALLIES, TASKS};
use unionbench_fuse::{unionbench_copy_up_begin, unionbench_copy_up_end};

use super::attach::{Candidates, Sides, at_first, kernel_types, program, uprobe};
use super::engine::{Engine, Refusal};
use super::kallsyms::Kallsyms;
use super::{ProbeError, object, tracefs};
use crate::unit::Bytes;

/// Programs for one function of several, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FunctionProbe {
    /// The stem of the names of its programs in the object.
    pub programs: &'static str,
    pub candidates: &'static [&'static str],
    pub sides: Sides,
}

/// Where programs were attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub engine: Engine,
    pub symbol: String,
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.engine, self.symbol)
    }
}

/// The loaded object. Dropping it detaches what was attached.
pub struct SystemWide {
    /// None once its programs were taken off.
    ebpf: Option<Ebpf>,
    /// Programs at tracepoints, each of which is attached once.
    at_tracepoints: Vec<String>,
    tally: PerCpuArray<MapData, [u64; TALLIES]>,
}

impl std::fmt::Debug for SystemWide {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SystemWide").field("is_attached", &self.ebpf.is_some()).finish()
    }
}

impl SystemWide {
    /// Loads the object and gives the ring buffer of its events, with room for `buffer` bytes of events that were not
    /// read yet. The room is a power of two of pages, so it may become larger.
    pub fn load(
        offsets: &Offsets,
        settings: &Settings,
        buffer: Bytes,
    ) -> Result<(Self, RingBuf<MapData>), ProbeError> {
        const PAGE: u64 = 4096;
        const LARGEST: u64 = 1 << 30;
        let bytes = object::bytes().ok_or(ProbeError::NotBuilt)?;
        let room = buffer.0.clamp(PAGE, LARGEST).next_power_of_two();
        let mut ebpf = EbpfLoader::new()
            .override_global("TRACE_OFFSETS", offsets, true)
            .override_global("TRACE_SETTINGS", settings, true)
            .map_max_entries("TRACE_EVENTS", u32::try_from(room).unwrap_or(u32::MAX))
            .map_max_entries("TRACE_TASKS", TASKS)
            .map_max_entries("TRACE_REQUESTS", TASKS)
            .map_max_entries("TRACE_BUNDLED", BUNDLED_CALLS)
            .load(bytes)
            .map_err(|error| ProbeError::Load(Box::new(error)))?;
        // Both outlive the programs.
        let events = taken(&mut ebpf, "TRACE_EVENTS")?;
        let tally = taken(&mut ebpf, "TRACE_TALLY")?;
        Ok((Self { ebpf: Some(ebpf), at_tracepoints: Vec::new(), tally }, events))
    }

    /// What the kernel side has counted since it was loaded.
    pub fn tallies(&self) -> Result<[u64; TALLIES], ProbeError> {
        let fault = |source| ProbeError::Map { name: "TRACE_TALLY", source };
        let parts = self.tally.get(&0, 0).map_err(fault)?;
        let mut sums = [0; TALLIES];
        for part in parts.iter() {
            for (sum, value) in sums.iter_mut().zip(part) {
                *sum += value;
            }
        }
        Ok(sums)
    }

    /// Attaches to the first function that takes the programs, by the best
    /// engine. The error says what the kernel said.
    pub fn attach(&mut self, probe: &FunctionProbe) -> Result<Seen, String> {
        let Some(ebpf) = &mut self.ebpf else { return Err(GONE.to_owned()) };
        let table = Kallsyms::current();
        let places = Candidates { functions: probe.candidates, btf: kernel_types(), table: &table };
        let (engine, symbol, result) = at_first(ebpf, probe.programs, probe.sides, &places);
        match result {
            Ok(_) => Ok(Seen { engine, symbol: symbol.to_owned() }),
            Err(Refusal { reason, .. }) => Err(format!("{symbol}: {reason}")),
        }
    }

    /// Attaches to the bundled union's daemons: all that run this program's own
    /// file.
    pub fn attach_bundled(&mut self) -> Result<(), String> {
        let Some(ebpf) = &mut self.ebpf else { return Err(GONE.to_owned()) };
        let end = unionbench_copy_up_end as *const () as usize;
        let begin = unionbench_copy_up_begin as *const () as usize;
        uprobe(ebpf, "trace_bundled_end", end)
            .and_then(|_| uprobe(ebpf, "trace_bundled_begin", begin))
            .map(drop)
            .map_err(|refusal| refusal.reason)
    }

    /// Attaches a program to tracepoints of one category, all of which hold
    /// these fields at these places; nothing if it is there already.
    pub fn attach_tracepoints(
        &mut self,
        name: &str,
        category: &str,
        tracepoints: &[&str],
        fields: &[(&str, usize)],
    ) -> Result<(), String> {
        let Some(ebpf) = &mut self.ebpf else { return Err(GONE.to_owned()) };
        if self.at_tracepoints.iter().any(|there| there == name) {
            return Ok(());
        }
        tracefs::visible(|| {
            let tracepoint: &mut TracePoint = program(ebpf, name)?;
            tracepoint.load().map_err(|error| Refusal::of(&error))?;
            for at in tracepoints {
                tracefs::check_format(category, at, fields)?;
                let attached = program::<TracePoint>(ebpf, name)?.attach(category, at);
                attached.map_err(|error| Refusal::of(&error))?;
            }
            Ok(())
        })
        .map_err(|refusal: Refusal| refusal.reason)?;
        self.at_tracepoints.push(name.to_owned());
        Ok(())
    }

    /// Takes every program off, so that no further event comes.
    pub fn detach(&mut self) {
        self.ebpf = None;
    }
}

const GONE: &str = "the trace was stopped";

fn taken<T>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, ProbeError>
where
    T: TryFrom<Map, Error = MapError>,
{
    let map = ebpf.take_map(name).ok_or(ProbeError::MapMissing(name))?;
    T::try_from(map).map_err(|source| ProbeError::Map { name, source })
}
