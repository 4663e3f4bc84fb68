//! Verbs about a union as a whole, and volumes: from the scenario to the plan.

use super::expand::{axis, text};
use super::{Action, Stage, Volume, WholeVerb};
use crate::record::{ParamValue, Params};
use crate::scenario::{self, Many, Method, Workload};

/// Names of these are chosen from the built stack, and all of them are used.
pub(super) fn counts_when_made_ready(action: &Action) -> bool {
    matches!(
        action,
        Action::Walk
            | Action::Recursive { .. }
            | Action::RenameDirectory { .. }
            | Action::Replay { .. }
    )
}

/// Operations of a phase that does not say how many.
pub(super) fn default_count(verb: WholeVerb) -> u64 {
    match verb {
        WholeVerb::MountStorm => 100,
        WholeVerb::UnmountDirty => 5,
        WholeVerb::SharedPages | WholeVerb::Container(_) => 10,
        WholeVerb::IdmapStart { .. } | WholeVerb::Commit { .. } => 1,
    }
}

/// The actions of a phase whose workload is about a whole union.
pub(super) fn whole(phase: &scenario::Phase) -> Vec<(Action, Params)> {
    let methods = |default: Method| {
        let methods = phase.method.clone().unwrap_or(Many::one(default));
        let name = |m: &Method| text(&format!("{m:?}").to_lowercase());
        axis(&format!("{}.method", phase.name), &methods, name)
    };
    let verbs: Vec<(WholeVerb, Params)> = match phase.workload {
        Workload::MountStorm => vec![(WholeVerb::MountStorm, Params::new())],
        Workload::UnmountDirty => vec![(WholeVerb::UnmountDirty, Params::new())],
        Workload::SharedPages => vec![(WholeVerb::SharedPages, Params::new())],
        Workload::IdmapStart => {
            let start = |m| WholeVerb::IdmapStart { mapped: m == Method::Idmap };
            methods(Method::Idmap).into_iter().map(|(m, at)| (start(m), at)).collect()
        }
        Workload::Commit => {
            let commit = |m| WholeVerb::Commit { native: m == Method::Native };
            methods(Method::Native).into_iter().map(|(m, at)| (commit(m), at)).collect()
        }
        _ => {
            let stages = phase.stage.clone().unwrap_or(Many::one(scenario::Stage::Start));
            let name = |s: &scenario::Stage| text(&format!("{s:?}").to_lowercase());
            axis(&format!("{}.stage", phase.name), &stages, name)
                .into_iter()
                .map(|(s, at)| (WholeVerb::Container(stage(s)), at))
                .collect()
        }
    };
    verbs.into_iter().map(|(verb, at)| (Action::Whole(verb), at)).collect()
}

fn stage(stage: scenario::Stage) -> Stage {
    match stage {
        scenario::Stage::Start => Stage::Start,
        scenario::Stage::Run => Stage::Run,
        scenario::Stage::Commit => Stage::Commit,
        scenario::Stage::Remove => Stage::Remove,
    }
}

pub(super) fn volume(volume: scenario::Volume) -> Option<Volume> {
    match volume {
        scenario::Volume::None => None,
        scenario::Volume::Bind => Some(Volume::Bind),
        scenario::Volume::BindReadOnly => Some(Volume::BindReadOnly),
        scenario::Volume::BindFile => Some(Volume::BindFile),
        scenario::Volume::Managed => Some(Volume::Managed),
        scenario::Volume::Shared => Some(Volume::Shared),
        scenario::Volume::DataPacked => Some(Volume::DataPacked),
    }
}

pub(super) fn volume_name(of: scenario::Volume) -> ParamValue {
    ParamValue::Text(volume(of).map_or("none", Volume::name).to_owned())
}
