//! One name asked of the layers, for a directory that is not worth reading for
//! it.
//!
//! A directory of very many names, or of very many layers, is read whole only
//! once somebody lists it, or once asking for single names has cost half of what
//! reading it will: who asks for many names then pays not much more than that
//! half in vain, and who asks for few never waits for the reading. Until then its index is partial: it knows the names that
//! were asked for, and what changes made of them. An answer is the entry that
//! reading the directory would have given the name, so that nobody else needs
//! to know which way it came.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

use crate::counters::Counters;
use crate::index::{Index, New, What};
use crate::layer::{At, Dir};
use crate::marks::Opaque;
use crate::node::Node;
use crate::parts::stat_dir;
use crate::union::Union;
use crate::whiteout::{Meaning, OPAQUE, marker};

/// Costs are counted in calls of `stat` for a name that is not there (2 to 3 µs
/// on tmpfs, Linux 6.18). Reading a layer's part of a directory costs so many,
/// however few names it has: `examples/first_lookup` measures both.
const PART: u64 = 3;
/// So many bytes of a directory's size cost one more to read. File systems
/// take 20 (tmpfs) to some 50 bytes for a name; where the size says nothing,
/// the directory counts as small.
const BYTES: u64 = 128;
/// Asking one layer's part for a name and for what would hide it.
const ASK: u64 = 2;
/// What costs less than this, two or three milliseconds, is read at once.
const AT_ONCE: u64 = 1024;

/// What a directory's index knows beside its entries while it is not whole.
#[derive(Debug, Default)]
pub(crate) struct Partial {
    /// Names that the union shows nothing under.
    pub(crate) absent: HashSet<Box<OsStr>>,
    /// The lower parts asked so far, topmost first.
    parts: Vec<Part>,
    /// The upper part is known to tell names apart by their bytes.
    upper_exact: bool,
    /// The sizes of all parts are in `left`.
    weighed: bool,
    /// What may still be spent on single names.
    left: u64,
}

/// What a lower part of a directory is.
#[derive(Clone, Copy, Debug)]
struct Part {
    /// Some of its files may be whiteouts by attribute.
    marks: bool,
    /// It hides the parts below.
    hides_all: bool,
    /// It is known to tell names apart by their bytes.
    exact: bool,
}

/// How a directory is begun.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// None to read it whole.
    pub(crate) partial: Option<Partial>,
    /// The devices of its parts, as far as they were looked at.
    pub(crate) devices: Vec<u64>,
}

/// What the layers have under a name.
#[derive(Debug)]
enum Answer {
    Absent,
    Present(New, Vec<u16>),
    /// Only the directory as a whole can tell: a layer takes the name for
    /// another one.
    Unclear,
}

