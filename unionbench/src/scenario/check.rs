//! What is impossible or contradictory though every value has the right type.
//!
//! Every combination of the matrix is measured, so it is enough to look at
//! the worst one of each pair of lists.

use std::collections::BTreeSet;

use super::aufs_options::check_aufs;
use super::extra::check_extra;
use super::file::{
    Backing, Cache, FileSystem, Group, NO_LAYERS, Phase, Scenario, Stack, Volume, Workload,
};
use super::options::check_overlayfs;
use super::value::{Files, Keys, Layer, Many, Size};
use crate::unit::Bytes;

/// Most lower layers that overlayfs takes: `OVL_MAX_STACK`. Debian's 6.1 and
/// 6.12 kernels answer a 501st with EINVAL.
pub const MAX_LAYERS: u32 = 500;

const KINDS: &[&str] = &[
    "bare",
    "overlayfs",
    "aufs",
    "bundled",
    "fuse-overlayfs",
    "unionfs-fuse",
    "mergerfs",
    "command",
];

/// A key and what is wrong with its value.
pub struct Problem {
    pub key: String,
    pub problem: String,
}

pub(super) type Verdict = Result<(), Problem>;

/// The first problem of a scenario, in the order of the file.
pub fn check(scenario: &Scenario) -> Verdict {
    word("name", &scenario.name)?;
    if scenario.title.trim().is_empty() {
        return refuse("title", "it is empty");
    }
    range("rounds", scenario.rounds, 1, 1000)?;
    stack(&scenario.stack)?;
    for (i, group) in scenario.stack.group.iter().enumerate() {
        check_group(&scenario.stack, group, &format!("stack.group[{i}]"))?;
    }
    unique("stack.group", scenario.stack.group.iter().map(|g| g.name.as_str()))?;
    backing(scenario)?;
    backends(scenario)?;
    super::replay::check(scenario)?;
    if scenario.phase.is_empty() {
        return refuse("phase", "there is none");
    }
    unique("phase", scenario.phase.iter().map(|p| p.name.as_str()))?;
    for (i, phase) in scenario.phase.iter().enumerate() {
        let at = format!("phase[{i}]");
        word(&format!("{at}.name"), &phase.name)?;
        keys_of_workload(phase, &at)?;
        amounts(&scenario.stack, phase, &at)?;
    }
    Ok(())
}

pub(super) fn refuse<T>(key: impl Into<String>, problem: impl Into<String>) -> Result<T, Problem> {
    Err(Problem { key: key.into(), problem: problem.into() })
}

fn range(key: &str, value: u32, min: u32, max: u32) -> Verdict {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    refuse(key, format!("{value} is not within {min} to {max}"))
}

fn ranges(key: &str, values: &Many<u32>, min: u32, max: u32) -> Verdict {
    values.values.iter().try_for_each(|&v| range(key, v, min, max))
}

/// Names become parts of paths, so nothing that could leave a folder passes.
fn word(key: &str, text: &str) -> Verdict {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    if text.is_empty() || text.len() > 64 || !text.chars().all(plain) {
        return refuse(key, format!("{text:?} is not a plain word"));
    }
    Ok(())
}

fn unique<'a>(list: &str, names: impl Iterator<Item = &'a str>) -> Verdict {
    let mut seen = BTreeSet::new();
    for (i, name) in names.enumerate() {
        if !seen.insert(name) {
            return refuse(format!("{list}[{i}].name"), format!("{name:?} is there twice"));
        }
    }
    Ok(())
}

fn stack(stack: &Stack) -> Verdict {
    if stack.image.is_some() {
        return super::image::check(stack);
    }
    if stack.platform.is_some() || stack.squash.is_axis || stack.squash.values[0] {
        return refuse("stack.image", "`platform` and `squash` need it");
    }
    if stack.layers == Many::one(NO_LAYERS) {
        return refuse("stack", "it has neither `layers` nor `image`");
    }
    ranges("stack.layers", &stack.layers, 1, MAX_LAYERS)?;
    ranges("stack.files_per_layer", &stack.files_per_layer, 0, 1_000_000)?;
    ranges("stack.dirs", &stack.dirs, 1, 10_000)?;
    ranges("stack.depth", &stack.depth, 0, 64)?;
    ranges("stack.opaque_dirs_per_layer", &stack.opaque_dirs_per_layer, 0, 1000)?;
    let (most, fewest) = (stack.whiteouts_per_layer.max(), stack.files_per_layer.min());
    if most > 0 && most >= fewest {
        let problem = format!("{most} of {fewest} files would leave none to be seen");
        return refuse("stack.whiteouts_per_layer", problem);
    }
    match stack.size {
        Size::Uniform { min, max } if min > max => {
            refuse("stack.size", format!("min {min} is above max {max}"))
        }
        Size::LogNormal { median, max, .. } if median > max => {
            refuse("stack.size", format!("median {median} is above max {max}"))
        }
        Size::LogNormal { sigma, .. } if !(0.0..=10.0).contains(&sigma) => {
            refuse("stack.size", format!("sigma {sigma} is not within 0 to 10"))
        }
        _ => Ok(()),
    }
}

