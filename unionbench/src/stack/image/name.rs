//! Names in an archive: made plain, or refused.

use super::Refusal;

/// Prefix of whiteouts in an archive (image-spec, "Layer Filesystem Changeset").
pub(super) const WHITEOUT: &[u8] = b".wh.";
/// What follows the prefix in the whiteout of a directory's whole content.
pub(super) const OPAQUE: &[u8] = b".wh..opq";

/// A relative path without dots and doubled slashes; empty for the root.
pub(super) fn clean(path: &[u8]) -> Result<Vec<u8>, Refusal> {
    if path.first() == Some(&b'/') {
        return Err(Refusal::Absolute);
    }
    // PATH_MAX counts the byte that ends the name.
    if path.is_empty() || path.len() >= 4096 || path.contains(&0) {
        return Err(Refusal::Name);
    }
    let mut out = Vec::with_capacity(path.len());
    for part in path.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => continue,
            b".." => return Err(Refusal::Parent),
            _ => {}
        }
        if !out.is_empty() {
            out.push(b'/');
        }
        out.extend_from_slice(part);
    }
    Ok(out)
}

/// Parent and last name of a clean path.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&[], path),
    }
}

pub(super) fn joined(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() }
}

/// The folder in which aufs keeps hard links across layers; image-spec tells to
/// pass over it.
pub(super) fn hidden_store(parent: &[u8]) -> bool {
    parent.split(|&byte| byte == b'/').any(|part| part == b".wh..wh.plnk")
}

/// For messages: escaped, and not endless.
pub(super) fn shown(bytes: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(bytes).chars().take(200).collect();
    text.escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cleaned_or_refused() {
        for (from, to) in [("./a//b/", "a/b"), (".", ""), ("a/./b", "a/b"), ("./", "")] {
            assert_eq!(clean(from.as_bytes()), Ok(to.as_bytes().to_vec()), "{from}");
        }
        for (bad, why) in [
            ("/a", Refusal::Absolute),
            ("..", Refusal::Parent),
            ("a/../../b", Refusal::Parent),
            ("", Refusal::Name),
            ("a\0b", Refusal::Name),
        ] {
            assert_eq!(clean(bad.as_bytes()), Err(why), "{bad:?}");
        }
        assert_eq!(clean(&[b'a'; 4096]), Err(Refusal::Name));
    }
}
