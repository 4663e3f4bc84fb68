//! The figures of the table as JSON, one object per cell. The record itself is
//! JSON already; this is what is derived from it.

use serde::Serialize;

use super::analysis::Row;
use super::{Analysis, ReportError};
use crate::record::{CellStatus, Params};
use crate::stats::bootstrap::Estimate;
use crate::unit::LatencyUnit;

/// One cell, flat. Latencies are in `latency_unit`; what is not known is null.
#[derive(Debug, Serialize)]
pub(super) struct Figures<'a> {
    pub cell: &'a str,
    pub phase: &'a str,
    pub operation: &'a str,
    pub backend: &'a str,
    pub backing: &'a str,
    pub params: &'a Params,
    pub status: &'static str,
    pub reason: &'a str,
    pub with_probes: bool,
    pub latency_unit: LatencyUnit,
    pub n: u64,
    pub median: Option<u64>,
    pub p90: Option<u64>,
    pub p99: Option<u64>,
    pub p999: Option<u64>,
    pub ratio: Option<f64>,
    pub ratio_low: Option<f64>,
    pub ratio_high: Option<f64>,
    pub probes_cost: Option<f64>,
    pub copy_ups: Option<u64>,
}

pub(super) fn figures<'a>(analysis: &'a Analysis<'_>) -> impl Iterator<Item = Figures<'a>> {
    analysis.rows.iter().map(|row| of_row(analysis, row))
}

/// An array of one object per cell, in the record's order.
pub fn json(analysis: &Analysis<'_>) -> Result<String, ReportError> {
    let all: Vec<Figures<'_>> = figures(analysis).collect();
    Ok(serde_json::to_string_pretty(&all)? + "\n")
}

fn of_row<'a>(analysis: &Analysis<'_>, row: &'a Row<'_>) -> Figures<'a> {
    let (status, reason) = match &row.cell.status {
        CellStatus::Ok => ("ok", ""),
        CellStatus::Unsupported { reason } => ("unsupported", reason.as_str()),
        CellStatus::Failed { reason } => ("failed", reason.as_str()),
        CellStatus::Invalid { reason } => ("invalid", reason.as_str()),
    };
    let ratio = |part: fn(&Estimate) -> f64| row.ratio.as_ref().map(part);
    Figures {
        cell: &row.cell.id,
        phase: &row.cell.phase,
        operation: &row.cell.operation,
        backend: &row.cell.backend,
        backing: &row.cell.backing.kind,
        params: &row.cell.params,
        status,
        reason,
        with_probes: row.with_probes,
        latency_unit: analysis.record.latency_unit,
        n: row.n(),
        median: row.quantile(0.5),
        p90: row.quantile(0.9),
        p99: row.quantile(0.99),
        p999: row.p999(),
        ratio: ratio(|e| e.value),
        ratio_low: ratio(|e| e.low),
        ratio_high: ratio(|e| e.high),
        probes_cost: row.probes_cost.map(|e| e.value),
        copy_ups: row.copy_ups.map(|c| c.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::sample;

    #[test]
    fn unmeasured_cells_have_a_reason_and_no_figures() {
        let record = sample::record();
        let text = json(&Analysis::of(&record).expect("reads")).expect("encodes");
        let all: Vec<serde_json::Value> = serde_json::from_str(&text).expect("JSON");
        assert_eq!(all.len(), record.cells.len());
        let aufs = all.iter().find(|f| f["backend"] == "aufs").expect("listed");
        assert_eq!(aufs["status"], "unsupported");
        assert!(aufs["median"].is_null() && !aufs["reason"].as_str().unwrap_or("").is_empty());
    }
}
