//! From a manifest and a configuration to an image: what the three kinds of
//! place have in common.

use oci_spec::image::{Descriptor, ImageConfiguration, ImageManifest};
use serde::de::DeserializeOwned;

use super::{Blob, Image, ImageError, Layer};

/// Most layers that overlayfs stacks (OVL_MAX_STACK); an image of more cannot
/// be measured and is refused before anything is unpacked.
const MAX_LAYERS: usize = 500;

pub(super) fn read<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, ImageError> {
    serde_json::from_slice(bytes).map_err(|source| ImageError::Json { what: what.into(), source })
}

/// The image of a manifest, whose blobs `blob` finds.
pub(super) fn image(
    reference: String,
    manifest: &ImageManifest,
    blob: impl Fn(&Descriptor) -> Result<Blob, ImageError>,
) -> Result<Image, ImageError> {
    let config = blob(manifest.config())?;
    let blobs = manifest.layers().iter().map(blob).collect::<Result<Vec<_>, _>>()?;
    with_config(reference, &config, blobs)
}

/// The image of a configuration and its layers' blobs, bottom first.
pub(super) fn with_config(
    reference: String,
    config: &Blob,
    blobs: Vec<Blob>,
) -> Result<Image, ImageError> {
    let parsed: ImageConfiguration = read("the configuration", &config.document()?)?;
    let diff_ids = parsed.rootfs().diff_ids();
    if diff_ids.len() != blobs.len() || blobs.is_empty() || blobs.len() > MAX_LAYERS {
        let problem = format!(
            "the manifest has {} layers and the configuration {}; 1 to {MAX_LAYERS} of both \
             would do",
            blobs.len(),
            diff_ids.len()
        );
        return Err(ImageError::Unsupported { what: reference, problem });
    }
    let layers = blobs.into_iter().zip(diff_ids);
    Ok(Image {
        reference,
        config_digest: config.name(),
        platform: format!("{}/{}", parsed.os(), parsed.architecture()),
        layers: layers.map(|(blob, id)| Layer { blob, diff_id: id.clone() }).collect(),
    })
}
