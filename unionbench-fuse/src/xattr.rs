//! Extended attributes: those of the object, without the union's own marks.
//! ACLs are among them: the kernel asks for them, checks them, and changes the
//! mode with them; the layers' file system gives them to what is made in a
//! directory that has a default one.

use std::ffi::OsStr;
use std::sync::Arc;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::copy_up::Data;
use crate::marks::{shown_name, stored_name};
use crate::node::Node;
use crate::union::Union;

const CAPABILITY: &str = "security.capability";

impl Union {
    pub(crate) fn get_xattr(&self, node: &Node, name: &OsStr) -> Result<Vec<u8>, Errno> {
        if name == CAPABILITY && node.state.lock().no_capability {
            return Err(Errno::NODATA);
        }
        let _tree = self.shared();
        self.spot(node)?.at(self)?.xattr(&stored_name(name))?.ok_or(Errno::NODATA)
    }

    /// Names, each followed by NUL.
    pub(crate) fn list_xattr(&self, node: &Node) -> Result<Vec<u8>, Errno> {
        let _tree = self.shared();
        let names = self.spot(node)?.at(self)?.xattr_names()?;
        let mut out = Vec::with_capacity(names.len());
        for name in names.split(|b| *b == 0).filter(|n| !n.is_empty()) {
            if let Some(shown) = shown_name(name) {
                out.extend_from_slice(&shown);
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
        self.get_xattr(node, name)?;
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
