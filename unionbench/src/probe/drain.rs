//! Reading what the kernel side counted, into the form that is stored.

use aya::Ebpf;
use aya::maps::{Array, Map, MapData, MapError, PerCpuArray, PerCpuValues, RingBuf};
use aya::util::nr_cpus;
use unionbench_common::op::{
    COUNTERS, FUSE_BASE, FUSE_OPCODES, FUSE_QUEUE_BASE, FUSE_REPLY_BASE, FUSE_SERVICE_BASE,
    LAYER_TURNS, SYSCALL_BASE, SYSCALL_NUMBERS,
};
use unionbench_common::{CopyUpEvent, Counter, Histogram, LayerTurn, Operation, hist};

use super::ProbeError;
use super::attach::{Attached, Target};
use super::engine::Engine;
use super::syscalls;
use crate::record::{self, KernelHistogram, LayerVisits, Losses, Sampling};

/// What was seen between `begin` and `end`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observations {
    /// Exact counts. Those of system calls are named `syscalls.<name>`.
    pub counters: Vec<record::Counter>,
    /// Latencies, and the layers visited by each lookup.
    pub kernel: Vec<KernelHistogram>,
    /// What the layers of a lookup cost, by their turn.
    pub layers: Vec<LayerVisits>,
    /// Finished copy-ups, in the order in which they ended.
    pub copy_ups: Vec<CopyUpEvent>,
    /// Absent if sampling was not wanted or is refused.
    pub sampling: Option<Sampling>,
    pub losses: Losses,
}

impl Observations {
    /// The exact count of one system call; zero if none was made.
    pub fn syscalls(&self, name: &str) -> u64 {
        self.counter(&format!("syscalls.{name}")).unwrap_or(0)
    }

    /// A counter by its name.
    pub fn counter(&self, name: &str) -> Option<u64> {
        self.counters.iter().find(|counter| counter.name == name).map(|counter| counter.value)
    }

    /// A histogram by the name of its operation.
    pub fn histogram(&self, operation: &str) -> Option<&KernelHistogram> {
        self.kernel.iter().find(|histogram| histogram.operation == operation)
    }
}

/// A map of the object, for reading.
pub(super) fn map<'a, T>(ebpf: &'a Ebpf, name: &'static str) -> Result<T, ProbeError>
where
    T: TryFrom<&'a Map, Error = MapError>,
{
    let map = ebpf.map(name).ok_or(ProbeError::MapMissing(name))?;
    map.try_into().map_err(|source| ProbeError::Map { name, source })
}

/// A map of the object, for writing.
pub(super) fn map_mut<'a, T>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<T, ProbeError>
where
    T: TryFrom<&'a mut Map, Error = MapError>,
{
    let map = ebpf.map_mut(name).ok_or(ProbeError::MapMissing(name))?;
    map.try_into().map_err(|source| ProbeError::Map { name, source })
}

/// Reads and empties all but the samples.
pub(super) fn take(ebpf: &mut Ebpf, probes: &[Attached]) -> Result<Observations, ProbeError> {
    let mut seen = Observations::default();
    for probe in probes.iter().filter(|probe| probe.refusal.is_none()) {
        match probe.target {
            Target::Syscalls => take_syscalls(ebpf, probe, &mut seen)?,
            Target::FuseRequests => take_fuse(ebpf, probe, &mut seen)?,
            Target::FuseParts => {
                let parts = [("queue", FUSE_QUEUE_BASE), ("service", FUSE_SERVICE_BASE)];
                take_fuse_parts(ebpf, probe, &parts, &mut seen)?;
            }
            Target::FuseReplies => {
                take_fuse_parts(ebpf, probe, &[("reply", FUSE_REPLY_BASE)], &mut seen)?;
            }
            // An operation that has several probes has one histogram.
            Target::Operation(operation) if seen.histogram(operation.name()).is_none() => {
                take_operation(ebpf, operation, &joined(probes, probe), &mut seen)?;
            }
            Target::Operation(_) | Target::Counter(_) | Target::Samples => {}
        }
    }
    take_counters(ebpf, probes, &mut seen)?;
    let mut events: RingBuf<_> = map_mut(ebpf, "EVENTS")?;
    while let Some(item) = events.next() {
        seen.copy_ups.extend(read_event(&item));
    }
    Ok(seen)
}

/// The probe with the symbols of all that fill the same operation.
fn joined(probes: &[Attached], probe: &Attached) -> Attached {
    let symbols: Vec<&str> = probes
        .iter()
        .filter(|other| other.target == probe.target && other.refusal.is_none())
        .map(|other| other.symbol.as_str())
        .collect();
    let Attached { target, family, engine, .. } = *probe;
    Attached { target, family, engine, symbol: symbols.join("|"), refusal: None, links: Vec::new() }
}

