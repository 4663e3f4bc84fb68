//! What unpacked layers show together is what applying the archives in order
//! gives, by a model and by GNU tar.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;

use proptest::prelude::*;
use tar::EntryType;
use unionbench::plan::{BackingKind, BackingPlan, ImagePlan, SizePlan, StackPlan};
use unionbench::stack::image::{Image, Platform, UnpackOptions, unpack};
use unionbench::stack::{BuildOptions, Whiteout, XattrNamespace, build};
use unionbench::unit::Bytes;

use crate::builder::{Archive, COMPRESSIONS, Compression, layout};
use crate::tree::{self, Object};

fn plan(image: &Path, squash: bool) -> StackPlan {
    StackPlan {
        params: BTreeMap::new(),
        image: Some(ImagePlan {
            reference: format!("oci:{}", image.display()),
            platform: None,
            squash,
        }),
        n_layers: 0,
        files_per_layer: 0,
        dirs: 1,
        depth: 0,
        size: SizePlan::Fixed(Bytes(0)),
        whiteouts_per_layer: 0,
        opaque_dirs_per_layer: 0,
        verity: false,
        shared_dirs: true,
        groups: Vec::new(),
        files: Vec::new(),
        seed: 1,
        backing: BackingPlan {
            kind: BackingKind::Dir,
            size: Bytes(0),
            mount_options: Vec::new(),
            mkfs: String::new(),
        },
    }
}

/// The merged view of an image, as a tree on disk.
fn merged(image: &Path) -> (tempfile::TempDir, BTreeMap<String, Object>) {
    let place = tempfile::tempdir().expect("a temporary folder");
    let options =
        BuildOptions { xattr_namespace: XattrNamespace::User, whiteout: Whiteout::CharDev };
    let never = AtomicBool::new(false);
    let stack = build(&plan(image, true), place.path(), options, &never).expect("it is built");
    assert_eq!(stack.lower.len(), 1);
    let tree = tree::read(&stack.lower[0]);
    (place, tree)
}

/// What a layer does to a path of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Dir(u32),
    File(Vec<u8>),
    Symlink(String),
}

type Model = BTreeMap<String, Node>;

/// Names few enough to meet often.
const PATHS: [&str; 12] =
    ["a", "b", "a/x", "a/y", "b/x", "a/x/1", "a/x/2", "a/y/1", "b/x/1", "c", "c/x", "c/x/1"];

fn parents(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..at])
}

fn is_below(path: &str, dir: &str) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
}

/// One layer under construction: what it makes, hides and makes opaque.
#[derive(Debug, Clone, Default)]
struct Draft {
    nodes: Model,
    hidden: Vec<String>,
    opaque: Vec<String>,
}

impl Draft {
    /// Adds a step if it is one that a builder of images could take: parents
    /// are directories here or below, and only what is there can be hidden.
    fn step(&mut self, below: &Model, path: &str, what: u8, text: u8) {
        let is_hidden = |p: &str| self.hidden.iter().any(|h| h == p || is_below(p, h));
        let blocked = parents(path).any(|parent| match self.nodes.get(parent) {
            Some(Node::Dir(_)) => false,
            Some(_) => true,
            None => !matches!(below.get(parent), Some(Node::Dir(_))) || is_hidden(parent),
        });
        let has_inner = self.nodes.keys().any(|known| is_below(known, path))
            || self.hidden.iter().any(|known| is_below(known, path));
        if blocked {
            return;
        }
        if matches!(what, 0 | 1 | 4) && !has_inner {
            // What was a directory of this layer is one no longer.
            self.opaque.retain(|known| known != path);
        }
        match what {
            0 | 1 if !has_inner => {
                self.nodes.insert(path.to_owned(), Node::File(vec![text; text as usize]));
            }
            2 | 3 => {
                self.nodes.insert(path.to_owned(), Node::Dir(0o700 | u32::from(text & 0o77)));
            }
            4 if !has_inner => {
                self.nodes.insert(path.to_owned(), Node::Symlink(format!("../t{text}")));
            }
            5 if below.contains_key(path) && !has_inner && !self.nodes.contains_key(path) => {
                self.hidden.push(path.to_owned());
            }
            6 if matches!(self.nodes.get(path), Some(Node::Dir(_))) => {
                self.opaque.push(path.to_owned());
            }
            _ => {}
        }
    }