fn check_group(stack: &Stack, group: &Group, at: &str) -> Verdict {
    word(&format!("{at}.name"), &group.name)?;
    ranges(&format!("{at}.count"), &group.count, 1, 1_000_000)?;
    group.layer.values.iter().try_for_each(|&l| layer_is_there(stack, l, &format!("{at}.layer")))
}

fn layer_is_there(stack: &Stack, layer: Layer, key: &str) -> Verdict {
    match layer {
        // How many layers an image has is seen when it is read.
        Layer::Index(i) if stack.image.is_none() && i >= stack.layers.min() => {
            let n = stack.layers.min();
            refuse(key, format!("a stack of {n} layers has no layer {i}; 0 is the topmost"))
        }
        _ => Ok(()),
    }
}

fn backing(scenario: &Scenario) -> Verdict {
    let backing = &scenario.backing;
    for &fs in &backing.fs.values {
        // What mkfs.xfs and mkfs.btrfs refuse to go below, rounded up.
        let least = match fs {
            FileSystem::Xfs => Bytes(300 << 20),
            FileSystem::Btrfs => Bytes(110 << 20),
            FileSystem::Tmpfs | FileSystem::Ext4 => Bytes(1 << 20),
            FileSystem::Dir => Bytes(0),
        };
        if backing.size < least {
            let problem = format!("{} is too small for {fs:?}, which needs {least}", backing.size);
            return refuse("backing.size", problem.to_lowercase().replace("mib", "MiB"));
        }
    }
    if let Some(bad) = backing.options.iter().find(|o| o.is_empty() || o.contains(['\0', '\n'])) {
        return refuse("backing.options", format!("{bad:?} is no mount option"));
    }
    super::mkfs::check(backing)?;
    sealed(scenario)?;
    room(scenario, backing)
}

/// fs-verity is the backing file system's.
fn sealed(scenario: &Scenario) -> Verdict {
    let has_it = |fs: &FileSystem| matches!(fs, FileSystem::Ext4 | FileSystem::Btrfs);
    if scenario.stack.verity.values.contains(&true)
        && !scenario.backing.fs.values.iter().all(has_it)
    {
        return refuse("stack.verity", "a file system of `backing.fs` has no fs-verity");
    }
    Ok(())
}

/// Refuses layers that cannot fit. An estimate from below: whole pages for the
/// files, nothing for directories.
fn room(scenario: &Scenario, backing: &Backing) -> Verdict {
    // What an image takes is seen when it is read.
    if scenario.stack.image.is_some() || backing.fs.values.iter().all(|&fs| fs == FileSystem::Dir) {
        return Ok(());
    }
    let stack = &scenario.stack;
    let n_files = u64::from(stack.layers.max()) * u64::from(stack.files_per_layer.max());
    let size = match &stack.size {
        Size::Fixed(sizes) => sizes.max().0,
        Size::Uniform { min, max } => min.0 / 2 + max.0 / 2,
        Size::LogNormal { median, max, .. } => median.0.min(max.0),
    };
    let groups = stack.group.iter().map(|g| {
        let dense = g.sparse.values.contains(&false);
        if dense { u64::from(g.count.max()).saturating_mul(pages(g.size.max().0)) } else { 0 }
    });
    let groups = groups.fold(0, u64::saturating_add);
    let listed = stack.file.iter().map(|f| pages(f.size.0)).fold(0, u64::saturating_add);
    let groups = groups.saturating_add(listed);
    let once = n_files.saturating_mul(pages(size)).saturating_add(groups);
    // The bare control is a second tree beside the layers.
    let has_control = scenario.backend.iter().any(|b| b.kind == "bare");
    let needed = once.saturating_mul(if has_control { 2 } else { 1 });
    if needed <= backing.size.0 {
        return Ok(());
    }
    let with = if has_control { " and the bare control" } else { "" };
    let mib = needed.div_ceil(1 << 20);
    let problem =
        format!("{} cannot hold the layers{with}, which need at least {mib}MiB", backing.size);
    refuse("backing.size", problem)
}

