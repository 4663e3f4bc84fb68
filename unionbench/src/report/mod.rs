//! Tables, plots and files derived from a record: one file per format. Nothing
//! here prints; every format is a function from the record to text.

mod analysis;
mod csv;
mod figure;
mod human;
mod json;
mod md;
mod sentences;
mod table;

use std::path::{Path, PathBuf};

pub use analysis::{Analysis, KernelSide, Row};
pub use figure::latency;
pub use human::{Appearance, human};
pub use json::json;
pub use md::md;

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
    #[error("cannot write {}: free some room or choose another folder", path.display())]
    Write { path: PathBuf, source: std::io::Error },
}

/// Writes `summary.md` and `cells.csv` into `dir`;
/// returns what was written, in that order.
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
    Ok(written)
}
