//! `dir:`: a folder with `manifest.json` and blobs named by the hex part of
//! their digest, as `skopeo copy … dir:` writes it.

use std::path::Path;

use oci_spec::image::ImageManifest;

use super::manifest::{image, read};
use super::{Blob, Image, ImageError};

pub(super) fn open(folder: &Path) -> Result<Image, ImageError> {
    let path = folder.join("manifest.json");
    if !path.is_file() {
        return Err(ImageError::Format {
            path: folder.to_owned(),
            problem: "it holds no `manifest.json`; a plain tree becomes an image by \
                      `tar` and `docker import` or `umoci`"
                .to_owned(),
        });
    }
    let manifest: ImageManifest = read("manifest.json", &Blob::file(&path, None)?.document()?)?;
    image(format!("dir:{}", folder.display()), &manifest, |descriptor| {
        let digest = descriptor.digest().to_string();
        super::blob::Hash::of(&digest, "a descriptor")?;
        let hex = digest.split_once(':').map_or("", |(_, hex)| hex);
        let blob = Blob::file(&folder.join(hex), Some(&digest))?;
        blob.check_size(descriptor.size())?;
        Ok(blob)
    })
}
