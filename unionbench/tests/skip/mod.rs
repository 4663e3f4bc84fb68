//! How a test says that it cannot run here.

use std::io::Write as _;

/// Tells it on stderr itself: what a test prints by macro is shown only if the
/// test fails. `cargo xtask test` counts these lines and repeats them at its end.
pub fn skipped(case: &str, reason: impl std::fmt::Display) {
    let line = format!("skipped: {case}: {reason}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
}
