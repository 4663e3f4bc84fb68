//! One step: mount a setup, run its phases, unmount.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::cells::Cells;
use super::observe::Observations;
use super::{Context, RunError, Site, backend_of, chain, has_blocks, upper, volume, whole};
use crate::backend::{Backend, BackendError, Call, OWN_PROGRAM, Request, Union, Usage};
use crate::plan::{
    Action, Amount, BackendPlan, Cache, PhasePlan, Plan, Setup, StackPlan, StepPlan,
};
use crate::record::{Counter, Round};
use crate::stack::{self, Whiteout};
use crate::stats;
use crate::sys::Errno;
use crate::sys::caches::{Drop, drop_caches};
use crate::workload::{self, Gate, Outcome, Prepared, WorkloadError};

/// The folders of one step, removed when it ends.
pub(super) struct Folders {
    pub base: PathBuf,
    pub upper: PathBuf,
    work: PathBuf,
    target: PathBuf,
    pub flat: PathBuf,
}

impl Folders {
    fn create(backing: &Path) -> std::io::Result<Self> {
        let base = backing.join("step");
        let folders = Self {
            upper: base.join("upper"),
            work: base.join("work"),
            target: base.join("merged"),
            flat: backing.join("flat"),
            base,
        };
        for path in [&folders.base, &folders.upper, &folders.work, &folders.target] {
            fs::create_dir(path)?;
        }
        Ok(folders)
    }
}

impl std::ops::Drop for Folders {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.base);
    }
}

/// Runs one step; what fails in it fails its cells.
pub(super) fn run(
    plan: &Plan,
    planned: StepPlan,
    position: usize,
    site: &Site,
    context: &mut Context<'_>,
    cells: &mut Cells,
) -> Result<(), RunError> {
    let setup = &plan.setups[planned.setup];
    let kind = &plan.backends[setup.backend].kind;
    context.observer.rest_but(planned.probes.then_some(kind));
    if !cells.is_available(setup) || (planned.probes && !context.observer.sees()) {
        return Ok(());
    }
    let Some(backend) = backend_of(kind) else { return Ok(()) };
    let folders = match Folders::create(&site.backing.root) {
        Ok(folders) => folders,
        Err(error) => {
            cells.fail(setup, &format!("cannot make the folders of a step: {error}"));
            return Ok(());
        }
    };
    let mut step =
        Step { plan, planned, position, setup, site, backend: backend.as_ref(), folders: &folders };
    if let Err(failure) = step.run(context, cells) {
        match failure {
            Failure::Run(error) => return Err(error),
            Failure::Setup(reason) => cells.fail(setup, &reason),
            Failure::Unsupported(reason) => cells.unsupported(setup, &reason),
        }
    }
    Ok(())
}

/// Whether a phase gives reason to look after the daemon behind its mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Good,
    Doubtful,
}

impl Health {
    /// ENOTCONN and ECONNABORTED are what the kernel answers in the place of a
    /// FUSE daemon that is gone.
    fn of(outcome: &Outcome) -> Self {
        let gone = [Errno::NOTCONN, Errno::CONNABORTED].map(Errno::raw_os_error);
        match outcome.errors.keys().any(|errno| gone.contains(errno)) {
            true => Self::Doubtful,
            false => Self::Good,
        }
    }
}

/// What the phase made the daemon spend, and the most memory it ever had.
fn daemon_counters(before: Usage, after: Usage) -> [Counter; 2] {
    let counter = |name: &str, value: u64| Counter {
        name: format!("daemon.{name}"),
        engine: "process".to_owned(),
        value,
    };
    [
        counter("cpu_ns", after.cpu.0.saturating_sub(before.cpu.0)),
        counter("peak_rss_bytes", after.peak_memory.0),
    ]
}

enum Failure {
    /// Ends the run.
    Run(RunError),
    /// Fails the cells of this setup.
    Setup(String),
    /// Nothing went wrong, but this backend cannot show such a stack.
    Unsupported(String),
}

