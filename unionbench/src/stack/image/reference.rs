//! Where an image lies: `oci:PATH[:NAME]`, `docker-archive:FILE[:NAME]`,
//! `dir:PATH`, as skopeo and podman write it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::ImageError;

/// A place and, where it holds several images, the name of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// A folder in the OCI image layout.
    Oci { path: PathBuf, name: Option<String> },
    /// A file that `docker save` wrote.
    DockerArchive { path: PathBuf, name: Option<String> },
    /// A folder with `manifest.json` and the blobs beside it.
    Dir { path: PathBuf },
}

impl Reference {
    /// The folder or file that holds the image.
    pub fn path(&self) -> &std::path::Path {
        match self {
            Self::Oci { path, .. } | Self::DockerArchive { path, .. } | Self::Dir { path } => path,
        }
    }
}

impl FromStr for Reference {
    type Err = ImageError;
    fn from_str(text: &str) -> Result<Self, ImageError> {
        let refuse = |problem| ImageError::Reference { text: text.to_owned(), problem };
        let (kind, rest) = text
            .split_once(':')
            .ok_or_else(|| refuse("write oci:PATH, docker-archive:FILE or dir:PATH"))?;
        if rest.is_empty() {
            return Err(refuse("the path is empty"));
        }
        // A name holds no slash-led part, a path may hold colons: the name
        // begins at the first colon behind the last slash.
        let tail = rest.rfind('/').map_or(0, |at| at + 1);
        let (path, name) = match rest[tail..].split_once(':') {
            Some((last, name)) if !name.is_empty() => {
                (PathBuf::from(&rest[..tail + last.len()]), Some(name.to_owned()))
            }
            _ => (PathBuf::from(rest), None),
        };
        match kind {
            "oci" => Ok(Self::Oci { path, name }),
            "docker-archive" => Ok(Self::DockerArchive { path, name }),
            "dir" => Ok(Self::Dir { path: PathBuf::from(rest) }),
            _ => Err(refuse("write oci:PATH, docker-archive:FILE or dir:PATH")),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, path, name) = match self {
            Self::Oci { path, name } => ("oci", path, name.as_deref()),
            Self::DockerArchive { path, name } => ("docker-archive", path, name.as_deref()),
            Self::Dir { path } => ("dir", path, None),
        };
        write!(f, "{kind}:{}", path.display())?;
        name.map_or(Ok(()), |name| write!(f, ":{name}"))
    }
}

/// System, processor and variant, as in `linux/arm/v7`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    pub os: String,
    pub architecture: String,
    pub variant: Option<String>,
}

impl Platform {
    /// That of this program, in Go's names, which the specification uses.
    pub fn here() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            other => other,
        };
        Self { os: "linux".to_owned(), architecture: architecture.to_owned(), variant: None }
    }

    /// An image for `os`, `architecture` and `variant` runs here. Without a
    /// variant on either side any does.
    pub(super) fn takes(&self, os: &str, architecture: &str, variant: Option<&str>) -> bool {
        let variant_fits = match (&self.variant, variant) {
            (Some(wanted), Some(there)) => wanted == there,
            _ => true,
        };
        self.os == os && self.architecture == architecture && variant_fits
    }
}

impl FromStr for Platform {
    type Err = ImageError;
    fn from_str(text: &str) -> Result<Self, ImageError> {
        let mut parts = text.split('/');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(os), Some(architecture), variant, None)
                if !os.is_empty() && !architecture.is_empty() =>
            {
                Ok(Self {
                    os: os.to_owned(),
                    architecture: architecture.to_owned(),
                    variant: variant.map(str::to_owned),
                })
            }
            _ => Err(ImageError::Reference {
                text: text.to_owned(),
                problem: "a platform is written os/architecture or os/architecture/variant",
            }),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read_and_written() {
        for text in ["oci:a/b", "oci:/a/b:latest", "docker-archive:x.tar:debian:12", "dir:/x"] {
            let reference: Reference = text.parse().expect("a reference");
            assert_eq!(reference.to_string(), text);
        }
        let named: Reference = "oci:/a:b/c:v1".parse().expect("a reference");
        let expected = Reference::Oci { path: "/a:b/c".into(), name: Some("v1".to_owned()) };
        assert_eq!(named, expected);
    }

    #[test]
    fn other_transports_are_refused() {
        for text in ["debian", "docker://debian", "oci:", "registry:x"] {
            let error = text.parse::<Reference>().expect_err("it is none").to_string();
            assert!(error.contains(text), "{error}");
        }
    }

    #[test]
    fn a_platform_without_variant_takes_any() {
        let arm: Platform = "linux/arm".parse().expect("a platform");
        assert!(arm.takes("linux", "arm", Some("v7")) && !arm.takes("linux", "arm64", None));
        let v6: Platform = "linux/arm/v6".parse().expect("a platform");
        assert!(!v6.takes("linux", "arm", Some("v7")));
        assert!("linux".parse::<Platform>().is_err());
    }
}
