//! Images go into the guest under the names the scenario gives them.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::lab::GuestFile;
use crate::plan::Plan;
use crate::stack::image::Reference;

/// The files of every image that the plan takes its layers from.
pub(super) fn files(plan: &Plan) -> anyhow::Result<Vec<GuestFile>> {
    let mut found = BTreeMap::new();
    for image in plan.stacks.iter().filter_map(|stack| stack.image.as_ref()) {
        let reference: Reference = image.reference.parse()?;
        let path = reference.path();
        let inside = inside(path)?;
        gather(path, &inside, &mut found)
            .with_context(|| format!("cannot put image {reference} into the guest"))?;
    }
    Ok(found.into_iter().map(|(inside, host)| GuestFile::host(inside, host)).collect())
}

/// What the path leads to in the guest, whose working directory is its root.
fn inside(path: &Path) -> anyhow::Result<String> {
    let mut name = String::new();
    for part in path.components() {
        match part {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(part) => {
                let part = part.to_str().context("cannot take an image whose path is not UTF-8")?;
                name.push('/');
                name.push_str(part);
            }
            Component::ParentDir | Component::Prefix(_) => bail!(
                "cannot take image {} into the guest, which has no folder above its own: name it \
                 by an absolute path",
                path.display()
            ),
        }
    }
    if name.is_empty() {
        bail!("cannot take {} into the guest as an image: it is no folder of one", path.display());
    }
    Ok(name)
}

fn gather(host: &Path, inside: &str, found: &mut BTreeMap<String, PathBuf>) -> std::io::Result<()> {
    if !host.metadata()?.is_dir() {
        found.insert(inside.to_owned(), host.to_owned());
        return Ok(());
    }
    for entry in host.read_dir()? {
        let entry = entry?;
        let name = entry.file_name();
        // Names of blobs are digests; whatever else lies there is not read.
        if let Some(name) = name.to_str() {
            gather(&entry.path(), &format!("{inside}/{name}"), found)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_found_in_the_guest_under_its_own_name() {
        let named = |path: &str| inside(Path::new(path)).ok();
        assert_eq!(named("./img").as_deref(), Some("/img"));
        assert_eq!(named("/a/b.tar").as_deref(), Some("/a/b.tar"));
        assert_eq!(named("../img"), None);
        assert_eq!(named("."), None);
    }
}