pub(super) struct Step<'a> {
    pub plan: &'a Plan,
    planned: StepPlan,
    position: usize,
    pub setup: &'a Setup,
    pub site: &'a Site,
    pub backend: &'a dyn Backend,
    pub folders: &'a Folders,
}

impl Step<'_> {
    fn run(&mut self, context: &mut Context<'_>, cells: &mut Cells) -> Result<(), Failure> {
        let control = self.plan.backends[self.setup.backend].kind == crate::backend::CONTROL_KIND;
        if control {
            self.build_flat(context)?;
        }
        let mut union = None;
        for (index, phase) in self.setup.phases.iter().enumerate() {
            if !cells.is_supported(&phase.cell_id) {
                continue;
            }
            // A cold phase wants a mount that nobody has looked into.
            if union.is_none() || phase.cache == Cache::Cold {
                if let Some(old) = union.take() {
                    Union::unmount(old).map_err(|error| Failure::Setup(chain(&error)))?;
                }
                let mounted = self.mount(control, context)?;
                cells.mounted(self.setup.backend, &mounted.options_in_force, mounted.mount_api);
                union = Some(mounted);
            }
            let Some(union) = &mut union else { continue };
            let done = self.phase(phase, union, control, context, cells);
            let suspected = !matches!(done, Ok(Health::Good));
            if let Some(end) = union.ended(suspected) {
                // Whatever else went wrong came of it, and no phase behind
                // this one has a mount left.
                for phase in &self.setup.phases[index..] {
                    cells.fail_cell(&phase.cell_id, &chain(&end));
                }
                return Ok(());
            }
            done?;
        }
        if let Some(union) = union {
            union.unmount().map_err(|error| Failure::Setup(chain(&error)))?;
        }
        if control && self.setup.phases.iter().any(|phase| workload::mutates(&phase.action)) {
            fs::remove_dir_all(&self.folders.flat).map_err(|error| {
                Failure::Setup(format!("cannot remove the control's tree: {error}"))
            })?;
        }
        Ok(())
    }

    fn built(&self) -> Result<&stack::BuiltStack, Failure> {
        self.site.any().ok_or_else(|| Failure::Setup("no layers were built".to_owned()))
    }

    /// The control's tree is kept between steps unless a phase changed it.
    fn build_flat(&self, context: &Context<'_>) -> Result<(), Failure> {
        let flat = &self.folders.flat;
        if flat.exists() {
            return Ok(());
        }
        fs::create_dir(flat)
            .map_err(|error| Failure::Setup(format!("cannot make {}: {error}", flat.display())))?;
        stack::build_flat(self.built()?, flat, context.cancel).map_err(|error| match error {
            stack::StackError::Cancelled => Failure::Run(RunError::Interrupted),
            error => Failure::Setup(chain(&error)),
        })
    }

    fn mount(&self, control: bool, context: &Context<'_>) -> Result<Union, Failure> {
        // overlayfs marks an upper layer that was mounted with `volatile`, and
        // mounts it again only without the mark (overlayfs.rst, "Volatile
        // mount"). Nothing crashed since, so what is there is whole.
        let mark = self.folders.work.join("work/incompat/volatile");
        if mark.exists() {
            fs::remove_dir_all(&mark).map_err(|error| {
                Failure::Setup(format!("cannot reuse a volatile layer: {error}"))
            })?;
        }
        let backend_plan = &self.plan.backends[self.setup.backend];
        let mut lower = self.site.lower(self.backend.whiteouts(backend_plan)).to_vec();
        let writable = writable_layers(backend_plan);
        for index in &writable {
            let Some(layer) = lower.get_mut(*index) else { continue };
            // Layers are shared by all steps: this one writes to a copy.
            let own = self.folders.base.join(format!("writable-{index}"));
            if !own.exists() {
                stack::copy_layer(layer, &own).map_err(|error| Failure::Setup(chain(&error)))?;
            }
            *layer = own;
        }
        let mut request = Request {
            plan: backend_plan,
            lower: &lower,
            writable_lower: &writable,
            n_data_only: 0,
            hides: hides(&self.plan.stacks[self.setup.stack]),
            flat: control.then_some(self.folders.flat.as_path()),
            upper: &self.folders.upper,
            work: &self.folders.work,
            target: &self.folders.target,
            user_namespace: context.entered.user_namespace,
            own_program: Path::new(OWN_PROGRAM),
        };
        let with_metadata;
        if is_data_only(backend_plan) {
            let layer = self.folders.base.join(METADATA_LAYER);
            if !layer.exists() {
                let union = self.backend.mount(&request).map_err(mount_failed)?;
                stack::write_metadata_layer(&union.root, &layer)
                    .map_err(|error| Failure::Setup(chain(&error)))?;
            }
            with_metadata = [&[layer], lower.as_slice()].concat();
            request.lower = &with_metadata;
            request.n_data_only = lower.len();
        }
        self.backend.mount(&request).map_err(mount_failed)
    }

    fn phase(
        &self,
        phase: &PhasePlan,
        union: &Union,
        control: bool,
        context: &mut Context<'_>,
        cells: &mut Cells,
    ) -> Result<Health, Failure> {
        let root = union.root.as_path();
        let seed = phase_seed(self.plan.seed, &phase.name, self.planned.round);
        let prepared = match workload::prepare(phase, &self.built()?.tree, seed) {
            Ok(prepared) => prepared,
            Err(error @ WorkloadError::NothingThere { .. }) => {
                cells.unsupported_cell(&phase.cell_id, &chain(&error));
                return Ok(Health::Good);
            }
            Err(error) => {
                cells.fail_cell(&phase.cell_id, &chain(&error));
                return Ok(Health::Good);
            }
        };
        let user_namespace = context.entered.user_namespace;
        let mut attached = match volume::attach(self, phase, root, user_namespace) {
            Ok(attached) => attached,
            Err(reason) => {
                cells.fail_cell(&phase.cell_id, &reason);
                return Ok(Health::Good);
            }
        };
        if let Action::Replay { up, .. } = &phase.action
            && let Err(error) = workload::bring_up(up, root)
        {
            let reason = format!("cannot bring into the upper layer what lay there: {error}");
            cells.fail_cell(&phase.cell_id, &reason);
            return Ok(Health::Good);
        }
        self.set_caches(phase, &prepared, root, context, cells)?;
        let before = self.upper_contents(control)?;
        let mut gate = ObservedGate {
            kind: &self.plan.backends[self.setup.backend].kind,
            watching: self.planned.probes.then_some(&mut *context.observer),
            seen: None,
        };
        let used_before = union.usage();
        let place = whole::Place { root, control, user_namespace };
        let outcome = match (&phase.action, phase.amount) {
            (Action::Whole(verb), Amount::Count(n)) => {
                self.whole(*verb, n, place, &mut gate, context.cancel)
            }
            _ => workload::run(&prepared, root, &mut gate, context.cancel),
        };
        let seen = gate.seen;
        let mut outcome = match outcome {
            Ok(outcome) => outcome,
            Err(WorkloadError::Interrupted) => return Err(Failure::Run(RunError::Interrupted)),
            Err(error) => {
                cells.fail_cell(&phase.cell_id, &chain(&error));
                return Ok(Health::Doubtful);
            }
        };
        let used_after = union.usage();
        let health = Health::of(&outcome);
        let after = self.upper_contents(control)?;
        let mut seen = seen.unwrap_or_default();
        if let Some(failure) = seen.failure.take() {
            cells.warn(failure);
        }
        seen.counters.append(&mut outcome.counters);
        seen.counters.append(&mut attached.counters);
        if !control {
            seen.counters.extend(upper::difference(before, after));
        }
        if let (Some(before), Some(after)) = (used_before, used_after) {
            seen.counters.extend(daemon_counters(before, after));
        }
        self.judge(phase, &prepared, &outcome, &seen, cells);
        if self.planned.probes && outcome.n_ops > 0 {
            self.judge_probes(phase, &prepared, &seen, &*context.observer, cells);
        }
        context
            .samples
            .append(&phase.cell_id, self.planned.round, self.planned.probes, &outcome.samples)
            .map_err(|error| Failure::Run(RunError::Samples(error)))?;
        let round = self.round(&mut outcome, seen);
        cells.push(&phase.cell_id, &self.site.backing.info, round);
        Ok(health)
    }

    fn set_caches(
        &self,
        phase: &PhasePlan,
        prepared: &Prepared,
        root: &Path,
        context: &Context<'_>,
        cells: &mut Cells,
    ) -> Result<(), Failure> {
        match phase.cache {
            Cache::Cold if !context.entered.user_namespace => {
                let blocks = has_blocks(self.plan.stacks[self.setup.stack].backing.kind);
                let what = if blocks { Drop::All } else { Drop::Slab };
                if let Err(error) = drop_caches(what) {
                    cells.warn(format!(
                        "caches could not be dropped ({error}): cold means freshly mounted only"
                    ));
                }
                Ok(())
            }
            Cache::Cold => Ok(()),
            Cache::Warm => workload::warm_up(prepared, root)
                .map_err(|error| Failure::Setup(format!("cannot warm up: {error}"))),
        }
    }

    fn upper_contents(&self, control: bool) -> Result<upper::Contents, Failure> {
        if control {
            return Ok(upper::Contents::default());
        }
        let whiteouts = self.backend.whiteouts(&self.plan.backends[self.setup.backend]);
        upper::contents(&self.folders.upper, whiteouts)
            .map_err(|error| Failure::Setup(format!("cannot walk the upper layer: {error}")))
    }

    /// Checks the driver's count against its errors and against the kernel's.
    fn judge(
        &self,
        phase: &PhasePlan,
        prepared: &Prepared,
        outcome: &Outcome,
        seen: &Observations,
        cells: &mut Cells,
    ) {
        if let Some((errno, n)) = outcome.errors.iter().next() {
            let error = std::io::Error::from_raw_os_error(*errno);
            cells.invalidate(
                &phase.cell_id,
                format!("{n} of {} operations failed: {error}", outcome.n_ops),
            );
        }
        if seen.losses.invalidate() {
            cells.invalidate(
                &phase.cell_id,
                format!("the probes lost something: {:?}", seen.losses),
            );
        }
        for name in workload::exact_syscalls(&prepared.action) {
            let counted = seen
                .counters
                .iter()
                .find(|counter| counter.name.strip_prefix("syscalls.") == Some(name));
            if let Some(counter) = counted
                && counter.value != outcome.n_ops
            {
                cells.invalidate(
                    &phase.cell_id,
                    format!(
                        "the kernel saw {} calls of {name}, the driver issued {}",
                        counter.value, outcome.n_ops
                    ),
                );
            }
        }
    }

    /// A probe that is attached and saw nothing of what the phase is sure to
    /// have made the union do is no zero: its function was inlined, or this
    /// kernel goes another way, and the kernel's side of the cell is wrong.
    fn judge_probes(
        &self,
        phase: &PhasePlan,
        prepared: &Prepared,
        seen: &Observations,
        observer: &dyn super::Observer,
        cells: &mut Cells,
    ) {
        let kind = &self.plan.backends[self.setup.backend].kind;
        let stack = &self.plan.stacks[self.setup.stack];
        for operation in workload::sure_operations(phase, prepared, stack) {
            let probe = observer.attached(kind, operation);
            if let Some(reason) = probe.and_then(|probe| seen.silent(&probe)) {
                cells.invalidate(&phase.cell_id, reason);
            }
        }
    }

    fn round(&self, outcome: &mut Outcome, seen: Observations) -> Round {
        let histogram = stats::hdr::of_samples(&outcome.samples)
            .and_then(|histogram| stats::hdr::encode(&histogram))
            .unwrap_or_default();
        Round {
            round: self.planned.round,
            probes: self.planned.probes,
            step: self.position as u32,
            n_ops: outcome.n_ops,
            errors: std::mem::take::<BTreeMap<i32, u64>>(&mut outcome.errors),
            elapsed: outcome.elapsed,
            latency: stats::summary(&mut outcome.samples),
            histogram,
            bytes: outcome.bytes,
            counters: seen.counters,
            kernel: seen.kernel,
            layers: seen.layers,
            sampling: seen.sampling,
            losses: seen.losses,
        }
    }
}

