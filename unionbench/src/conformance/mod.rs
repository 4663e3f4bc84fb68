//! The same cases of union semantics on every backend. Kernel overlayfs is the
//! reference: a case says what it does, and where another union does otherwise
//! that is listed with its reason ([`differences`]).
//!
//! Each case gets fresh layers on a tmpfs of its own. After every case no
//! lower layer may have changed, and a remount must show the same tree. A
//! difference that is listed and no longer there is an error as well, or the
//! list would outlive what it tells.

mod cases;
mod differences;
mod interop;
mod model;
mod random;
mod seed_walk;
mod world;

use std::path::{Path, PathBuf};

use thiserror::Error;

pub use differences::{DIFFERENCES, Difference};
pub use world::{Done, Mismatch, World};

use crate::backend::{self, Backend};
use crate::plan::BackendPlan;
use crate::record::Availability;
use crate::sys::mount::{MountFailure, mount_by_string};

/// Kinds that the suite knows, the reference first.
pub const KINDS: [&str; 6] =
    ["overlayfs", "aufs", "bundled", "fuse-overlayfs", "unionfs-fuse", "mergerfs"];

/// One case: fresh layers, a mount, something done to it.
pub struct Case {
    /// What holds, as a sentence without spaces.
    pub name: &'static str,
    /// Lower layers; 0 is the topmost.
    pub n_lower: usize,
    /// Lower layers that are mounted for writing too.
    pub writable: &'static [usize],
    /// Fills the layers before the mount.
    pub fill: fn(&World) -> Done,
    /// What is done on the mount, and checked.
    pub act: fn(&mut World) -> Done,
}

/// How a case came out on one backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// As on the reference.
    Same,
    /// Otherwise, as listed with this reason.
    KnownDifference { reason: &'static str, seen: String },
    /// Otherwise, and not listed.
    Different { seen: String },
    /// Listed as a difference, but as on the reference.
    NoLongerDifferent,
    /// The union has no such thing.
    Inapplicable { reason: String },
}

impl Verdict {
    /// The suite fails on it.
    pub fn is_error(&self) -> bool {
        matches!(self, Self::Different { .. } | Self::NoLongerDifferent)
    }
}

/// One case on one backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub case: &'static str,
    pub verdict: Verdict,
}

/// What a suite is run with.
#[derive(Debug, Clone, Copy)]
pub struct Setting<'a> {
    /// One of [`KINDS`].
    pub kind: &'a str,
    /// An existing folder; a tmpfs is mounted in it.
    pub scratch: &'a Path,
    /// This program's file, which serves the bundled union.
    pub own_program: &'a Path,
    /// Only cases whose name holds this.
    pub filter: &'a str,
    /// Random sequences of operations.
    pub n_random: u32,
    /// Of the random sequences.
    pub seed: u64,
}

/// Why a suite could not be run at all.
#[derive(Debug, Error)]
pub enum ConformanceError {
    #[error("cannot check {kind:?}: there is no such union; use one of {}", KINDS.join(", "))]
    UnknownKind { kind: String },
    #[error("{reason}")]
    Unsupported { reason: String },
    #[error("cannot mount a tmpfs at {}: run as root or where user namespaces may", at.display())]
    Tmpfs { at: PathBuf, source: MountFailure },
    #[error("cannot make {}", at.display())]
    Folder { at: PathBuf, source: std::io::Error },
}