    /// The archive; in reverse, children stand before their directories.
    fn archive(&self, reverse: bool) -> Vec<u8> {
        let mut archive = Archive::default();
        for path in &self.hidden {
            let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
            let dir = if dir.is_empty() { String::new() } else { format!("{dir}/") };
            archive = archive.file(&format!("{dir}.wh.{name}"), b"");
        }
        let mut nodes: Vec<_> = self.nodes.iter().collect();
        if reverse {
            nodes.reverse();
        }
        for (path, node) in nodes {
            archive = match node {
                Node::Dir(mode) => {
                    let mut header = Archive::header(EntryType::Directory, path, "", 0);
                    header.set_mode(*mode);
                    archive.raw(&header, &[])
                }
                Node::File(bytes) => {
                    archive.pax(&[("SCHILY.xattr.user.k", bytes.as_slice())]).file(path, bytes)
                }
                Node::Symlink(target) => archive.symlink(path, target),
            };
        }
        for path in &self.opaque {
            archive = archive.file(&format!("{path}/.wh..wh..opq"), b"");
        }
        archive.end()
    }

    /// The same done to the tree below.
    fn apply(&self, tree: &mut Model) {
        for path in &self.hidden {
            tree.retain(|known, _| known != path && !is_below(known, path));
        }
        for path in &self.opaque {
            tree.retain(|known, _| !is_below(known, path));
        }
        for (path, node) in &self.nodes {
            // What an opaque directory hid is made anew.
            for parent in parents(path) {
                tree.entry(parent.to_owned()).or_insert(Node::Dir(0o755));
            }
            let keeps = matches!((tree.get(path), node), (Some(Node::Dir(_)), Node::Dir(_)));
            if !keeps {
                tree.retain(|known, _| known != path && !is_below(known, path));
            }
            tree.insert(path.clone(), node.clone());
        }
    }
}

fn shown(tree: BTreeMap<String, Object>) -> Model {
    let node = |(path, object): (String, Object)| {
        let node = match object.kind {
            "dir" => Node::Dir(object.mode),
            "symlink" => Node::Symlink(String::from_utf8(object.content).expect("text")),
            "file" => {
                assert_eq!(object.xattrs.get("user.k"), Some(&object.content), "{path}");
                Node::File(object.content)
            }
            other => panic!("{path} is a {other}"),
        };
        (path, node)
    };
    tree.into_iter().map(node).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn merged_layers_are_the_archives_applied_in_order(
        layers in prop::collection::vec(
            (prop::collection::vec((0..PATHS.len(), 0_u8..7, any::<u8>()), 1..24), any::<bool>()),
            1..6,
        ),
        compression in 0..3_usize,
    ) {
        let mut expected = Model::new();
        let mut archives = Vec::new();
        for (steps, reverse) in layers {
            let mut draft = Draft::default();
            for (path, what, text) in steps {
                draft.step(&expected, PATHS[path], what, text);
            }
            archives.push(draft.archive(reverse));
            draft.apply(&mut expected);
        }
        let image = tempfile::tempdir().expect("a temporary folder");
        layout(image.path(), &archives, COMPRESSIONS[compression]);
        let (_place, tree) = merged(image.path());
        prop_assert_eq!(shown(tree), expected);
    }
}

