//! The table of one phase as text cells, for the terminal and for Markdown.

use super::Analysis;
use super::analysis::Row;
use super::figure::{grouped, latency, params, ratio};
use crate::record::CellStatus;

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

fn in_kernel(analysis: &Analysis<'_>, row: &Row<'_>) -> String {
    let unit = analysis.record.latency_unit;
    let sides: Vec<String> = row
        .syscalls
        .iter()
        .map(|side| format!("{} {}", side.operation, latency(side.median, unit)))
        .collect();
    sides.join(", ")
}
