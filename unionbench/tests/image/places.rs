//! The kinds of place an image lies in, and which image is chosen there.

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use unionbench::stack::image::{Image, ImageError, Platform, UnpackOptions, unpack};

use crate::builder::{self, Archive, COMPRESSIONS, Compression};
use crate::tree;

fn layers() -> Vec<Vec<u8>> {
    let bottom = Archive::default().dir("etc").file("etc/name", b"old").file("gone", b"g");
    let top = Archive::default().file("etc/name", b"new").file(".wh.gone", b"");
    vec![bottom.end(), top.end()]
}

fn open(reference: &str) -> Result<Image, ImageError> {
    Image::open(&reference.parse().expect("a reference"), &Platform::here())
}

fn check(image: &Image) {
    let place = tempfile::tempdir().expect("a temporary folder");
    let never = AtomicBool::new(false);
    let unpacked = unpack(image, place.path(), UnpackOptions::default(), &never).expect("it does");
    assert_eq!(unpacked.layers.len(), 2);
    let top = tree::read(&place.path().join("L000"));
    assert_eq!(top["etc/name"].content, b"new");
    assert_eq!(top["gone"].kind, "whiteout");
    assert_eq!(tree::read(&place.path().join("L001"))["gone"].content, b"g");
}

#[test]
fn an_oci_layout_is_read_in_each_compression() {
    for compression in COMPRESSIONS {
        let place = tempfile::tempdir().expect("a temporary folder");
        builder::layout(place.path(), &layers(), compression);
        check(&open(&format!("oci:{}", place.path().display())).expect("it opens"));
    }
}

#[test]
fn a_docker_archive_is_read_through_its_links_and_by_its_tag() {
    let place = tempfile::tempdir().expect("a temporary folder");
    let path = place.path().join("saved.tar");
    builder::docker_archive(&path, &layers(), "debian:12");
    let reference = format!("docker-archive:{}", path.display());
    check(&open(&reference).expect("it opens"));
    check(&open(&format!("{reference}:debian:12")).expect("the tag is there"));
    let error = open(&format!("{reference}:alpine:3")).expect_err("no such tag").to_string();
    assert!(error.contains("debian:12"), "{error}");
}

#[test]
fn a_compressed_docker_archive_names_the_remedy() {
    let place = tempfile::tempdir().expect("a temporary folder");
    let path = place.path().join("saved.tar");
    builder::docker_archive(&path, &layers(), "x:1");
    let packed = Compression::Gzip.pack(&fs::read(&path).expect("the archive"));
    fs::write(&path, packed).expect("the archive");
    let error = open(&format!("docker-archive:{}", path.display())).expect_err("it is packed");
    assert!(error.to_string().contains("gunzip"), "{error}");
}

#[test]
fn a_folder_of_blobs_is_read() {
    let place = tempfile::tempdir().expect("a temporary folder");
    let folder = place.path().join("blobs");
    builder::dir(&folder, &layers(), Compression::Zstd);
    check(&open(&format!("dir:{}", folder.display())).expect("it opens"));
}

#[test]
fn nested_indices_lead_to_the_platform_that_is_asked_for() {
    let place = tempfile::tempdir().expect("a temporary folder");
    let of = |architecture: &str, text: &[u8], told: bool| {
        let layers = [Archive::default().file("arch", text).end()];
        let mut manifest =
            builder::manifest(place.path(), &layers, Compression::Gzip, architecture);
        if told {
            manifest["platform"] =
                serde_json::json!({ "os": "linux", "architecture": architecture });
        }
        manifest
    };
    // One descriptor tells its platform, of the other the configuration does.
    let inner = [of("riscv64", b"r", true), of("s390x", b"s", false)];
    let inner = builder::nested_index(place.path(), &inner);
    let outer = builder::nested_index(place.path(), &[of("amd64", b"a", true), inner]);
    builder::finish_layout(place.path(), &[outer]);
    let reference = format!("oci:{}", place.path().display()).parse().expect("a reference");
    for (platform, text) in [("linux/riscv64", "r"), ("linux/s390x", "s"), ("linux/amd64", "a")] {
        let image = Image::open(&reference, &platform.parse().expect("one")).expect("it is there");
        let target = tempfile::tempdir().expect("a temporary folder");
        let never = AtomicBool::new(false);
        unpack(&image, target.path(), UnpackOptions::default(), &never).expect("it unpacks");
        let found = fs::read_to_string(target.path().join("L000/arch")).expect("a file");
        assert_eq!(found, text);
    }
    let error = Image::open(&reference, &"linux/mips".parse().expect("one")).expect_err("none");
    assert!(error.to_string().contains("linux/s390x"), "{error}");
}

#[test]
fn an_endless_nest_of_indices_is_refused() {
    let place = tempfile::tempdir().expect("a temporary folder");
    let mut index = builder::nested_index(place.path(), &[]);
    for _ in 0..20 {
        index = builder::nested_index(place.path(), &[index]);
    }
    builder::finish_layout(place.path(), &[index]);
    let error = open(&format!("oci:{}", place.path().display())).expect_err("it is refused");
    assert!(error.to_string().contains("nested"), "{error}");
}

#[test]
fn what_is_no_image_is_refused_with_its_path() {
    let place = tempfile::tempdir().expect("a temporary folder");
    let empty = place.path().join("empty");
    fs::create_dir(&empty).expect("a folder");
    let file = place.path().join("file");
    fs::write(&file, b"no archive at all, but longer than a block".repeat(40)).expect("a file");
    let missing = place.path().join("missing");
    let refused = |kind: &str, path: &Path| {
        let error = open(&format!("{kind}:{}", path.display())).expect_err("it is none");
        let text = error.to_string();
        assert!(text.contains(&path.display().to_string()), "{text}");
    };
    for kind in ["oci", "dir", "docker-archive"] {
        refused(kind, &empty);
        refused(kind, &missing);
    }
    refused("docker-archive", &file);
}
