//! `oci:`: a folder in the OCI image layout, image-spec 1.1.

use std::path::Path;

use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType};

use super::manifest::{image, read};
use super::{Blob, Image, ImageError, Platform};

/// Indices inside indices beyond this are a ring or a joke.
const MAX_NESTING: usize = 8;

/// `org.opencontainers.image.ref.name` of image-spec's annotations.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

pub(super) fn open(
    folder: &Path,
    name: Option<&str>,
    platform: &Platform,
) -> Result<Image, ImageError> {
    if !folder.join("oci-layout").is_file() {
        return Err(ImageError::Format {
            path: folder.to_owned(),
            problem: "it holds no `oci-layout`; is it docker-archive: or dir: ?".to_owned(),
        });
    }
    let index = Blob::file(&folder.join("index.json"), None)?;
    let index: ImageIndex = read("index.json", &index.document()?)?;
    let roots = named(index.manifests(), name)?;
    let mut found = Vec::new();
    for descriptor in roots {
        collect(folder, descriptor, 0, &mut found)?;
    }
    let reference = match name {
        Some(name) => format!("oci:{}:{name}", folder.display()),
        None => format!("oci:{}", folder.display()),
    };
    let chosen = choose(folder, &found, platform)?;
    let bytes = blob(folder, chosen)?.document()?;
    let manifest: ImageManifest = read("the manifest", &bytes)?;
    image(reference, &manifest, |d| blob(folder, d))
}

/// The descriptors of that name; all of them if none is asked for.
fn named<'a>(all: &'a [Descriptor], name: Option<&str>) -> Result<Vec<&'a Descriptor>, ImageError> {
    let name_of = |d: &Descriptor| d.annotations().as_ref().and_then(|a| a.get(REF_NAME)).cloned();
    let Some(wanted) = name else { return Ok(all.iter().collect()) };
    let found: Vec<_> = all.iter().filter(|d| name_of(d).as_deref() == Some(wanted)).collect();
    if found.is_empty() {
        let there = all.iter().filter_map(name_of).collect();
        return Err(ImageError::Name { wanted: wanted.to_owned(), there });
    }
    Ok(found)
}

/// Every manifest under a descriptor, through nested indices.
fn collect(
    folder: &Path,
    descriptor: &Descriptor,
    depth: usize,
    found: &mut Vec<Descriptor>,
) -> Result<(), ImageError> {
    let is_index = match descriptor.media_type() {
        MediaType::ImageIndex => true,
        MediaType::Other(name) => {
            name == "application/vnd.docker.distribution.manifest.list.v2+json"
        }
        _ => false,
    };
    if !is_index {
        found.push(descriptor.clone());
        return Ok(());
    }
    if depth == MAX_NESTING {
        return Err(ImageError::Format {
            path: folder.to_owned(),
            problem: format!("its indices are nested more than {MAX_NESTING} deep"),
        });
    }
    let index: ImageIndex = read("a nested index", &blob(folder, descriptor)?.document()?)?;
    for inner in index.manifests() {
        collect(folder, inner, depth + 1, found)?;
    }
    Ok(())
}

/// The first manifest for the platform. A descriptor need not tell its
/// platform; then the configuration does.
fn choose<'a>(
    folder: &Path,
    all: &'a [Descriptor],
    platform: &Platform,
) -> Result<&'a Descriptor, ImageError> {
    let mut there = Vec::new();
    for descriptor in all {
        let (os, architecture, variant) = match descriptor.platform() {
            Some(p) => (p.os().to_string(), p.architecture().to_string(), p.variant().clone()),
            None => {
                let bytes = blob(folder, descriptor)?.document()?;
                let manifest: ImageManifest = read("a manifest", &bytes)?;
                let bytes = blob(folder, manifest.config())?.document()?;
                let config: ImageConfiguration = read("a configuration", &bytes)?;
                (config.os().to_string(), config.architecture().to_string(), None)
            }
        };
        if platform.takes(&os, &architecture, variant.as_deref()) {
            return Ok(descriptor);
        }
        there.push(format!("{os}/{architecture}"));
    }
    Err(ImageError::Platform { wanted: platform.to_string(), there })
}

/// The blob of a descriptor. Its digest becomes a path, so only the two
/// algorithms that `blob` can check, with hex digits alone, are taken.
fn blob(folder: &Path, descriptor: &Descriptor) -> Result<Blob, ImageError> {
    let digest = descriptor.digest().to_string();
    super::blob::Hash::of(&digest, "a descriptor")?;
    let (algorithm, hex) = digest.split_once(':').unwrap_or_default();
    let blob = Blob::file(&folder.join("blobs").join(algorithm).join(hex), Some(&digest))?;
    blob.check_size(descriptor.size())?;
    Ok(blob)
}
