//! `gate --top-up`: further rounds of a record whose wall time tells too little.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, bail};

use super::gate::records;
use crate::compare::{Figure, RATIOS, Subject};
use crate::record::Record;
use crate::unit::LatencyUnit;

/// Measures the scenario of `record` again here, as many rounds as `base` holds
/// more than `subject` but at most `limit`, and adds their ratios to `subject`.
pub(super) fn top_up(
    record: &Record,
    subject: &mut Subject,
    base: &Subject,
    limit: u32,
) -> anyhow::Result<()> {
    if record.latency_unit != LatencyUnit::Nanoseconds {
        return Ok(());
    }
    let wanted = rounds(base).saturating_sub(rounds(subject)).min(limit as usize);
    if wanted == 0 {
        eprintln!(
            "unionbench: the baseline holds no more rounds than the record ({}): further rounds would have no partner; save a baseline with more --rounds",
            rounds(base)
        );
        return Ok(());
    }
    let folder = tempfile::tempdir().context("cannot make a folder for further rounds")?;
    let scenario = folder.path().join(format!("{}.toml", record.scenario.name));
    fs::write(&scenario, &record.scenario.toml).context("cannot write the scenario again")?;
    let results = folder.path().join("results");
    let mut command = Command::new(std::env::current_exe().context("cannot find this program")?);
    command.arg("run").arg(&scenario).arg("--results").arg(&results);
    command.args(["--quiet", "--no-probes", "--format", "json"]);
    command.args(["--rounds", &wanted.to_string(), "--seed", &record.seed.to_string()]);
    for change in &record.scenario.overrides {
        command.args(["--set", change]);
    }
    for backend in record.backends.iter().filter(|backend| !backend.control) {
        command.args(["--backend", &backend.name]);
    }
    eprintln!("unionbench: inconclusive: measuring {wanted} further rounds");
    let output = command.output().context("cannot start further rounds")?;
    if !output.status.success() {
        bail!("cannot measure further rounds: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    for (_, further) in records(&[results])? {
        extend(subject, &Subject::of(&further)?)?;
    }
    Ok(())
}

/// Rounds of the cell with the most ratios.
fn rounds(subject: &Subject) -> usize {
    let ratios = subject.cells.iter().filter_map(|cell| match cell.metrics.get(RATIOS[0])? {
        Figure::Ratios(ratios) => Some(ratios.len()),
        _ => None,
    });
    ratios.max().unwrap_or(0)
}

fn extend(subject: &mut Subject, further: &Subject) -> anyhow::Result<()> {
    if subject.identity.stacks != further.identity.stacks {
        bail!("cannot add further rounds: their stack is another; measure both sides again");
    }
    for cell in &mut subject.cells {
        for name in RATIOS {
            let more = further.cell(&cell.id).and_then(|cell| cell.metrics.get(name));
            if let (Some(Figure::Ratios(own)), Some(Figure::Ratios(more))) =
                (cell.metrics.get_mut(name), more)
            {
                own.extend(more);
            }
        }
    }
    Ok(())
}