/// Layers with everything that GNU tar writes and a layer may hold.
fn rich_layers(place: &Path) -> Vec<Vec<u8>> {
    let source = place.join("source");
    let write = |path: &str, text: &[u8]| {
        let path = source.join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
        fs::write(path, text).expect("a file");
    };
    write("usr/bin/tool", b"#!/bin/sh\n");
    write(&format!("usr/share/{}/{}", "long".repeat(30), "name".repeat(40)), b"deep");
    write("var/lib/data", &[7; 100_000]);
    write("etc/empty", b"");
    fs::hard_link(source.join("usr/bin/tool"), source.join("usr/bin/alias")).expect("a link");
    std::os::unix::fs::symlink("/usr/bin/tool", source.join("etc/link")).expect("a link");
    let sparse = fs::File::create(source.join("var/sparse")).expect("a file");
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"middle", 1 << 20).expect("data");
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"end", 3 << 20).expect("data");
    sparse.set_len(5 << 20).expect("a length");
    let mode = rustix::fs::Mode::from_raw_mode(0o640);
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, source.join("var/fifo"), fifo, mode, 0).expect("a FIFO");
    let set = |path: &str, mode: u32| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        fs::set_permissions(source.join(path), mode).expect("a mode");
    };
    set("usr/bin/tool", 0o4755);
    set("var/lib", 0o1777);
    let flags = rustix::fs::XattrFlags::empty();
    for path in ["etc/empty", "var/lib"] {
        rustix::fs::setxattr(source.join(path), "user.note", b"line\nbreak", flags)
            .expect("an attribute");
    }
    let formats: [&[&str]; 4] = [
        &["--format=gnu", "--sparse"],
        &["--format=pax", "--sparse", "--sparse-version=1.0", "--xattrs"],
        &["--format=pax", "--sparse", "--sparse-version=0.1", "--xattrs"],
        &["--format=pax", "--sparse", "--sparse-version=0.0", "--xattrs"],
    ];
    let pack = |options: &[&str]| {
        let output = Command::new("tar")
            .args(["-c", "-C"])
            .arg(&source)
            .args(options)
            .arg(".")
            .output()
            .expect("tar starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    formats.map(pack).into()
}

#[test]
fn a_layer_of_gnu_tar_is_unpacked_as_tar_unpacks_it() {
    let place = tempfile::tempdir().expect("a temporary folder");
    for (index, bytes) in rich_layers(place.path()).into_iter().enumerate() {
        for compression in COMPRESSIONS {
            let image = tempfile::tempdir().expect("a temporary folder");
            layout(image.path(), std::slice::from_ref(&bytes), compression);
            let reference = format!("oci:{}", image.path().display()).parse().expect("a reference");
            let opened = Image::open(&reference, &Platform::here()).expect("it opens");
            let ours = tempfile::tempdir().expect("a temporary folder");
            let never = AtomicBool::new(false);
            let unpacked = unpack(&opened, ours.path(), UnpackOptions::default(), &never);
            let report = unpacked.expect("it unpacks").layers[0].report;
            let theirs = tempfile::tempdir().expect("a temporary folder");
            let archive = theirs.path().join("layer.tar");
            fs::write(&archive, &bytes).expect("an archive");
            let target = theirs.path().join("tree");
            fs::create_dir(&target).expect("a folder");
            let status = Command::new("tar")
                .args(["-x", "-p", "--xattrs", "--xattrs-include=*", "-f"])
                .arg(&archive)
                .arg("-C")
                .arg(&target)
                .status()
                .expect("tar starts");
            assert!(status.success());
            let ours_tree = tree::read(&ours.path().join("L000"));
            assert_eq!(ours_tree, tree::read(&target), "format {index}");
            assert_eq!((report.hard_links, report.fifos, report.symlinks), (1, 1, 1));
            let blocks = |root: &Path| {
                let path = root.join("var/sparse");
                std::os::unix::fs::MetadataExt::blocks(&fs::metadata(path).expect("a file"))
            };
            assert!(blocks(&ours.path().join("L000")) <= 64, "holes were filled");
        }
    }
}

#[test]
fn whiteouts_concern_the_layers_below_only() {
    let bottom = Archive::default()
        .dir("d")
        .file("d/old", b"o")
        .file("f", b"old")
        .dir("o")
        .file("o/old", b"o")
        .end();
    // Each name is hidden and made again in one layer, in either order.
    let top = Archive::default()
        .file(".wh.d", b"")
        .dir("d")
        .file("d/new", b"n")
        .file("f", b"new")
        .file(".wh.f", b"")
        .file("o/new", b"n")
        .file("o/.wh..wh..opq", b"")
        .file(".wh..wh.plnk/1.2", b"aufs' own")
        .file(".wh..wh.aufs", b"aufs' own")
        .end();
    let image = tempfile::tempdir().expect("a temporary folder");
    layout(image.path(), &[bottom, top], Compression::Gzip);
    let (_place, tree) = merged(image.path());
    let names: Vec<&str> = tree.keys().map(String::as_str).collect();
    assert_eq!(names, ["d", "d/new", "f", "o", "o/new"]);
    assert_eq!(tree["f"].content, b"new");
}

#[test]
fn a_directory_that_is_only_implied_keeps_its_mode_from_below() {
    let mut header = Archive::header(EntryType::Directory, "tmp", "", 0);
    header.set_mode(0o1777);
    let bottom = Archive::default().raw(&header, &[]).file("tmp/old", b"o").end();
    let middle = Archive::default().file("other", b"x").end();
    let top = Archive::default().file("tmp/new", b"n").end();
    let image = tempfile::tempdir().expect("a temporary folder");
    layout(image.path(), &[bottom, middle, top], Compression::Plain);
    let (_place, tree) = merged(image.path());
    assert_eq!(tree["tmp"].mode, 0o1777);
    assert_eq!(tree.len(), 4);
}

#[test]
fn an_opaque_root_hides_every_layer_below() {
    let bottom = Archive::default().file("old", b"o").end();
    let top = Archive::default().file(".wh..wh..opq", b"").file("new", b"n").end();
    let image = tempfile::tempdir().expect("a temporary folder");
    layout(image.path(), &[bottom, top], Compression::Plain);
    let (_place, tree) = merged(image.path());
    assert_eq!(tree.into_keys().collect::<Vec<_>>(), ["new"]);
}