fn pages(size: u64) -> u64 {
    size.checked_next_multiple_of(4096).unwrap_or(u64::MAX)
}

fn backends(scenario: &Scenario) -> Verdict {
    if scenario.backend.is_empty() {
        return refuse("backend", "there is none");
    }
    for (i, backend) in scenario.backend.iter().enumerate() {
        let at = format!("backend[{i}]");
        if !KINDS.contains(&backend.kind.as_str()) {
            return refuse(format!("{at}.kind"), format!("{:?} is no backend", backend.kind));
        }
        word(&format!("{at}.name"), backend.label())?;
        for (name, values) in &backend.options {
            let bad = |s: &str| s.is_empty() || s.contains(['\0', '\n', ',', '/']) || s == "..";
            let key = format!("{at}.options.{name}");
            if bad(name) || values.values.iter().any(|v| bad(&v.to_string())) {
                return refuse(key, "an option holds no comma, slash or line break");
            }
        }
        match backend.kind.as_str() {
            "overlayfs" => check_overlayfs(&backend.options).map_err(|(option, problem)| {
                Problem { key: format!("{at}.options.{option}"), problem }
            })?,
            "aufs" => check_aufs(&backend.options).map_err(|(option, problem)| Problem {
                key: format!("{at}.options.{option}"),
                problem,
            })?,
            "bare" if !backend.options.is_empty() => {
                return refuse(format!("{at}.options"), "a bare directory has no options");
            }
            _ => {}
        }
        if backend.extra.get("data_only").is_some_and(|value| value == "true") {
            // These mount the layers again by themselves.
            let whole = |phase: &&Phase| {
                let shares = |v: &Many<Volume>| v.values.contains(&Volume::Shared);
                phase.workload.mounts()
                    || phase.workload == Workload::Commit
                    || phase.volume.as_ref().is_some_and(shares)
            };
            if let Some(phase) = scenario.phase.iter().find(whole) {
                let problem = format!(
                    "phase {:?} mounts unions of its own, for which no such layers are made",
                    phase.name
                );
                return refuse(format!("{at}.extra.data_only"), problem);
            }
        }
        check_extra(backend, &scenario.stack).map_err(|(name, problem)| Problem {
            key: format!("{at}.extra{}{name}", if name.is_empty() { "" } else { "." }),
            problem,
        })?;
    }
    unique("backend", scenario.backend.iter().map(super::file::Backend::label))
}

/// Keys that a workload does not read are refused rather than ignored.
fn keys_of_workload(phase: &Phase, at: &str) -> Verdict {
    let workload = phase.workload;
    let has = [
        ("layer", phase.layer.is_some(), matches!(workload, Workload::Lookup | Workload::Delete)),
        ("missing", phase.missing.is_some(), workload == Workload::Lookup),
        (
            "trigger",
            phase.trigger.is_some(),
            matches!(workload, Workload::FirstWrite | Workload::Recursive),
        ),
        ("files", phase.files.is_some(), workload.takes_files()),
        ("volume", phase.volume.is_some(), workload.takes_files()),
        (
            "method",
            phase.method.is_some(),
            matches!(workload, Workload::Commit | Workload::IdmapStart),
        ),
        ("stage", phase.stage.is_some(), workload == Workload::Container),
    ];
    for (key, given, read) in has {
        if given && !read {
            let problem = format!("workload {:?} does not read it", workload.name());
            return refuse(format!("{at}.{key}"), problem);
        }
    }
    if phase.missing == Some(true) && phase.layer.is_some() {
        return refuse(format!("{at}.missing"), "contradicts `layer`: a missing name is in none");
    }
    if workload.takes_files() && phase.files.is_none() {
        return refuse(format!("{at}.files"), format!("{} needs it", workload.name()));
    }
    super::verbs::check(phase, at)?;
    if phase.count.is_some() && phase.duration.is_some() {
        return refuse(format!("{at}.duration"), "contradicts `count`; give one of the two");
    }
    for keys in &phase.keys.values {
        let repeats = match keys {
            Keys::Permutation => continue,
            Keys::Uniform => "uniform",
            Keys::Zipf(exponent) if !(*exponent > 0.0 && *exponent <= 10.0) => {
                let problem = format!("the exponent {exponent} is not within 0 to 10");
                return refuse(format!("{at}.keys"), problem);
            }
            Keys::Zipf(_) => "zipf",
        };
        if phase.cache.values.contains(&Cache::Cold) {
            let problem =
                format!("{repeats} repeats names, which are cold only once; add cache = \"warm\"");
            return refuse(format!("{at}.keys"), problem);
        }
        if workload.mutates() {
            let problem = format!("{repeats} repeats names, but {} happens once", workload.name());
            return refuse(format!("{at}.keys"), problem);
        }
    }
    Ok(())
}