fn mount_failed(error: BackendError) -> Failure {
    match error {
        BackendError::Limit { .. } => Failure::Unsupported(chain(&error)),
        error => Failure::Setup(chain(&error)),
    }
}

/// The layer whose files point into the stack's own layers.
const METADATA_LAYER: &str = "metadata";

/// The stack's layers hold data only, below one of all names.
fn is_data_only(plan: &BackendPlan) -> bool {
    plan.extra.get("data_only").is_some_and(|text| text == "true")
}

/// Indices that the scenario's check has accepted.
fn writable_layers(plan: &BackendPlan) -> Vec<usize> {
    let listed = plan.extra.get("writable_layers").map_or("", String::as_str);
    listed.split(',').filter_map(|index| index.trim().parse().ok()).collect()
}

/// Lower layers hide something of those below them, or may: an image is not
/// looked into here.
pub(super) fn hides(stack: &StackPlan) -> bool {
    stack.whiteouts_per_layer > 0 || stack.opaque_dirs_per_layer > 0 || stack.image.is_some()
}

/// What every mount of a setup will call, with placeholders for the folders of
/// the run.
///
/// # Errors
/// The layers cannot be written as options.
pub fn mount_calls(plan: &Plan, setup: &Setup) -> Result<Vec<Call>, BackendError> {
    let backend_plan = &plan.backends[setup.backend];
    let Some(backend) = backend_of(&backend_plan.kind) else { return Ok(Vec::new()) };
    let root = Path::new("SCRATCH").join(format!("backing-{}", setup.stack));
    let stack = &plan.stacks[setup.stack];
    let whiteouts = if hides(stack) { backend.whiteouts(backend_plan) } else { Whiteout::CharDev };
    let layers = root.join(super::lower_folder(whiteouts));
    let step = root.join("step");
    let writable = writable_layers(backend_plan);
    let mut lower: Vec<PathBuf> = (0..stack.n_layers as usize)
        .map(|index| match writable.contains(&index) {
            true => step.join(format!("writable-{index}")),
            false => layers.join(format!("L{index:03}")),
        })
        .collect();
    let n_data_only = if is_data_only(backend_plan) { lower.len() } else { 0 };
    if n_data_only > 0 {
        lower.insert(0, step.join(METADATA_LAYER));
    }
    backend.calls(&Request {
        plan: backend_plan,
        lower: &lower,
        writable_lower: &writable,
        n_data_only,
        hides: hides(stack),
        flat: Some(&root.join("flat")),
        upper: &step.join("upper"),
        work: &step.join("work"),
        target: &step.join("merged"),
        user_namespace: false,
        own_program: Path::new(OWN_PROGRAM),
    })
}

/// Opens and closes the probes around the timed part.
struct ObservedGate<'a> {
    kind: &'a str,
    watching: Option<&'a mut dyn super::Observer>,
    seen: Option<Observations>,
}

impl Gate for ObservedGate<'_> {
    fn open(&mut self, tids: &[u32]) {
        if let Some(observer) = &mut self.watching {
            observer.begin(self.kind, tids);
        }
    }

    fn close(&mut self) {
        if let Some(observer) = &mut self.watching {
            self.seen = Some(observer.end());
        }
    }
}

/// Backends of one round use the same names in the same order; rounds differ.
fn phase_seed(seed: u64, phase: &str, round: u32) -> u64 {
    // SHA-256, since the standard hasher may change between Rust releases.
    let digest = Sha256::digest(format!("{seed}/{phase}/{round}"));
    digest.iter().take(8).fold(0, |value, byte| value << 8 | u64::from(*byte))
}
