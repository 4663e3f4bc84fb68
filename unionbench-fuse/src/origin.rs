//! The origin mark: which lower object an upper one was copied from. It keeps
//! inode numbers stable across a remount.
//!
//! Bytes of the mark (`struct ovl_fb`, Linux 5.5, `fs/overlayfs/overlayfs.h`):
//! version 0, magic 0xfb, total length, flags (0: little endian), handle type,
//! 16 bytes of file system UUID, then the handle.

use crate::sys::handle::Handle;

const HEADER: usize = 21;
const MAGIC: u8 = 0xfb;
const BIG_ENDIAN: u8 = 1;
const ANY_ENDIAN: u8 = 2;

pub(crate) fn encode(handle: &Handle) -> Option<Vec<u8>> {
    let len = u8::try_from(HEADER + handle.bytes.len()).ok()?;
    let endian = if cfg!(target_endian = "big") { BIG_ENDIAN } else { 0 };
    let mut out = vec![0, MAGIC, len, endian, handle.kind];
    out.resize(HEADER, 0);
    out.extend_from_slice(&handle.bytes);
    Some(out)
}

/// The handle in a mark; none if the mark is empty, damaged or of the other
/// byte order, which the kernel also reads as "origin unknown".
pub(crate) fn decode(mark: &[u8]) -> Option<Handle> {
    if mark.len() <= HEADER
        || mark[0] != 0
        || mark[1] != MAGIC
        || usize::from(mark[2]) != mark.len()
    {
        return None;
    }
    let big = mark[3] & BIG_ENDIAN != 0;
    if mark[3] & ANY_ENDIAN == 0 && big != cfg!(target_endian = "big") {
        return None;
    }
    Some(Handle { kind: mark[4], bytes: mark[HEADER..].to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_reads_back_and_damage_is_refused() {
        let handle = Handle { kind: 1, bytes: vec![7; 12] };
        let mark = encode(&handle).unwrap();
        assert_eq!(decode(&mark), Some(handle));
        assert_eq!(decode(&mark[..20]), None);
        assert_eq!(decode(&mark[..25]), None);
        let mut damaged = mark;
        damaged[1] = 0;
        assert_eq!(decode(&damaged), None);
    }
}
