//! Extended attributes: those of the object, without the union's own marks.
//! ACLs are among them: the kernel asks for them, checks them, and changes the
//! mode with them; the layers' file system gives them to what is made in a
//! directory that has a default one.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::copy_up::Data;
use crate::marks::{shown_name, stored_name};
use crate::node::Node;
use crate::union::Union;

const CAPABILITY: &str = "security.capability";
const ACLS: [&str; 2] = ["system.posix_acl_access", "system.posix_acl_default"];

/// The kernel answers names of others itself, before any file system is asked.
fn is_of_namespace(name: &OsStr) -> bool {
    let of = |space: &&str| {
        name.as_bytes().strip_prefix(space.as_bytes()).is_some_and(|r| !r.is_empty())
    };
    ["user.", "trusted.", "security."].iter().any(of) || ACLS.iter().any(|acl| name == *acl)
}

impl Union {
    pub(crate) fn get_xattr(&self, node: &Node, name: &OsStr) -> Result<Vec<u8>, Errno> {
        if name == CAPABILITY && node.state.lock().no_capability {
            return Err(Errno::NODATA);
        }
        if !is_of_namespace(name) {
            return Err(Errno::OPNOTSUPP);
        }
        let _tree = self.shared();
        self.spot(node)?.at(self)?.xattr(&stored_name(name))?.ok_or(Errno::NODATA)
    }

    /// The names of which `shown` is true, each followed by NUL.
    pub(crate) fn list_xattr(
        &self,
        node: &Node,
        shown: impl Fn(&[u8]) -> bool,
    ) -> Result<Vec<u8>, Errno> {
        let _tree = self.shared();
        let names = self.spot(node)?.at(self)?.xattr_names()?;
        let mut out = Vec::with_capacity(names.len());
        for name in names.split(|b| *b == 0).filter(|n| !n.is_empty()) {
            if let Some(name) = shown_name(name).filter(|name| shown(name)) {
                out.extend_from_slice(&name);
                out.push(0);
            }
        }
        Ok(out)
    }

    pub(crate) fn set_xattr(
        &self,
        node: &Arc<Node>,
        name: &OsStr,
        value: &[u8],
        flags: i32,
    ) -> Result<(), Errno> {
        self.check_writable()?;
        if !is_of_namespace(name) {
            // What the layer would refuse copies nothing up.
            return Err(Errno::OPNOTSUPP);
        }
        let _tree = self.shared();
        self.copy_up(node, self.attributes_only())?;
        let flags = XattrFlags::from_bits_retain(flags as u32);
        node.state.lock().no_capability = false;
        self.spot(node)?.at(self)?.set_xattr(&stored_name(name), value, flags)?;
        node.gives_anew();
        Ok(())
    }

    pub(crate) fn remove_xattr(&self, node: &Arc<Node>, name: &OsStr) -> Result<(), Errno> {
        self.check_writable()?;
        // An attribute that is not there copies nothing up.
        match self.get_xattr(node, name) {
            // An ACL that a file does not have has nothing to be taken away.
            Err(Errno::NODATA) if ACLS.iter().any(|acl| name == *acl) => return Ok(()),
            other => other.map(drop)?,
        }
        let _tree = self.shared();
        self.copy_up(node, self.attributes_only())?;
        self.spot(node)?.at(self)?.remove_xattr(&stored_name(name))?;
        node.gives_anew();
        Ok(())
    }

    /// What of the data a change of attributes alone copies.
    pub(crate) fn attributes_only(&self) -> Data {
        if self.metacopy { Data::None } else { Data::All }
    }
}