impl Union {
    /// Whether the directory is worth reading at once.
    pub(crate) fn plan(&self, dir: &Node) -> Result<Plan, Errno> {
        if let Some(names) = self.test_probes {
            let partial = Partial { left: names.into(), ..Partial::default() };
            return Ok(Plan { partial: (names > 0).then_some(partial), devices: Vec::new() });
        }
        let upper = dir.in_upper().then(|| dir.upper_path().ok_or(Errno::NOENT)).transpose()?;
        let n_parts = dir.n_lower_parts() + usize::from(upper.is_some());
        let mut left = n_parts as u64 * PART;
        let mut devices = Vec::new();
        let weighed = left < AT_ONCE;
        if weighed {
            let mut weigh = |part: &Dir<'_>| -> Result<(), Errno> {
                let stat = stat_dir(part)?;
                left += stat.st_size as u64 / BYTES;
                devices.push(stat.st_dev);
                Ok(())
            };
            if let Some(path) = &upper {
                weigh(&self.layers[0].dir(path)?)?;
            }
            for i in 0.. {
                let Some(place) = dir.lower_part(i) else { break };
                weigh(&self.layers[usize::from(place.layer)].dir(&place.path)?)?;
            }
        }
        let partial =
            (left >= AT_ONCE).then(|| Partial { left: left / 2, weighed, ..Partial::default() });
        Ok(Plan { partial, devices })
    }

    /// Asks the layers for a name that a partial index does not know, and
    /// enters the answer. False if the directory had better be read.
    pub(crate) fn probe(&self, dir: &Node, name: &OsStr, index: &mut Index) -> Result<bool, Errno> {
        let Some(partial) = &mut index.partial else { return Ok(true) };
        if partial.left == 0 {
            return Ok(false);
        }
        Counters::add(&self.counters.names_probed, 1);
        match self.ask(dir, name, partial)? {
            Answer::Unclear => return Ok(false),
            Answer::Absent => index.note_absent(name),
            Answer::Present(new, dirs) => {
                let slot = index.put(name, new);
                dirs.into_iter().for_each(|layer| index.add_dir(slot, layer));
            }
        }
        Ok(true)
    }

    fn ask(&self, dir: &Node, name: &OsStr, partial: &mut Partial) -> Result<Answer, Errno> {
        // With a number of names given for a test, each name costs one.
        partial.spend(1);
        if is_no_name(name) {
            return Ok(Answer::Absent);
        }
        let mut found = None;
        if dir.in_upper() {
            let path = dir.upper_path().ok_or(Errno::NOENT)?;
            let at = At { dir: self.layers[0].dir(&path)?, name: Path::new(name) };
            if let Some(stat) = there(&at)? {
                if !is_exact(&at, &stat, &mut partial.upper_exact)? {
                    return Ok(Answer::Unclear);
                }
                let kind = FileType::from_raw_mode(stat.st_mode);
                let what = match self.meaning(&at, kind, false, false)? {
                    Meaning::Hides(_) => What::Whiteout,
                    _ => What::Object(kind),
                };
                found = Some(New { what, layer: 0, ino: 0, below: false });
            }
        }
        self.ask_lowers(dir, name, partial, found)
    }

    /// Asks the lower layers from the top down until one of them ends the
    /// search.
    fn ask_lowers(
        &self,
        dir: &Node,
        name: &OsStr,
        partial: &mut Partial,
        mut found: Option<New>,
    ) -> Result<Answer, Errno> {
        let mut dirs = Vec::new();
        let marker = marker(name);
        for i in 0.. {
            let Some(place) = dir.lower_part(i) else { break };
            let layer = place.layer;
            if self.test_probes.is_none() {
                partial.spend(ASK);
            }
            let dir = self.layers[usize::from(layer)].dir(&place.path)?;
            let at = At { dir: dir.clone(), name: Path::new(name) };
            let part = match partial.parts.get_mut(i) {
                Some(part) => part,
                None => self.learn_part(&dir, partial)?,
            };
            if let Some(stat) = there(&at)? {
                if !is_exact(&at, &stat, &mut part.exact)? {
                    return Ok(Answer::Unclear);
                }
                let kind = FileType::from_raw_mode(stat.st_mode);
                let is_dir = kind == FileType::Directory;
                match self.meaning(&at, kind, true, part.marks)? {
                    Meaning::Object => {
                        let ino = if is_dir { 0 } else { self.number(stat.st_dev, stat.st_ino) };
                        let what = What::Object(kind);
                        let new = New { what, layer, ino, below: true };
                        let top = found.get_or_insert(new);
                        top.below = true;
                        // Only directories merge; a file below one ends that.
                        if !is_dir || top.what != What::Object(FileType::Directory) {
                            break;
                        }
                        dirs.push(layer);
                    }
                    Meaning::Hides(other) if other == name => break,
                    _ => {}
                }
            }
            if part.hides_all {
                break;
            }
            if let Some(marker) = &marker {
                let at = At { dir, name: marker };
                if let Some(stat) = there(&at)? {
                    if !is_exact(&at, &stat, &mut part.exact)? {
                        return Ok(Answer::Unclear);
                    }
                    let kind = FileType::from_raw_mode(stat.st_mode);
                    let meaning = self.meaning(&at, kind, true, part.marks)?;
                    if matches!(meaning, Meaning::Hides(other) if other == name) {
                        break;
                    }
                }
            }
        }
        Ok(found.map_or(Answer::Absent, |new| Answer::Present(new, dirs)))
    }

    /// Looks at a lower part for the first time.
    fn learn_part<'a>(
        &self,
        dir: &Dir<'_>,
        partial: &'a mut Partial,
    ) -> Result<&'a mut Part, Errno> {
        let marks = self.dir_marks(dir)?.opaque == Opaque::MayHoldMarks;
        let opaque = At { dir: dir.clone(), name: Path::new(OsStr::from_bytes(OPAQUE)) };
        let hides_all = match there(&opaque)? {
            None => false,
            Some(stat) => {
                let kind = FileType::from_raw_mode(stat.st_mode);
                self.meaning(&opaque, kind, true, marks)? == Meaning::HidesAll
            }
        };
        if self.test_probes.is_none() && !partial.weighed {
            partial.left += stat_dir(dir)?.st_size as u64 / BYTES / 2;
        }
        partial.parts.push(Part { marks, hides_all, exact: false });
        partial.parts.last_mut().ok_or(Errno::IO)
    }
}

