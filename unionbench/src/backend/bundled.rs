//! The bundled union, in a process of its own, so that its processor time and
//! memory can be told from the run's and its crash is a failed cell.

use std::ffi::OsString;

use super::call::Call;
use super::{Backend, BackendError, Request, Union, fuse};
use crate::plan::BackendPlan;
use crate::record::Availability;

pub(super) struct Bundled;

impl Backend for Bundled {
    fn availability(&self) -> Availability {
        fuse::availability()
    }

    fn options(&self, plan: &BackendPlan, user_namespace: bool) -> Vec<String> {
        let mut options = fuse::options(plan);
        // As for overlayfs: trusted.* cannot be written in a user namespace.
        if user_namespace && !options.iter().any(|option| option == "userxattr") {
            options.push("userxattr".to_owned());
        }
        options
    }

    fn calls(&self, request: &Request<'_>) -> Result<Vec<Call>, BackendError> {
        let options = self.options(request.plan, request.user_namespace);
        let mut argv = vec![request.own_program.into()];
        argv.extend(fuse::words(["mount", "-f", "-o"]));
        argv.push(OsString::from(fuse::overlay_style(request, &options)));
        argv.push(request.target.into());
        Ok(vec![Call::Serve { argv }])
    }

    fn mount(&self, request: &Request<'_>) -> Result<Union, BackendError> {
        fuse::mount(request, &self.calls(request)?)
    }
}
