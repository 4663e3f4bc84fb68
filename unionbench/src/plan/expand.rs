//! Expands the lists of a scenario into stacks, backends, setups and steps.
//!
//! What only reads the tree follows one another in one setup. What changes it
//! can be done once to a file, so each value of a list in such a phase gets a
//! setup of its own, and its value becomes a coordinate of every phase there:
//! a readdir behind a delete is another cell for each number of deletes.

use super::order::{self, Order};
use super::verbs;
use super::words::{backing_kind, layer_choice, listed, replay, trigger_name, trigger_plan};
use super::{
    Action, Amount, BackendPlan, BackingKind, BackingPlan, CONTROL_KIND, Cache, FileChoice,
    GroupPlan, ImagePlan, Keys, LayerChoice, PhasePlan, Plan, Setup, SizePlan, StackPlan, Trigger,
};
use crate::record::{ParamValue, Params};
use crate::scenario::{self, Many, OptionValue, Scenario, Size, Workload};
use crate::unit::Bytes;

/// What the command line asks of a plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choices {
    /// Names or kinds of backends to keep beside the control; empty keeps all.
    pub backends: Vec<String>,
    pub rounds: Option<u32>,
    pub seed: Option<u64>,
    pub probes: Option<bool>,
    pub order: Order,
}

/// Why a scenario gives no plan.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlanError {
    #[error("cannot choose backend {wanted:?}: the scenario has {}", .known.join(", "))]
    UnknownBackend { wanted: String, known: Vec<String> },
    #[error("cannot plan 0 rounds: give --rounds a number from 1")]
    NoRounds,
    #[error("cannot plan {n} cells: more than {MAX_CELLS}; shorten the lists of the scenario")]
    TooManyCells { n: usize },
}

/// More would run for days and fill memory with records.
const MAX_CELLS: usize = 20_000;

/// Stands for every file or directory there is until the stack is known; a
/// scenario cannot ask for 0 operations.
const EVERYTHING: Amount = Amount::Count(0);

/// Missing names have no number of their own.
const DEFAULT_MISSING: u64 = 1000;

/// The plan of `scenario` under `choices`. Deterministic; no I/O.
pub fn expand(scenario: &Scenario, choices: &Choices) -> Result<Plan, PlanError> {
    let rounds = choices.rounds.unwrap_or(scenario.rounds);
    if rounds == 0 {
        return Err(PlanError::NoRounds);
    }
    let seed = choices.seed.unwrap_or(scenario.seed);
    let probes = choices.probes.unwrap_or(scenario.probes);
    let backends = backends(scenario, choices)?;
    let stacks = stacks(scenario, seed);
    let variants = variants(scenario);
    let per_setup = variants.first().map_or(0, Vec::len);
    let n_cells = stacks.len() * variants.len() * backends.len() * per_setup;
    if n_cells > MAX_CELLS {
        return Err(PlanError::TooManyCells { n: n_cells });
    }
    let (mut setups, mut steps) = (Vec::new(), Vec::new());
    for (stack_idx, stack) in stacks.iter().enumerate() {
        let mut groups = Vec::new();
        for phases in &variants {
            let first = setups.len();
            setups.extend(backends.iter().enumerate().map(|(backend, plan)| {
                let phases = phases.iter().map(|p| in_cell(p, plan, stack)).collect();
                Setup { stack: stack_idx, backend, phases }
            }));
            groups.push(first..setups.len());
        }
        steps.extend(order::steps(&groups, rounds, probes, choices.order));
    }
    Ok(Plan { seed, rounds, probes, stacks, backends, setups, steps })
}

