//! The control: the merged tree as one plain directory, nothing mounted.

use super::{Backend, BackendError, Call, Request, Union};
use crate::plan::{Action, BackendPlan, StackPlan, WholeVerb};
use crate::record::Availability;

pub(super) struct Bare;

impl Backend for Bare {
    fn availability(&self) -> Availability {
        Availability::Ok
    }

    fn options(&self, _: &BackendPlan, _: bool) -> Vec<String> {
        Vec::new()
    }

    fn supports(&self, _: &StackPlan, action: &Action) -> Availability {
        let reason = match action {
            Action::Whole(WholeVerb::Commit { .. }) => "a plain tree has no upper layer to commit",
            Action::Whole(WholeVerb::IdmapStart { .. }) => "a plain tree has no layers to map",
            _ => return Availability::Ok,
        };
        Availability::Unsupported { reason: reason.to_owned() }
    }

    fn calls(&self, _: &Request<'_>) -> Result<Vec<Call>, BackendError> {
        Ok(Vec::new())
    }

    fn mount(&self, request: &Request<'_>) -> Result<Union, BackendError> {
        let flat = request
            .flat
            .ok_or_else(|| BackendError::NoFlatTree { kind: request.plan.kind.clone() })?;
        Ok(Union {
            root: flat.to_owned(),
            options_in_force: Vec::new(),
            mount_api: None,
            mounted: None,
            daemon: None,
        })
    }
}
