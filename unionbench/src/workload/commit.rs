//! Commit: the changes of a container as a layer of an image, in the format of
//! image-spec ("Layer Filesystem Changeset").
//!
//! Natively the upper layer alone is read: it holds what changed. Where its
//! format is not known, two trees are walked and compared, which costs as much
//! as the image is large (moby calls it the naive diff).

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header};

use super::WorkloadError;
use super::whole::{Run, counter};
use crate::record::Counter;

/// What a commit holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changes {
    /// Objects that are new or changed, directories on the way among them.
    pub objects: u64,
    pub whiteouts: u64,
}

pub(super) fn run(run: &mut Run<'_>, n: u64, native: bool) -> Result<Vec<Counter>, WorkloadError> {
    let ground = run.ground;
    let seat = run.seat(0)?;
    // What the image was before the container: a union with an empty upper
    // layer. The control has no layers to compare with.
    let reference = match native {
        true => None,
        false => Some((ground.mount)(&seat.with(ground.lower)).map_err(run.failed("mount"))?),
    };
    let mut changes = Changes::default();
    run.open(n);
    for _ in 0..n {
        run.interrupted()?;
        let mut out = Counting::default();
        changes = run.time("diff", || match native {
            true => native_diff(ground.upper, ground.root, &mut out),
            false => walked_diff(ground.root, &seat.target, &mut out),
        })?;
        run.bytes += out.bytes;
    }
    run.close();
    if let Some(reference) = reference {
        reference.unmount().map_err(run.failed("unmount"))?;
    }
    Ok(vec![
        counter("commit.objects", changes.objects),
        counter("commit.whiteouts", changes.whiteouts),
    ])
}

/// Takes bytes and keeps their number.
#[derive(Debug, Default)]
pub(super) struct Counting {
    pub bytes: u64,
}

impl Write for Counting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The layer of an upper directory in overlayfs' format. `merged` gives the
/// contents that a metadata copy-up left below.
///
/// # Errors
/// A file cannot be read, or the upper layer holds a redirect, which names a
/// directory of a lower layer that this reader does not look at.
pub fn native_diff(upper: &Path, merged: &Path, out: impl Write) -> io::Result<Changes> {
    let mut diff = Diff::new(out);
    diff.upper(upper, merged, Path::new(""))?;
    diff.finish()
}

/// The layer that leads from `before` to `after`, two trees that are walked.
/// What differs in type, mode, owner, size or time is a change.
///
/// # Errors
/// A file cannot be read.
pub fn walked_diff(after: &Path, before: &Path, out: impl Write) -> io::Result<Changes> {
    let mut diff = Diff::new(out);
    diff.compare(after, before, Path::new(""))?;
    diff.finish()
}

struct Diff<W: Write> {
    archive: Builder<W>,
    /// First name of a file that has several.
    links: HashMap<(u64, u64), PathBuf>,
    /// Unchanged directories above what is compared, outermost first: a change
    /// below brings them into the layer, as a copy-up brings them into an upper
    /// one.
    above: Vec<(PathBuf, PathBuf, fs::Metadata)>,
    changes: Changes,
}

impl<W: Write> Diff<W> {
    fn new(out: W) -> Self {
        Self {
            archive: Builder::new(out),
            links: HashMap::new(),
            above: Vec::new(),
            changes: Changes::default(),
        }
    }

    fn finish(mut self) -> io::Result<Changes> {
        self.archive.finish()?;
        Ok(self.changes)
    }

    fn upper(&mut self, upper: &Path, merged: &Path, dir: &Path) -> io::Result<()> {
        for name in names(&upper.join(dir))? {
            let path = dir.join(&name);
            let full = upper.join(&path);
            let metadata = fs::symlink_metadata(&full)?;
            let kind = metadata.file_type();
            let is_whiteout = (kind.is_char_device() && metadata.rdev() == 0)
                || (kind.is_file() && metadata.len() == 0 && has(&full, "whiteout"));
            if is_whiteout {
                self.whiteout(dir, name.as_bytes())?;
                continue;
            }
            if kind.is_dir() && has(&full, "redirect") {
                let message = format!("{} is a redirect; only walking sees it", path.display());
                return Err(io::Error::new(io::ErrorKind::Unsupported, message));
            }
            let content = if has(&full, "metacopy") { merged.join(&path) } else { full.clone() };
            self.object(&path, &full, &content, &metadata)?;
            if kind.is_dir() {
                if is_opaque(&full) {
                    self.whiteout(&path, b".wh..opq")?;
                }
                self.upper(upper, merged, &path)?;
            }
        }
        Ok(())
    }

