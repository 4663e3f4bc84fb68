//! fuse-overlayfs, from its package.

use std::ffi::OsString;

use super::call::Call;
use super::{Backend, BackendError, Request, Union, fuse};
use crate::plan::BackendPlan;
use crate::record::Availability;

const PROGRAM: &str = "fuse-overlayfs";

pub(super) struct FuseOverlayfs;

impl Backend for FuseOverlayfs {
    fn availability(&self) -> Availability {
        fuse::peer_availability(PROGRAM, "fuse-overlayfs")
    }

    fn program(&self) -> Option<String> {
        fuse::version(PROGRAM, "--version")
    }

    fn options(&self, plan: &BackendPlan, _: bool) -> Vec<String> {
        fuse::options(plan)
    }

    fn calls(&self, request: &Request<'_>) -> Result<Vec<Call>, BackendError> {
        let options = fuse::options(request.plan);
        let mut argv = fuse::words([PROGRAM, "-f", "-o"]);
        argv.push(OsString::from(fuse::overlay_style(request, &options)));
        argv.push(request.target.into());
        Ok(vec![Call::Serve { argv }])
    }

    fn mount(&self, request: &Request<'_>) -> Result<Union, BackendError> {
        fuse::mount(request, &self.calls(request)?)
    }
}
