//! Files and operations one by one, as a scenario made from a trace has them.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::Deserialize;

use super::check::{Verdict, refuse};
use super::file::{NO_LAYERS, Phase, Scenario, Stack, Workload};
use super::value::Keys;
use crate::unit::Bytes;

/// More would make a scenario that takes minutes to read.
pub const MAX_OPERATIONS: usize = 200_000;

/// One object of a layer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listed {
    /// From the root of the merged tree, without a `/` in front.
    pub path: String,
    /// Layer that holds it; 0 is the topmost.
    pub layer: u32,
    /// Size of a file.
    #[serde(default)]
    pub size: Bytes,
    #[serde(default)]
    pub kind: ListedKind,
}

/// What a listed object is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ListedKind {
    #[default]
    File,
    Directory,
    Symlink,
}

/// One operation of a replay.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Operation {
    pub by: Replayed,
    /// What it is done to; for `create` and `mkdir` the directory in which
    /// something is made.
    pub on: String,
}

/// What an operation does.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, serde::Serialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Replayed {
    /// Opens for writing and closes.
    OpenWrite,
    /// The same with `O_TRUNC`.
    OpenTruncate,
    Truncate,
    Chmod,
    Chown,
    Utimes,
    Setxattr,
    Link,
    Rename,
    Unlink,
    Create,
    Mkdir,
    /// Opens, synchronises and closes.
    Fsync,
}

impl Replayed {
    /// Its name in scenario files.
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenWrite => "open-write",
            Self::OpenTruncate => "open-truncate",
            Self::Truncate => "truncate",
            Self::Chmod => "chmod",
            Self::Chown => "chown",
            Self::Utimes => "utimes",
            Self::Setxattr => "setxattr",
            Self::Link => "link",
            Self::Rename => "rename",
            Self::Unlink => "unlink",
            Self::Create => "create",
            Self::Mkdir => "mkdir",
            Self::Fsync => "fsync",
        }
    }
}

/// What of this is impossible or contradictory.
pub(super) fn check(scenario: &Scenario) -> Verdict {
    let objects = files(&scenario.stack)?;
    for (i, phase) in scenario.phase.iter().enumerate() {
        operations(phase, &format!("phase[{i}]"), &objects)?;
    }
    Ok(())
}

/// Every listed object and directory that leads to one; true for directories.
fn files(stack: &Stack) -> Result<BTreeMap<&str, bool>, super::check::Problem> {
    let mut objects = BTreeMap::new();
    let mut seen = BTreeSet::new();
    if !stack.file.is_empty() && (stack.image.is_some() || stack.layers.is_axis) {
        return refuse("stack.file", "it needs one number of `layers`, and no `image`");
    }
    for (i, file) in stack.file.iter().enumerate() {
        let at = format!("stack.file[{i}]");
        path(&file.path, &format!("{at}.path"))?;
        let n_layers = stack.layers.min();
        if n_layers != NO_LAYERS && file.layer >= n_layers {
            let problem = format!("a stack of {n_layers} layers has no layer {}", file.layer);
            return refuse(format!("{at}.layer"), problem);
        }
        let directory = file.kind == ListedKind::Directory;
        let fresh = seen.insert((file.path.as_str(), directory.then_some(file.layer)));
        let other = objects.insert(file.path.as_str(), directory);
        if !fresh || other.is_some_and(|other| !(other && directory)) {
            return refuse(format!("{at}.path"), format!("{:?} is there twice", file.path));
        }
        for (end, _) in file.path.match_indices('/') {
            if objects.insert(&file.path[..end], true) == Some(false) {
                let problem = format!("{:?} is a file", &file.path[..end]);
                return refuse(format!("{at}.path"), problem);
            }
        }
    }
    Ok(objects)
}

fn operations(phase: &Phase, at: &str, objects: &BTreeMap<&str, bool>) -> Verdict {
    let replays = phase.workload == Workload::Replay;
    for (key, n) in [("operation", phase.operation.len()), ("up", phase.up.len())] {
        if !replays && n > 0 {
            let problem = format!("workload {:?} does not read it", phase.workload.name());
            return refuse(format!("{at}.{key}"), problem);
        }
        if n > MAX_OPERATIONS {
            return refuse(format!("{at}.{key}"), format!("{n} are more than {MAX_OPERATIONS}"));
        }
    }
    let listed = |key: String, on: &str, inside: bool| match objects.get(on) {
        Some(directory) if *directory || !inside => Ok(()),
        Some(_) => refuse(key, format!("{on:?} is no directory")),
        None => refuse(key, format!("{on:?} is not listed in `stack.file`")),
    };
    for (i, operation) in phase.operation.iter().enumerate() {
        let inside = matches!(operation.by, Replayed::Create | Replayed::Mkdir);
        listed(format!("{at}.operation[{i}].on"), &operation.on, inside)?;
    }
    for (i, on) in phase.up.iter().enumerate() {
        listed(format!("{at}.up[{i}]"), on, false)?;
    }
    if !replays {
        return Ok(());
    }
    if phase.operation.is_empty() {
        return refuse(format!("{at}.operation"), "replay needs at least one");
    }
    let once = phase.count.is_none() && phase.duration.is_none() && phase.threads.max() == 1;
    if !once || phase.keys.values.iter().any(|keys| *keys != Keys::Permutation) {
        let problem =
            "a replay is done once, in order: leave `count`, `duration`, `threads` and `keys` out";
        return refuse(format!("{at}.workload"), problem);
    }
    Ok(())
}

/// Refuses what could leave the layer or is no name.
fn path(text: &str, key: &str) -> Verdict {
    let part = |part: &str| !matches!(part, "" | "." | "..") && part.len() <= 255;
    if text.len() > 4000 || text.contains(['\0', '\n']) || !text.split('/').all(part) {
        return refuse(key, format!("{text:?} is no path inside a layer"));
    }
    Ok(())
}
