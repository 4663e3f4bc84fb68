//! What verbs about whole unions are given: more mounts of the step's layers,
//! and an empty folder on its backing file system.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use super::step::Step;
use crate::backend::{BackendError, OWN_PROGRAM, Request};
use crate::plan::WholeVerb;
use crate::sys::mount::bind;
use crate::workload::{Gate, Ground, MountAt, Outcome, Standing, WorkloadError, run_whole};

/// A mounted union as a phase finds it.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub root: &'a Path,
    pub control: bool,
    pub user_namespace: bool,
}

impl Step<'_> {
    /// Does `verb` `n` times.
    pub(super) fn whole(
        &self,
        verb: WholeVerb,
        n: u64,
        place: Place<'_>,
        gate: &mut dyn Gate,
        cancel: &AtomicBool,
    ) -> Result<Outcome, WorkloadError> {
        let spare = self.folders.base.join("spare");
        let failed = |action| {
            move |source: std::io::Error| WorkloadError::Whole {
                verb: "whole union",
                action,
                source: Box::new(source),
            }
        };
        fs::create_dir(&spare).map_err(failed("make a folder"))?;
        let backend_plan = &self.plan.backends[self.setup.backend];
        let flat = place.control.then_some(self.folders.flat.as_path());
        let mount = |at: &MountAt<'_>| -> Result<Standing, BackendError> {
            if let Some(flat) = flat {
                let bound = bind(flat, at.target, false).map_err(|source| BackendError::Mount {
                    kind: "bind".to_owned(),
                    target: at.target.to_owned(),
                    hint: "mounting needs root or a user namespace".to_owned(),
                    source,
                })?;
                return Ok(Standing::Bind(bound));
            }
            let request = Request {
                plan: backend_plan,
                lower: at.lower,
                writable_lower: &[],
                n_data_only: 0,
                // An upper layer that was committed is a lower one next.
                hides: true,
                flat: None,
                upper: at.upper,
                work: at.work,
                target: at.target,
                user_namespace: place.user_namespace,
                own_program: Path::new(OWN_PROGRAM),
            };
            self.backend.mount(&request).map(|union| Standing::Union(Box::new(union)))
        };
        let files = self.site.any().map(|built| built.tree.visible_files()).unwrap_or_default();
        let files: Vec<PathBuf> = files.into_iter().map(|file| file.path.into()).collect();
        let ground = Ground {
            root: place.root,
            upper: if place.control { place.root } else { &self.folders.upper },
            lower: self.site.lower(self.backend.whiteouts(backend_plan)),
            flat,
            spare: &spare,
            files: &files,
            mount: &mount,
        };
        let outcome = run_whole(verb, n, &ground, gate, cancel);
        let removed = fs::remove_dir_all(&spare);
        let outcome = outcome?;
        removed.map_err(failed("remove what it made"))?;
        Ok(outcome)
    }
}
