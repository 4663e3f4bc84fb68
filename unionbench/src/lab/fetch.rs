//! The cache of named kernels, filled by the package manager.
//!
//! Packages are downloaded and extracted, never installed. A tree appears in
//! the cache by a rename once it is whole, so an interrupted download leaves
//! only a temporary folder that the next one does not mistake for a kernel.

use std::cmp::Ordering;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use super::error::LabError;
use super::kernel::hex;

/// Where kernels are kept: `$UNIONBENCH_LAB_CACHE`, else `target/lab` below the
/// current folder.
pub fn cache_dir() -> PathBuf {
    match std::env::var_os("UNIONBENCH_LAB_CACHE") {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from("target/lab"),
    }
}

/// The file that lists images which were named by their path.
const IMAGES: &str = "images";

/// Notes an image that was named by its path. A cache that cannot be written
/// costs the note and nothing else.
pub(crate) fn remember(image: &Path, cache: &Path) {
    let Ok(path) = image.canonicalize() else { return };
    let mut known = remembered(cache);
    if known.contains(&path) {
        return;
    }
    known.push(path);
    let lines: String = known.iter().map(|path| format!("{}\n", path.display())).collect();
    let written = fs::create_dir_all(cache).and_then(|()| fs::write(cache.join(IMAGES), lines));
    if let Err(error) = written {
        tracing::debug!(%error, "the image is not remembered");
    }
}

/// Images that were named by their path and are still there, oldest first.
pub(crate) fn remembered(cache: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string(cache.join(IMAGES)).unwrap_or_default();
    text.lines().map(PathBuf::from).filter(|path| path.is_file()).collect()
}

/// The extracted trees in the cache, oldest version first.
pub(crate) fn cached_trees(cache: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(cache.join("kernels")) else { return Vec::new() };
    let mut trees: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| path.join("boot").is_dir() && !file_name(path).starts_with('.'))
        .collect();
    trees.sort_by(|a, b| version_order(file_name(a), file_name(b)));
    trees
}

/// The tree of the series or Debian release `name`: the newest one in the
/// cache, else the newest one the package manager offers.
pub(crate) fn named(name: &str, cache: &Path) -> Result<PathBuf, LabError> {
    let unknown = |detail: String| LabError::KernelUnknown { name: name.into(), detail };
    if !name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(unknown("it is neither a file nor a version".into()));
    }
    let cached = cached_trees(cache)
        .into_iter()
        .rfind(|tree| matches(file_name(tree).trim_start_matches("linux-image-"), name));
    if let Some(tree) = cached {
        return Ok(tree);
    }
    let offered = offered_packages(name)?;
    let package = offered.last().ok_or_else(|| {
        unknown(format!("the package manager offers no linux-image-{name}*; run apt-get update"))
    })?;
    download(package, cache)
}

/// The tree of a package file, extracted into the cache under its content.
pub(crate) fn unpack_deb(deb: &Path, cache: &Path) -> Result<PathBuf, LabError> {
    let bytes = fs::read(deb).map_err(LabError::io("read package", deb))?;
    let digest = hex(&Sha256::digest(&bytes));
    let tree = cache.join("packages").join(&digest[..16]);
    if tree.is_dir() {
        return Ok(tree);
    }
    extract(deb, &tree)?;
    Ok(tree)
}

/// `release` is `name` itself, with or without the architecture, or a member
/// of the series `name`: `6.1` has `6.1.0-56-amd64`, not `6.12.117-amd64`.
fn matches(release: &str, name: &str) -> bool {
    match release.strip_prefix(name) {
        Some("" | "-amd64") => true,
        Some(rest) => rest.starts_with(['.', '-', '+']) && release.ends_with("-amd64"),
        None => false,
    }
}

fn offered_packages(name: &str) -> Result<Vec<String>, LabError> {
    let pattern = format!("^linux-image-{}", name.replace('.', "\\.").replace('+', "\\+"));
    let output = Command::new("apt-cache")
        .args(["search", "--names-only", &pattern])
        .output()
        .map_err(|error| LabError::Fetch {
            package: format!("linux-image-{name}"),
            detail: format!("apt-cache does not run ({error})"),
        })?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(choose(text.lines().filter_map(|line| line.split_whitespace().next()), name))
}

/// The packages of stock kernels among `packages`, oldest first. Cloud and
/// real-time flavours are other kernels, and meta-packages hold none.
fn choose<'a>(packages: impl Iterator<Item = &'a str>, name: &str) -> Vec<String> {
    let mut found: Vec<String> = packages
        .filter(|package| {
            let release = package.trim_start_matches("linux-image-");
            let versioned = release.split('-').next().is_some_and(|v| v.matches('.').count() >= 2);
            let flavour = release.contains("-cloud-") || release.contains("-rt-");
            versioned && !flavour && release.ends_with("-amd64") && matches(release, name)
        })
        .map(str::to_owned)
        .collect();
    found.sort_by(|a, b| version_order(a, b));
    found
}