fn in_cell(phase: &PhasePlan, backend: &BackendPlan, stack: &StackPlan) -> PhasePlan {
    let mut params = stack.params.clone();
    params.extend(phase.params.clone());
    let listed: Vec<String> = params.iter().map(|(k, v)| format!("{k}={v}")).collect();
    let cell_id = format!("{}/{}/{}", backend.name, listed.join(","), phase.name);
    let of_image = stack.image.is_some() && phase.action != Action::LookupMissing;
    let amount = match phase.amount {
        EVERYTHING if let Action::Whole(verb) = &phase.action => {
            Amount::Count(verbs::default_count(*verb))
        }
        EVERYTHING if of_image || verbs::counts_when_made_ready(&phase.action) => Amount::All,
        EVERYTHING => Amount::Count(n_there(&phase.action, stack)),
        amount => amount,
    };
    PhasePlan { cell_id, params, amount, ..phase.clone() }
}

/// Names that an action finds in the merged tree.
fn n_there(action: &Action, stack: &StackPlan) -> u64 {
    let n_layers = u64::from(stack.n_layers);
    let in_layer = |layer: LayerChoice| {
        let files = u64::from(stack.files_per_layer);
        let left = files - u64::from(stack.whiteouts_per_layer).min(files);
        match layer.resolve(stack.n_layers) {
            // Nothing lies above the topmost layer that could hide its files.
            Some(0) => files,
            Some(_) => left,
            None => files + (n_layers - 1) * left,
        }
    };
    match action {
        Action::LookupMissing => DEFAULT_MISSING,
        Action::Lookup { layer } | Action::Delete { layer } => in_layer(*layer),
        Action::FirstWrite { files, .. } | Action::Fsync { files } | Action::Read { files } => {
            let name = match files {
                FileChoice::Layer(layer) => return in_layer(*layer),
                FileChoice::Group(name) => name,
            };
            let group = stack.groups.iter().find(|g| g.name == *name);
            group.map_or(0, |g| u64::from(g.count))
        }
        Action::Readdir => {
            let trees = if stack.shared_dirs { 1 } else { n_layers };
            let nested = u64::from(stack.dirs) * (1 + u64::from(stack.depth));
            let opaque = u64::from(stack.opaque_dirs_per_layer) * (n_layers - 1);
            trees * nested + opaque + stack.groups.len() as u64
        }
        // Counted when names are chosen; see `in_cell`.
        Action::Walk
        | Action::Recursive { .. }
        | Action::RenameDirectory { .. }
        | Action::Replay { .. }
        | Action::Whole(_) => 0,
    }
}

/// Values of a key with their coordinates: none if it is not a list.
pub(super) fn axis<T: Clone>(
    key: &str,
    many: &Many<T>,
    value: impl Fn(&T) -> ParamValue,
) -> Vec<(T, Params)> {
    let coordinate = |v: &T| match many.is_axis {
        true => Params::from([(key.to_owned(), value(v))]),
        false => Params::new(),
    };
    many.values.iter().map(|v| (v.clone(), coordinate(v))).collect()
}

/// Each of `items` with each value of an axis, the later axis turning fastest.
fn cross<S: Clone, T: Clone>(
    items: Vec<(S, Params)>,
    axis: &[(T, Params)],
    set: impl Fn(&mut S, T),
) -> Vec<(S, Params)> {
    let mut out = Vec::with_capacity(items.len() * axis.len());
    for (item, params) in &items {
        for (value, coordinate) in axis {
            let (mut item, mut params) = (item.clone(), params.clone());
            set(&mut item, value.clone());
            params.extend(coordinate.clone());
            out.push((item, params));
        }
    }
    out
}

fn integer(v: &u32) -> ParamValue {
    ParamValue::Integer(u64::from(*v))
}

fn boolean(v: &bool) -> ParamValue {
    ParamValue::Bool(*v)
}

/// Sizes are numbers, so that plots can put them on an axis.
fn bytes(v: &Bytes) -> ParamValue {
    ParamValue::Integer(v.0)
}

pub(super) fn text(v: &impl ToString) -> ParamValue {
    ParamValue::Text(v.to_string())
}

