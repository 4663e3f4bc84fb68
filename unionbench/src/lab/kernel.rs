//! Kernels the lab can boot: what they are called, where they come from and
//! what they can do.
//!
//! A kernel is an image plus, where they are at hand, its modules, its
//! configuration and its symbol list. Named Debian kernels are fetched by
//! [`super::fetch`]; nothing is ever installed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::error::LabError;
use super::fetch;
use super::modules::ModuleTree;
use super::vmlinux;

/// A kernel that can be booted.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// `uname -r`, from the image's header.
    pub release: String,
    pub image: PathBuf,
    /// SHA-256 of the image, in hexadecimal.
    pub sha256: String,
    /// `lib/modules/<release>`, where the modules are at hand.
    pub modules: Option<PathBuf>,
    /// The package's name, if it came from the cache of named kernels.
    pub package: Option<String>,
    /// The kernel's configuration, where it is at hand.
    pub config: Option<PathBuf>,
    pub capabilities: Capabilities,
}

/// Whether a kernel has a feature, and in what form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Feature {
    BuiltIn,
    Module,
    Absent,
    /// Neither configuration nor modules are at hand.
    Unknown,
}

impl std::fmt::Display for Feature {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::BuiltIn => "built in",
            Self::Module => "module",
            Self::Absent => "no",
            Self::Unknown => "?",
        })
    }
}

/// Where a kernel's own build leaves its image.
const BUILT_IMAGE: &str = "arch/x86/boot/bzImage";

/// What a kernel can do for a benchmark, read from its configuration and, for
/// out-of-tree modules, from its module tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    pub btf: Feature,
    pub kprobes: Feature,
    pub overlay: Feature,
    pub fuse: Feature,
    pub aufs: Feature,
    /// FUSE passthrough, Linux 6.9 and newer.
    pub fuse_passthrough: Feature,
    pub virtio_console: Feature,
    pub virtio_pci: Feature,
}

impl Kernel {
    /// The kernel called `name`: a series (`6.1`), a Debian release
    /// (`6.1.0-56-amd64`), a `.deb` file, an extracted package, or a bzImage.
    /// Series and releases are taken from the cache or fetched into it.
    pub fn resolve(name: &str) -> Result<Self, LabError> {
        Self::resolve_in(name, &fetch::cache_dir())
    }

    /// As [`Kernel::resolve`], with the cache at `cache`.
    pub fn resolve_in(name: &str, cache: &Path) -> Result<Self, LabError> {
        let path = Path::new(name);
        if path.is_dir() {
            return Self::from_tree(path);
        }
        if path.is_file() {
            if path.extension().is_some_and(|e| e == "deb") {
                return Self::from_tree(&fetch::unpack_deb(path, cache)?);
            }
            let kernel = Self::from_image(path)?;
            fetch::remember(path, cache);
            return Ok(kernel);
        }
        if name.contains('/') || name.ends_with(".deb") {
            return Err(LabError::KernelUnknown {
                name: name.into(),
                detail: "no such file or folder".into(),
            });
        }
        Self::from_tree(&fetch::named(name, cache)?)
    }

    /// Every kernel in the cache, oldest first, then the images that were named
    /// by their path before and are still there. Broken entries are left out:
    /// asking for one by name gives its error.
    pub fn cached() -> Vec<Self> {
        let cache = fetch::cache_dir();
        let trees = fetch::cached_trees(&cache).into_iter();
        let images = fetch::remembered(&cache).into_iter();
        trees
            .filter_map(|tree| Self::from_tree(&tree).ok())
            .chain(images.filter_map(|image| Self::from_image(&image).ok()))
            .collect()
    }

    /// A bare image: it can boot, but offers only what is built in. One that
    /// still lies where it was built has its configuration at hand.
    fn from_image(image: &Path) -> Result<Self, LabError> {
        let tree = image.ends_with(BUILT_IMAGE).then(|| image.ancestors().nth(4)).flatten();
        let config = tree.map(|tree| tree.join(".config")).filter(|path| path.is_file());
        let mut kernel = Self::assemble(image, None, config)?;
        if kernel.config.is_some() {
            return Ok(kernel);
        }
        let bytes = fs::read(image).map_err(LabError::io("read kernel", image))?;
        if let Some(inside) = vmlinux::unpack(&bytes) {
            kernel.capabilities = match vmlinux::configuration(&inside) {
                Some(text) => Capabilities::built_in(&parse_config(&text)),
                None => vmlinux::features(&inside),
            };
        }
        Ok(kernel)
    }

