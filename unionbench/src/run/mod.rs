//! The order of phases: build the stack, mount, make cold or warm, measure,
//! drain, unmount. This module alone knows that order; each step is a guard
//! or a function of the module it belongs to, and guards undo in reverse.
//!
//! Per stack there is one backing file system, made before its first step and
//! gone after its last. Lower layers are built once and shared by all rounds;
//! upper and work are fresh for each step. A failed setup fails its own cells
//! and no others.

mod backing;
mod cells;
mod host;
mod observe;
mod probes;
pub mod scratch;
mod step;
mod upper;
mod volume;
mod whole;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use thiserror::Error;

pub use observe::{Blind, Observer};
pub use probes::Probes;
pub use scratch::{Scratch, ScratchError};
pub use step::mount_calls;

use crate::backend::{self, Backend};
use crate::plan::{BackingKind, Plan, StepPlan};
use crate::record::{self, DriverOverhead, Program, Record, ScenarioText};
use crate::stack::{self, BuildOptions, Layout, StackError, Whiteout, XattrNamespace};
use crate::sys::caches;
use crate::sys::namespace::Entered;
use crate::unit::{Bytes, LatencyUnit};
use crate::workload;

/// Empty timed sections measured before the first step.
const EMPTY_SECTIONS: usize = 10_001;

/// Why a run ended without a record.
#[derive(Debug, Error)]
pub enum RunError {
    #[error(transparent)]
    Scratch(#[from] ScratchError),
    #[error("cannot store samples: free some room where the results go")]
    Samples(#[source] std::io::Error),
    #[error("interrupted")]
    Interrupted,
}

/// Where raw samples go while the run goes on.
pub trait SampleSink {
    /// Takes one round's samples, in order of issue by thread.
    ///
    /// # Errors
    /// They cannot be stored.
    fn append(
        &mut self,
        cell: &str,
        round: u32,
        probes: bool,
        samples: &[u64],
    ) -> std::io::Result<()>;
}

/// Told what the run does next, for a progress bar.
pub trait Progress {
    /// A step begins: its position, how many there are, and what it is.
    fn step(&mut self, position: usize, total: usize, what: &str);
}

/// What a run is given beside its plan.
pub struct Context<'a> {
    pub scenario: ScenarioText,
    pub program: Program,
    pub lab: Option<record::Lab>,
    pub latency_unit: LatencyUnit,
    pub entered: Entered,
    pub scratch: &'a Path,
    /// Images of backing file systems stay in the scratch folder.
    pub keep: bool,
    pub cancel: &'a AtomicBool,
    pub observer: &'a mut dyn Observer,
    pub samples: &'a mut dyn SampleSink,
    pub progress: &'a mut dyn Progress,
}

/// Measures everything in the plan.
///
/// # Errors
/// The run was interrupted, or its samples could not be stored. What fails in
/// a single setup is in the record instead.
pub fn execute(plan: &Plan, context: &mut Context<'_>) -> Result<Record, RunError> {
    let began = Instant::now();
    let started = jiff::Timestamp::now().to_string();
    let cold_method = cold_method(context.entered);
    let mut cells = cells::Cells::new(plan, context);
    tell_what_is_missing(plan, context, &mut cells);
    let driver = DriverOverhead {
        empty_sample: workload::empty_sample(EMPTY_SECTIONS),
        n: EMPTY_SECTIONS as u64,
    };
    let mut order = Vec::new();
    for (n, steps) in by_stack(plan) {
        let site = prepare_site(plan, n, &whiteouts_of(plan, n, &cells), context)?;
        for (position, planned) in steps {
            interrupted(context.cancel)?;
            let setup = &plan.setups[planned.setup];
            let backend_plan = &plan.backends[setup.backend];
            context.progress.step(position, plan.steps.len(), &describe(plan, planned));
            order.push(record::Step {
                stack: setup.stack as u32,
                backend: backend_plan.name.clone(),
                round: planned.round,
                probes: planned.probes,
                at_ms: began.elapsed().as_millis() as u64,
            });
            match &site {
                Ok(site) => {
                    step::run(plan, planned, position, site, context, &mut cells)?;
                }
                Err(Obstacle::Unsupported(reason)) => cells.unsupported(setup, reason),
                Err(Obstacle::Failed(reason)) => cells.fail(setup, reason),
            }
        }
        if let Ok(site) = site {
            cells.stack_built(n, &site);
        }
    }
    let host = host::describe(context.entered, cold_method);
    let elapsed_ms = began.elapsed().as_millis() as u64;
    Ok(cells.into_record(plan, context, cells::Frame { started, elapsed_ms, host, driver, order }))
}

/// A stack on its backing file system, ready for steps.
struct Site {
    backing: backing::Backing,
    /// The same layers, once for each way of writing whiteouts that a backend
    /// needs; at least one.
    built: BTreeMap<Whiteout, stack::BuiltStack>,
}

impl Site {
    /// The layers for a backend that reads such whiteouts.
    fn lower(&self, whiteouts: Whiteout) -> &[PathBuf] {
        let built = self.built.get(&whiteouts).or_else(|| self.built.values().next());
        built.map_or(&[], |built| &built.lower)
    }

