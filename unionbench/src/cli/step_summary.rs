//! The page that a GitHub workflow shows for a step.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;

/// Appends `markdown` to the file that `GITHUB_STEP_SUMMARY` names; does nothing
/// where it names none.
pub(super) fn append(markdown: &str) -> anyhow::Result<()> {
    let Some(path) = std::env::var_os("GITHUB_STEP_SUMMARY").filter(|path| !path.is_empty()) else {
        return Ok(());
    };
    let path = PathBuf::from(path);
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .and_then(|mut file| file.write_all(markdown.as_bytes()))
        .with_context(|| format!("cannot write the step summary {}", path.display()))
}
