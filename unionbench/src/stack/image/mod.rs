//! Images as others make them: found, verified and unpacked into layers.
//!
//! `reference` says where an image lies, `layout`, `archive` and `folder` find
//! its layers there, `blob` reads bytes and checks their digest, `entries`
//! reads tar, `layer` writes one layer beneath a folder, `unpack` does so with
//! all of them at once.
//!
//! Everything that is read is hostile until proven otherwise. Invariants:
//! nothing is written outside the target (`beneath`), no memory is taken that a
//! header asks for without a bound, and an image whose bytes differ from their
//! digest gives an error after which the caller removes the target.

mod archive;
mod beneath;
mod blob;
mod entries;
mod error;
mod folder;
mod layer;
mod layout;
mod limits;
mod manifest;
mod name;
mod reference;
mod unpack;

pub use blob::Blob;
pub use error::{ImageError, Refusal};
pub use layer::{Devices, LayerReport};
pub use limits::Limits;
pub use reference::{Platform, Reference};
pub use unpack::{UnpackOptions, Unpacked, UnpackedLayer, scan, unpack};

/// An image: its layers in the order in which they are applied, bottom first.
#[derive(Debug, Clone)]
pub struct Image {
    pub reference: String,
    /// Digest of the configuration, which names the image.
    pub config_digest: String,
    /// Such as `linux/amd64`.
    pub platform: String,
    /// At least one, bottom first.
    pub layers: Vec<Layer>,
}

/// One layer before it is unpacked.
#[derive(Debug, Clone)]
pub struct Layer {
    /// The bytes as they are stored, mostly compressed.
    pub blob: Blob,
    /// Digest of the uncompressed tar archive, as the configuration names it.
    pub diff_id: String,
}

impl Image {
    /// Finds the image and reads its manifest and configuration; the layers are
    /// not read yet.
    ///
    /// # Errors
    /// It is not there, damaged, or for no platform like the one asked for.
    pub fn open(reference: &Reference, platform: &Platform) -> Result<Self, ImageError> {
        let (Reference::Oci { path, .. }
        | Reference::DockerArchive { path, .. }
        | Reference::Dir { path }) = reference;
        std::fs::metadata(path)
            .map_err(|source| ImageError::Read { path: path.clone(), source })?;
        match reference {
            Reference::Oci { path, name } => layout::open(path, name.as_deref(), platform),
            Reference::DockerArchive { path, name } => archive::open(path, name.as_deref()),
            Reference::Dir { path } => folder::open(path),
        }
    }
}
