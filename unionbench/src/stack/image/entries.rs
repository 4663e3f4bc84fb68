//! Reads tar (POSIX.1-1988 ustar, pax of POSIX.1-2001, GNU) entry by entry.
//!
//! The `tar` crate decodes header blocks; the walk over them is done here,
//! because the crate reads extended headers of any length into memory, splits
//! pax records at line breaks although values are binary, and expands sparse
//! files to their full length.

use std::io::{self, Read, Seek, SeekFrom};

use tar::{EntryType, GnuExtSparseHeader, Header};

use super::{ImageError, Refusal};

const BLOCK: u64 = 512;

/// Most that one extended header may take: all attributes of a file (64 KiB
/// each in Linux) with a long name are well below.
const MAX_EXTENDED: u64 = 1 << 20;

/// Most pieces of a sparse file; each takes 16 bytes of memory.
const MAX_PIECES: usize = 1 << 20;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    HardLink,
    Symlink,
    Dir,
    Fifo,
    CharDevice,
    BlockDevice,
    Other(u8),
}

/// One entry, its names as they stand in the archive.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub kind: Kind,
    pub path: Vec<u8>,
    pub link: Vec<u8>,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    /// Seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Bytes that follow in the archive.
    pub size: u64,
    pub xattrs: Records,
    pub sparse: Option<Sparse>,
}

/// A file with holes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Sparse {
    /// Length with its holes.
    pub real_size: u64,
    /// Offset and length of each piece of data, in the order of the archive.
    pub pieces: Vec<(u64, u64)>,
}

/// Keys and values of pax headers, both of any bytes.
type Records = Vec<(Vec<u8>, Vec<u8>)>;

/// What extended headers say of the next entry.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    records: Records,
}

pub(super) struct Entries<R> {
    reader: R,
    label: String,
    /// Bytes read since the start.
    position: u64,
    /// Data of the current entry that is not read yet, and its padding.
    left: u64,
    padding: u64,
    /// Records of pax global headers.
    global: Records,
    ended: bool,
}

impl<R: Read> Entries<R> {
    /// `label` names the archive in messages.
    pub fn new(reader: R, label: &str) -> Self {
        let label = label.to_owned();
        Self { reader, label, position: 0, left: 0, padding: 0, global: Vec::new(), ended: false }
    }

    /// Offset in the archive: of the data, right after [`Self::next`].
    pub fn position(&self) -> u64 {
        self.position
    }

    pub fn into_inner(self) -> R {
        self.reader
    }

    /// The next entry; data of the one before that was not read is skipped.
    pub fn next(&mut self) -> Result<Option<Entry>, ImageError> {
        if self.ended {
            return Ok(None);
        }
        let mut extended = Extended::default();
        loop {
            self.skip_data()?;
            let Some(header) = self.header()? else {
                self.ended = true;
                return Ok(None);
            };
            let size = header.entry_size().map_err(|_| self.bad("its size is no number"))?;
            match header.entry_type() {
                EntryType::GNULongName => extended.path = Some(self.long_name(size)?),
                EntryType::GNULongLink => extended.link = Some(self.long_name(size)?),
                EntryType::XHeader => extended.records.extend(self.pax(size)?),
                EntryType::XGlobalHeader => {
                    let records = self.pax(size)?;
                    if self.global.len() + records.len() > 1000 {
                        return Err(self.bad("too many global records"));
                    }
                    self.global.extend(records);
                }
                _ => return self.entry(&header, extended).map(Some),
            }
        }
    }

    /// Reads data of the current entry; 0 at its end.
    pub fn read_data(&mut self, buffer: &mut [u8]) -> Result<usize, ImageError> {
        let wanted = self.left.min(buffer.len() as u64) as usize;
        if wanted == 0 {
            return Ok(0);
        }
        let n = self.reader.read(&mut buffer[..wanted]).map_err(|e| self.damaged(e))?;
        if n == 0 {
            return Err(self.damaged(io::ErrorKind::UnexpectedEof.into()));
        }
        self.left -= n as u64;
        self.position += n as u64;
        Ok(n)
    }

    /// Fills the buffer with data of the current entry.
    pub fn read_data_exact(&mut self, mut buffer: &mut [u8]) -> Result<(), ImageError> {
        while !buffer.is_empty() {
            let n = self.read_data(buffer)?;
            if n == 0 {
                return Err(self.bad("its data is shorter than its header says"));
            }
            buffer = &mut buffer[n..];
        }
        Ok(())
    }

