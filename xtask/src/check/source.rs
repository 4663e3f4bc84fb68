//! The project's Rust files, and how long they are.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::command::say;

/// A Rust file: its path from the workspace's root, and its text.
pub struct Source {
    pub path: PathBuf,
    pub text: String,
}

const CRATES: [&str; 5] =
    ["unionbench", "unionbench-common", "unionbench-ebpf", "unionbench-fuse", "xtask"];
const LOOK_FOR_A_SPLIT: usize = 400;
const NEEDS_A_REASON: usize = 600;
/// A file past the limit says why somewhere in its module doc with this word.
const REASON: &str = "Length:";

/// Every Rust file of the workspace, in path order.
pub fn all(root: &Path) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    for name in CRATES {
        collect(root, &root.join(name), &mut sources)?;
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(sources)
}

fn collect(root: &Path, folder: &Path, sources: &mut Vec<Source>) -> Result<()> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                collect(root, &path, sources)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            let path = path.strip_prefix(root).unwrap_or(&path).to_path_buf();
            sources.push(Source { path, text });
        }
    }
    Ok(())
}

/// Names the long files; past 600 lines without a reason is a violation.
pub fn report_lengths(sources: &[Source]) -> Vec<String> {
    let mut violations = Vec::new();
    for source in sources {
        let lines = source.text.lines().count();
        let reasoned = source
            .text
            .lines()
            .take_while(|line| line.starts_with("//!"))
            .any(|line| line.contains(REASON));
        if lines > NEEDS_A_REASON && !reasoned {
            violations.push(format!(
                "{}: {lines} lines: split it, or say why not behind `{REASON}` in its module doc",
                source.path.display()
            ));
        } else if lines > LOOK_FOR_A_SPLIT {
            say(&format!("{}: {lines} lines: look for a split", source.path.display()));
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::{Source, report_lengths};

    #[test]
    fn a_long_file_needs_a_reason() {
        let body = "fn a() {}\n".repeat(601);
        let file = |text: String| [Source { path: "a.rs".into(), text }];
        assert_eq!(report_lengths(&file(body.clone())).len(), 1);
        assert!(report_lengths(&file(format!("//! Length: a table.\n{body}"))).is_empty());
    }
}