/// Runs every case on one backend; `tell` hears of each as it ends. The caller
/// is in a mount namespace of its own.
///
/// # Errors
/// The union is not here, or there is no place for the layers.
pub fn run(
    setting: &Setting<'_>,
    tell: &mut dyn FnMut(&Outcome),
) -> Result<Vec<Outcome>, ConformanceError> {
    let unknown = || ConformanceError::UnknownKind { kind: setting.kind.to_owned() };
    if !KINDS.contains(&setting.kind) {
        return Err(unknown());
    }
    let backend = backend::of_kind(setting.kind).ok_or_else(unknown)?;
    if let Availability::Unsupported { reason } = backend.availability() {
        return Err(ConformanceError::Unsupported { reason });
    }
    let at = setting.scratch.to_owned();
    let _tmpfs = mount_by_string("tmpfs", "unionbench", "mode=0755", &at)
        .map_err(|source| ConformanceError::Tmpfs { at, source })?;
    let mut outcomes = Vec::new();
    let mut finish = |case: &'static str, done: Done| {
        let outcome = Outcome { case, verdict: judge(setting.kind, case, done) };
        tell(&outcome);
        outcomes.push(outcome);
    };
    let all = cases::ALL.iter().chain(seed_walk::ALL).chain(interop::ALL);
    for case in all.filter(|case| case.name.contains(setting.filter)) {
        finish(case.name, check(setting, case));
    }
    if random::NAME.contains(setting.filter) {
        finish(random::NAME, random::check(setting));
    }
    Ok(outcomes)
}

/// Whether a kernel tells the UUID of any file system, without which the bundled
/// union refuses an index: from Linux 6.9 on.
fn tells_uuids(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse().ok());
    let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version >= (6, 9)
}

/// The plan that the suite mounts a kind with: what makes it a whole file system
/// (rename of directories, hard links, stable numbers) where that is not usual.
fn plan_of(kind: &str) -> BackendPlan {
    let options: &[(&str, &str)] = match kind {
        "overlayfs" => &[("redirect_dir", "on"), ("index", "on"), ("xino", "on")],
        "bundled" if tells_uuids(&rustix::system::uname().release().to_string_lossy()) => {
            &[("index", "on")]
        }
        _ => &[],
    };
    BackendPlan {
        name: kind.to_owned(),
        kind: kind.to_owned(),
        options: options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        extra: Default::default(),
    }
}

fn backend_of(kind: &str) -> Result<Box<dyn Backend + Send + Sync>, Mismatch> {
    backend::of_kind(kind).ok_or_else(|| Mismatch::Differs(format!("there is no {kind}")))
}

/// Every case, in the order of running.
pub fn case_names() -> impl Iterator<Item = &'static str> {
    let all = cases::ALL.iter().chain(seed_walk::ALL).chain(interop::ALL);
    all.map(|case| case.name).chain([random::NAME])
}

fn check(setting: &Setting<'_>, case: &Case) -> Done {
    let mut world = World::new(setting, case.name, case.n_lower, case.writable)?;
    (case.fill)(&world)?;
    let before = world.read_only_layers()?;
    world.mount()?;
    (case.act)(&mut world)?;
    world.settle(&before)
}

fn judge(kind: &str, case: &'static str, done: Done) -> Verdict {
    let known = DIFFERENCES.iter().find(|d| d.kind == kind && d.case == case);
    match (done, known) {
        (Ok(()), None) => Verdict::Same,
        (Ok(()), Some(known)) if known.sometimes => Verdict::Same,
        (Ok(()), Some(_)) => Verdict::NoLongerDifferent,
        (Err(Mismatch::Inapplicable(reason)), _) => Verdict::Inapplicable { reason },
        (Err(Mismatch::Differs(seen)), Some(known)) => {
            Verdict::KnownDifference { reason: known.reason, seen }
        }
        (Err(Mismatch::Differs(seen)), None) => Verdict::Different { seen },
    }
}

#[cfg(test)]
mod tests {
    use super::tells_uuids;

    #[test]
    fn uuids_are_told_from_6_9_on() {
        for (release, told) in [
            ("6.1.0-56-amd64", false),
            ("6.8.12", false),
            ("6.9", true),
            ("6.12.117+deb12-amd64", true),
            ("7.0-rc1", true),
            ("5.19.0", false),
            ("", false),
        ] {
            assert_eq!(tells_uuids(release), told, "{release}");
        }
    }
}
