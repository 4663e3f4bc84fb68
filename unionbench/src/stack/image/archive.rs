//! `docker-archive:`: one tar file from `docker save`. Its members are read
//! where they lie in the file; nothing is extracted.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use serde::Deserialize;

use super::entries::{Entries, Kind};
use super::manifest::{read, with_config};
use super::{Blob, Image, ImageError};

#[derive(Deserialize)]
struct Item {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "RepoTags", default)]
    tags: Option<Vec<String>>,
    #[serde(rename = "Layers")]
    layers: Vec<String>,
}

/// Members beyond this are no image of 500 layers.
const MAX_MEMBERS: usize = 100_000;

pub(super) fn open(path: &Path, name: Option<&str>) -> Result<Image, ImageError> {
    let members = members(path)?;
    let format = |problem: String| ImageError::Format { path: path.to_owned(), problem };
    let find = |wanted: &str| {
        member(&members, wanted).cloned().ok_or_else(|| format(format!("it holds no {wanted:?}")))
    };
    let manifest: Vec<Item> = read("manifest.json", &find("manifest.json")?.document()?)?;
    let has_tag =
        |item: &&Item| name.is_none_or(|name| item.tags.iter().flatten().any(|tag| tag == name));
    let Some(item) = manifest.iter().find(has_tag) else {
        let there = manifest.iter().flat_map(|i| i.tags.iter().flatten().cloned()).collect();
        return Err(ImageError::Name { wanted: name.unwrap_or_default().to_owned(), there });
    };
    let blobs = item.layers.iter().map(|layer| find(layer)).collect::<Result<Vec<_>, _>>()?;
    let mut config = find(&item.config)?;
    config.digest = digest_in_name(&item.config);
    let reference = match name {
        Some(name) => format!("docker-archive:{}:{name}", path.display()),
        None => format!("docker-archive:{}", path.display()),
    };
    with_config(reference, &config, blobs)
}

/// `<hex>.json`, `<hex>` or `blobs/sha256/<hex>` names a digest; other names do
/// not, and the diff ids alone then tell whether the layers are whole.
fn digest_in_name(name: &str) -> Option<String> {
    let stem = name.rsplit('/').next()?.trim_end_matches(".json");
    let digest = format!("sha256:{stem}");
    super::blob::Hash::of(&digest, name).is_ok().then_some(digest)
}

enum Member {
    File(Blob),
    /// Older versions of docker link layers that two images share; the name of
    /// the other member.
    Link(String),
}

/// A member by its name, through one link.
fn member<'a>(members: &'a HashMap<String, Member>, name: &str) -> Option<&'a Blob> {
    let direct = |name: &str| match members.get(name)? {
        Member::File(blob) => Some(blob),
        Member::Link(_) => None,
    };
    match members.get(name)? {
        Member::File(blob) => Some(blob),
        Member::Link(target) => direct(target),
    }
}

/// What a symbolic link at `name` means: its target is relative to its folder,
/// as in `../<id>/layer.tar`.
fn resolved(name: &str, target: &str) -> String {
    let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => _ = parts.pop(),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn members(path: &Path) -> Result<HashMap<String, Member>, ImageError> {
    let failed = |source| ImageError::Read { path: path.to_owned(), source };
    let format =
        |problem: &str| ImageError::Format { path: path.to_owned(), problem: problem.to_owned() };
    Blob::file(path, None)?;
    let mut file = File::open(path).map_err(failed)?;
    let mut magic = [0; 4];
    let n = file.read(&mut magic).map_err(failed)?;
    if magic[..n].starts_with(&[0x1f, 0x8b]) || magic[..n] == [0x28, 0xb5, 0x2f, 0xfd] {
        return Err(format("it is compressed; decompress it first (`gunzip`, `unzstd`)"));
    }
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    let label = path.display().to_string();
    let mut entries = Entries::new(BufReader::with_capacity(64 << 10, file), &label);
    let mut found = HashMap::new();
    while let Some(entry) = entries.next()? {
        let name = String::from_utf8_lossy(&entry.path);
        let name = name.trim_start_matches("./").trim_end_matches('/').to_owned();
        let member = match entry.kind {
            Kind::File => {
                let digest = name.contains("blobs/").then(|| digest_in_name(&name)).flatten();
                Member::File(Blob::piece(path, entries.position(), entry.size, digest))
            }
            Kind::Symlink => Member::Link(resolved(&name, &String::from_utf8_lossy(&entry.link))),
            Kind::HardLink => Member::Link(String::from_utf8_lossy(&entry.link).into_owned()),
            _ => continue,
        };
        if found.len() >= MAX_MEMBERS {
            return Err(format("it holds too many members for an image"));
        }
        found.insert(name, member);
        entries.seek_past_data()?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_between_members_are_relative_to_their_folder() {
        assert_eq!(resolved("a/layer.tar", "../b/layer.tar"), "b/layer.tar");
        assert_eq!(resolved("a/layer.tar", "other.tar"), "a/other.tar");
        assert_eq!(resolved("x", "../../../etc/passwd"), "etc/passwd");
    }
}