/// The histogram of an operation, and what else its programs fill.
fn take_operation(
    ebpf: &mut Ebpf,
    operation: Operation,
    probe: &Attached,
    seen: &mut Observations,
) -> Result<(), ProbeError> {
    let mut take = |seen: &mut Observations, operation: Operation| {
        take_histogram(ebpf, operation as u32, operation.name().to_owned(), probe, seen)?;
        if let Some(name) = counted_as(operation) {
            let value = seen.histogram(operation.name()).map_or(0, |histogram| histogram.count);
            seen.counters.push(counter(name, probe, value));
        }
        Ok::<(), ProbeError>(())
    };
    take(seen, operation)?;
    match operation {
        Operation::LayerLookup => {
            take(seen, Operation::LayersVisited)?;
            seen.layers = take_layers(ebpf)?;
        }
        Operation::Fsync => take(seen, Operation::CopyUpFsync)?,
        Operation::CopyUp => take_causes(ebpf, probe, seen)?,
        _ => {}
    }
    Ok(())
}

/// The counter of an operation whose calls are of interest as a number.
fn counted_as(operation: Operation) -> Option<&'static str> {
    match operation {
        Operation::Lookup => Some("lookups"),
        Operation::Revalidate => Some("revalidations"),
        Operation::CopyUp => Some("copy_ups"),
        Operation::Whiteout => Some("whiteouts"),
        Operation::ReaddirMerge => Some("readdir_merges"),
        Operation::Fsync => Some("fsyncs"),
        Operation::Ext4Fsync => Some("ext4_fsyncs"),
        _ => None,
    }
}

fn counter(name: &str, probe: &Attached, value: u64) -> record::Counter {
    record::Counter { name: name.to_owned(), engine: probe.engine.name().to_owned(), value }
}

/// Copy-ups by the system call that caused each.
fn take_causes(
    ebpf: &mut Ebpf,
    probe: &Attached,
    seen: &mut Observations,
) -> Result<(), ProbeError> {
    for (number, value) in take_numbers(ebpf, "COPY_UPS")? {
        let name = format!("copy_ups.{}", syscalls::name(number));
        seen.counters.push(counter(&name, probe, value));
    }
    Ok(())
}

/// The numbers of a table that were counted, and how often.
fn take_numbers(ebpf: &mut Ebpf, name: &'static str) -> Result<Vec<(u32, u64)>, ProbeError> {
    const N: usize = SYSCALL_NUMBERS as usize;
    let sums = take_sums::<N>(&mut map_mut(ebpf, name)?, name)?;
    Ok((0..SYSCALL_NUMBERS).zip(sums).filter(|(_, value)| *value > 0).collect())
}

/// Up to the last turn at which a layer was asked.
fn take_layers(ebpf: &mut Ebpf) -> Result<Vec<LayerVisits>, ProbeError> {
    const NAME: &str = "LAYERS";
    let fault = |source| ProbeError::Map { name: NAME, source };
    const N: usize = LAYER_TURNS as usize;
    let mut table: PerCpuArray<_, [LayerTurn; N]> = map_mut(ebpf, NAME)?;
    let parts = table.get(&0, 0).map_err(fault)?;
    let mut layers = Vec::new();
    for turn in 0..N {
        let asked: u64 = parts.iter().map(|part| part[turn].asked).sum();
        // A lookup asks in turn: after the first gap there is nothing.
        if asked == 0 {
            break;
        }
        let spent = parts.iter().map(|part| part[turn].spent_ns).sum();
        layers.push(LayerVisits { turn: turn as u32 + 1, asked, spent });
    }
    if !layers.is_empty() {
        table.set(0, per_cpu([LayerTurn::default(); N])?, 0).map_err(fault)?;
    }
    Ok(layers)
}