fn stacks(scenario: &Scenario, seed: u64) -> Vec<StackPlan> {
    let s = &scenario.stack;
    let empty = StackPlan {
        params: Params::new(),
        image: None,
        n_layers: 1,
        files_per_layer: 0,
        dirs: 1,
        depth: 0,
        size: SizePlan::Fixed(Bytes(0)),
        whiteouts_per_layer: 0,
        opaque_dirs_per_layer: 0,
        verity: false,
        shared_dirs: true,
        groups: Vec::new(),
        files: s.file.iter().map(listed).collect(),
        seed,
        backing: BackingPlan {
            kind: BackingKind::Tmpfs,
            size: scenario.backing.size,
            mount_options: scenario.backing.options.clone(),
            mkfs: String::new(),
        },
    };
    let number = |key, many| axis(key, many, integer);
    let all = images(s, vec![(empty, Params::new())]);
    let fs = axis("backing.fs", &scenario.backing.fs, |f| text(&backing_kind(*f).name()));
    let all = cross(all, &fs, |s, v| s.backing.kind = backing_kind(v));
    let mkfs = axis("backing.mkfs", &scenario.backing.mkfs, text);
    let all = cross(all, &mkfs, |s, v| s.backing.mkfs = v);
    let all = cross(all, &number("stack.layers", &s.layers), |s, v| s.n_layers = v);
    let files = number("stack.files_per_layer", &s.files_per_layer);
    let all = cross(all, &files, |s, v| s.files_per_layer = v);
    let all = cross(all, &number("stack.dirs", &s.dirs), |s, v| s.dirs = v);
    let all = cross(all, &number("stack.depth", &s.depth), |s, v| s.depth = v);
    let shared = axis("stack.shared_dirs", &s.shared_dirs, boolean);
    let all = cross(all, &shared, |s, v| s.shared_dirs = v);
    let all = cross(all, &sizes(&s.size), |s, v| s.size = v);
    let whiteouts = number("stack.whiteouts_per_layer", &s.whiteouts_per_layer);
    let all = cross(all, &whiteouts, |s, v| s.whiteouts_per_layer = v);
    let opaque = number("stack.opaque_dirs_per_layer", &s.opaque_dirs_per_layer);
    let all = cross(all, &opaque, |s, v| s.opaque_dirs_per_layer = v);
    let verity = axis("stack.verity", &s.verity, boolean);
    let all = cross(all, &verity, |s, v| s.verity = v);
    let all = s.group.iter().fold(all, |all, g| cross(all, &groups(g), |s, v| s.groups.push(v)));
    let finish = |(mut stack, params): (StackPlan, Params)| {
        stack.params = params;
        if stack.image.is_some() {
            stack.n_layers = 0;
        }
        stack
    };
    all.into_iter().map(finish).collect()
}

fn images(stack: &scenario::Stack, all: Vec<(StackPlan, Params)>) -> Vec<(StackPlan, Params)> {
    let Some(images) = &stack.image else { return all };
    let platform = &stack.platform;
    let all = cross(all, &axis("stack.image", images, text), |s, reference| {
        s.image = Some(ImagePlan { reference, platform: platform.clone(), squash: false });
    });
    cross(all, &axis("stack.squash", &stack.squash, boolean), |s, squash| {
        if let Some(image) = &mut s.image {
            image.squash = squash;
        }
    })
}

fn sizes(size: &Size) -> Vec<(SizePlan, Params)> {
    let alone = |size| vec![(size, Params::new())];
    match *size {
        Size::Fixed(ref sizes) => {
            let sizes = axis("stack.size", sizes, bytes);
            sizes.into_iter().map(|(size, at)| (SizePlan::Fixed(size), at)).collect()
        }
        Size::Uniform { min, max } => alone(SizePlan::Uniform { min, max }),
        Size::LogNormal { median, sigma, max } => alone(SizePlan::LogNormal { median, sigma, max }),
    }
}

