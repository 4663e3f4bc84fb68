//! `unionbench run --lab`: the scenario runs in a guest of each kernel, and the
//! guest's record is kept here as if it had been measured here.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use super::lab::GuestArgs;
use super::lab_image;
use crate::lab::{Guest, GuestFile, GuestOutcome, LabError, Mode};
use crate::plan::{BackingKind, Plan, Volume};
use crate::record::{Record, ScenarioText, placed_id};
use crate::report;
use crate::run::RunError;
use crate::store::{RECORD, SAMPLES, Writer};

/// What is run in the guests.
pub struct Order<'a> {
    pub plan: &'a Plan,
    pub scenario: &'a ScenarioText,
    /// Further arguments of the guest's `unionbench run`.
    pub arguments: Vec<String>,
    pub results: &'a Path,
    pub quiet: bool,
}

const SCENARIO: &str = "/scenario.toml";
/// Folder of results below the guest's output folder.
pub(super) const RESULTS: &str = "results";

/// The record of all kernels, in the order they were named, and its folder.
pub fn run(guests: &GuestArgs, mode: Mode, order: &Order<'_>) -> anyhow::Result<(Record, PathBuf)> {
    // What is wrong with a kernel is said before any of them has run.
    let mut prepared = Vec::new();
    for name in &guests.kernels {
        let mut guest = guests.guest(name, mode)?;
        equip(&mut guest, order)?;
        guest.check().with_context(|| format!("cannot run in the lab on kernel {name}"))?;
        prepared.push((name, guest));
    }
    let started = jiff::Timestamp::now().to_string();
    let mut measured = Vec::new();
    for (name, guest) in &prepared {
        if !order.quiet {
            let release = &guest.kernel.release;
            eprintln!("unionbench: {}: {mode} on {release}", order.scenario.name);
        }
        let outcome = match guest.run() {
            Err(LabError::Interrupted) => return Err(RunError::Interrupted.into()),
            other => other.with_context(|| format!("cannot run in the lab on kernel {name}"))?,
        };
        let record = record_of(guest, &outcome)
            .with_context(|| format!("cannot run in the lab on kernel {name}"))?;
        measured.push((record, outcome));
    }
    keep(measured, &started, order)
}

/// Puts images into the guest, and programs that a backing file system or a
/// backend calls where this host has them; the guest's run reports the missing
/// ones.
pub(super) fn equip(guest: &mut Guest, order: &Order<'_>) -> anyhow::Result<()> {
    guest.files.push(GuestFile::bytes(SCENARIO, order.scenario.toml.as_bytes()));
    guest.argv = vec!["unionbench".to_owned()];
    guest.argv.extend(words(&format!("/out/{RESULTS}"), "/scratch", &order.arguments));
    guest.optional_modules.push("aufs".to_owned());
    let mut programs = Vec::new();
    for stack in &order.plan.stacks {
        match stack.backing.kind {
            BackingKind::Tmpfs | BackingKind::Dir => {}
            kind @ (BackingKind::Ext4 | BackingKind::Xfs | BackingKind::Btrfs) => {
                guest.required_modules.push(kind.name().to_owned());
                programs.push(format!("mkfs.{}", kind.name()));
            }
        }
    }
    let mut phases = order.plan.setups.iter().flat_map(|setup| &setup.phases);
    if phases.any(|phase| phase.volume == Some(Volume::DataPacked)) {
        guest.required_modules.push("ext4".to_owned());
        programs.push("mkfs.ext4".to_owned());
    }
    for backend in &order.plan.backends {
        match backend.kind.as_str() {
            "bare" | "overlayfs" | "aufs" | "bundled" => {}
            "unionfs-fuse" => programs.push("unionfs".to_owned()),
            "command" => programs
                .extend(backend.extra.get("command").and_then(|command| first_word(command))),
            kind => programs.push(kind.to_owned()),
        }
    }
    programs.sort();
    programs.dedup();
    for program in programs {
        let found = ["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"]
            .iter()
            .map(|dir| Path::new(dir).join(&program))
            .find(|path| path.is_file());
        if let Some(path) = found {
            guest.files.push(GuestFile::host(format!("/bin/{program}"), path));
        }
    }
    guest.files.extend(lab_image::files(order.plan)?);
    Ok(())
}