    fn compare(&mut self, after: &Path, before: &Path, dir: &Path) -> io::Result<()> {
        let (new, old) = (names(&after.join(dir))?, names(&before.join(dir))?);
        for name in &new {
            let path = dir.join(name);
            let full = after.join(&path);
            let metadata = fs::symlink_metadata(&full)?;
            let twin = fs::symlink_metadata(before.join(&path)).ok();
            let both_dirs = metadata.is_dir() && twin.as_ref().is_some_and(fs::Metadata::is_dir);
            let changed = twin.is_none_or(|twin| differs(&metadata, &twin));
            if changed {
                self.object(&path, &full, &full, &metadata)?;
            }
            if both_dirs {
                let depth = self.above.len();
                if !changed {
                    self.above.push((path.clone(), full, metadata));
                }
                self.compare(after, before, &path)?;
                self.above.truncate(depth);
            } else if metadata.is_dir() {
                self.everything(after, &path)?;
            }
        }
        for name in old.difference(&new) {
            self.whiteout(dir, name.as_bytes())?;
        }
        Ok(())
    }

    fn everything(&mut self, root: &Path, dir: &Path) -> io::Result<()> {
        for name in names(&root.join(dir))? {
            let path = dir.join(&name);
            let full = root.join(&path);
            let metadata = fs::symlink_metadata(&full)?;
            self.object(&path, &full, &full, &metadata)?;
            if metadata.is_dir() {
                self.everything(root, &path)?;
            }
        }
        Ok(())
    }

    fn object(
        &mut self,
        path: &Path,
        full: &Path,
        content: &Path,
        metadata: &fs::Metadata,
    ) -> io::Result<()> {
        self.write_above()?;
        self.changes.objects += 1;
        let kind = metadata.file_type();
        let mut header = Header::new_gnu();
        header.set_mode(metadata.mode() & 0o7777);
        header.set_uid(metadata.uid().into());
        header.set_gid(metadata.gid().into());
        header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or(0));
        header.set_size(0);
        if kind.is_file() && metadata.nlink() > 1 {
            let key = (metadata.dev(), metadata.ino());
            if let Some(first) = self.links.get(&key) {
                header.set_entry_type(EntryType::Link);
                return self.archive.append_link(&mut header, path, first);
            }
            self.links.insert(key, path.to_owned());
        }
        if kind.is_symlink() {
            header.set_entry_type(EntryType::Symlink);
            return self.archive.append_link(&mut header, path, fs::read_link(full)?);
        }
        if kind.is_file() {
            header.set_entry_type(EntryType::Regular);
            header.set_size(metadata.len());
            return self.archive.append_data(&mut header, path, fs::File::open(content)?);
        }
        header.set_entry_type(match () {
            () if kind.is_dir() => EntryType::Directory,
            () if kind.is_fifo() => EntryType::Fifo,
            // A socket is no part of an image.
            () => return Ok(()),
        });
        self.archive.append_data(&mut header, path, io::empty())
    }

    fn write_above(&mut self) -> io::Result<()> {
        for (path, full, metadata) in std::mem::take(&mut self.above) {
            self.object(&path, &full, &full, &metadata)?;
        }
        Ok(())
    }

    fn whiteout(&mut self, dir: &Path, name: &[u8]) -> io::Result<()> {
        self.write_above()?;
        self.changes.whiteouts += 1;
        let name = std::ffi::OsStr::from_bytes(&[b".wh.", name].concat()).to_owned();
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o600);
        header.set_size(0);
        self.archive.append_data(&mut header, dir.join(name), io::empty())
    }
}

fn names(dir: &Path) -> io::Result<BTreeSet<std::ffi::OsString>> {
    fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name())).collect()
}

