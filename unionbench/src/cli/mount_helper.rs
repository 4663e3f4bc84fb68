//! How mount(8) calls a helper: `mount.TYPE SOURCE DIR [-sfnv] [-o OPTIONS]`.
//!
//! With a link `/sbin/mount.fuse.unionbench` to this program,
//! `mount -t fuse.unionbench none DIR -o lowerdir=...` and the same line of
//! fstab mount the bundled union.

use std::ffi::{OsStr, OsString};
use std::path::Path;

/// What the program was asked for.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    /// These words of this program's own command line.
    Words(Vec<OsString>),
    /// Nothing but to say that it would have mounted (`mount -f`).
    Nothing,
}

/// The words as they came, or if the program was called by the name of a mount
/// helper, those of `unionbench mount`.
pub fn asked(words: impl IntoIterator<Item = OsString>) -> Asked {
    let mut words = words.into_iter();
    let name = words.next().unwrap_or_default();
    let file_name = Path::new(&name).file_name().unwrap_or_default();
    if !file_name.as_encoded_bytes().starts_with(b"mount.") {
        return Asked::Words(std::iter::once(name).chain(words).collect());
    }
    let mut out: Vec<OsString> = vec!["unionbench".into(), "mount".into()];
    while let Some(word) = words.next() {
        if word == "-o" {
            out.push(word);
            out.extend(words.next());
        } else if word == "-t" || word == "-N" {
            // The type is this one; the namespace has been entered by mount.
            words.next();
        } else if is_flags(&word) {
            if word.as_encoded_bytes().contains(&b'f') {
                return Asked::Nothing;
            }
        } else {
            out.push(word);
        }
    }
    Asked::Words(out)
}

/// `-s`, `-f`, `-n`, `-v`, alone or together.
fn is_flags(word: &OsStr) -> bool {
    let flags = word.as_encoded_bytes().strip_prefix(b"-");
    flags.is_some_and(|flags| !flags.is_empty() && flags.iter().all(|f| b"sfnv".contains(f)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expected: &str) {
        let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert_eq!(asked(words(line)), Asked::Words(words(expected)), "{line}");
    }

    #[test]
    fn a_helpers_call_becomes_the_subcommand() {
        check(
            "/sbin/mount.fuse.unionbench none /mnt -sn -o rw,lowerdir=a:b -t fuse.unionbench",
            "unionbench mount none /mnt -o rw,lowerdir=a:b",
        );
        check("mount.unionbench a m -o dirs=a=rw", "unionbench mount a m -o dirs=a=rw");
    }

    #[test]
    fn another_name_is_left_alone() {
        check("unionbench mount -f -o lowerdir=a m", "unionbench mount -f -o lowerdir=a m");
        check("/tmp/mounting -f", "/tmp/mounting -f");
    }

    #[test]
    fn a_fake_mount_does_nothing() {
        let words = ["mount.unionbench", "none", "m", "-fv", "-o", "x"].map(OsString::from);
        assert_eq!(asked(words), Asked::Nothing);
    }
}