fn amounts(stack: &Stack, phase: &Phase, at: &str) -> Verdict {
    ranges(&format!("{at}.threads"), &phase.threads, 1, 1024)?;
    if let Some(duration) = phase.duration.as_ref().filter(|d| d.min().ms == 0) {
        return refuse(format!("{at}.duration"), format!("{} is no time", duration.min()));
    }
    let key = format!("{at}.count");
    if phase.count.as_ref().is_some_and(|c| c.min() == 0) {
        return refuse(key, "0 operations cannot be timed");
    }
    for layer in phase.layer.iter().flat_map(|l| &l.values) {
        layer_is_there(stack, *layer, &format!("{at}.layer"))?;
    }
    for files in phase.files.iter().flat_map(|f| &f.values) {
        match files {
            Files::Layer(layer) => layer_is_there(stack, *layer, &format!("{at}.files"))?,
            Files::Group(name) if stack.image.is_some() => super::image::check_group(name, at)?,
            Files::Group(name) if !stack.group.iter().any(|g| g.name == *name) => {
                let names: Vec<&str> = stack.group.iter().map(|g| g.name.as_str()).collect();
                let problem =
                    format!("there is no group {name:?}; there are: {}", names.join(", "));
                return refuse(format!("{at}.files"), problem);
            }
            Files::Group(_) => {}
        }
    }
    let Some(there) = fewest_files(stack, phase) else { return Ok(()) };
    if there == 0 {
        return refuse(format!("{at}.workload"), "there are no files for it in such a layer");
    }
    let wanted = phase.count.as_ref().map_or(1, Many::max);
    let once = phase.keys.values.contains(&Keys::Permutation);
    if once && wanted > there {
        let problem = format!("{wanted} operations on different files, but there are {there}");
        return refuse(key, problem);
    }
    Ok(())
}

/// Files that the phase finds in the smallest stack; `None` where names are
/// made up or directories are read.
fn fewest_files(stack: &Stack, phase: &Phase) -> Option<u64> {
    if stack.image.is_some() {
        return None;
    }
    let of_layer = |layer: Layer| {
        let n_layers = u64::from(stack.layers.min());
        let files = u64::from(stack.files_per_layer.min());
        let left = files - u64::from(stack.whiteouts_per_layer.max()).min(files);
        match layer {
            Layer::Top | Layer::Index(0) => files,
            Layer::Any => files + (n_layers - 1) * left,
            Layer::Bottom if stack.layers.max() == 1 => files,
            Layer::Bottom | Layer::Index(_) => left,
        }
    };
    match phase.workload {
        Workload::Readdir | Workload::Walk | Workload::Recursive => None,
        Workload::RenameDirectory | Workload::MoveTree => None,
        Workload::Commit | Workload::Replay => None,
        workload if workload.mounts() => None,
        Workload::Lookup if phase.missing == Some(true) => None,
        Workload::Lookup | Workload::Delete => {
            let layers = phase.layer.as_ref().map_or(vec![Layer::Any], |l| l.values.clone());
            layers.into_iter().map(of_layer).min()
        }
        _ => {
            let files = phase.files.as_ref()?.values.iter();
            let count = files.map(|f| match f {
                Files::Layer(layer) => of_layer(*layer),
                Files::Group(name) => {
                    let group = stack.group.iter().find(|g| g.name == *name);
                    group.map_or(0, |g| u64::from(g.count.min()))
                }
            });
            count.min()
        }
    }
}
