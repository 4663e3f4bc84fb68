//! `cargo xtask test`: every test, and one line at the end that says how many
//! ran, failed and were skipped.
//!
//! cargo closes with the summary of whichever binary ran last. This runner
//! passes everything on as it comes, adds the summaries up, and names again at
//! the end what was skipped: a test tells on stderr by `skipped: CASE: REASON`.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};

use crate::command::say;

/// Runs `cargo test`, as it was put together, to the end.
pub fn run(command: &mut Command) -> Result<ExitCode> {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start cargo: install Rust by rustup")?;
    let tally = Mutex::new(Tally::default());
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    std::thread::scope(|scope| {
        scope.spawn(|| pass_on(stderr, &mut std::io::stderr(), &tally));
        pass_on(stdout, &mut std::io::stdout(), &tally);
    });
    let status = child.wait().context("cannot wait for cargo")?;
    let tally = tally.into_inner().unwrap_or_else(PoisonError::into_inner);
    for line in &tally.skipped {
        say(&format!("skipped: {line}"));
    }
    if !status.success() && tally.failed == 0 {
        say(&format!("cargo ended with {status} before a test could fail"));
    }
    println!("{tally}");
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What the test binaries told.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
    /// `CASE: REASON`, once each.
    skipped: BTreeSet<String>,
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { passed, failed, skipped } = self;
        // A test that was skipped says so and returns: its binary counts it as
        // passed.
        let passed = passed.saturating_sub(skipped.len() as u64);
        write!(f, "{passed} passed, {failed} failed, {} skipped", skipped.len())
    }
}

impl Tally {
    fn take(&mut self, line: &str) {
        if let Some(case) = line.strip_prefix("skipped: ") {
            self.skipped.insert(case.trim_end().to_owned());
        }
        let Some((_, counts)) = line.trim().split_once("test result: ") else { return };
        self.passed += number_before(counts, " passed");
        self.failed += number_before(counts, " failed");
    }
}

/// The number in front of a word; zero where it is missing.
fn number_before(text: &str, word: &str) -> u64 {
    let Some((before, _)) = text.split_once(word) else { return 0 };
    before.rsplit(' ').next().and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// Copies lines as they come. A line may hold anything; a closed terminal does
/// not stop the tests.
fn pass_on(from: Option<impl Read>, to: &mut impl Write, tally: &Mutex<Tally>) {
    let Some(from) = from else { return };
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        let _ = to.write_all(&line).and_then(|()| to.flush());
        let text = String::from_utf8_lossy(&line);
        tally.lock().unwrap_or_else(PoisonError::into_inner).take(&text);
        line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::Tally;

    #[test]
    fn summaries_are_added_and_skipped_cases_are_not_passed_ones() {
        let mut tally = Tally::default();
        for line in [
            "test result: ok. 125 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n",
            "skipped: counts: QEMU is not installed\n",
            "skipped: counts: QEMU is not installed\n",
            "test passed_by_name ... ok\n",
            "test result: FAILED. 6 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out\n",
        ] {
            tally.take(line);
        }
        assert_eq!(tally.to_string(), "130 passed, 2 failed, 1 skipped");
    }
}
