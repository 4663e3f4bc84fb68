//! What waits for a layer's last entry: the attributes of its directories, some
//! of which only the layers below know.

use std::io;

use rustix::fs::{Mode, XattrFlags, fchmod, fsetxattr, futimens};
use rustix::io::Errno;

use super::{DirAttributes, Made, Rules, Written, c_string, count_refused, fchown_to, times};
use crate::stack::XattrNamespace;
use crate::stack::image::ImageError;
use crate::stack::image::name::shown;

impl Written {
    /// Gives implied directories the attributes that the layers below have for
    /// them, nearest first in `below`.
    pub fn inherit(&mut self, below: &[Self]) {
        let implied = self.dirs.iter().filter(|(path, dir)| dir.implied && !self.is_cut_off(path));
        let found: Vec<(Vec<u8>, DirAttributes)> = implied
            .filter_map(|(path, own)| {
                let end = below.iter().position(|layer| layer.hides(path));
                let reach = &below[..end.map_or(below.len(), |end| end + 1)];
                let known = |layer: &Self| layer.dirs.get(path).filter(|dir| !dir.implied).cloned();
                let found = reach.iter().find_map(known)?;
                Some((path.clone(), DirAttributes { opaque: own.opaque, ..found }))
            })
            .collect();
        self.dirs.extend(found);
    }

    /// A directory above `path` is opaque here, so what lies below it in other
    /// layers is another directory.
    fn is_cut_off(&self, path: &[u8]) -> bool {
        let is_opaque = |part: &[u8]| self.dirs.get(part).is_some_and(|dir| dir.opaque);
        let ends = (0..path.len()).filter(|&n| path[n] == b'/');
        !path.is_empty() && (is_opaque(&[]) || ends.map(|n| &path[..n]).any(is_opaque))
    }

    /// Nothing of layers further down shows at `path`.
    fn hides(&self, path: &[u8]) -> bool {
        let ends = (0..=path.len()).filter(|&n| n == path.len() || path[n] == b'/' || n == 0);
        ends.map(|n| &path[..n]).any(|part| match self.made.get(part) {
            Some(Made::Dir) => self.dirs.get(part).is_some_and(|dir| dir.opaque),
            Some(_) => true,
            None => part.is_empty() && self.dirs.get(part).is_some_and(|dir| dir.opaque),
        })
    }

    /// The layer hides everything below it.
    pub fn is_opaque(&self) -> bool {
        self.dirs.get(&[][..]).is_some_and(|root| root.opaque)
    }

    /// Sets what directories waited for, the innermost first.
    pub fn finish(&mut self, rules: Rules<'_>) -> Result<(), ImageError> {
        let mut paths: Vec<Vec<u8>> = self.dirs.keys().cloned().collect();
        paths.sort_unstable_by(|a, b| b.cmp(a));
        for path in paths {
            let Some(attributes) = self.dirs.get(&path) else { continue };
            let failed = |action: &'static str| {
                let (layer, entry) = (rules.label.to_owned(), shown(&path));
                move |e: io::Error| ImageError::Write { layer, entry, action, source: e }
            };
            let dir = self.root.dir(&path).map_err(failed("open"))?;
            if attributes.opaque {
                let name = match rules.namespace {
                    XattrNamespace::Trusted => "trusted.overlay.opaque",
                    XattrNamespace::User => "user.overlay.opaque",
                };
                fsetxattr(&*dir, name, b"y", XattrFlags::empty())
                    .map_err(|e| failed("mark as opaque")(e.into()))?;
            }
            if let Some(owner) = attributes.owner {
                match fchown_to(&*dir, Some(owner)) {
                    Ok(()) => {}
                    Err(Errno::PERM | Errno::INVAL) => self.report.owners_refused += 1,
                    Err(e) => return Err(failed("chown")(e.into())),
                }
            }
            for (name, value) in &attributes.xattrs {
                let result = c_string(name).map_or(Err(Errno::INVAL), |n| {
                    fsetxattr(&*dir, &n, value, XattrFlags::empty())
                });
                count_refused(result, &mut self.report.xattrs_refused)
                    .map_err(|e| failed("setxattr")(e.into()))?;
            }
            fchmod(&*dir, Mode::from_raw_mode(attributes.mode))
                .map_err(|e| failed("chmod")(e.into()))?;
            futimens(&*dir, &times(attributes.mtime))
                .map_err(|e| failed("set the time")(e.into()))?;
        }
        self.root.rest();
        Ok(())
    }
}
