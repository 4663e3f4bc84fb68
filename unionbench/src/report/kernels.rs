//! What moved between the kernels of a matrix: each metric of each cell, a
//! column per kernel.

use super::analysis::Row;
use super::figure::{grouped, latency, params};
use super::table::Table;
use super::{Analysis, ReportError};
use crate::record::{KERNEL, ParamValue, Params};

/// One metric of one cell on every kernel.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    pub phase: String,
    pub backend: String,
    /// The cell's coordinates but for the kernel.
    pub params: Params,
    /// `median`, `p90`, the name of a counter, or `mean of` an operation
    /// inside the kernel.
    pub name: String,
    /// In the record's latency unit; else a count.
    pub is_latency: bool,
    /// In the order of the kernels; absent where a kernel has no figure.
    pub values: Vec<Option<f64>>,
}

impl Metric {
    /// Last kernel over first.
    pub fn quotient(&self) -> Option<f64> {
        let (first, last) = (self.values.first()?.as_ref()?, self.values.last()?.as_ref()?);
        (*first > 0.0).then(|| last / first)
    }

    /// It is not the same on every kernel.
    pub fn moved(&self) -> bool {
        self.values.windows(2).any(|pair| pair[0] != pair[1])
    }
}

/// Every metric of a matrix, in the order of the first kernel's cells; none
/// for a record of one kernel.
pub fn metrics(analysis: &Analysis<'_>) -> Vec<Metric> {
    let kernels = analysis.record.kernels();
    let Some(first) = kernels.first() else { return Vec::new() };
    let on = |row: &Row<'_>, kernel: &str| matches!(row.cell.params.get(KERNEL), Some(ParamValue::Text(own)) if own == kernel);
    let mut found = Vec::new();
    for row in analysis.rows.iter().filter(|row| on(row, first)) {
        let place = without_kernel(&row.cell.params);
        let twins: Vec<Option<&Row<'_>>> = kernels
            .iter()
            .map(|kernel| {
                analysis.rows.iter().find(|other| {
                    on(other, kernel)
                        && other.cell.phase == row.cell.phase
                        && other.cell.backend == row.cell.backend
                        && without_kernel(&other.cell.params) == place
                })
            })
            .collect();
        found.extend(of_place(row, &place, &twins));
    }
    found
}

fn without_kernel(params: &Params) -> Params {
    params.iter().filter(|(key, _)| *key != KERNEL).map(|(k, v)| (k.clone(), v.clone())).collect()
}

fn of_place(row: &Row<'_>, place: &Params, twins: &[Option<&Row<'_>>]) -> Vec<Metric> {
    let figures: Vec<Vec<Figure>> = twins
        .iter()
        .map(|twin| twin.filter(|row| row.counts()).map_or_else(Vec::new, figures))
        .collect();
    let mut names: Vec<(&str, bool)> = Vec::new();
    for figure in figures.iter().flatten() {
        let name = (figure.name.as_str(), figure.is_latency);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let value = |of_kernel: &Vec<Figure>, name: &str| {
        of_kernel.iter().find(|figure| figure.name == name).map(|figure| figure.value)
    };
    names
        .into_iter()
        .map(|(name, is_latency)| Metric {
            phase: row.cell.phase.clone(),
            backend: row.cell.backend.clone(),
            params: place.clone(),
            name: name.to_owned(),
            is_latency,
            values: figures.iter().map(|of_kernel| value(of_kernel, name)).collect(),
        })
        .collect()
}

struct Figure {
    name: String,
    is_latency: bool,
    value: f64,
}

/// Counters are summed over the rounds with probes, or over all where there
/// are none.
fn figures(row: &Row<'_>) -> Vec<Figure> {
    let mut found = Vec::new();
    for (name, quantile) in [("median", 0.5), ("p90", 0.9)] {
        if let Some(value) = row.quantile(quantile) {
            found.push(Figure { name: name.to_owned(), is_latency: true, value: value as f64 });
        }
    }
    let probed = row.cell.rounds.iter().any(|round| round.probes);
    let mut sums: Vec<(String, u64)> = Vec::new();
    let mut means: Vec<(String, u64, u64)> = Vec::new();
    for round in row.cell.rounds.iter().filter(|round| round.probes == probed) {
        for counter in &round.counters {
            match sums.iter_mut().find(|sum| sum.0 == counter.name) {
                Some(sum) => sum.1 += counter.value,
                None => sums.push((counter.name.clone(), counter.value)),
            }
        }
        for seen in &round.kernel {
            match means.iter_mut().find(|mean| mean.0 == seen.operation) {
                Some(mean) => {
                    *mean = (std::mem::take(&mut mean.0), mean.1 + seen.sum, mean.2 + seen.count)
                }
                None => means.push((seen.operation.clone(), seen.sum, seen.count)),
            }
        }
    }
    found.extend(sums.into_iter().map(|(name, value)| Figure {
        name,
        is_latency: false,
        value: value as f64,
    }));
    found.extend(means.into_iter().filter(|mean| mean.2 > 0).map(|(operation, sum, count)| {
        Figure {
            // Layers visited are a number, not a time.
            is_latency: operation != "layers_visited",
            name: format!("mean of {operation}"),
            value: sum as f64 / count as f64,
        }
    }));
    found
}

/// For each phase the medians, a column per kernel; then the counts that moved.
pub fn tables(analysis: &Analysis<'_>) -> Vec<Table> {
    let all = metrics(analysis);
    let mut tables = Vec::new();
    for phase in analysis.phases() {
        let of_phase = |m: &&Metric| m.phase == phase;
        let medians: Vec<&Metric> =
            all.iter().filter(of_phase).filter(|m| m.name == "median").collect();
        if !medians.is_empty() {
            let heading = format!("{phase} between kernels (median)");
            tables.push(table(analysis, heading, &medians, false));
        }
        let counts: Vec<&Metric> =
            all.iter().filter(of_phase).filter(|m| !m.is_latency && m.moved()).collect();
        if !counts.is_empty() {
            let heading = format!("{phase} between kernels (counts that moved)");
            tables.push(table(analysis, heading, &counts, true));
        }
    }
    tables
}

fn table(analysis: &Analysis<'_>, heading: String, metrics: &[&Metric], named: bool) -> Table {
    let kernels = analysis.record.kernels();
    let mut columns = vec!["parameters".to_owned(), "backend".to_owned()];
    columns.extend(named.then(|| "metric".to_owned()));
    columns.extend(kernels.iter().map(|kernel| (*kernel).to_owned()));
    columns.push("last / first".to_owned());
    let rows = metrics
        .iter()
        .map(|metric| {
            let mut row = vec![params(&metric.params), metric.backend.clone()];
            row.extend(named.then(|| metric.name.clone()));
            row.extend(metric.values.iter().map(|value| text(*value, metric, analysis)));
            row.push(metric.quotient().map_or("-".to_owned(), |q| format!("{q:.3}")));
            row
        })
        .collect();
    Table { heading, columns, rows }
}

fn text(value: Option<f64>, metric: &Metric, analysis: &Analysis<'_>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if metric.is_latency => latency(value, analysis.record.latency_unit),
        Some(value) if value.fract() == 0.0 => grouped(value as u64),
        Some(value) => format!("{value:.3}"),
    }
}