    /// An extracted package, or the folder in which a kernel was built.
    fn from_tree(tree: &Path) -> Result<Self, LabError> {
        let built = tree.join(BUILT_IMAGE);
        if built.is_file() {
            return Self::from_image(&built);
        }
        let image = only_image(tree)?;
        let release = read_image(&image)?.0;
        let modules = ["lib/modules", "usr/lib/modules"]
            .iter()
            .map(|dir| tree.join(dir).join(&release))
            .find(|dir| dir.is_dir());
        let config =
            Some(tree.join("boot").join(format!("config-{release}"))).filter(|path| path.is_file());
        Self::assemble(&image, modules, config)
    }

    fn assemble(
        image: &Path,
        modules: Option<PathBuf>,
        config: Option<PathBuf>,
    ) -> Result<Self, LabError> {
        let (release, sha256) = read_image(image)?;
        let capabilities = Capabilities::read(modules.as_deref(), config.as_deref())?;
        let package = image
            .ancestors()
            .nth(2)
            .and_then(Path::file_name)
            .map(|name| name.to_string_lossy().into_owned())
            .filter(|name| name.starts_with("linux-image-"));
        let image = image.to_owned();
        Ok(Self { release, image, sha256, package, modules, config, capabilities })
    }
}

impl Capabilities {
    /// What a configuration builds in: a bare image brings no modules.
    fn built_in(enabled: &BTreeSet<String>) -> Self {
        Self::find(|option, _| match enabled.contains(&format!("{option}=y")) {
            true => Feature::BuiltIn,
            false => Feature::Absent,
        })
    }

    fn read(modules: Option<&Path>, config: Option<&Path>) -> Result<Self, LabError> {
        let enabled = match config {
            Some(path) => {
                let text =
                    fs::read_to_string(path).map_err(LabError::io("read configuration", path))?;
                Some(parse_config(&text))
            }
            None => None,
        };
        let tree = modules.map(ModuleTree::open).transpose()?;
        let find = |option: &str, module: Option<&str>| -> Feature {
            let in_tree = module.and_then(|name| tree.as_ref().map(|t| t.feature(name)));
            match (in_tree, &enabled) {
                (Some(found @ (Feature::BuiltIn | Feature::Module)), _) => found,
                (_, Some(set)) if set.contains(&format!("{option}=y")) => Feature::BuiltIn,
                // The configuration promises a module the tree does not hold.
                (Some(_), _) => Feature::Absent,
                (None, Some(set)) if set.contains(&format!("{option}=m")) => Feature::Module,
                (None, Some(_)) => Feature::Absent,
                (None, None) => Feature::Unknown,
            }
        };
        Ok(Self::find(find))
    }

    /// Each feature by its option and its module.
    fn find(find: impl Fn(&str, Option<&str>) -> Feature) -> Self {
        Self {
            btf: find("CONFIG_DEBUG_INFO_BTF", None),
            kprobes: find("CONFIG_KPROBES", None),
            overlay: find("CONFIG_OVERLAY_FS", Some("overlay")),
            fuse: find("CONFIG_FUSE_FS", Some("fuse")),
            aufs: find("CONFIG_AUFS_FS", Some("aufs")),
            fuse_passthrough: find("CONFIG_FUSE_PASSTHROUGH", None),
            virtio_console: find("CONFIG_VIRTIO_CONSOLE", Some("virtio_console")),
            virtio_pci: find("CONFIG_VIRTIO_PCI", Some("virtio_pci")),
        }
    }
}

/// The `CONFIG_X=y` and `CONFIG_X=m` lines.
fn parse_config(text: &str) -> BTreeSet<String> {
    text.lines()
        .map(str::trim)
        .filter(|line| line.ends_with("=y") || line.ends_with("=m"))
        .map(str::to_owned)
        .collect()
}

fn only_image(tree: &Path) -> Result<PathBuf, LabError> {
    let boot = tree.join("boot");
    let entries = fs::read_dir(&boot).map_err(|_| LabError::NotAKernel {
        path: tree.to_owned(),
        why: "the folder has no boot/".into(),
    })?;
    let mut images: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("vmlinuz-")))
        .collect();
    images.sort();
    match images.len() {
        1 => Ok(images.remove(0)),
        0 => Err(LabError::NotAKernel {
            path: tree.to_owned(),
            why: "boot/ holds no vmlinuz-*".into(),
        }),
        n => Err(LabError::NotAKernel {
            path: tree.to_owned(),
            why: format!("boot/ holds {n} images, which is ambiguous"),
        }),
    }
}

