//! Gathers what steps give into the cells of the record.

use std::collections::BTreeMap;

use super::{Context, Site, backend_of};
use crate::backend::CONTROL_KIND;
use crate::plan::{Plan, Setup};
use crate::record::{
    Availability, Backend, Backing, Cell, CellStatus, DriverOverhead, Host, Record, Round,
    SCHEMA_VERSION, Stack, Step,
};
use crate::workload;

/// What the record holds beside cells.
pub(super) struct Frame {
    pub started: String,
    pub elapsed_ms: u64,
    pub host: Host,
    pub driver: DriverOverhead,
    pub order: Vec<Step>,
}

pub(super) struct Cells {
    cells: Vec<Cell>,
    by_id: BTreeMap<String, usize>,
    backends: Vec<Backend>,
    stacks: Vec<Option<Stack>>,
    warnings: Vec<String>,
}

impl Cells {
    pub fn new(plan: &Plan, context: &Context<'_>) -> Self {
        let backends = plan
            .backends
            .iter()
            .map(|planned| {
                let backend = backend_of(&planned.kind);
                Backend {
                    name: planned.name.clone(),
                    kind: planned.kind.clone(),
                    control: planned.kind == CONTROL_KIND,
                    options_requested: backend.as_ref().map_or_else(Vec::new, |backend| {
                        backend.options(planned, context.entered.user_namespace)
                    }),
                    options_in_force: Vec::new(),
                    mount_api: None,
                    program: backend.as_ref().and_then(|backend| backend.program()),
                    availability: backend.as_ref().map_or_else(
                        || Availability::Unsupported {
                            reason: format!("this program has no backend {:?}", planned.kind),
                        },
                        |backend| backend.availability_of(planned),
                    ),
                }
            })
            .collect();
        let mut gathered = Self {
            cells: Vec::new(),
            by_id: BTreeMap::new(),
            backends,
            stacks: vec![None; plan.stacks.len()],
            warnings: Vec::new(),
        };
        for setup in &plan.setups {
            gathered.add_setup(plan, setup);
        }
        gathered
    }

    fn add_setup(&mut self, plan: &Plan, setup: &Setup) {
        let stack = &plan.stacks[setup.stack];
        let backing = &stack.backing;
        let kind = backend_of(&plan.backends[setup.backend].kind);
        for phase in &setup.phases {
            let backend = &self.backends[setup.backend];
            let here = match (&backend.availability, &kind) {
                (Availability::Ok, Some(kind)) => kind.supports(stack, &phase.action),
                (found, _) => found.clone(),
            };
            let status = match here {
                Availability::Ok => CellStatus::Ok,
                Availability::Unsupported { reason } => CellStatus::Unsupported { reason },
            };
            self.by_id.insert(phase.cell_id.clone(), self.cells.len());
            self.cells.push(Cell {
                id: phase.cell_id.clone(),
                backend: backend.name.clone(),
                stack: setup.stack as u32,
                backing: Backing {
                    kind: backing.kind.name().to_owned(),
                    file_system: String::new(),
                    options: String::new(),
                    size_bytes: backing.size.0,
                },
                phase: phase.name.clone(),
                workload: workload::verb(&phase.action).to_owned(),
                operation: workload::operation(&phase.action).to_owned(),
                params: phase.params.clone(),
                status,
                rounds: Vec::new(),
            });
        }
    }

    /// Some phase of the setup can be tried here.
    pub fn is_available(&self, setup: &Setup) -> bool {
        setup.phases.iter().any(|phase| self.is_supported(&phase.cell_id))
    }

    /// The phase can be tried here.
    pub fn is_supported(&self, id: &str) -> bool {
        self.by_id.get(id).is_some_and(|index| {
            !matches!(self.cells[*index].status, CellStatus::Unsupported { .. })
        })
    }

    /// Every cell of the setup failed, for one reason.
    pub fn fail(&mut self, setup: &Setup, reason: &str) {
        for phase in &setup.phases {
            self.fail_cell(&phase.cell_id, reason);
        }
    }

    /// No cell of the setup can be measured here, for one reason.
    pub fn unsupported(&mut self, setup: &Setup, reason: &str) {
        for phase in &setup.phases {
            self.unsupported_cell(&phase.cell_id, reason);
        }
    }

    /// One cell cannot be measured here.
    pub fn unsupported_cell(&mut self, id: &str, reason: &str) {
        if let Some(cell) = self.cell(id) {
            cell.status = CellStatus::Unsupported { reason: reason.to_owned() };
        }
    }

    /// One cell failed. The first reason stays, but a failure tells more than
    /// the invalid figures that came of it.
    pub fn fail_cell(&mut self, id: &str, reason: &str) {
        if let Some(cell) = self.cell(id)
            && matches!(cell.status, CellStatus::Ok | CellStatus::Invalid { .. })
        {
            cell.status = CellStatus::Failed { reason: reason.to_owned() };
        }
    }

    /// A cell's figures do not count.
    pub fn invalidate(&mut self, id: &str, reason: String) {
        if let Some(cell) = self.cell(id)
            && cell.status == CellStatus::Ok
        {
            cell.status = CellStatus::Invalid { reason };
        }
    }

    pub fn mounted(&mut self, backend: usize, options: &[String], api: Option<&str>) {
        let backend = &mut self.backends[backend];
        backend.options_in_force = options.to_vec();
        backend.mount_api = api.map(str::to_owned);
    }

    pub fn push(&mut self, id: &str, backing: &Backing, round: Round) {
        if let Some(cell) = self.cell(id) {
            cell.backing = backing.clone();
            cell.rounds.push(round);
        }
    }

    pub fn stack_built(&mut self, n: usize, site: &Site) {
        self.stacks[n] = site.built.values().next().map(|built| built.info.clone());
    }

    fn cell(&mut self, id: &str) -> Option<&mut Cell> {
        self.by_id.get(id).map(|index| &mut self.cells[*index])
    }

    pub fn into_record(self, plan: &Plan, context: &Context<'_>, frame: Frame) -> Record {
        // A stack that could not be built has no figures; its cells tell why.
        let stacks = self
            .stacks
            .into_iter()
            .zip(&plan.stacks)
            .map(|(built, planned)| {
                built.unwrap_or_else(|| Stack {
                    params: planned.params.clone(),
                    n_layers: planned.n_layers,
                    n_files: 0,
                    n_dirs: 0,
                    n_whiteouts: 0,
                    n_bytes: 0,
                    hash: String::new(),
                    build_ms: 0,
                })
            })
            .collect();
        Record {
            schema: SCHEMA_VERSION,
            program: context.program.clone(),
            started: frame.started,
            elapsed_ms: frame.elapsed_ms,
            scenario: context.scenario.clone(),
            seed: plan.seed,
            latency_unit: context.latency_unit,
            host: frame.host,
            lab: context.lab.clone(),
            stacks,
            backends: self.backends,
            engines: context.observer.engines(),
            probes: context.observer.probes(),
            driver: frame.driver,
            further: Vec::new(),
            cells: self.cells,
            order: frame.order,
            warnings: self.warnings,
        }
    }

    pub fn warn(&mut self, warning: String) {
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }
}