fn groups(group: &scenario::Group) -> Vec<(GroupPlan, Params)> {
    let key = |name: &str| format!("stack.group.{}.{name}", group.name);
    let empty = GroupPlan {
        name: group.name.clone(),
        layer: LayerChoice::Bottom,
        count: 1,
        size: Bytes(0),
        sparse: false,
    };
    let all = vec![(empty, Params::new())];
    let layers = axis(&key("layer"), &group.layer, text);
    let all = cross(all, &layers, |g, v| g.layer = layer_choice(v));
    let all = cross(all, &axis(&key("count"), &group.count, integer), |g, v| g.count = v);
    let all = cross(all, &axis(&key("size"), &group.size, bytes), |g, v| g.size = v);
    cross(all, &axis(&key("sparse"), &group.sparse, boolean), |g, v| g.sparse = v)
}

fn backends(scenario: &Scenario, choices: &Choices) -> Result<Vec<BackendPlan>, PlanError> {
    let mut all = Vec::new();
    for backend in &scenario.backend {
        let base = BackendPlan {
            name: backend.label().to_owned(),
            kind: backend.kind.clone(),
            options: Vec::new(),
            extra: backend.extra.clone(),
        };
        let mut variants = vec![(base, Params::new())];
        for (name, values) in &backend.options {
            let set = |b: &mut BackendPlan, value: OptionValue| {
                if values.is_axis {
                    b.name.push_str(&format!(" {name}={value}"));
                }
                match value {
                    OptionValue::Flag(false) => {}
                    OptionValue::Flag(true) => b.options.push((name.clone(), String::new())),
                    OptionValue::Text(text) => b.options.push((name.clone(), text)),
                }
            };
            // The value is in the name; it is no coordinate, or the variants
            // of a backend could not be compared.
            let plain: Vec<_> = values.values.iter().map(|v| (v.clone(), Params::new())).collect();
            variants = cross(variants, &plain, set);
        }
        all.extend(variants.into_iter().map(|(b, _)| (backend.label(), b)));
    }
    let fits = |wanted: &String, (label, b): &(&str, BackendPlan)| {
        *wanted == b.name || wanted == label || *wanted == b.kind
    };
    if let Some(wanted) = choices.backends.iter().find(|w| !all.iter().any(|b| fits(w, b))) {
        let known = all.into_iter().map(|(_, b)| b.name).collect();
        return Err(PlanError::UnknownBackend { wanted: wanted.clone(), known });
    }
    // Without the control there would be no ratios.
    let stays = |b: &(&str, BackendPlan)| {
        b.1.kind == CONTROL_KIND || choices.backends.iter().any(|w| fits(w, b))
    };
    all.retain(|b| choices.backends.is_empty() || stays(b));
    Ok(all.into_iter().map(|(_, b)| b).collect())
}

/// The phases of each setup on a stack, without the coordinates of the stack.
fn variants(scenario: &Scenario) -> Vec<Vec<PhasePlan>> {
    let mut variants: Vec<(Vec<PhasePlan>, Params)> = vec![(Vec::new(), Params::new())];
    for phase in &scenario.phase {
        let expanded = phases(phase);
        if phase.workload.mutates() {
            let push = |setup: &mut Vec<PhasePlan>, phase| setup.push(phase);
            variants = cross(variants, &expanded, push);
        } else {
            for (setup, _) in &mut variants {
                setup.extend(
                    expanded
                        .iter()
                        .map(|(p, params)| PhasePlan { params: params.clone(), ..p.clone() }),
                );
            }
        }
    }
    let with_coordinates = |(mut setup, shared): (Vec<PhasePlan>, Params)| {
        for phase in &mut setup {
            phase.params.extend(shared.clone());
        }
        setup
    };
    variants.into_iter().map(with_coordinates).collect()
}

