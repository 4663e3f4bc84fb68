//! Bytes with a digest: a file, or a piece of an archive file.

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256, Sha512};

use super::ImageError;

/// Most that a manifest, an index or a configuration may take. The OCI
/// distribution specification has registries accept at least this much.
const MAX_DOCUMENT: u64 = 4 << 20;

/// Where bytes lie and what they must be.
#[derive(Debug, Clone)]
pub struct Blob {
    path: PathBuf,
    offset: u64,
    pub size: u64,
    /// `sha256:…` of the bytes as stored; absent in old archives, whose layers
    /// are told by their diff id alone.
    pub digest: Option<String>,
}

impl Blob {
    /// A whole file, which must be one: reading a FIFO would never end.
    pub(super) fn file(path: &Path, digest: Option<&str>) -> Result<Self, ImageError> {
        let failed = |source| ImageError::Read { path: path.to_owned(), source };
        let metadata = std::fs::metadata(path).map_err(failed)?;
        if !metadata.is_file() {
            let problem = "it is no regular file".to_owned();
            return Err(ImageError::Format { path: path.to_owned(), problem });
        }
        let digest = digest.map(str::to_owned);
        Ok(Self { path: path.to_owned(), offset: 0, size: metadata.len(), digest })
    }

    /// `size` bytes of a file from `offset`.
    pub(super) fn piece(path: &Path, offset: u64, size: u64, digest: Option<String>) -> Self {
        Self { path: path.to_owned(), offset, size, digest }
    }

    /// How the bytes are called in messages.
    pub fn name(&self) -> String {
        match &self.digest {
            Some(digest) => digest.clone(),
            None => format!("{} at {}", self.path.display(), self.offset),
        }
    }

    /// Refuses a size other than the one its descriptor names.
    pub(super) fn check_size(&self, expected: u64) -> Result<(), ImageError> {
        if self.size == expected {
            return Ok(());
        }
        Err(ImageError::Size { what: self.name(), expected, found: self.size })
    }

    /// The bytes, unchecked.
    pub(super) fn reader(&self) -> Result<io::Take<File>, ImageError> {
        let failed = |source| ImageError::Read { path: self.path.clone(), source };
        let mut file = File::open(&self.path).map_err(failed)?;
        if self.offset > 0 {
            file.seek(SeekFrom::Start(self.offset)).map_err(failed)?;
        }
        Ok(file.take(self.size))
    }

    /// All bytes of a small document, checked.
    pub(super) fn document(&self) -> Result<Vec<u8>, ImageError> {
        if self.size > MAX_DOCUMENT {
            let problem = format!("{} bytes are too many for a document", self.size);
            return Err(ImageError::Unsupported { what: self.name(), problem });
        }
        let mut bytes = Vec::with_capacity(self.size as usize);
        let failed = |source| ImageError::Read { path: self.path.clone(), source };
        self.reader()?.read_to_end(&mut bytes).map_err(failed)?;
        if let Some(expected) = &self.digest {
            let mut hash = Hash::of(expected, &self.name())?;
            hash.update(&bytes);
            hash.check(expected, &self.name())?;
        }
        Ok(bytes)
    }
}

/// A running digest of an algorithm that a digest's name tells.
pub(super) enum Hash {
    Sha256(Box<Sha256>),
    Sha512(Box<Sha512>),
}

impl Hash {
    /// For digests like `expected`.
    pub fn of(expected: &str, what: &str) -> Result<Self, ImageError> {
        match expected.split_once(':') {
            Some(("sha256", hex)) if is_hex(hex, 64) => Ok(Self::Sha256(Box::default())),
            Some(("sha512", hex)) if is_hex(hex, 128) => Ok(Self::Sha512(Box::default())),
            _ => Err(ImageError::Unsupported {
                what: what.to_owned(),
                problem: format!("{expected:?} is no sha256 or sha512 digest"),
            }),
        }
    }

    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Sha512(hash) => hash.update(bytes),
        }
    }

    /// The digest in the way it is written, which ends the calculation.
    pub fn finish(self) -> String {
        match self {
            Self::Sha256(hash) => format!("sha256:{}", hex(&hash.finalize())),
            Self::Sha512(hash) => format!("sha512:{}", hex(&hash.finalize())),
        }
    }

    /// Refuses bytes whose digest is not `expected`.
    pub fn check(self, expected: &str, what: &str) -> Result<(), ImageError> {
        let found = self.finish();
        if found == expected {
            return Ok(());
        }
        let (what, expected) = (what.to_owned(), expected.to_owned());
        Err(ImageError::Digest { what, expected, found })
    }
}

/// Lower case only: the specification allows no other, and the digest becomes a
/// file name.
fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A reader that hashes what passes through it.
pub(super) struct Hashing<R> {
    inner: R,
    hash: Hash,
}

impl<R: Read> Hashing<R> {
    pub fn new(inner: R, hash: Hash) -> Self {
        Self { inner, hash }
    }

    /// Reads what is left and gives the digest of everything.
    pub fn finish(mut self) -> io::Result<Hash> {
        let mut rest = [0; 16 << 10];
        while self.read(&mut rest)? > 0 {}
        Ok(self.hash)
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hash.update(&buffer[..n]);
        Ok(n)
    }
}
