//! Where the workload's threads were found: the share of samples that has a
//! function of the file system on the stack.

use std::collections::{BTreeMap, BTreeSet};

use aya::Ebpf;
use aya::maps::{PerCpuHashMap, StackTraceMap};

use super::ProbeError;
use super::catalogue::Family;
use super::drain::{map, map_mut};
use super::kallsyms::Kallsyms;
use crate::record::{FunctionShare, Sampling};

/// Not a divisor of the timer tick, so that samples do not march with it.
pub const DEFAULT_HERTZ: u32 = 1999;
/// How many functions a record keeps beside all of the file system.
const MOST_SAMPLED: usize = 20;

pub(super) fn period_ns(hertz: u32) -> u64 {
    1_000_000_000 / u64::from(hertz.max(1))
}

/// Reads the samples by stack, and empties both maps for the next phase.
pub(super) fn take_stacks(ebpf: &mut Ebpf) -> Result<Vec<(u64, Vec<u64>)>, ProbeError> {
    let counted: Vec<(u32, u64)> = {
        let samples: PerCpuHashMap<_, u32, u64> = map(ebpf, "SAMPLES")?;
        let read: Result<Vec<_>, _> =
            samples.iter().map(|entry| entry.map(|(id, n)| (id, n.iter().sum()))).collect();
        read.map_err(|source| ProbeError::Map { name: "SAMPLES", source })?
    };
    let mut stacks = Vec::with_capacity(counted.len());
    {
        let mut traces: StackTraceMap<_> = map_mut(ebpf, "STACKS")?;
        for (id, n) in &counted {
            let trace =
                traces.get(id, 0).map_err(|source| ProbeError::Map { name: "STACKS", source })?;
            stacks.push((*n, trace.frames().iter().map(|frame| frame.ip).collect()));
            traces.remove(id).map_err(|source| ProbeError::Map { name: "STACKS", source })?;
        }
    }
    let mut samples: PerCpuHashMap<_, u32, u64> = map_mut(ebpf, "SAMPLES")?;
    for (id, _) in &counted {
        samples.remove(id).map_err(|source| ProbeError::Map { name: "SAMPLES", source })?;
    }
    Ok(stacks)
}

/// Names the functions of each stack and counts them, a function once a
/// stack however often it recurs there.
pub(super) fn shares(
    family: Family,
    n: u64,
    hertz: u32,
    stacks: &[(u64, Vec<u64>)],
    table: &Kallsyms,
) -> Sampling {
    let mut by_function: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    let mut in_file_system = 0;
    for (count, addresses) in stacks {
        let names: Vec<&str> = addresses.iter().filter_map(|ip| table.name_at(*ip)).collect();
        if names.iter().any(|name| family.owns(name)) {
            in_file_system += count;
        }
        if let Some(leaf) = names.first() {
            by_function.entry(leaf).or_default().1 += count;
        }
        for name in names.iter().collect::<BTreeSet<_>>() {
            by_function.entry(name).or_default().0 += count;
        }
    }
    let mut functions: Vec<_> = by_function
        .into_iter()
        .map(|(function, (inclusive, exclusive))| FunctionShare {
            function: function.to_owned(),
            inclusive,
            exclusive,
        })
        .collect();
    functions.sort_by(|a, b| b.inclusive.cmp(&a.inclusive).then(a.function.cmp(&b.function)));
    let mut place = 0;
    functions.retain(|share| {
        place += 1;
        place <= MOST_SAMPLED || family.owns(&share.function)
    });
    Sampling { n, period_ns: period_ns(hertz), in_file_system, functions }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_counts_once_for_each_of_its_functions() {
        let table = Kallsyms::for_test(&[(0x100, "entry"), (0x200, "ovl_lookup"), (0x300, "leaf")]);
        let stacks = [(3, vec![0x310, 0x210, 0x220, 0x110]), (2, vec![0x105])];
        let sampling = shares(Family::Overlayfs, 6, 1000, &stacks, &table);
        assert_eq!((sampling.n, sampling.in_file_system, sampling.period_ns), (6, 3, 1_000_000));
        let share = |name: &str| {
            let found = sampling.functions.iter().find(|share| share.function == name);
            found.map(|share| (share.inclusive, share.exclusive))
        };
        assert_eq!(share("entry"), Some((5, 2)));
        assert_eq!(share("ovl_lookup"), Some((3, 0)));
        assert_eq!(share("leaf"), Some((3, 3)));
    }
}