impl Partial {
    fn spend(&mut self, calls: u64) {
        self.left = self.left.saturating_sub(calls);
    }
}

/// True for what no directory lists, but a layer would take for a way out.
fn is_no_name(name: &OsStr) -> bool {
    matches!(name.as_bytes(), b"" | b"." | b"..") || name.as_bytes().contains(&b'/')
}

/// The attributes of an object, none where the layer has none. A name that is
/// too long for the layer's file system is not in it.
fn there(at: &At<'_>) -> Result<Option<Stat>, Errno> {
    match at.stat() {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT | Errno::NAMETOOLONG) => Ok(None),
        Err(e) => Err(e),
    }
}

/// False if the layer may have found the object under another name than was
/// asked for, as directories do that fold case; reading them tells the names
/// apart. Asked for once for each part, by a name spelt otherwise.
fn is_exact(at: &At<'_>, stat: &Stat, known: &mut bool) -> Result<bool, Errno> {
    if *known {
        return Ok(true);
    }
    let Some(other) = spelt_otherwise(at.name.as_os_str()) else { return Ok(true) };
    let other = At { dir: at.dir.clone(), name: Path::new(&other) };
    let same = |other: Stat| (other.st_dev, other.st_ino) == (stat.st_dev, stat.st_ino);
    *known = !there(&other)?.is_some_and(same);
    Ok(*known)
}

/// The name with its letters in the other case; none if it has no letters.
fn spelt_otherwise(name: &OsStr) -> Option<OsString> {
    let bytes = name.as_bytes();
    if bytes.iter().any(u8::is_ascii_alphabetic) {
        let swap = |b: &u8| if b.is_ascii_alphabetic() { b ^ 0x20 } else { *b };
        return Some(OsString::from_vec(bytes.iter().map(swap).collect()));
    }
    let text = name.to_str()?;
    let cases = [text.to_uppercase(), text.to_lowercase()];
    cases.into_iter().find(|other| other != text).map(OsString::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_spelt_otherwise_where_it_has_letters() {
        let other = |name: &[u8]| spelt_otherwise(OsStr::from_bytes(name));
        assert_eq!(other(b"aB1\xff"), Some(OsString::from_vec(b"Ab1\xff".to_vec())));
        assert_eq!(other("é".as_bytes()), Some(OsString::from("É")));
        assert_eq!(other("Ж1".as_bytes()), Some(OsString::from("ж1")));
        for none in [&b"123"[..], b"\xff", "漢".as_bytes()] {
            assert_eq!(other(none), None, "{none:?}");
        }
    }

    #[test]
    fn what_leads_out_of_a_directory_is_no_name() {
        for name in ["", ".", "..", "a/b", "../a"] {
            assert!(is_no_name(OsStr::new(name)), "{name:?}");
        }
        for name in ["...", ".a", "a"] {
            assert!(!is_no_name(OsStr::new(name)), "{name:?}");
        }
    }
}