/// Counts each counter that a probe fills, and sums up the losses.
fn take_counters(
    ebpf: &mut Ebpf,
    probes: &[Attached],
    seen: &mut Observations,
) -> Result<(), ProbeError> {
    const NAME: &str = "COUNTER";
    let sums = take_sums::<{ COUNTERS as usize }>(&mut map_mut(ebpf, NAME)?, NAME)?;
    for counter in Counter::ALL {
        let value = sums[counter as usize];
        match counter {
            Counter::LostEvents => seen.losses.events += value,
            Counter::LostStacks => seen.losses.stacks += value,
            lost if lost.is_loss() => seen.losses.unpaired += value,
            _ => {}
        }
        if counter.is_loss() {
            continue;
        }
        let filled = probes.iter().find(|probe| {
            probe.refusal.is_none()
                && match counter {
                    Counter::Samples | Counter::UserSamples => probe.target == Target::Samples,
                    Counter::LayerVisits => {
                        probe.target == Target::Operation(Operation::LayerLookup)
                    }
                    Counter::BytesCloned => is_phase(probe, Operation::CopyUpClone),
                    Counter::BytesSpliced => is_phase(probe, Operation::CopyUpSplice),
                    // The bundled daemon tells the bytes of a copy-up itself.
                    Counter::BytesCopied => {
                        is_phase(probe, Operation::CopyUpCopy)
                            || (is_phase(probe, Operation::CopyUp)
                                && probe.engine == Engine::Uprobe)
                    }
                    Counter::BytesWritten => is_phase(probe, Operation::CopyUpWrite),
                    other => probe.target == Target::Counter(other),
                }
        });
        if let Some(probe) = filled {
            let engine = probe.engine.name().to_owned();
            let name = counter.name().to_owned();
            seen.counters.push(record::Counter { name, engine, value });
        }
    }
    Ok(())
}

fn is_phase(probe: &Attached, operation: Operation) -> bool {
    probe.target == Target::Operation(operation)
}

fn take_syscalls(
    ebpf: &mut Ebpf,
    probe: &Attached,
    seen: &mut Observations,
) -> Result<(), ProbeError> {
    let engine = probe.engine.name();
    for (number, value) in take_numbers(ebpf, "SYSCALLS")? {
        let name = syscalls::name(number);
        let counter = format!("syscalls.{name}");
        seen.counters.push(record::Counter { name: counter, engine: engine.to_owned(), value });
        if let Some(place) = syscalls::timed().iter().position(|(timed, _)| *timed == number) {
            let index = SYSCALL_BASE + place as u32;
            take_histogram(ebpf, index, format!("syscall:{name}"), probe, seen)?;
        }
    }
    Ok(())
}

fn take_fuse(ebpf: &mut Ebpf, probe: &Attached, seen: &mut Observations) -> Result<(), ProbeError> {
    for opcode in 0..FUSE_OPCODES {
        let name = format!("fuse:{}", fuse_name(opcode));
        let before = seen.kernel.len();
        take_histogram(ebpf, FUSE_BASE + opcode, name, probe, seen)?;
        // Of the many opcodes only those that were sent are of interest.
        match seen.kernel.last().map_or(0, |histogram| histogram.count) {
            0 => seen.kernel.truncate(before),
            sent => {
                let name = format!("fuse.{}", fuse_name(opcode));
                seen.counters.push(counter(&name, probe, sent));
            }
        }
    }
    Ok(())
}

/// The parts of requests, of the opcodes that were sent.
fn take_fuse_parts(
    ebpf: &mut Ebpf,
    probe: &Attached,
    parts: &[(&str, u32)],
    seen: &mut Observations,
) -> Result<(), ProbeError> {
    for opcode in 0..FUSE_OPCODES {
        for (part, base) in parts {
            let name = format!("fuse_{part}:{}", fuse_name(opcode));
            let before = seen.kernel.len();
            take_histogram(ebpf, base + opcode, name, probe, seen)?;
            if seen.kernel.last().is_some_and(|histogram| histogram.count == 0) {
                seen.kernel.truncate(before);
            }
        }
    }
    Ok(())
}

/// Sums a histogram over the processors, appends it, and empties it.
fn take_histogram(
    ebpf: &mut Ebpf,
    index: u32,
    operation: String,
    probe: &Attached,
    seen: &mut Observations,
) -> Result<(), ProbeError> {
    const NAME: &str = "HISTOGRAM";
    let mut histograms: PerCpuArray<_, Histogram> = map_mut(ebpf, NAME)?;
    let fault = |source| ProbeError::Map { name: NAME, source };
    let mut whole = Histogram::EMPTY;
    for part in histograms.get(&index, 0).map_err(fault)?.iter() {
        whole.merge(part);
    }
    let count = whole.count();
    if count > 0 {
        histograms.set(index, per_cpu(Histogram::EMPTY)?, 0).map_err(fault)?;
    }
    seen.losses.overflow += whole.overflow;
    let filled = whole.buckets.iter().enumerate().filter(|(_, count)| **count > 0);
    seen.kernel.push(KernelHistogram {
        operation,
        engine: probe.engine.name().to_owned(),
        symbol: probe.symbol.clone(),
        count,
        sum: whole.sum,
        min: whole.min().unwrap_or(0),
        max: whole.max,
        buckets: filled
            .map(|(bucket, count)| {
                let (from, to) = hist::bounds(bucket);
                (from, to, *count)
            })
            .collect(),
    });
    Ok(())
}