    /// The layers in any way of writing whiteouts: their tree is the same.
    fn any(&self) -> Option<&stack::BuiltStack> {
        self.built.values().next()
    }
}

/// The ways of writing whiteouts that the backends measured on a stack need.
/// A stack that hides nothing is the same for all.
fn whiteouts_of(plan: &Plan, n: usize, cells: &cells::Cells) -> BTreeSet<Whiteout> {
    let stack = &plan.stacks[n];
    let hides = stack.whiteouts_per_layer > 0 || stack.opaque_dirs_per_layer > 0;
    if !hides && stack.image.is_none() {
        return BTreeSet::from([Whiteout::CharDev]);
    }
    let setups = plan.setups.iter().filter(|setup| setup.stack == n && cells.is_available(setup));
    let needed = setups.filter_map(|setup| {
        let backend_plan = &plan.backends[setup.backend];
        Some(backend_of(&backend_plan.kind)?.whiteouts(backend_plan))
    });
    needed.collect()
}

/// Why a stack has no place: this machine cannot give it one, or it went wrong.
enum Obstacle {
    Unsupported(String),
    Failed(String),
}

/// The outer error ends the run; the inner one holds for every cell of the
/// stack.
fn prepare_site(
    plan: &Plan,
    n: usize,
    whiteouts: &BTreeSet<Whiteout>,
    context: &mut Context<'_>,
) -> Result<Result<Site, Obstacle>, RunError> {
    let stack_plan = &plan.stacks[n];
    let needed = least_room(plan, n);
    if let Err(error) = backing::check_room(&stack_plan.backing, context.scratch, needed) {
        return Ok(Err(Obstacle::Failed(chain(&error))));
    }
    let backing = match backing::mount(&stack_plan.backing, context.scratch, n, context.keep) {
        Ok(backing) => backing,
        Err(error) if error.is_unsupported() => {
            return Ok(Err(Obstacle::Unsupported(chain(&error))));
        }
        Err(error) => return Ok(Err(Obstacle::Failed(chain(&error)))),
    };
    let mut built = BTreeMap::new();
    for whiteout in whiteouts {
        let root = backing.root.join(lower_folder(*whiteout));
        if let Err(error) = std::fs::create_dir(&root) {
            let reason = format!("cannot make {}: {error}", root.display());
            return Ok(Err(Obstacle::Failed(reason)));
        }
        let options = BuildOptions {
            xattr_namespace: if context.entered.user_namespace {
                XattrNamespace::User
            } else {
                XattrNamespace::Trusted
            },
            whiteout: *whiteout,
        };
        let layers = stack::build(stack_plan, &root, options, context.cancel).and_then(|layers| {
            if stack_plan.verity {
                stack::seal(&layers.lower, context.cancel)?;
            }
            Ok(layers)
        });
        match layers {
            Ok(layers) => built.insert(*whiteout, layers),
            Err(StackError::Cancelled) => return Err(RunError::Interrupted),
            Err(error) if error.is_unsupported() => {
                return Ok(Err(Obstacle::Unsupported(chain(&error))));
            }
            Err(error) => return Ok(Err(Obstacle::Failed(chain(&error)))),
        };
    }
    Ok(Ok(Site { backing, built }))
}

fn lower_folder(whiteout: Whiteout) -> &'static str {
    match whiteout {
        Whiteout::CharDev | Whiteout::Xattr => "lower",
        Whiteout::Aufs => "lower-aufs",
        Whiteout::Unionfs => "lower-unionfs",
    }
}

/// What the files of a stack take at least: written bytes and half a page for
/// the end of each file, once more where the control holds them too.
fn least_room(plan: &Plan, n: usize) -> Bytes {
    let totals = Layout::new(&plan.stacks[n]).totals();
    let once = totals.n_bytes_written.saturating_add(totals.n_files.saturating_mul(2048));
    let has_control = plan.setups.iter().any(|setup| {
        setup.stack == n && plan.backends[setup.backend].kind == backend::CONTROL_KIND
    });
    Bytes(once.saturating_mul(1 + u64::from(has_control)))
}

/// Steps grouped by stack, in plan order; the plan never comes back to a stack.
fn by_stack(plan: &Plan) -> Vec<(usize, Vec<(usize, StepPlan)>)> {
    let mut seen = BTreeSet::new();
    let mut groups: Vec<(usize, Vec<(usize, StepPlan)>)> = Vec::new();
    for (position, step) in plan.steps.iter().enumerate() {
        let stack = plan.setups[step.setup].stack;
        if seen.insert(stack) {
            groups.push((stack, Vec::new()));
        }
        if let Some((_, steps)) = groups.iter_mut().find(|(n, _)| *n == stack) {
            steps.push((position, *step));
        }
    }
    groups
}

fn describe(plan: &Plan, step: StepPlan) -> String {
    let setup = &plan.setups[step.setup];
    let params: Vec<String> = plan.stacks[setup.stack]
        .params
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    format!(
        "{} {} round {}{}",
        plan.backends[setup.backend].name,
        params.join(" "),
        step.round + 1,
        if step.probes { " with probes" } else { "" }
    )
}

/// What a reader of the figures must know of the user who measured.
fn tell_what_is_missing(plan: &Plan, context: &Context<'_>, cells: &mut cells::Cells) {
    if context.entered.user_namespace {
        cells.warn(
            "measured as an ordinary user, in a user namespace: overlayfs has `userxattr`, no \
             probes watched, and cold means freshly mounted only; run as root for the rest"
                .to_owned(),
        );
    } else if plan.probes && !context.observer.sees() {
        cells
            .warn("no probes watched: `unionbench doctor` says why and how to get them".to_owned());
    }
}

/// How caches will be made cold here.
fn cold_method(entered: Entered) -> &'static str {
    let drops = !entered.user_namespace && caches::can_drop();
    if drops { "remount+drop_caches" } else { "remount" }
}

fn has_blocks(kind: BackingKind) -> bool {
    kind != BackingKind::Tmpfs
}

fn backend_of(kind: &str) -> Option<Box<dyn Backend + Send + Sync>> {
    backend::of_kind(kind)
}

fn interrupted(cancel: &AtomicBool) -> Result<(), RunError> {
    if cancel.load(Ordering::Relaxed) { Err(RunError::Interrupted) } else { Ok(()) }
}

/// An error with its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
