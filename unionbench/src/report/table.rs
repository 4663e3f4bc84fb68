//! The table of one phase as text cells, for the terminal and for Markdown.

use super::Analysis;
use super::analysis::Row;
use super::figure::{grouped, latency, params, ratio};
use crate::record::{CellStatus, ProbeStatus, Record};

/// Headings and rows of one phase. Columns that no row fills are left out.
pub struct Table {
    pub heading: String,
    pub columns: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

/// The table of each phase.
pub fn tables(analysis: &Analysis<'_>) -> Vec<Table> {
    analysis.phases().into_iter().map(|phase| table(analysis, phase)).collect()
}

fn table(analysis: &Analysis<'_>, phase: &str) -> Table {
    let rows: Vec<&Row<'_>> = analysis.phase(phase).collect();
    let control = analysis.record.backends.iter().find(|b| b.control);
    let against = control.map_or("control", |b| &b.name);
    let mut columns: Vec<String> =
        ["parameters", "backend", "n", "median", "p90", "p99", "p99.9"].map(String::from).into();
    columns.push(format!("ratio to {against} [95 %]"));
    columns.push("in kernel (median)".into());
    columns.push("copy-ups / ops".into());
    let mut cells: Vec<Vec<String>> = rows.iter().map(|row| texts(analysis, row)).collect();
    // Beside figures an empty cell would look like none at all.
    if rows.iter().any(|row| row.copy_ups.is_some()) {
        for (row, texts) in rows.iter().zip(&mut cells) {
            if let (None, Some(last)) = (row.copy_ups, texts.last_mut())
                && uncounted_copy_ups(analysis.record, row).is_some()
            {
                *last = "not seen".into();
            }
        }
    }
    for column in (0..columns.len()).rev() {
        if cells.iter().all(|row| row[column].is_empty() || row[column] == "-") {
            columns.remove(column);
            for row in &mut cells {
                row.remove(column);
            }
        }
    }
    let operation = rows.first().map_or("", |row| &row.cell.operation);
    Table { heading: format!("{phase} ({operation})"), columns, rows: cells }
}

fn texts(analysis: &Analysis<'_>, row: &Row<'_>) -> Vec<String> {
    let unit = analysis.record.latency_unit;
    let quantile = |q| row.quantile(q).map_or(String::new(), |v| latency(v as f64, unit));
    let figures = [
        params(&row.cell.params),
        row.cell.backend.clone(),
        grouped(row.n()),
        match &row.cell.status {
            CellStatus::Unsupported { .. } => "unsupported".into(),
            CellStatus::Failed { .. } => "failed".into(),
            CellStatus::Invalid { .. } => format!("{} (invalid)", quantile(0.5)),
            CellStatus::Ok if row.with_probes => format!("{} (with probes)", quantile(0.5)),
            CellStatus::Ok => quantile(0.5),
        },
        quantile(0.9),
        quantile(0.99),
        row.p999().map_or(String::new(), |v| latency(v as f64, unit)),
        row.ratio.as_ref().map_or(String::new(), ratio),
        in_kernel(analysis, row),
        row.copy_ups.map_or(String::new(), |(n, ops)| format!("{} / {}", grouped(n), grouped(ops))),
    ];
    figures.into()
}

/// Why the copy-ups of a row were not counted, if its probes were refused.
pub(super) fn uncounted_copy_ups<'a>(record: &'a Record, row: &Row<'_>) -> Option<&'a str> {
    let backend = record.backends.iter().find(|b| b.name == row.cell.backend)?;
    let refused = |probe: &&ProbeStatus| {
        probe.operation == "copy_up" && probe.backend == backend.kind && !probe.attached
    };
    let of_row = row.copy_ups.is_none() && matches!(row.cell.status, CellStatus::Ok);
    record.probes.iter().filter(|_| of_row).find(refused).map(|probe| probe.reason.as_str())
}

fn in_kernel(analysis: &Analysis<'_>, row: &Row<'_>) -> String {
    let unit = analysis.record.latency_unit;
    let sides: Vec<String> = row
        .syscalls
        .iter()
        .map(|side| format!("{} {}", side.operation, latency(side.median, unit)))
        .collect();
    sides.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Counter, sample};
    use crate::report::sentences::warnings;

    #[test]
    fn copy_ups_that_could_not_be_counted_are_told_as_such() {
        let mut record = sample::record();
        let kinds: Vec<(String, String)> =
            record.backends.iter().map(|b| (b.name.clone(), b.kind.clone())).collect();
        let (seen, unseen) = (&kinds[0], &kinds[1]);
        for cell in record.cells.iter_mut().filter(|cell| cell.backend == seen.0) {
            for round in cell.rounds.iter_mut().filter(|round| round.probes) {
                let (name, engine) = ("copy_ups".to_owned(), "uprobe".to_owned());
                round.counters.push(Counter { name, engine, value: 7 });
            }
        }
        let column = |record: &Record| -> Vec<(String, String)> {
            let analysis = Analysis::of(record).expect("reads");
            let table = tables(&analysis).remove(0);
            let at = |name: &str| table.columns.iter().position(|c| c == name).expect("a column");
            let (backend, copy_ups) = (at("backend"), at("copy-ups / ops"));
            table.rows.iter().map(|r| (r[backend].clone(), r[copy_ups].clone())).collect()
        };
        let of_unseen = |record: &Record| -> Vec<String> {
            let of = column(record).into_iter().filter(|(backend, _)| *backend == unseen.0);
            of.map(|(_, copy_ups)| copy_ups).collect()
        };
        // Nobody tried to count them: there is nothing to tell.
        assert!(of_unseen(&record).iter().all(String::is_empty));
        record.probes.push(ProbeStatus {
            operation: "copy_up".into(),
            backend: unseen.1.clone(),
            engine: "kprobe".into(),
            symbol: "ovl_copy_up_one".into(),
            attached: false,
            errno: Some(1),
            reason: "not permitted".into(),
        });
        let told = of_unseen(&record);
        assert!(!told.is_empty() && told.iter().all(|text| text == "not seen"), "{told:?}");
        assert!(
            column(&record).iter().any(|(backend, n)| *backend == seen.0 && n.starts_with('7'))
        );
        let lines = warnings(&Analysis::of(&record).expect("reads"));
        let wanted = format!("copy-ups of {} could not be counted: not permitted", unseen.0);
        assert_eq!(lines.iter().filter(|line| **line == wanted).count(), 1, "{lines:?}");
    }
}
