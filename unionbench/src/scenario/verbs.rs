//! What is impossible for a single workload.

use super::check::{Verdict, refuse};
use super::file::{Cache, Method, Phase, Trigger, Volume, Workload};
use super::value::{Files, Keys, Many};

/// Most unions that one phase mounts at once.
const MAX_MOUNTS: u64 = 500;

pub(super) fn check(phase: &Phase, at: &str) -> Verdict {
    let workload = phase.workload;
    triggers(phase, at)?;
    volumes(phase, at)?;
    for &method in phase.method.iter().flat_map(|m| &m.values) {
        let of_commit = matches!(method, Method::Native | Method::Walk);
        if of_commit != (workload == Workload::Commit) {
            let problem = format!("{method:?} is no method of {}", workload.name());
            return refuse(format!("{at}.method"), problem.to_lowercase());
        }
    }
    if !(workload.mounts() || workload == Workload::Commit) {
        return Ok(());
    }
    if phase.threads.max() > 1 {
        return refuse(format!("{at}.threads"), format!("{} is done by one", workload.name()));
    }
    if phase.duration.is_some() {
        let problem = format!("{} ends by `count` alone", workload.name());
        return refuse(format!("{at}.duration"), problem);
    }
    if phase.keys.values.iter().any(|keys| *keys != Keys::Permutation) {
        return refuse(format!("{at}.keys"), format!("{} draws no names", workload.name()));
    }
    if phase.cache.values.contains(&Cache::Warm) && workload.mounts() {
        return refuse(format!("{at}.cache"), "its mounts are fresh, so never warm");
    }
    if phase.count.as_ref().is_some_and(|count| count.max() > MAX_MOUNTS) {
        let problem = format!("more than {MAX_MOUNTS} at once are not mounted");
        return refuse(format!("{at}.count"), problem);
    }
    Ok(())
}

fn triggers(phase: &Phase, at: &str) -> Verdict {
    let all = phase.trigger.iter().flat_map(|t| &t.values);
    let mut other = all.filter(|t| !matches!(t, Trigger::Chown | Trigger::Chmod));
    if phase.workload == Workload::Recursive && other.next().is_some() {
        let problem = "only chown and chmod have a recursive form";
        return refuse(format!("{at}.trigger"), problem);
    }
    Ok(())
}

fn volumes(phase: &Phase, at: &str) -> Verdict {
    let Some(volumes) = &phase.volume else { return Ok(()) };
    let is_group = |files: &Many<Files>| files.values.iter().all(|f| matches!(f, Files::Group(_)));
    if !phase.files.as_ref().is_some_and(is_group) {
        return refuse(format!("{at}.files"), "a volume holds a group: write \"group:NAME\"");
    }
    let renames = |t: &Trigger| matches!(t, Trigger::Rename | Trigger::Link);
    if phase.trigger.iter().flat_map(|t| &t.values).any(renames)
        && volumes.values.contains(&Volume::BindFile)
    {
        return refuse(format!("{at}.trigger"), "a mount point cannot be renamed or linked");
    }
    let read_only = [Volume::BindReadOnly, Volume::DataPacked];
    if phase.workload != Workload::Read && volumes.values.iter().any(|v| read_only.contains(v)) {
        return refuse(format!("{at}.volume"), "it is read-only there; only `read` can use it");
    }
    Ok(())
}