fn phases(phase: &scenario::Phase) -> Vec<(PhasePlan, Params)> {
    let key = |name: &str| format!("{}.{name}", phase.name);
    let base = PhasePlan {
        cell_id: String::new(),
        name: phase.name.clone(),
        params: Params::new(),
        action: Action::Readdir,
        volume: None,
        amount: EVERYTHING,
        threads: 1,
        cache: Cache::Cold,
        keys: Keys::Permutation,
    };
    let mut all = cross(vec![(base, Params::new())], &actions(phase), |p, v| p.action = v);
    if let Some(volumes) = &phase.volume {
        let volumes = axis(&key("volume"), volumes, |v| verbs::volume_name(*v));
        all = cross(all, &volumes, |p, v| p.volume = verbs::volume(v));
    }
    if let Some(count) = &phase.count {
        let counts = axis(&key("count"), count, |c| ParamValue::Integer(*c));
        all = cross(all, &counts, |p, v| p.amount = Amount::Count(v));
    }
    if let Some(duration) = &phase.duration {
        let spans = axis(&key("duration"), duration, |d| ParamValue::Integer(d.ms));
        all = cross(all, &spans, |p, v| p.amount = Amount::DurationMs(v.ms));
    }
    let all = cross(all, &axis(&key("threads"), &phase.threads, integer), |p, v| p.threads = v);
    let caches = axis(&key("cache"), &phase.cache, |c| match c {
        scenario::Cache::Cold => ParamValue::Text("cold".to_owned()),
        scenario::Cache::Warm => ParamValue::Text("warm".to_owned()),
    });
    let all = cross(all, &caches, |p, v| {
        p.cache = match v {
            scenario::Cache::Cold => Cache::Cold,
            scenario::Cache::Warm => Cache::Warm,
        };
    });
    cross(all, &axis(&key("keys"), &phase.keys, text), |p, v| {
        p.keys = match v {
            scenario::Keys::Permutation => Keys::Permutation,
            scenario::Keys::Uniform => Keys::Uniform,
            scenario::Keys::Zipf(exponent) => Keys::Zipf(exponent),
        };
    })
}

fn actions(phase: &scenario::Phase) -> Vec<(Action, Params)> {
    let key = |name: &str| format!("{}.{name}", phase.name);
    let layers = match &phase.layer {
        Some(layers) => axis(&key("layer"), layers, text),
        None => vec![(scenario::Layer::Any, Params::new())],
    };
    let of_layers = |make: fn(LayerChoice) -> Action| {
        layers.iter().map(|(l, at)| (make(layer_choice(*l)), at.clone())).collect()
    };
    match phase.workload {
        Workload::Readdir => vec![(Action::Readdir, Params::new())],
        Workload::Walk => vec![(Action::Walk, Params::new())],
        Workload::Lookup if phase.missing == Some(true) => {
            vec![(Action::LookupMissing, Params::new())]
        }
        Workload::Lookup => of_layers(|layer| Action::Lookup { layer }),
        Workload::Delete => of_layers(|layer| Action::Delete { layer }),
        Workload::FirstWrite => {
            let first_write = |files, trigger| Action::FirstWrite { trigger, files };
            with_trigger(phase, scenario::Trigger::Write, &choices(phase), first_write)
        }
        Workload::Recursive => {
            let all = [((), Params::new())];
            let recursive = |(), trigger| Action::Recursive { trigger };
            with_trigger(phase, scenario::Trigger::Chown, &all, recursive)
        }
        Workload::Replay => vec![(replay(phase), Params::new())],
        Workload::Fsync => of_files(phase, |files| Action::Fsync { files }),
        Workload::Read => of_files(phase, |files| Action::Read { files }),
        Workload::RenameDirectory => {
            vec![(Action::RenameDirectory { copies: false }, Params::new())]
        }
        Workload::MoveTree => vec![(Action::RenameDirectory { copies: true }, Params::new())],
        Workload::MountStorm
        | Workload::UnmountDirty
        | Workload::IdmapStart
        | Workload::SharedPages
        | Workload::Commit
        | Workload::Container => verbs::whole(phase),
    }
}

/// The files a phase takes, with their coordinates.
fn choices(phase: &scenario::Phase) -> Vec<(FileChoice, Params)> {
    let key = format!("{}.files", phase.name);
    let all = phase.files.iter().flat_map(|files| axis(&key, files, text));
    let choice = |(files, at)| match files {
        scenario::Files::Group(name) => (FileChoice::Group(name), at),
        scenario::Files::Layer(layer) => (FileChoice::Layer(layer_choice(layer)), at),
    };
    all.map(choice).collect()
}

