//! The mark of upper directories in which objects with an origin lie. The kernel
//! tells the numbers in a listing of a directory without it from the upper layer
//! alone; those of what was copied up are then others than its files have
//! (Linux 6.18, `ovl_calc_d_ino`).

use rustix::io::Errno;

use crate::layer::At;
use crate::node::Node;
use crate::union::Union;

impl Union {
    /// Marks a directory of the upper layer, open as `at`, into which an object
    /// with an origin comes. An upper file system without such attributes keeps
    /// no origins either.
    pub(crate) fn mark_impure(&self, dir: &Node, at: &At<'_>) -> Result<(), Errno> {
        if dir.state.lock().impure {
            return Ok(());
        }
        match self.set_mark(at, "impure", b"y") {
            Ok(()) => dir.state.lock().impure = true,
            Err(Errno::OPNOTSUPP | Errno::PERM) => {}
            Err(e) => return Err(e),
        }
        Ok(())
    }

    /// Before an object comes from one directory into another: what has an
    /// origin lies in a directory that is marked.
    pub(crate) fn hand_on_impure(&self, from: &Node, to: &Node) -> Result<(), Errno> {
        if from.ino == to.ino || !from.state.lock().impure || to.state.lock().impure {
            return Ok(());
        }
        let path = to.upper_path().ok_or(Errno::NOENT)?;
        self.mark_impure(to, &self.upper(&path)?)
    }
}
