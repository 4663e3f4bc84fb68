//! Records compressed with Zstandard, small enough to be committed.

use std::io;
use std::path::Path;

use super::StoreError;
use crate::record::Record;

/// First bytes of a frame (RFC 8878, 3.1.1). No JSON text begins with them.
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Records are packed once and read for years.
const LEVEL: i32 = 19;
/// What a record may come to; a damaged file must not fill the memory.
const MOST: u64 = 1 << 30;

/// Writes `record` into the file `path`, with everything that is in it. The
/// samples beside it are not part of a record.
pub fn pack(record: &Record, path: &Path) -> Result<(), StoreError> {
    let text = serde_json::to_vec(record)
        .map_err(|source| StoreError::Encode { path: path.to_owned(), source })?;
    zstd::encode_all(text.as_slice(), LEVEL)
        .and_then(|bytes| std::fs::write(path, bytes))
        .map_err(|source| StoreError::Write { path: path.to_owned(), source })
}

/// The text behind `bytes`: themselves where they are not compressed.
pub(super) fn unpacked(bytes: Vec<u8>) -> io::Result<Vec<u8>> {
    if !bytes.starts_with(&MAGIC) {
        return Ok(bytes);
    }
    let mut text = Vec::new();
    let frames = zstd::Decoder::with_buffer(bytes.as_slice())?;
    io::Read::read_to_end(&mut io::Read::take(frames, MOST), &mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::sample::record;
    use crate::store::{PACKED, RECORD, read};

    #[test]
    fn packed_record_is_the_record() {
        let folder = tempfile::tempdir().expect("room for a test");
        let path = folder.path().join(PACKED);
        pack(&record(), &path).expect("room for a test");
        assert_eq!(read(&path).expect("whole"), record());
        assert_eq!(read(folder.path()).expect("by its folder"), record());
    }

    #[test]
    fn plain_record_of_a_folder_goes_before_the_packed_one() {
        let folder = tempfile::tempdir().expect("room for a test");
        let mut other = record();
        other.seed += 1;
        pack(&other, &folder.path().join(PACKED)).expect("room for a test");
        let text = serde_json::to_vec(&record()).expect("encodes");
        std::fs::write(folder.path().join(RECORD), text).expect("room for a test");
        assert_eq!(read(folder.path()).expect("whole"), record());
    }

    #[test]
    fn packed_record_that_is_cut_or_damaged_is_refused() {
        let folder = tempfile::tempdir().expect("room for a test");
        let path = folder.path().join(PACKED);
        pack(&record(), &path).expect("room for a test");
        let whole = std::fs::read(&path).expect("written");
        for share in [1, 10, 50, 99] {
            let cut = &whole[..(whole.len() * share / 100).max(MAGIC.len())];
            std::fs::write(&path, cut).expect("room for a test");
            assert!(matches!(read(&path), Err(StoreError::Packed { .. })), "{share} %");
        }
        let mut damaged = whole.clone();
        for byte in damaged.iter_mut().skip(whole.len() / 2).take(64) {
            *byte ^= 0x55;
        }
        std::fs::write(&path, damaged).expect("room for a test");
        assert!(read(&path).is_err());
    }
}
