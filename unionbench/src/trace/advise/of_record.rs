//! Facts of a record: the phases of copy-ups that probes saw in each cell.

use super::{Facts, Part};
use crate::record::{Cell, CellStatus, KernelHistogram, Record};

/// System calls that change attributes or names alone.
const OF_ATTRIBUTES: [&str; 16] = [
    "chmod",
    "fchmod",
    "fchmodat",
    "fchmodat2",
    "chown",
    "fchown",
    "lchown",
    "fchownat",
    "utimensat",
    "setxattr",
    "lsetxattr",
    "fsetxattr",
    "link",
    "linkat",
    "rename",
    "renameat2",
];

/// The facts of each cell in which something was copied up while probes
/// watched, in the order of the record.
pub fn of_record(record: &Record) -> Vec<Facts> {
    let counts = record.cells.iter().filter(|cell| cell.status == CellStatus::Ok);
    counts.filter_map(|cell| of_cell(record, cell)).collect()
}

fn of_cell(record: &Record, cell: &Cell) -> Option<Facts> {
    let watched: Vec<_> = cell.rounds.iter().filter(|round| round.probes).collect();
    let sum = |operation: &str| -> Option<(u64, u64)> {
        let of = |h: &&KernelHistogram| h.operation == operation;
        let all: Vec<_> = watched.iter().filter_map(|r| r.kernel.iter().find(of)).collect();
        let sums = all.iter().fold((0, 0), |(n, time), h| (n + h.count, time + h.sum));
        (sums.0 > 0).then_some(sums)
    };
    let counter = |wanted: &dyn Fn(&str) -> bool| -> u64 {
        let all = watched.iter().flat_map(|round| &round.counters);
        all.filter(|c| wanted(&c.name)).map(|c| c.value).sum()
    };
    let (n_copy_ups, copy_up_time) = sum("copy_up")?;
    let by_call = counter(&|name| name.starts_with("copy_ups."));
    let of_attributes = counter(&|name| {
        name.strip_prefix("copy_ups.").is_some_and(|call| OF_ATTRIBUTES.contains(&call))
    });
    let phase = |name: &str, what: &str| match sum(name) {
        Some((n, time)) => Ok(Part { n, n_known: n, n_whole: 0, time }),
        None => Err(format!("no {what} of a copy-up was seen in this cell")),
    };
    let data = phase("copy_up_data", "data");
    let fsync = phase("copy_up_fsync", "fsync");
    // `ovl_copy_up_file` synchronises what it copied; where that is inlined the
    // function around it is watched, or one that does not.
    let moved: u64 = ["copy_up_clone", "copy_up_splice", "copy_up_copy"]
        .into_iter()
        .filter_map(|part| sum(part).map(|(_, time)| time))
        .sum();
    let synced = fsync.as_ref().map_or(0, |part| part.time);
    let inside = data.as_ref().is_ok_and(|data| data.time >= moved + synced);
    let (within, outside) = if inside { (synced, 0) } else { (0, synced) };
    let attributes = match (&data, &fsync) {
        _ if by_call != n_copy_ups => {
            Err("what made each copy-up was not seen in this cell".to_owned())
        }
        _ if of_attributes == 0 => Ok(Part::default()),
        _ if of_attributes != by_call => {
            Err("files were copied up for their data and for attributes in the same cell"
                .to_owned())
        }
        (Err(reason), _) => Err(reason.clone()),
        (Ok(data), _) => Ok(Part { time: data.time + outside, ..*data }),
    };
    let backend = record.backends.iter().find(|b| b.name == cell.backend)?;
    let cloned = counter(&|name| name == "bytes_cloned");
    let copying = match cloned {
        0 => data.map(|data| Part { time: data.time - within, ..data }),
        _ => Err("data was cloned in this cell already".to_owned()),
    };
    Some(Facts {
        source: cell.id.clone(),
        unit: record.latency_unit,
        options: backend.options_in_force.clone(),
        n_passes: watched.len() as u64,
        n_copy_ups,
        copy_up_time,
        attributes,
        fsync,
        copying,
        lookups: Err(
            "`unionbench run` with several numbers of `stack.layers` tells what a layer costs"
                .into(),
        ),
        places: Vec::new(),
    })
}