fn download(package: &str, cache: &Path) -> Result<PathBuf, LabError> {
    fs::create_dir_all(cache).map_err(LabError::io("create cache", cache))?;
    let dir = tempfile::Builder::new()
        .prefix(".download-")
        .tempdir_in(cache)
        .map_err(LabError::io("create a folder in", cache))?;
    let failed = |detail: String| LabError::Fetch { package: package.into(), detail };
    let output = Command::new("apt-get")
        .args(["download", package])
        .current_dir(dir.path())
        .output()
        .map_err(|error| failed(format!("apt-get does not run ({error})")))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(failed(text.lines().last().unwrap_or("apt-get said nothing").to_owned()));
    }
    let deb = fs::read_dir(dir.path())
        .map_err(LabError::io("read folder", dir.path()))?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|e| e == "deb"))
        .ok_or_else(|| failed("apt-get left no package file".into()))?;
    let tree = cache.join("kernels").join(package);
    extract(&deb, &tree)?;
    Ok(tree)
}

fn extract(deb: &Path, tree: &Path) -> Result<(), LabError> {
    let parent = tree.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(LabError::io("create cache", parent))?;
    let half = tempfile::Builder::new()
        .prefix(".half-")
        .tempdir_in(parent)
        .map_err(LabError::io("create a folder in", parent))?;
    let output = Command::new("dpkg-deb").arg("-x").arg(deb).arg(half.path()).output();
    let refuse = |why: String| LabError::NotAKernel { path: deb.to_owned(), why };
    match output {
        Err(error) => return Err(refuse(format!("dpkg-deb does not run ({error})"))),
        Ok(output) if !output.status.success() => {
            let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(refuse(format!("dpkg-deb cannot extract it ({text})")));
        }
        Ok(_) => {}
    }
    // The folder is renamed away; a second process that was faster wins.
    let half = half.keep();
    if let Err(error) = fs::rename(&half, tree) {
        let _ = fs::remove_dir_all(&half);
        if !tree.is_dir() {
            return Err(LabError::io("move the package to", tree)(error));
        }
    }
    Ok(())
}

fn file_name(path: &Path) -> &str {
    path.file_name().and_then(|n| n.to_str()).unwrap_or_default()
}

/// Compares runs of digits as numbers and the rest as text, as `sort -V` does.
fn version_order(a: &str, b: &str) -> Ordering {
    let (a, b) = (chunks(a), chunks(b));
    a.cmp(&b)
}

fn chunks(text: &str) -> Vec<(u64, String)> {
    let mut found: Vec<(u64, String)> = vec![(0, String::new())];
    let mut digits = String::new();
    for c in text.chars().chain(Some('\0')) {
        if c.is_ascii_digit() {
            digits.push(c);
            continue;
        }
        if !digits.is_empty() {
            found.push((digits.parse().unwrap_or(u64::MAX), String::new()));
            digits.clear();
        }
        if let Some(last) = found.last_mut() {
            last.1.push(c);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFERED: [&str; 7] = [
        "linux-image-6.1.0-9-amd64",
        "linux-image-6.1.0-56-amd64",
        "linux-image-6.1.0-56-cloud-amd64",
        "linux-image-6.12-amd64",
        "linux-image-6.12.9+deb12-amd64",
        "linux-image-6.12.117+deb12-amd64",
        "linux-image-6.12.117+deb12-rt-amd64",
    ];

    fn check(name: &str, expected: &[&str]) {
        assert_eq!(choose(OFFERED.into_iter(), name), expected, "{name}");
    }

    #[test]
    fn images_named_by_path_are_remembered_once_while_they_are_there() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let image = dir.path().join("bzImage");
        fs::write(&image, "x").expect("an image");
        remember(&image, dir.path());
        remember(&image, dir.path());
        assert_eq!(remembered(dir.path()), [image.canonicalize().expect("a path")]);
        fs::remove_file(&image).expect("gone");
        assert_eq!(remembered(dir.path()), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_series_takes_stock_kernels_in_order_of_version() {
        check("6.1", &["linux-image-6.1.0-9-amd64", "linux-image-6.1.0-56-amd64"]);
        check("6.12", &["linux-image-6.12.9+deb12-amd64", "linux-image-6.12.117+deb12-amd64"]);
    }

    #[test]
    fn a_release_takes_itself() {
        check("6.1.0-56-amd64", &["linux-image-6.1.0-56-amd64"]);
        check("6.12.117", &["linux-image-6.12.117+deb12-amd64"]);
        check("5.4", &[]);
    }

    #[test]
    fn words_are_no_versions() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        assert!(matches!(named("latest", dir.path()), Err(LabError::KernelUnknown { .. })));
    }

    #[test]
    fn a_file_that_is_no_package_is_refused_and_leaves_nothing() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let deb = dir.path().join("x.deb");
        fs::write(&deb, "no archive").expect("a written file");
        assert!(matches!(unpack_deb(&deb, dir.path()), Err(LabError::NotAKernel { .. })));
        let left = fs::read_dir(dir.path().join("packages")).map_or(0, Iterator::count);
        assert_eq!(left, 0);
    }
}