/// Sums a table over the processors, and empties it.
fn take_sums<const N: usize>(
    map: &mut PerCpuArray<&mut MapData, [u64; N]>,
    name: &'static str,
) -> Result<[u64; N], ProbeError> {
    let fault = |source| ProbeError::Map { name, source };
    let mut sums = [0; N];
    for part in map.get(&0, 0).map_err(fault)?.iter() {
        for (sum, value) in sums.iter_mut().zip(part) {
            *sum += value;
        }
    }
    if sums.iter().any(|sum| *sum > 0) {
        map.set(0, per_cpu([0; N])?, 0).map_err(fault)?;
    }
    Ok(sums)
}

fn per_cpu<V: aya::Pod>(value: V) -> Result<PerCpuValues<V>, ProbeError> {
    let cpus = nr_cpus().map_err(|(_, error)| ProbeError::Processors(error))?;
    PerCpuValues::try_from(vec![value; cpus]).map_err(ProbeError::Processors)
}

/// Tells the kernel side which system calls have a histogram, and where.
pub(super) fn choose_syscalls(ebpf: &mut Ebpf) -> Result<(), ProbeError> {
    const NAME: &str = "SYSCALL_HISTOGRAM";
    let mut places: Array<_, u32> = map_mut(ebpf, NAME)?;
    for (place, (number, _)) in syscalls::timed().into_iter().enumerate() {
        places
            .set(number, SYSCALL_BASE + place as u32, 0)
            .map_err(|source| ProbeError::Map { name: NAME, source })?;
    }
    Ok(())
}

/// Fields in the order of the type; none if the entry is too short.
fn read_event(bytes: &[u8]) -> Option<CopyUpEvent> {
    let word = |at: usize| Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let half = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    Some(CopyUpEvent {
        start_ns: word(0)?,
        duration_ns: word(8)?,
        size: word(16)?,
        tid: half(24)?,
        returned: half(28)?.cast_signed(),
        depth: half(32)?,
        reserved: half(36)?,
    })
}

/// Opcodes of the FUSE protocol as `linux/fuse.h` numbers them; empty where it
/// has none.
pub const FUSE_NAMES: [&str; 53] = [
    "",
    "LOOKUP",
    "FORGET",
    "GETATTR",
    "SETATTR",
    "READLINK",
    "SYMLINK",
    "",
    "MKNOD",
    "MKDIR",
    "UNLINK",
    "RMDIR",
    "RENAME",
    "LINK",
    "OPEN",
    "READ",
    "WRITE",
    "STATFS",
    "RELEASE",
    "",
    "FSYNC",
    "SETXATTR",
    "GETXATTR",
    "LISTXATTR",
    "REMOVEXATTR",
    "FLUSH",
    "INIT",
    "OPENDIR",
    "READDIR",
    "RELEASEDIR",
    "FSYNCDIR",
    "GETLK",
    "SETLK",
    "SETLKW",
    "ACCESS",
    "CREATE",
    "INTERRUPT",
    "BMAP",
    "DESTROY",
    "IOCTL",
    "POLL",
    "NOTIFY_REPLY",
    "BATCH_FORGET",
    "FALLOCATE",
    "READDIRPLUS",
    "RENAME2",
    "LSEEK",
    "COPY_FILE_RANGE",
    "SETUPMAPPING",
    "REMOVEMAPPING",
    "SYNCFS",
    "TMPFILE",
    "STATX",
];

/// The name of an opcode; its number if it has none.
pub fn fuse_name(opcode: u32) -> String {
    match FUSE_NAMES.get(opcode as usize) {
        Some(name) if !name.is_empty() => (*name).to_owned(),
        _ => opcode.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opcodes_have_the_protocols_names() {
        for (opcode, name) in [
            (1, "LOOKUP"),
            (15, "READ"),
            (26, "INIT"),
            (35, "CREATE"),
            (44, "READDIRPLUS"),
            (52, "STATX"),
        ] {
            assert_eq!(fuse_name(opcode), name);
        }
        assert_eq!(fuse_name(7), "7");
        assert_eq!(fuse_name(60), "60");
    }

    #[test]
    fn an_event_is_read_field_by_field_and_a_short_one_is_refused() {
        let mut bytes = Vec::new();
        for word in [1_u64, 2, 3] {
            bytes.extend(word.to_ne_bytes());
        }
        for half in [4_u32, (-5_i32).cast_unsigned(), 6, 0] {
            bytes.extend(half.to_ne_bytes());
        }
        let event = read_event(&bytes).expect("forty bytes");
        assert_eq!((event.start_ns, event.duration_ns, event.size), (1, 2, 3));
        assert_eq!((event.tid, event.returned, event.depth), (4, -5, 6));
        assert_eq!(read_event(&bytes[..39]), None);
    }
}