    fn skip_data(&mut self) -> Result<(), ImageError> {
        let mut rest = self.left + self.padding;
        let mut buffer = [0; 4096];
        while rest > 0 {
            let wanted = rest.min(buffer.len() as u64) as usize;
            self.exactly(&mut buffer[..wanted])?;
            rest -= wanted as u64;
        }
        (self.left, self.padding) = (0, 0);
        Ok(())
    }

    /// The next header block; `None` at the end. A reader that ends between
    /// entries ends the archive, as GNU tar has it.
    fn header(&mut self) -> Result<Option<Header>, ImageError> {
        let mut block = [0; BLOCK as usize];
        let mut filled = 0;
        while filled < block.len() {
            let n = self.reader.read(&mut block[filled..]).map_err(|e| self.damaged(e))?;
            if n == 0 && filled == 0 {
                return Ok(None);
            }
            if n == 0 {
                return Err(self.damaged(io::ErrorKind::UnexpectedEof.into()));
            }
            filled += n;
        }
        self.position += BLOCK;
        if block.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        let header = Header::from_byte_slice(&block).clone();
        // The sum is over unsigned bytes with the field itself as spaces.
        let sum: u32 = block[..148].iter().chain(&block[156..]).map(|&b| u32::from(b)).sum();
        if header.cksum().ok() != Some(sum + 8 * 32) {
            return Err(self.bad("its checksum is wrong"));
        }
        Ok(Some(header))
    }

    fn entry(&mut self, header: &Header, extended: Extended) -> Result<Entry, ImageError> {
        let number = |value: io::Result<u64>, what| value.map_err(|_| self.bad(what));
        let kind = match header.entry_type() {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => Kind::File,
            EntryType::Link => Kind::HardLink,
            EntryType::Symlink => Kind::Symlink,
            EntryType::Directory => Kind::Dir,
            EntryType::Fifo => Kind::Fifo,
            EntryType::Char => Kind::CharDevice,
            EntryType::Block => Kind::BlockDevice,
            other => Kind::Other(other.as_byte()),
        };
        let mut entry = Entry {
            kind,
            path: extended.path.unwrap_or_else(|| header.path_bytes().into_owned()),
            link: extended
                .link
                .unwrap_or_else(|| header.link_name_bytes().unwrap_or_default().into_owned()),
            mode: header.mode().map_err(|_| self.bad("its mode is no number"))? & 0o7777,
            uid: number(header.uid(), "its owner is no number")?,
            gid: number(header.gid(), "its group is no number")?,
            mtime: (number(header.mtime(), "its time is no number")? as i64, 0),
            size: number(header.entry_size(), "its size is no number")?,
            xattrs: Vec::new(),
            sparse: None,
        };
        let mut pax_sparse = PaxSparse::default();
        let global = std::mem::take(&mut self.global);
        let applied = global.iter().chain(&extended.records).try_for_each(|(key, value)| {
            apply(&mut entry, &mut pax_sparse, key, value).map_err(|problem| self.bad(problem))
        });
        self.global = global;
        applied?;
        // Version 7 archives mark directories by a slash alone.
        if entry.kind == Kind::File && entry.path.ends_with(b"/") {
            entry.kind = Kind::Dir;
        }
        // Some writers put the size of a hard link's file into its header; no
        // data follows.
        if !matches!(entry.kind, Kind::File | Kind::Other(_)) {
            entry.size = 0;
        }
        let rounded = entry.size.checked_next_multiple_of(BLOCK);
        let rounded = rounded.ok_or_else(|| self.bad("its size overflows"))?;
        (self.left, self.padding) = (entry.size, rounded - entry.size);
        if header.entry_type() == EntryType::GNUSparse {
            entry.sparse = Some(self.gnu_sparse(header)?);
        } else if let Some(sparse) = self.pax_sparse(&mut entry, pax_sparse)? {
            entry.sparse = Some(sparse);
        }
        Ok(entry)
    }