fn of_files(phase: &scenario::Phase, make: fn(FileChoice) -> Action) -> Vec<(Action, Params)> {
    choices(phase).into_iter().map(|(files, at)| (make(files), at)).collect()
}

fn with_trigger<T: Clone>(
    phase: &scenario::Phase,
    default: scenario::Trigger,
    items: &[(T, Params)],
    make: impl Fn(T, Trigger) -> Action,
) -> Vec<(Action, Params)> {
    let triggers = phase.trigger.clone().unwrap_or(Many::one(default));
    let triggers = axis(&format!("{}.trigger", phase.name), &triggers, |t| text(&trigger_name(*t)));
    let items = items.iter().cloned().map(|(item, at)| ((item, default), at)).collect();
    cross(items, &triggers, |pair, trigger| pair.1 = trigger)
        .into_iter()
        .map(|((item, trigger), at)| (make(item, trigger_plan(trigger)), at))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    const TEXT: &str = r#"
name = "t"
title = "T"
rounds = 2
[stack]
layers = [1, 8]
[[stack.group]]
name = "large"
size = ["4KiB", "1MiB"]
[[backend]]
kind = "bare"
[[backend]]
kind = "overlayfs"
options = { metacopy = ["off", "on"], volatile = true }
[[phase]]
name = "look"
workload = "lookup"
layer = ["top", "bottom"]
[[phase]]
name = "write"
workload = "first-write"
files = "group:large"
trigger = ["write", "chmod"]
"#;

    fn plan(choices: &Choices) -> Result<Plan, PlanError> {
        let (scenario, _) = scenario::parse(Path::new("t.toml"), TEXT.as_bytes(), &[])
            .expect("the scenario is good");
        expand(&scenario, choices)
    }

    #[test]
    fn every_combination_is_a_cell_with_an_id_of_its_own() {
        let plan = plan(&Choices::default()).expect("it expands");
        assert_eq!((plan.stacks.len(), plan.backends.len()), (4, 3));
        // A setup for each trigger; both lookups lie in each.
        assert_eq!(plan.setups.len(), 4 * 3 * 2);
        assert!(plan.setups.iter().all(|s| s.phases.len() == 3));
        let ids: BTreeSet<&str> =
            plan.setups.iter().flat_map(|s| &s.phases).map(|p| p.cell_id.as_str()).collect();
        assert_eq!(ids.len(), 4 * 3 * 2 * 3);
        assert!(ids.contains(
            "overlayfs metacopy=on/look.layer=top,stack.group.large.size=4096,stack.layers=8,write.trigger=chmod/look"
        ), "{ids:?}");
    }

    #[test]
    fn choices_narrow_the_plan() {
        let choices = Choices {
            backends: vec!["overlayfs metacopy=on".to_owned()],
            rounds: Some(1),
            seed: Some(9),
            probes: Some(false),
            order: Order::InTurns,
        };
        let plan = plan(&choices).expect("it expands");
        assert_eq!(plan.backends.len(), 2);
        assert_eq!(plan.steps.len(), plan.setups.len());
        assert!(plan.stacks.iter().all(|s| s.seed == 9));
        let on = ("metacopy".to_owned(), "on".to_owned());
        assert_eq!(plan.backends[1].options, [on, ("volatile".to_owned(), String::new())]);
    }

    #[test]
    fn unknown_choice_is_refused_with_what_there_is() {
        let choices = Choices { backends: vec!["zfs".to_owned()], ..Choices::default() };
        let error = plan(&choices).expect_err("there is none").to_string();
        assert!(error.contains("bare, overlayfs metacopy=off"), "{error}");
        let none = Choices { rounds: Some(0), ..Choices::default() };
        assert_eq!(plan(&none), Err(PlanError::NoRounds));
    }
}
