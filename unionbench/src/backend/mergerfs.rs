//! mergerfs, from its package.
//!
//! It merges folders, but copies nothing up and knows no whiteouts: what lies
//! in a read-only branch stays as it is. Such phases are unsupported rather
//! than measured as something else.

use std::ffi::OsString;

use super::call::Call;
use super::{Backend, BackendError, Request, Union, fuse};
use crate::plan::{Action, BackendPlan, StackPlan};
use crate::record::Availability;

const PROGRAM: &str = "mergerfs";

/// The first branch takes what is new, as in the other unions, and not only
/// while more than the default of 4 GiB is free.
const OWN: [&str; 3] = ["fsname=unionbench", "category.create=ff", "minfreespace=0"];

pub(super) struct Mergerfs;

impl Backend for Mergerfs {
    fn availability(&self) -> Availability {
        fuse::peer_availability(PROGRAM, "mergerfs")
    }

    fn program(&self) -> Option<String> {
        fuse::version(PROGRAM, "--version")
    }

    fn options(&self, plan: &BackendPlan, _: bool) -> Vec<String> {
        fuse::with_defaults(&OWN, plan)
    }

    fn supports(&self, stack: &StackPlan, action: &Action) -> Availability {
        let reason = match action {
            Action::FirstWrite { .. }
            | Action::Delete { .. }
            | Action::Fsync { .. }
            | Action::Recursive { .. }
            | Action::RenameDirectory { .. }
            | Action::Replay { .. }
            | Action::Whole(_) => {
                "mergerfs copies nothing up: files of a lower layer cannot be changed"
            }
            _ if stack.whiteouts_per_layer > 0
                || stack.opaque_dirs_per_layer > 0
                || stack.image.is_some() =>
            {
                "mergerfs knows no whiteouts: hidden files would show"
            }
            _ => return Availability::Ok,
        };
        Availability::Unsupported { reason: reason.to_owned() }
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