    /// The map of the older GNU format: four pieces in the header, 21 in each
    /// block that follows it.
    fn gnu_sparse(&mut self, header: &Header) -> Result<Sparse, ImageError> {
        let gnu = header.as_gnu().ok_or_else(|| self.bad("it is sparse but not GNU"))?;
        let real_size = gnu.real_size().map_err(|_| self.bad("its real size is no number"))?;
        let mut pieces = Vec::new();
        let mut take = |list: &[tar::GnuSparseHeader]| {
            for piece in list.iter().filter(|piece| !piece.is_empty()) {
                pieces.push((piece.offset()?, piece.length()?));
            }
            Ok::<_, io::Error>(pieces.len())
        };
        take(&gnu.sparse).map_err(|_| self.bad("its map is damaged"))?;
        let mut more = gnu.is_extended();
        while more {
            let mut block = GnuExtSparseHeader::new();
            self.exactly(block.as_mut_bytes())?;
            let n = take(block.sparse()).map_err(|_| self.bad("its map is damaged"))?;
            if n > MAX_PIECES {
                return Err(self.bad("its map is too long"));
            }
            more = block.is_extended();
        }
        self.checked(Sparse { real_size, pieces })
    }

    fn pax_sparse(
        &mut self,
        entry: &mut Entry,
        pax: PaxSparse,
    ) -> Result<Option<Sparse>, ImageError> {
        let Some(real_size) = pax.real_size else { return Ok(None) };
        if let Some(name) = pax.name {
            entry.path = name;
        }
        let numbers = match pax.is_version_1 {
            false => pax.map,
            true => self.map_in_data()?,
        };
        let pieces = numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
        entry.size = self.left;
        self.checked(Sparse { real_size, pieces }).map(Some)
    }

    /// The map of GNU.sparse version 1.0: decimal numbers, one a line, first
    /// their count, padded to whole blocks in front of the data.
    fn map_in_data(&mut self) -> Result<Vec<u64>, ImageError> {
        let (mut numbers, mut wanted) = (Vec::new(), None);
        let mut current: Option<u64> = None;
        while wanted.is_none_or(|n| numbers.len() < n) {
            let mut block = [0; BLOCK as usize];
            self.read_data_exact(&mut block)?;
            for byte in block {
                match (byte, current, wanted) {
                    (b'0'..=b'9', ..) => {
                        let digit = u64::from(byte - b'0');
                        let grown = current.unwrap_or(0).checked_mul(10);
                        current = grown.and_then(|n| n.checked_add(digit));
                        if current.is_none() {
                            return Err(self.bad("a number in its map overflows"));
                        }
                    }
                    (b'\n', Some(n), None) if n <= MAX_PIECES as u64 => {
                        (wanted, current) = (Some(2 * n as usize), None);
                    }
                    (b'\n', Some(n), Some(count)) if numbers.len() < count => {
                        numbers.push(n);
                        current = None;
                    }
                    (0, None, Some(count)) if numbers.len() == count => {}
                    _ => return Err(self.bad("its map is damaged")),
                }
            }
        }
        Ok(numbers)
    }

    /// Pieces must lie one behind another, within the file, and add up to the
    /// data in the archive.
    fn checked(&self, sparse: Sparse) -> Result<Sparse, ImageError> {
        let (mut end, mut sum) = (0_u64, 0_u64);
        for &(offset, length) in &sparse.pieces {
            let piece_end = offset.checked_add(length);
            match piece_end {
                Some(piece_end) if offset >= end && piece_end <= sparse.real_size => {
                    end = piece_end;
                }
                _ => return Err(self.bad("its pieces overlap or leave the file")),
            }
            sum += length;
        }
        if sum != self.left {
            return Err(self.bad("its pieces are not what the archive holds"));
        }
        Ok(sparse)
    }

    /// Whole extended header, with its padding.
    fn extended(&mut self, size: u64) -> Result<Vec<u8>, ImageError> {
        if size > MAX_EXTENDED {
            return Err(self.refused(Refusal::HugeHeader(size)));
        }
        let mut bytes = vec![0; size.next_multiple_of(BLOCK) as usize];
        self.exactly(&mut bytes)?;
        bytes.truncate(size as usize);
        Ok(bytes)
    }

    fn long_name(&mut self, size: u64) -> Result<Vec<u8>, ImageError> {
        let mut bytes = self.extended(size)?;
        while bytes.last() == Some(&0) {
            bytes.pop();
        }
        Ok(bytes)
    }

    fn pax(&mut self, size: u64) -> Result<Records, ImageError> {
        let bytes = self.extended(size)?;
        pax_records(&bytes).ok_or_else(|| self.bad("its pax records are damaged"))
    }

    fn exactly(&mut self, buffer: &mut [u8]) -> Result<(), ImageError> {
        self.reader.read_exact(buffer).map_err(|e| self.damaged(e))?;
        self.position += buffer.len() as u64;
        Ok(())
    }

    fn damaged(&self, source: io::Error) -> ImageError {
        ImageError::Damaged { layer: self.label.clone(), source }
    }