/// Release and SHA-256 of a bzImage, after checking what its header promises.
///
/// Offsets from the x86 boot protocol 2.15 (Documentation/arch/x86/boot.rst):
/// 0x1f1 `setup_sects` u8, 0x1f4 `syssize` u32 in units of 16 bytes, 0x1fe the
/// signature 0xaa55, 0x202 "HdrS", 0x20e `kernel_version` u16 relative to 0x200.
fn read_image(path: &Path) -> Result<(String, String), LabError> {
    let bytes = fs::read(path).map_err(LabError::io("read kernel", path))?;
    let refuse = |why: &str| LabError::NotAKernel { path: path.to_owned(), why: why.into() };
    if bytes.len() < 0x400 || bytes[0x1fe..0x200] != [0x55, 0xaa] || &bytes[0x202..0x206] != b"HdrS"
    {
        return Err(refuse("it has no x86 boot header"));
    }
    let sectors = match bytes[0x1f1] {
        0 => 4,
        n => usize::from(n),
    };
    let system = u32::from_le_bytes([bytes[0x1f4], bytes[0x1f5], bytes[0x1f6], bytes[0x1f7]]);
    if bytes.len() < (sectors + 1) * 512 + system as usize * 16 {
        return Err(refuse("it is shorter than its header says"));
    }
    let start = 0x200 + usize::from(u16::from_le_bytes([bytes[0x20e], bytes[0x20f]]));
    let text = bytes.get(start..).unwrap_or_default();
    let text: Vec<u8> = text.iter().copied().take_while(|b| !b" \0".contains(b)).take(80).collect();
    let release = String::from_utf8(text).unwrap_or_default();
    if !release.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(refuse("its header names no kernel release"));
    }
    Ok((release, hex(&Sha256::digest(&bytes))))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header that promises `system` units of 16 bytes.
    fn image(release: &str, system: u32) -> Vec<u8> {
        let mut bytes = vec![0; 0x800];
        bytes[0x1f1] = 1;
        bytes[0x1f4..0x1f8].copy_from_slice(&system.to_le_bytes());
        bytes[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        bytes[0x202..0x206].copy_from_slice(b"HdrS");
        bytes[0x20e..0x210].copy_from_slice(&0x200u16.to_le_bytes());
        bytes[0x400..0x400 + release.len()].copy_from_slice(release.as_bytes());
        bytes
    }

    fn check(bytes: &[u8], expected: Result<&str, &str>) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("bzImage");
        fs::write(&path, bytes).expect("a written image");
        match (read_image(&path), expected) {
            (Ok((release, _)), Ok(wanted)) => assert_eq!(release, wanted),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (got, _) => panic!("{got:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn release_is_read_from_the_header() {
        check(&image("6.1.0-9-amd64 (x@y) #1", 4), Ok("6.1.0-9-amd64"));
    }

    #[test]
    fn damaged_images_are_refused_before_a_boot() {
        check(b"not a kernel", Err("no x86 boot header"));
        check(&image("6.1.0", 4096), Err("shorter than its header says"));
        check(&image("", 4), Err("names no kernel release"));
    }

    #[test]
    fn a_kernel_where_it_was_built_has_its_configuration() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join(BUILT_IMAGE);
        fs::create_dir_all(path.parent().expect("it lies in folders")).expect("folders");
        fs::write(&path, image("6.1.192 (x@y) #1", 4)).expect("a written image");
        fs::write(dir.path().join(".config"), "CONFIG_AUFS_FS=y\n").expect("a configuration");
        for named in [dir.path(), &path] {
            let name = named.to_str().expect("a readable path");
            let kernel = Kernel::resolve_in(name, dir.path()).expect("a kernel");
            assert_eq!((kernel.release.as_str(), &kernel.modules), ("6.1.192", &None));
            assert_eq!(kernel.capabilities.aufs, Feature::BuiltIn);
            assert_eq!(kernel.capabilities.overlay, Feature::Absent);
        }
    }

    #[test]
    fn capabilities_of_a_bare_image_are_unknown() {
        let found = Capabilities::read(None, None).expect("nothing to read");
        assert_eq!((found.btf, found.overlay), (Feature::Unknown, Feature::Unknown));
    }

    #[test]
    fn capabilities_come_from_configuration_and_module_tree() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let config = dir.path().join("config");
        fs::write(
            &config,
            "CONFIG_KPROBES=y\nCONFIG_OVERLAY_FS=m\nCONFIG_FUSE_FS=m\n# CONFIG_AUFS_FS is not set\n",
        )
        .expect("a written configuration");
        let modules = dir.path().join("modules");
        fs::create_dir(&modules).expect("a folder");
        fs::write(modules.join("modules.dep"), "kernel/fs/overlayfs/overlay.ko:\n")
            .expect("written dependencies");
        fs::write(modules.join("modules.builtin"), "").expect("written list");
        let found = Capabilities::read(Some(&modules), Some(&config)).expect("both are readable");
        assert_eq!(found.kprobes, Feature::BuiltIn);
        assert_eq!(found.overlay, Feature::Module);
        assert_eq!(found.fuse, Feature::Absent, "promised but not in the tree");
        assert_eq!(found.aufs, Feature::Absent);
        assert_eq!(found.btf, Feature::Absent);
    }
}