/// An attribute of overlayfs in either of its namespaces.
fn has(path: &Path, name: &str) -> bool {
    let mut value = [0_u8; 256];
    ["trusted", "user"].iter().any(|namespace| {
        let name = format!("{namespace}.overlay.{name}");
        // A value that does not fit is there, too.
        !matches!(
            rustix::fs::lgetxattr(path, name, &mut value),
            Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP)
        )
    })
}

fn is_opaque(path: &Path) -> bool {
    let mut value = [0_u8; 1];
    ["trusted.overlay.opaque", "user.overlay.opaque"]
        .iter()
        .any(|name| rustix::fs::lgetxattr(path, *name, &mut value) == Ok(1) && value == *b"y")
}

/// Times of directories count, as in moby: that is how a directory comes into a
/// layer when only what is in it changed.
fn differs(a: &fs::Metadata, b: &fs::Metadata) -> bool {
    let size = |m: &fs::Metadata| if m.is_dir() { 0 } else { m.len() };
    (a.mode(), a.uid(), a.gid(), size(a)) != (b.mode(), b.uid(), b.gid(), size(b))
        || (a.mtime(), a.mtime_nsec()) != (b.mtime(), b.mtime_nsec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
        fs::write(path, text).expect("a file");
    }

    /// Every entry's name and contents, sorted.
    fn entries(archive: &[u8]) -> Vec<(String, Vec<u8>)> {
        let mut reader = tar::Archive::new(archive);
        let mut found: Vec<_> = reader
            .entries()
            .expect("an archive")
            .map(|entry| {
                let mut entry = entry.expect("an entry");
                let name = entry.path().expect("a name").display().to_string();
                let mut content = Vec::new();
                io::Read::read_to_end(&mut entry, &mut content).expect("contents");
                (name.trim_end_matches('/').to_owned(), content)
            })
            .collect();
        found.sort();
        found
    }

    #[test]
    fn the_upper_layer_alone_gives_what_comparing_trees_gives() {
        let place = tempfile::tempdir().expect("a temporary folder");
        let [before, after, upper] = ["before", "after", "upper"].map(|n| place.path().join(n));
        for root in [&before, &after] {
            write(root, "etc/kept", "same");
            write(root, "etc/gone", "g");
            write(root, "etc/changed", "old");
            write(root, "tree/a/b", "whole tree goes");
        }
        // Of copies made apart the times differ; of a union's two views not.
        for path in ["etc/kept", "etc/gone", "etc/changed"] {
            let time = fs::metadata(before.join(path)).and_then(|m| m.modified()).expect("a time");
            let file = fs::File::options().write(true).open(after.join(path)).expect("a file");
            file.set_modified(time).expect("a time");
        }
        fs::remove_file(after.join("etc/gone")).expect("it goes");
        fs::remove_dir_all(after.join("tree")).expect("it goes");
        for root in [&after, &upper] {
            write(root, "etc/changed", "newer");
            write(root, "new/deep/file", "n");
            std::os::unix::fs::symlink("file", root.join("new/deep/link")).expect("a link");
        }
        for path in ["etc/gone", "tree"] {
            let kind = rustix::fs::FileType::CharacterDevice;
            let mode = rustix::fs::Mode::empty();
            rustix::fs::mknodat(rustix::fs::CWD, upper.join(path), kind, mode, 0).expect("one");
        }
        let (mut native, mut walked) = (Vec::new(), Vec::new());
        let counted = native_diff(&upper, &after, &mut native).expect("it is read");
        assert_eq!(counted, walked_diff(&after, &before, &mut walked).expect("it is read"));
        assert_eq!(entries(&native), entries(&walked));
        let names: Vec<String> = entries(&native).into_iter().map(|(name, _)| name).collect();
        let expected = [
            ".wh.tree",
            "etc",
            "etc/.wh.gone",
            "etc/changed",
            "new",
            "new/deep",
            "new/deep/file",
            "new/deep/link",
        ];
        assert_eq!(names, expected);
        assert_eq!(counted, Changes { objects: 6, whiteouts: 2 });
    }
}
