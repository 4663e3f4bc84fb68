//! The control: the merged tree as one plain directory, nothing mounted.

use super::{Backend, BackendError, Call, Request, Union};
use crate::plan::BackendPlan;
use crate::record::Availability;

pub(super) struct Bare;

impl Backend for Bare {
    fn availability(&self) -> Availability {
        Availability::Ok
    }

    fn options(&self, _: &BackendPlan, _: bool) -> Vec<String> {
        Vec::new()
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
