//! Where records lie, and how they are read back.
//!
//! A run writes into `results/<scenario>/.partial-<time>-<host>/` and renames
//! that folder to `<time>-<host>` when the record is complete and on disk.
//! Invariant: a folder without the prefix holds a whole record. A run that is
//! aborted removes its partial folder; one that is killed leaves it, with the
//! lock on its `samples.csv` gone, and [`remove_abandoned`] takes it away.

mod hlog;
mod packed;
mod reader;
mod schema;
mod writer;

use std::path::PathBuf;

pub use packed::pack;
pub use reader::{is_record, read};
pub use schema::json_schema;
pub use writer::{Writer, remove_abandoned};

use crate::stats::hdr::HdrError;

/// The record itself.
pub const RECORD: &str = "record.json";
/// The same compressed with Zstandard, as a repository keeps it: about a
/// twentieth of it. Read wherever a record is.
pub const PACKED: &str = "record.json.zst";
/// Every sample that was taken.
pub const SAMPLES: &str = "samples.csv";
/// One HDR histogram per cell, round and state of the probes.
pub const HISTOGRAMS: &str = "histograms.hlog";

/// Why a record could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(
        "cannot create a results folder at {}: choose a folder that can be written with --results",
        path.display()
    )]
    Create { path: PathBuf, source: std::io::Error },
    #[error("cannot write {}: free some room or choose another folder with --results", path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error("cannot write {} as JSON: report this as a bug", path.display())]
    Encode { path: PathBuf, source: serde_json::Error },
    #[error("cannot write {}: {reason}", path.display())]
    Histogram { path: PathBuf, reason: String },
    #[error("cannot write the histograms of cell {cell}, round {round}")]
    Hdr { cell: String, round: u32, source: HdrError },
    #[error("cannot read {}: name a record.json or the folder that holds one", path.display())]
    Open { path: PathBuf, source: std::io::Error },
    #[error(
        "cannot read {}: it ends in the middle of the record (line {line}); restore it from its copy or measure again",
        path.display()
    )]
    Truncated { path: PathBuf, line: usize },
    #[error(
        "cannot read {}: it is damaged or ends in the middle of its compressed text; restore it from its copy",
        path.display()
    )]
    Packed { path: PathBuf, source: std::io::Error },
    #[error("cannot read {}: it is not a unionbench record, or no longer; name a record.json or restore it from its copy", path.display())]
    NotARecord { path: PathBuf, source: serde_json::Error },
    #[error(
        "cannot read {}: its schema is {found} and this program reads {supported} only; {remedy}",
        path.display(), remedy = if found > supported { "use a newer unionbench" } else { "measure again" }
    )]
    Schema { path: PathBuf, found: u32, supported: u32 },
    #[error("cannot read {}: it does not fit the schema of its version; restore it from its copy", path.display())]
    Damaged { path: PathBuf, source: serde_json::Error },
}
