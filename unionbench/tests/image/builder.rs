//! Makes images for tests: tar archives entry by entry, also such as no tool
//! would write, and the three kinds of place around them.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};

/// How layers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    Plain,
    Gzip,
    Zstd,
}

pub const COMPRESSIONS: [Compression; 3] =
    [Compression::Plain, Compression::Gzip, Compression::Zstd];

impl Compression {
    pub fn pack(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Plain => bytes.to_vec(),
            Self::Gzip => {
                let level = flate2::Compression::fast();
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
                encoder.write_all(bytes).expect("memory");
                encoder.finish().expect("memory")
            }
            Self::Zstd => zstd::encode_all(bytes, 1).expect("memory"),
        }
    }

    fn media_type(self) -> &'static str {
        match self {
            Self::Plain => "application/vnd.oci.image.layer.v1.tar",
            Self::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }
}

/// A tar archive that is written as told, without a check.
#[derive(Debug, Clone, Default)]
pub struct Archive(pub Vec<u8>);

impl Archive {
    pub fn header(kind: EntryType, path: &str, link: &str, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(size);
        let gnu = header.as_gnu_mut().expect("it is GNU");
        gnu.name[..path.len()].copy_from_slice(path.as_bytes());
        gnu.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        header
    }

    pub fn raw(mut self, header: &Header, data: &[u8]) -> Self {
        let mut header = header.clone();
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn file(self, path: &str, data: &[u8]) -> Self {
        let header = Self::header(EntryType::Regular, path, "", data.len() as u64);
        self.raw(&header, data)
    }

    pub fn dir(self, path: &str) -> Self {
        let header = Self::header(EntryType::Directory, path, "", 0);
        self.raw(&header, &[])
    }

    pub fn link(self, kind: EntryType, path: &str, target: &str) -> Self {
        let header = Self::header(kind, path, target, 0);
        self.raw(&header, &[])
    }

    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.link(EntryType::Symlink, path, target)
    }

    pub fn hard_link(self, path: &str, target: &str) -> Self {
        self.link(EntryType::Link, path, target)
    }

    /// A node of device `major`:`minor`.
    pub fn device(self, kind: EntryType, path: &str, major: u32, minor: u32) -> Self {
        let mut header = Self::header(kind, path, "", 0);
        header.set_device_major(major).expect("it is GNU");
        header.set_device_minor(minor).expect("it is GNU");
        self.raw(&header, &[])
    }

    /// Pax records for the entry that follows.
    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            // The length counts itself.
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            data.extend_from_slice(format!("{length} {key}=").as_bytes());
            data.extend_from_slice(value);
            data.push(b'\n');
        }
        let header = Self::header(EntryType::XHeader, "pax", "", data.len() as u64);
        self.raw(&header, &data)
    }

    /// The archive's bytes with the two blocks that end it.
    pub fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

pub fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    format!("sha256:{}", hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

fn config(diff_ids: &[String], architecture: &str) -> String {
    serde_json::json!({
        "architecture": architecture,
        "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    })
    .to_string()
}

/// This machine's architecture as images name it.
pub fn here() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn blob(folder: &Path, bytes: &[u8]) -> String {
    let digest = digest(bytes);
    let path = folder.join("blobs/sha256").join(&digest["sha256:".len()..]);
    fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
    fs::write(path, bytes).expect("a blob");
    digest
}

/// Writes manifest, configuration and layers (bottom first) into a layout and
/// gives the manifest's descriptor.
pub fn manifest(
    folder: &Path,
    layers: &[Vec<u8>],
    compression: Compression,
    architecture: &str,
) -> serde_json::Value {
    let diff_ids: Vec<String> = layers.iter().map(|bytes| digest(bytes)).collect();
    let config = config(&diff_ids, architecture);
    let config_digest = blob(folder, config.as_bytes());
    let descriptors: Vec<_> = layers
        .iter()
        .map(|bytes| {
            let packed = compression.pack(bytes);
            serde_json::json!({
                "mediaType": compression.media_type(),
                "digest": blob(folder, &packed),
                "size": packed.len(),
            })
        })
        .collect();
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": config_digest,
            "size": config.len(),
        },
        "layers": descriptors,
    })
    .to_string();
    serde_json::json!({
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": blob(folder, manifest.as_bytes()),
        "size": manifest.len(),
    })
}

/// An index of `manifests` as a blob, and its descriptor.
pub fn nested_index(folder: &Path, manifests: &[serde_json::Value]) -> serde_json::Value {
    let text = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": manifests,
    })
    .to_string();
    serde_json::json!({
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "digest": blob(folder, text.as_bytes()),
        "size": text.len(),
    })
}

pub fn finish_layout(folder: &Path, manifests: &[serde_json::Value]) {
    fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("a file");
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": manifests });
    fs::write(folder.join("index.json"), index.to_string()).expect("a file");
}

/// An OCI layout with one image for this machine; layers bottom first.
pub fn layout(folder: &Path, layers: &[Vec<u8>], compression: Compression) {
    let descriptor = manifest(folder, layers, compression, here());
    finish_layout(folder, &[descriptor]);
}

/// What `docker save` writes.
pub fn docker_archive(path: &Path, layers: &[Vec<u8>], tag: &str) {
    let diff_ids: Vec<String> = layers.iter().map(|bytes| digest(bytes)).collect();
    let config = config(&diff_ids, here());
    let config_name = format!("{}.json", &digest(config.as_bytes())["sha256:".len()..]);
    let mut archive = Archive::default().file(&config_name, config.as_bytes());
    let mut names = Vec::new();
    for (index, bytes) in layers.iter().enumerate() {
        let name = format!("layer{index}/layer.tar");
        archive = archive.dir(&format!("layer{index}/")).file(&name, bytes);
        names.push(name);
    }
    // A layer that another image shares is a link in older versions.
    archive = archive.symlink("linked/layer.tar", "../layer0/layer.tar");
    if let Some(first) = names.first_mut() {
        *first = "linked/layer.tar".to_owned();
    }
    let manifest = serde_json::json!([
        { "Config": config_name, "RepoTags": [tag], "Layers": names }
    ]);
    let archive = archive.file("manifest.json", manifest.to_string().as_bytes());
    fs::write(path, archive.end()).expect("an archive");
}

/// What skopeo writes for `dir:`.
pub fn dir(folder: &Path, layers: &[Vec<u8>], compression: Compression) {
    fs::create_dir_all(folder).expect("a folder");
    let place = tempfile::tempdir().expect("a temporary folder");
    let descriptor = manifest(place.path(), layers, compression, here());
    let digest = descriptor["digest"].as_str().expect("a digest").to_owned();
    for entry in fs::read_dir(place.path().join("blobs/sha256")).expect("blobs").flatten() {
        let name = entry.file_name().into_string().expect("hex");
        let to = if digest.ends_with(&name) { "manifest.json" } else { &name };
        fs::copy(entry.path(), folder.join(to)).expect("a blob");
    }
}
