//! The file handle of an object of a layer as overlayfs stores it: in the mark
//! of a copy's origin, which keeps inode numbers stable across a remount, and
//! as the name of an entry of the inode index.
//!
//! Bytes (`struct ovl_fb`, Linux 6.18, `fs/overlayfs/overlayfs.h`): version 0,
//! magic 0xfb, total length, flags (1: big endian, 2: of any byte order, 4: of
//! an object of the upper layer), handle type, 16 bytes of file system UUID,
//! then the handle.

use rustix::io::Errno;

use crate::sys::handle::Handle;

const HEADER: usize = 21;
const MAGIC: u8 = 0xfb;
const BIG_ENDIAN: u8 = 1;
const ANY_ENDIAN: u8 = 2;
const OF_UPPER: u8 = 4;
const FLAGS: u8 = BIG_ENDIAN | ANY_ENDIAN | OF_UPPER;
const NO_UUID: [u8; 16] = [0; 16];

/// A handle, and the file system it is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) handle: Handle,
    pub(crate) uuid: [u8; 16],
}

impl Origin {
    /// False for a file system on which the handle would name something else.
    /// A mark made with `uuid=off` has no UUID, and no kernel before 6.9 tells
    /// that of a file system.
    pub(crate) fn may_be_on(&self, uuid: [u8; 16]) -> bool {
        self.uuid == NO_UUID || uuid == NO_UUID || self.uuid == uuid
    }
}

/// The bytes for an object of a lower layer.
pub(crate) fn encode(handle: &Handle, uuid: [u8; 16]) -> Option<Vec<u8>> {
    encode_with(handle, uuid, 0)
}

/// The bytes for an object of the upper layer.
pub(crate) fn encode_upper(handle: &Handle, uuid: [u8; 16]) -> Option<Vec<u8>> {
    encode_with(handle, uuid, OF_UPPER)
}

fn encode_with(handle: &Handle, uuid: [u8; 16], flags: u8) -> Option<Vec<u8>> {
    let len = u8::try_from(HEADER + handle.bytes.len()).ok()?;
    let endian = if cfg!(target_endian = "big") { BIG_ENDIAN } else { 0 };
    let mut out = vec![0, MAGIC, len, endian | flags, handle.kind];
    out.extend_from_slice(&uuid);
    out.extend_from_slice(&handle.bytes);
    Some(out)
}

/// What the kernel's check of the bytes says (`ovl_check_fb_len`): `EINVAL` for
/// damage, `ENODATA` for what only another kernel can read.
pub(crate) fn check(bytes: &[u8]) -> Result<(), Errno> {
    if bytes.len() < HEADER || bytes.len() < usize::from(bytes[2]) || bytes[1] != MAGIC {
        return Err(Errno::INVAL);
    }
    let big = bytes[3] & BIG_ENDIAN != 0;
    let foreign = bytes[3] & ANY_ENDIAN == 0 && big != cfg!(target_endian = "big");
    if bytes[0] != 0 || bytes[3] & !FLAGS != 0 || foreign { Err(Errno::NODATA) } else { Ok(()) }
}

/// The handle in a mark; none if the mark is empty, damaged or of the other
/// byte order, which the kernel also reads as "origin unknown".
pub(crate) fn decode(mark: &[u8]) -> Option<Origin> {
    check(mark).ok()?;
    let mark = mark.get(..usize::from(mark[2])).filter(|mark| mark.len() > HEADER)?;
    let mut uuid = NO_UUID;
    uuid.copy_from_slice(&mark[5..HEADER]);
    Some(Origin { handle: Handle { kind: mark[4], bytes: mark[HEADER..].to_vec() }, uuid })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_reads_back_and_damage_is_refused() {
        let handle = Handle { kind: 1, bytes: vec![7; 12] };
        let mark = encode(&handle, [9; 16]).unwrap();
        assert_eq!(decode(&mark), Some(Origin { handle, uuid: [9; 16] }));
        assert_eq!(decode(&mark[..20]), None);
        assert_eq!(decode(&mark[..25]), None);
        let mut damaged = mark.clone();
        damaged[1] = 0;
        assert_eq!((decode(&damaged), check(&damaged)), (None, Err(Errno::INVAL)));
        for (at, value) in [(0, 1), (3, 8), (3, 1 ^ mark[3])] {
            let mut foreign = mark.clone();
            foreign[at] = value;
            assert_eq!((decode(&foreign), check(&foreign)), (None, Err(Errno::NODATA)));
        }
    }

    #[test]
    fn a_handle_is_tried_on_its_own_file_system_alone() {
        let of = |uuid| Origin { handle: Handle { kind: 1, bytes: vec![7; 12] }, uuid };
        assert!(of([9; 16]).may_be_on([9; 16]));
        assert!(of(NO_UUID).may_be_on([9; 16]));
        assert!(!of([9; 16]).may_be_on([8; 16]));
        assert!(of([9; 16]).may_be_on(NO_UUID));
    }
}