    fn bad(&self, problem: &'static str) -> ImageError {
        self.refused(Refusal::Header(problem))
    }

    fn refused(&self, why: Refusal) -> ImageError {
        let entry = format!("at byte {}", self.position);
        ImageError::Refused { layer: self.label.clone(), entry, why }
    }
}

impl<R: Read + Seek> Entries<R> {
    /// Goes on behind the data of the current entry without reading it.
    pub fn seek_past_data(&mut self) -> Result<(), ImageError> {
        let rest = self.left + self.padding;
        let step = i64::try_from(rest).map_err(|_| self.bad("its size overflows"))?;
        self.reader.seek(SeekFrom::Current(step)).map_err(|e| self.damaged(e))?;
        self.position += rest;
        (self.left, self.padding) = (0, 0);
        Ok(())
    }
}

#[derive(Default)]
struct PaxSparse {
    real_size: Option<u64>,
    name: Option<Vec<u8>>,
    is_version_1: bool,
    map: Vec<u64>,
}

/// Takes one pax record into an entry. Keys that no layer needs are passed
/// over, as pax demands.
fn apply(
    entry: &mut Entry,
    sparse: &mut PaxSparse,
    key: &[u8],
    value: &[u8],
) -> Result<(), &'static str> {
    let number = || decimal(value).ok_or("a pax number is none");
    match key {
        b"path" => entry.path = value.to_vec(),
        b"linkpath" => entry.link = value.to_vec(),
        b"size" => entry.size = number()?,
        b"uid" => entry.uid = number()?,
        b"gid" => entry.gid = number()?,
        b"mtime" => entry.mtime = time(value).ok_or("a pax time is none")?,
        b"GNU.sparse.major" => sparse.is_version_1 = value == b"1",
        b"GNU.sparse.name" => sparse.name = Some(value.to_vec()),
        b"GNU.sparse.realsize" | b"GNU.sparse.size" => sparse.real_size = Some(number()?),
        b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => sparse.map.push(number()?),
        b"GNU.sparse.map" => {
            let numbers: Option<Vec<u64>> = value.split(|&b| b == b',').map(decimal).collect();
            sparse.map = numbers.ok_or("its map is damaged")?;
        }
        _ => {
            if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                // The last of two records of one key counts.
                entry.xattrs.retain(|(known, _)| known != name);
                entry.xattrs.push((name.to_vec(), value.to_vec()));
            }
        }
    }
    if sparse.map.len() > 2 * MAX_PIECES {
        return Err("its map is too long");
    }
    Ok(())
}

fn decimal(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// `-12.5` is half a second after -13.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    let nanos: u32 = digits.parse().ok()?;
    match (whole.starts_with('-'), nanos) {
        (true, 1..) => Some((seconds.checked_sub(1)?, 1_000_000_000 - nanos)),
        _ => Some((seconds, nanos)),
    }
}

/// Records `LENGTH KEY=VALUE\n`, the length counting the whole record.
fn pax_records(mut bytes: &[u8]) -> Option<Records> {
    let mut records = Vec::new();
    while bytes.first().is_some_and(|&byte| byte != 0) {
        let space = bytes.iter().take(20).position(|&b| b == b' ')?;
        let length = usize::try_from(decimal(&bytes[..space])?).ok()?;
        let record = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|&b| b == b'=')?;
        records.push((record[..equals].to_vec(), record[equals + 1..].to_vec()));
        bytes = &bytes[length..];
    }
    Some(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pax_values_may_hold_line_breaks() {
        let records = pax_records(b"12 a=b\nc=d\n\n9 path=x\n").expect("records");
        assert_eq!(records[0], (b"a".to_vec(), b"b\nc=d\n".to_vec()[..6].to_vec()));
        assert_eq!(records[1], (b"path".to_vec(), b"x".to_vec()));
    }

    #[test]
    fn damaged_pax_records_are_none() {
        for bytes in ["5 a=b", "99 a=b\n", "x a=b\n", "6 a=bc", "7 abcd\n", "0 a=b\n"] {
            assert_eq!(pax_records(bytes.as_bytes()), None, "{bytes:?}");
        }
    }

    #[test]
    fn times_have_fractions_and_may_lie_before_1970() {
        assert_eq!(time(b"12.5"), Some((12, 500_000_000)));
        assert_eq!(time(b"-12.5"), Some((-13, 500_000_000)));
        assert_eq!(time(b"1700000000.123456789012"), Some((1_700_000_000, 123_456_789)));
        assert_eq!(time(b"x"), None);
    }
}