/// Arguments of this program for one run in the guest.
pub(super) fn words(results: &str, scratch: &str, arguments: &[String]) -> Vec<String> {
    ["run", SCENARIO, "--results", results, "--scratch", scratch]
        .iter()
        .chain(&["--quiet", "--format", "json"])
        .map(|word| (*word).to_owned())
        .chain(arguments.iter().cloned())
        .collect()
}

fn first_word(command: &str) -> Option<String> {
    let program = shlex::split(command)?.into_iter().next()?;
    (!program.contains('/')).then_some(program)
}

/// The guest's record, completed with what only the host knows.
pub(super) fn record_of(guest: &Guest, outcome: &GuestOutcome) -> anyhow::Result<Record> {
    record_below(RESULTS, guest, outcome)
}

/// The record that lies in `folder` below the guest's output folder.
pub(super) fn record_below(
    folder: &str,
    guest: &Guest,
    outcome: &GuestOutcome,
) -> anyhow::Result<Record> {
    let Some(text) = find(outcome, folder, RECORD) else {
        let said = String::from_utf8_lossy(outcome.file("stderr").unwrap_or_default());
        bail!(
            "the run in the guest left no record ({:?}); it said: {}",
            outcome.exit,
            said.trim_end()
        );
    };
    let mut record: Record =
        serde_json::from_slice(text).context("cannot read the guest's record")?;
    // The guest holds the loaded part of the program only.
    record.program.sha256.clone_from(&outcome.identity.binary_sha256);
    record.lab = Some(outcome.lab_record(guest));
    Ok(record)
}

/// Stores the record of all kernels with the samples and consoles of each.
fn keep(
    measured: Vec<(Record, GuestOutcome)>,
    started: &str,
    order: &Order<'_>,
) -> anyhow::Result<(Record, PathBuf)> {
    let (records, outcomes): (Vec<_>, Vec<_>) = measured.into_iter().unzip();
    let releases: Vec<String> = records.iter().map(|r| r.host.kernel_release.clone()).collect();
    let mut record = Record::matrix(records).context("cannot run in the lab: give --kernel")?;
    started.clone_into(&mut record.started);
    let place = format!("lab-{}", releases.join("-"));
    let mut writer = Writer::create(order.results, &order.scenario.name, started, &place)?;
    let kernels: Vec<String> = record.kernels().into_iter().map(str::to_owned).collect();
    for (n, outcome) in outcomes.iter().enumerate() {
        let samples = find(outcome, RESULTS, SAMPLES).unwrap_or_default();
        copy_samples(samples, kernels.get(n).map(String::as_str), &mut writer)?;
    }
    let folder = writer.finish(&record)?;
    for (n, outcome) in outcomes.iter().enumerate() {
        let name = match kernels.len() {
            0 => "console.log".to_owned(),
            _ => format!("console-{}-{}.log", n + 1, releases[n]),
        };
        let console = folder.join(name);
        fs::write(&console, &outcome.console)
            .with_context(|| format!("cannot write {}", console.display()))?;
    }
    report::write_all(&record, &folder)?;
    Ok((record, folder))
}

fn find<'a>(outcome: &'a GuestOutcome, folder: &str, name: &str) -> Option<&'a [u8]> {
    let file = outcome.files.iter().find(|file| {
        let below = file.path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
        below && file.path.rsplit('/').next() == Some(name)
    });
    file.map(|file| file.bytes.as_slice())
}

/// Rows of one cell, round and state of the probes lie together. In a matrix
/// the kernel becomes part of the cell's id.
fn copy_samples(csv: &[u8], kernel: Option<&str>, writer: &mut Writer) -> anyhow::Result<()> {
    type Row = (String, u32, bool, u64, u64);
    let mut open: Option<(String, u32, bool)> = None;
    let mut latencies = Vec::new();
    for row in csv::Reader::from_reader(csv).deserialize() {
        let (cell, round, probes, _, latency): Row =
            row.context("cannot read the guest's samples")?;
        let cell = match kernel {
            Some(kernel) => placed_id(&cell, kernel),
            None => cell,
        };
        let key = (cell, round, probes);
        if let Some((cell, round, probes)) = open.take_if(|open| *open != key) {
            writer.samples(&cell, round, probes, &latencies)?;
            latencies.clear();
        }
        open = Some(key);
        latencies.push(latency);
    }
    if let Some((cell, round, probes)) = open {
        writer.samples(&cell, round, probes, &latencies)?;
    }
    Ok(())
}
