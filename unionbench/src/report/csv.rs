//! The figures of the table as comma-separated values, one line per cell.

use super::json::figures;
use super::{Analysis, ReportError, figure};

const COLUMNS: [&str; 20] = [
    "cell",
    "phase",
    "operation",
    "backend",
    "backing",
    "params",
    "status",
    "reason",
    "with_probes",
    "latency_unit",
    "n",
    "median",
    "p90",
    "p99",
    "p999",
    "ratio",
    "ratio_low",
    "ratio_high",
    "probes_cost",
    "copy_ups",
];

/// A heading and one line per cell, in the record's order. What is not known
/// is empty, never zero.
pub fn csv(analysis: &Analysis<'_>) -> Result<String, ReportError> {
    let mut out = csv_writer();
    out.write_record(COLUMNS)?;
    for f in figures(analysis) {
        let whole = |v: Option<u64>| v.map_or(String::new(), |v| v.to_string());
        let real = |v: Option<f64>| v.map_or(String::new(), |v| format!("{v:.4}"));
        out.write_record([
            f.cell,
            f.phase,
            f.operation,
            f.backend,
            f.backing,
            &figure::params(f.params),
            f.status,
            f.reason,
            &f.with_probes.to_string(),
            f.latency_unit.suffix(),
            &f.n.to_string(),
            &whole(f.median),
            &whole(f.p90),
            &whole(f.p99),
            &whole(f.p999),
            &real(f.ratio),
            &real(f.ratio_low),
            &real(f.ratio_high),
            &real(f.probes_cost),
            &whole(f.copy_ups),
        ])?;
    }
    let bytes = out.into_inner().map_err(|e| ::csv::Error::from(e.into_error()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn csv_writer() -> ::csv::Writer<Vec<u8>> {
    ::csv::Writer::from_writer(Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::sample;

    #[test]
    fn every_cell_has_a_line_of_its_own() {
        let record = sample::record();
        let text = csv(&Analysis::of(&record).expect("reads")).expect("encodes");
        let mut reader = ::csv::Reader::from_reader(text.as_bytes());
        let ids: Vec<String> = reader.records().map(|r| r.expect("a line")[0].to_owned()).collect();
        let expected: Vec<String> = record.cells.iter().map(|c| c.id.clone()).collect();
        assert_eq!(ids, expected);
    }
}
