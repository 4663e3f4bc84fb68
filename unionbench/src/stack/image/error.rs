//! Why an image cannot be read or is not unpacked.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why there are no layers.
#[derive(Debug, Error)]
pub enum ImageError {
    #[error("cannot take {text:?} for an image: {problem}")]
    Reference { text: String, problem: &'static str },
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot use {} as an image: {problem}", path.display())]
    Format { path: PathBuf, problem: String },
    #[error("cannot read {what} of the image: it is no JSON of that kind")]
    Json { what: String, source: serde_json::Error },
    #[error("cannot trust {what}: its digest is {found}, it should be {expected}")]
    Digest { what: String, expected: String, found: String },
    #[error("cannot trust {what}: it has {found} bytes, it should have {expected}")]
    Size { what: String, expected: u64, found: u64 },
    #[error("cannot use {what}: {problem}")]
    Unsupported { what: String, problem: String },
    #[error("cannot choose {wanted}: the image is for {}", there.join(", "))]
    Platform { wanted: String, there: Vec<String> },
    #[error("cannot choose {wanted:?}: {}", names(there))]
    Name { wanted: String, there: Vec<String> },
    #[error("refused entry {entry:?} of {layer}: {why}")]
    Refused { layer: String, entry: String, why: Refusal },
    #[error("cannot unpack {entry:?} of {layer}: {action} failed")]
    Write { layer: String, entry: String, action: &'static str, source: io::Error },
    #[error("cannot read {layer}: it ends early, is damaged, or is no tar archive")]
    Damaged { layer: String, source: io::Error },
    #[error("cannot write {}", path.display())]
    Target { path: PathBuf, source: io::Error },
    #[error("interrupted")]
    Cancelled,
}

fn names(there: &[String]) -> String {
    match there {
        [] => "the image has no names; leave it out".to_owned(),
        there => format!("there are {}", there.join(", ")),
    }
}

/// What no layer may ask for.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    #[error("its name is absolute")]
    Absolute,
    #[error("its name goes up (`..`)")]
    Parent,
    #[error("its name is empty, too long or holds a NUL")]
    Name,
    #[error("its parent {0:?} is not a directory in this layer")]
    ThroughNonDirectory(String),
    #[error("it links to {0:?}, which is not a file of this layer")]
    Link(String),
    #[error("it is a device node; `--skip-devices` leaves them out")]
    Device,
    #[error("it sets {0}, which belongs to overlayfs")]
    OverlayXattr(String),
    #[error("it is a whiteout of no name")]
    Whiteout,
    #[error("its type {0:?} has no place in a layer")]
    Kind(char),
    #[error("the image holds more than {0} entries")]
    TooManyEntries(u64),
    #[error("the image unpacks to more than {0} bytes")]
    TooManyBytes(u64),
    #[error("the file would be {0} bytes long")]
    TooLong(u64),
    #[error("a header of {0} bytes is no header")]
    HugeHeader(u64),
    #[error("its header is damaged: {0}")]
    Header(&'static str),
}
