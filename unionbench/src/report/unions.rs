//! Lookup and copy-up of every union side by side, by the same definition: a
//! lookup is the kernel's call into the file system for a name it has not
//! cached; a copy-up is one object, from the decision to the finished twin.
//! Where a daemon serves the union, the lookup is still the kernel's call (and
//! so holds the round trip), and the copy-up is the daemon's.

use super::Analysis;
use super::figure::{grouped, latency, params};
use super::table::Table;

/// One table for each operation that was seen in any union.
pub fn tables(analysis: &Analysis<'_>) -> Vec<Table> {
    ["lookup", "copy_up"].into_iter().filter_map(|operation| table(analysis, operation)).collect()
}

fn table(analysis: &Analysis<'_>, operation: &str) -> Option<Table> {
    let unit = analysis.record.latency_unit;
    let rows: Vec<Vec<String>> = analysis
        .rows
        .iter()
        .flat_map(|row| {
            let sides = row.unions.iter().filter(|side| side.operation == operation);
            sides.map(|side| {
                vec![
                    row.cell.phase.clone(),
                    params(&row.cell.params),
                    row.cell.backend.clone(),
                    format!("{} ({})", side.symbol, side.engine),
                    grouped(side.count),
                    latency(side.median, unit),
                ]
            })
        })
        .collect();
    let columns = ["phase", "parameters", "backend", "seen at", "n", "median"];
    let columns = columns.map(String::from).into();
    let heading = format!("{} inside each union", operation.replace('_', "-"));
    (!rows.is_empty()).then_some(Table { heading, columns, rows })
}
