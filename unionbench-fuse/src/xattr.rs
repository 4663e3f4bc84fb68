//! Extended attributes: those of the object, without the union's own marks.
//! ACLs are refused, because the kernel would have to check them through a
//! protocol feature that this session does not ask for.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::copy_up::Data;
use crate::node::Node;
use crate::union::Union;

impl Union {
    fn check_name(&self, name: &OsStr) -> Result<(), Errno> {
        let acl = name.as_bytes().starts_with(b"system.posix_acl_");
        if acl || self.is_mark(name) { Err(Errno::OPNOTSUPP) } else { Ok(()) }
    }

    pub(crate) fn get_xattr(&self, node: &Node, name: &OsStr) -> Result<Vec<u8>, Errno> {
        self.check_name(name)?;
        let _tree = self.shared();
        self.spot(node)?.at(self).xattr(name)?.ok_or(Errno::NODATA)
    }

    /// Names, each followed by NUL.
    pub(crate) fn list_xattr(&self, node: &Node) -> Result<Vec<u8>, Errno> {
        let _tree = self.shared();
        let mut out = Vec::new();
        for name in self.spot(node)?.at(self).xattr_names()? {
            if self.check_name(OsStr::from_bytes(&name)).is_ok() {
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
        self.check_name(name)?;
        let _tree = self.shared();
        self.copy_up(node, self.attributes_only())?;
        let flags = XattrFlags::from_bits_retain(flags as u32);
        self.spot(node)?.at(self).set_xattr(name, value, flags)
    }

    pub(crate) fn remove_xattr(&self, node: &Arc<Node>, name: &OsStr) -> Result<(), Errno> {
        self.check_name(name)?;
        self.get_xattr(node, name)?;
        let _tree = self.shared();
        self.copy_up(node, self.attributes_only())?;
        self.spot(node)?.at(self).remove_xattr(name)
    }

    fn attributes_only(&self) -> Data {
        if self.metacopy { Data::None } else { Data::All }
    }
}
