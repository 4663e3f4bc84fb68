//! Words of a scenario as the plan has them.

use super::{Action, BackingKind, LayerChoice, ListedKind, ListedPlan, ReplayPlan, Trigger};
use crate::scenario;

pub(super) fn layer_choice(layer: scenario::Layer) -> LayerChoice {
    match layer {
        scenario::Layer::Top => LayerChoice::Top,
        scenario::Layer::Bottom => LayerChoice::Bottom,
        scenario::Layer::Any => LayerChoice::Any,
        scenario::Layer::Index(i) => LayerChoice::Index(i),
    }
}

pub(super) fn backing_kind(fs: scenario::FileSystem) -> BackingKind {
    match fs {
        scenario::FileSystem::Tmpfs => BackingKind::Tmpfs,
        scenario::FileSystem::Ext4 => BackingKind::Ext4,
        scenario::FileSystem::Xfs => BackingKind::Xfs,
        scenario::FileSystem::Btrfs => BackingKind::Btrfs,
        scenario::FileSystem::Dir => BackingKind::Dir,
    }
}

pub(super) fn listed(file: &scenario::Listed) -> ListedPlan {
    let kind = match file.kind {
        scenario::ListedKind::File => ListedKind::File { size: file.size },
        scenario::ListedKind::Directory => ListedKind::Directory,
        scenario::ListedKind::Symlink => ListedKind::Symlink,
    };
    ListedPlan { path: file.path.clone(), layer: file.layer, kind }
}

pub(super) fn replay(phase: &scenario::Phase) -> Action {
    let plan = |o: &scenario::Operation| ReplayPlan { by: o.by, on: o.on.clone() };
    let operations = phase.operation.iter().map(plan).collect();
    Action::Replay { operations, up: phase.up.clone() }
}

pub(super) fn trigger_plan(trigger: scenario::Trigger) -> Trigger {
    match trigger {
        scenario::Trigger::Write => Trigger::Write,
        scenario::Trigger::Chmod => Trigger::Chmod,
        scenario::Trigger::Chown => Trigger::Chown,
        scenario::Trigger::Truncate => Trigger::Truncate,
        scenario::Trigger::Link => Trigger::Link,
        scenario::Trigger::Rename => Trigger::Rename,
        scenario::Trigger::Setxattr => Trigger::Setxattr,
    }
}

pub(super) fn trigger_name(trigger: scenario::Trigger) -> &'static str {
    match trigger {
        scenario::Trigger::Write => "write",
        scenario::Trigger::Chmod => "chmod",
        scenario::Trigger::Chown => "chown",
        scenario::Trigger::Truncate => "truncate",
        scenario::Trigger::Link => "link",
        scenario::Trigger::Rename => "rename",
        scenario::Trigger::Setxattr => "setxattr",
    }
}
