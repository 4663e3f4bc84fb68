//! One record of several kernels: the same scenario, run in the lab on each.
//!
//! The kernel becomes a coordinate of every cell, under the key [`KERNEL`], as
//! any other list of a scenario does. A record of one kernel has no such
//! coordinate. What belongs to a kernel and not to a cell is in
//! [`Environment`]: the first kernel's in the record's own fields, those of the
//! others in [`Record::further`].

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Backend, Cell, DriverOverhead, EngineStatus, Host, Lab, ParamValue, ProbeStatus, Record, Stack,
};

/// The key of the kernel among a cell's coordinates.
pub const KERNEL: &str = "kernel";

/// Where the cells of one further kernel were measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Environment {
    /// The value of [`KERNEL`] in its cells.
    pub kernel: String,
    pub elapsed_ms: u64,
    pub host: Host,
    pub lab: Option<Lab>,
    /// As in the record: what was mounted there, and how.
    pub backends: Vec<Backend>,
    pub engines: Vec<EngineStatus>,
    pub probes: Vec<ProbeStatus>,
    pub driver: DriverOverhead,
}

impl Record {
    /// One record of one kernel each, in the order of the kernels. A single
    /// record stays as it is; of none there is nothing.
    pub fn matrix(records: Vec<Self>) -> Option<Self> {
        if records.len() < 2 {
            return records.into_iter().next();
        }
        let names = names(&records);
        let mut merged: Option<Self> = None;
        for (mut record, name) in records.into_iter().zip(names) {
            for cell in &mut record.cells {
                place(cell, &name);
            }
            for warning in &mut record.warnings {
                *warning = format!("{name}: {warning}");
            }
            match &mut merged {
                None => merged = Some(record),
                Some(whole) => whole.take(record, name),
            }
        }
        merged
    }

    /// The kernels of a matrix in their order; empty for a record of one.
    pub fn kernels(&self) -> Vec<&str> {
        let mut found: Vec<&str> = Vec::new();
        for cell in &self.cells {
            if let Some(ParamValue::Text(kernel)) = cell.params.get(KERNEL)
                && !found.contains(&kernel.as_str())
            {
                found.push(kernel);
            }
        }
        found
    }

    /// Every lab of the record, in the order of its kernels; empty for a
    /// record that was measured on the host itself.
    pub fn labs(&self) -> impl Iterator<Item = &Lab> {
        self.lab.iter().chain(self.further.iter().filter_map(|there| there.lab.as_ref()))
    }

    fn take(&mut self, record: Self, kernel: String) {
        let stacks: Vec<u32> = record.stacks.into_iter().map(|stack| self.stack(stack)).collect();
        let moved = |index: u32| stacks.get(index as usize).copied().unwrap_or(index);
        let n_steps = self.order.len() as u32;
        self.cells.extend(record.cells.into_iter().map(|mut cell| {
            cell.stack = moved(cell.stack);
            for round in &mut cell.rounds {
                round.step += n_steps;
            }
            cell
        }));
        self.order.extend(record.order.into_iter().map(|mut step| {
            step.stack = moved(step.stack);
            step
        }));
        self.elapsed_ms += record.elapsed_ms;
        self.warnings.extend(record.warnings);
        self.further.push(Environment {
            kernel,
            elapsed_ms: record.elapsed_ms,
            host: record.host,
            lab: record.lab,
            backends: record.backends,
            engines: record.engines,
            probes: record.probes,
            driver: record.driver,
        });
    }

    /// The index of a stack that is the same to the byte, or of its own.
    fn stack(&mut self, stack: Stack) -> u32 {
        let same = |other: &Stack| other.params == stack.params && other.hash == stack.hash;
        let index = self.stacks.iter().position(same).unwrap_or_else(|| {
            self.stacks.push(stack);
            self.stacks.len() - 1
        });
        index as u32
    }
}

/// The release of each kernel, with the beginning of its image's hash where
/// two have the same.
fn names(records: &[Record]) -> Vec<String> {
    let releases: Vec<&str> = records.iter().map(|r| r.host.kernel_release.as_str()).collect();
    let mut taken = BTreeSet::new();
    records
        .iter()
        .zip(&releases)
        .enumerate()
        .map(|(n, (record, release))| {
            let twin = releases.iter().filter(|other| *other == release).count() > 1;
            let hash = record.lab.as_ref().map_or("", |lab| lab.kernel_sha256.as_str());
            let mut name = match twin {
                true => format!("{release} ({})", hash.get(..8).unwrap_or(hash)),
                false => (*release).to_owned(),
            };
            if !taken.insert(name.clone()) {
                name = format!("{name} {}", n + 1);
                taken.insert(name.clone());
            }
            name
        })
        .collect()
}

/// Gives a cell its kernel, in its coordinates and in its id.
fn place(cell: &mut Cell, kernel: &str) {
    cell.params.insert(KERNEL.to_owned(), ParamValue::Text(kernel.to_owned()));
    cell.id = placed_id(&cell.id, kernel);
}

/// The id of a cell as it stands in a matrix: the backend, then the kernel.
pub fn placed_id(id: &str, kernel: &str) -> String {
    match id.split_once('/') {
        Some((backend, rest)) if rest.starts_with('/') => {
            format!("{backend}/{KERNEL}={kernel}{rest}")
        }
        Some((backend, rest)) => format!("{backend}/{KERNEL}={kernel},{rest}"),
        None => format!("{id}/{KERNEL}={kernel}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::sample;

    fn of(release: &str) -> Record {
        let mut record = sample::record();
        record.host.kernel_release = release.to_owned();
        record
    }

    #[test]
    fn one_record_stays_as_it_is() {
        let record = sample::record();
        assert_eq!(Record::matrix(vec![record.clone()]), Some(record));
        assert_eq!(Record::matrix(Vec::new()), None);
    }

    #[test]
    fn kernels_become_coordinates_and_keep_their_controls() {
        let merged = Record::matrix(vec![of("6.1"), of("6.12")]).expect("two records");
        let n_cells = sample::record().cells.len();
        assert_eq!(merged.cells.len(), 2 * n_cells);
        assert_eq!(merged.kernels(), ["6.1", "6.12"]);
        let ids: BTreeSet<&str> = merged.cells.iter().map(|cell| cell.id.as_str()).collect();
        assert_eq!(ids.len(), merged.cells.len(), "ids are unique");
        assert_eq!(merged.stacks, sample::record().stacks, "the same stacks stand once");
        let n_controlled = |cells: &[Cell]| {
            let control = |cell: &&Cell| merged.control_of(cell).is_some();
            cells.iter().filter(control).count()
        };
        let (first, second) = merged.cells.split_at(n_cells);
        assert_eq!(n_controlled(first), n_controlled(second));
        for cell in second {
            let control = merged.control_of(cell);
            assert!(control.is_none_or(|control| control.params[KERNEL] == cell.params[KERNEL]));
        }
    }

    #[test]
    fn kernels_of_one_release_are_told_apart() {
        let merged = Record::matrix(vec![of("6.1"), of("6.1")]).expect("two records");
        assert_eq!(merged.kernels().len(), 2);
    }

    #[test]
    fn ids_name_the_kernel_behind_the_backend() {
        assert_eq!(placed_id("bare//cold", "6.1"), "bare/kernel=6.1/cold");
        assert_eq!(placed_id("bare/a=1,b=2/cold", "6.1"), "bare/kernel=6.1,a=1,b=2/cold");
    }
}
