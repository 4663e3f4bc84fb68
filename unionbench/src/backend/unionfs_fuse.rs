//! unionfs-fuse, from its package.
//!
//! `cow` makes it a union that copies up; without it only writable branches
//! can be written. `hide_meta_files` keeps its folder of whiteouts, which it
//! puts into the upper layer, out of listings.

use std::ffi::OsString;

use super::call::Call;
use super::{Backend, BackendError, Request, Union, fuse};
use crate::plan::BackendPlan;
use crate::record::Availability;
use crate::stack::Whiteout;

const PROGRAM: &str = "unionfs";
const OWN: [&str; 2] = ["cow", "hide_meta_files"];

pub(super) struct UnionfsFuse;

impl Backend for UnionfsFuse {
    fn availability(&self) -> Availability {
        fuse::peer_availability(PROGRAM, "unionfs-fuse")
    }

    fn program(&self) -> Option<String> {
        fuse::version(PROGRAM, "--version")
    }

    fn options(&self, plan: &BackendPlan, _: bool) -> Vec<String> {
        fuse::with_defaults(&OWN, plan)
    }

    fn whiteouts(&self, _: &BackendPlan) -> Whiteout {
        Whiteout::Unionfs
    }

    fn calls(&self, request: &Request<'_>) -> Result<Vec<Call>, BackendError> {
        let options = self.options(request.plan, request.user_namespace);
        let mut argv = fuse::words([PROGRAM, "-f", "-o"]);
        argv.push(OsString::from(options.join(",")));
        argv.push(OsString::from(fuse::branches(request)));
        argv.push(request.target.into());
        Ok(vec![Call::Serve { argv }])
    }

    fn mount(&self, request: &Request<'_>) -> Result<Union, BackendError> {
        fuse::mount(request, &self.calls(request)?)
    }
}
