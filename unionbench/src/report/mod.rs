//! Tables, plots and files derived from a record: one file per format. Nothing
//! here prints; every format is a function from the record to text.

mod analysis;
mod comparison;
mod csv;
mod figure;
mod html;
mod human;
mod json;
mod kernels;
mod md;
mod openmetrics;
pub(in crate::report) mod plots;
mod selftest;
mod sentences;
mod table;
mod trackers;
mod unions;
mod words;

use std::path::{Path, PathBuf};

pub use analysis::{Analysis, KernelSide, Row};
pub use comparison::comparison_md;
pub use figure::latency;
pub use html::{Subject as HtmlSubject, Timeline, html};
pub use human::{Appearance, human};
pub use json::json;
pub use md::md;
pub use openmetrics::openmetrics;
pub use plots::{Plot, png, svgs};
pub use selftest::{selftest_svg, selftest_text};
pub use trackers::{bmf, github_action_benchmark};

pub use self::csv::csv;
use crate::record::Record;
use crate::stats::hdr::HdrError;

/// Why a report could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    #[error("cannot read the histogram of cell {cell}, round {round}")]
    Histogram { cell: String, round: u32, source: HdrError },
    #[error("cannot write figures as text: report this as a bug")]
    Csv(#[from] ::csv::Error),
    #[error("cannot write figures as JSON: report this as a bug")]
    Json(#[from] serde_json::Error),
    #[error("cannot read the samples in {}: restore them from their copy, or move them away for a report without", path.display())]
    Samples { path: PathBuf, source: ::csv::Error },
    #[error("cannot draw plot {plot}: {reason}")]
    Draw { plot: String, reason: String },
    #[error("cannot write {}: free some room or choose another folder", path.display())]
    Write { path: PathBuf, source: std::io::Error },
}

/// The samples beside a record in `dir`, if they are there.
pub fn timeline(record: &Record, dir: &Path) -> Result<Option<Timeline>, ReportError> {
    let path = dir.join(crate::store::SAMPLES);
    let file = match std::fs::File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(ReportError::Samples { path, source: source.into() }),
    };
    // The csv reader has a buffer of its own.
    let read = Timeline::read(record, file);
    read.map(Some).map_err(|source| ReportError::Samples { path, source })
}

/// Writes `summary.md`, `cells.csv`, `report.html` and each plot as SVG and PNG
/// into `dir`; returns what was written, in that order.
pub fn write_all(record: &Record, dir: &Path) -> Result<Vec<PathBuf>, ReportError> {
    let analysis = Analysis::of(record)?;
    let mut written = Vec::new();
    let mut write = |name: &str, bytes: &[u8]| {
        let path = dir.join(name);
        std::fs::write(&path, bytes)
            .map_err(|source| ReportError::Write { path: path.clone(), source })?;
        written.push(path);
        Ok::<(), ReportError>(())
    };
    write("summary.md", md(&analysis).as_bytes())?;
    write("cells.csv", csv(&analysis)?.as_bytes())?;
    if let Some(text) = kernels::csv(&analysis)? {
        write("kernels.csv", text.as_bytes())?;
    }
    let subject = HtmlSubject { record, timeline: timeline(record, dir)? };
    write("report.html", html(&[subject])?.as_bytes())?;
    for plot in svgs(&analysis)? {
        write(&format!("{}.svg", plot.name), plot.svg.as_bytes())?;
        write(&format!("{}.png", plot.name), &png(&plot)?)?;
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::sample;

    #[test]
    fn all_files_of_a_report_are_written() {
        let dir = tempfile::tempdir().expect("room for a test");
        let written = write_all(&sample::record(), dir.path()).expect("room for a test");
        assert_eq!(written.len(), 3 + 2 * 6, "{written:?}");
        assert!(written.iter().all(|p| p.metadata().is_ok_and(|m| m.len() > 100)));
    }

    #[test]
    fn damaged_histogram_names_its_cell() {
        let mut record = sample::record();
        record.cells[0].rounds[0].histogram = "damaged".into();
        let error = Analysis::of(&record).expect_err("it cannot be read");
        assert!(error.to_string().contains(&record.cells[0].id), "{error}");
    }
}