/// Every metric as comma-separated values; absent for a record of one kernel.
pub fn csv(analysis: &Analysis<'_>) -> Result<Option<String>, ReportError> {
    let kernels = analysis.record.kernels();
    if kernels.is_empty() {
        return Ok(None);
    }
    let mut out = ::csv::Writer::from_writer(Vec::new());
    let mut heading = vec!["phase", "backend", "params", "metric", "unit"];
    heading.extend(&kernels);
    heading.push("last_over_first");
    out.write_record(heading)?;
    for metric in metrics(analysis) {
        let unit = if metric.is_latency { analysis.record.latency_unit.suffix() } else { "1" };
        let mut line = vec![
            metric.phase.clone(),
            metric.backend.clone(),
            params(&metric.params),
            metric.name.clone(),
            unit.to_owned(),
        ];
        line.extend(metric.values.iter().map(|v| v.map_or(String::new(), |v| v.to_string())));
        line.push(metric.quotient().map_or(String::new(), |q| format!("{q:.6}")));
        out.write_record(line)?;
    }
    let bytes = out.into_inner().map_err(|e| ::csv::Error::from(e.into_error()))?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::record::{Record, sample};

    /// The sample on two kernels; on the second all counts are doubled.
    pub fn matrix() -> Record {
        let first = sample::record();
        let mut second = sample::record();
        second.host.kernel_release = "6.13.0".to_owned();
        for counter in
            second.cells.iter_mut().flat_map(|c| &mut c.rounds).flat_map(|r| &mut r.counters)
        {
            counter.value *= 2;
        }
        Record::matrix(vec![first, second]).expect("two records")
    }

    #[test]
    fn every_metric_has_a_column_per_kernel() {
        let record = matrix();
        let analysis = Analysis::of(&record).expect("reads");
        let all = metrics(&analysis);
        assert!(all.iter().all(|m| m.values.len() == 2));
        let medians: Vec<&Metric> = all.iter().filter(|m| m.name == "median").collect();
        assert!(medians.len() > 8 && medians.iter().all(|m| m.quotient() == Some(1.0)));
        let copy_ups: Vec<&Metric> = all.iter().filter(|m| m.name == "copy_ups").collect();
        assert!(!copy_ups.is_empty() && copy_ups.iter().any(|m| m.quotient() == Some(2.0)));
        assert!(copy_ups.iter().filter(|m| m.quotient().is_some()).all(|m| m.moved()));
        let csv = csv(&analysis).expect("encodes").expect("two kernels");
        assert_eq!(csv.lines().count(), all.len() + 1);
        let headings: Vec<String> = tables(&analysis).into_iter().map(|t| t.heading).collect();
        assert!(headings.iter().any(|h| h.ends_with("between kernels (counts that moved)")));
    }

    #[test]
    fn a_record_of_one_kernel_has_none() {
        let record = sample::record();
        let analysis = Analysis::of(&record).expect("reads");
        assert!(metrics(&analysis).is_empty() && tables(&analysis).is_empty());
        assert_eq!(csv(&analysis).expect("encodes"), None);
    }
}
