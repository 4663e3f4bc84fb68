//! Archives that try to get out, to fill the disk, or to steer the mount. Each
//! class is tried plain, with gzip and with zstd; whatever the answer, nothing
//! outside the target may change.

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use tar::EntryType;
use unionbench::stack::image::{
    Image, ImageError, Limits, Platform, Reference, Refusal, UnpackOptions, unpack,
};

use crate::builder::{Archive, COMPRESSIONS, Compression, digest, layout};
use crate::tree;

/// What must come of an archive.
enum Answer {
    Refused(fn(&Refusal) -> bool),
    /// Unpacked, and so that nothing is harmed: the paths that must be there.
    Harmless(&'static [&'static str]),
}

use Answer::{Harmless, Refused};

fn limits() -> Limits {
    Limits { bytes: 1 << 20, entries: 500, file_length: 1 << 30 }
}

fn cases() -> Vec<(&'static str, Archive, Answer)> {
    let new = Archive::default;
    let parent = Refused(|why| matches!(why, Refusal::Parent));
    let through = |why: &Refusal| matches!(why, Refusal::ThroughNonDirectory(_));
    let mut many = new();
    for n in 0..600 {
        many = many.file(&format!("f{n}"), b"");
    }
    let huge = |kind| Archive::header(kind, "huge", "", 1 << 40);
    let mut sparse = Archive::header(EntryType::GNUSparse, "sparse", "", 0);
    sparse.as_gnu_mut().expect("GNU").set_real_size(1 << 50);
    let mut wrong_sum = Archive::header(EntryType::Regular, "sum", "", 0);
    wrong_sum.set_mode(0o777);
    vec![
        ("name that goes up", new().file("../evil", b"x"), parent),
        (
            "name that goes up from inside",
            new().dir("a").file("a/../../evil", b"x"),
            Refused(|why| matches!(why, Refusal::Parent)),
        ),
        (
            "name that goes up in pax",
            new().pax(&[("path", b"x/../../evil")]).file("good", b"x"),
            Refused(|why| matches!(why, Refusal::Parent)),
        ),
        (
            "absolute name",
            new().file("/evil", b"x"),
            Refused(|why| matches!(why, Refusal::Absolute)),
        ),
        (
            "name with a NUL",
            new().pax(&[("path", b"good\0/../evil")]).file("good", b"x"),
            Refused(|why| matches!(why, Refusal::Name)),
        ),
        (
            "parent that is a link up",
            new().symlink("link", "../outside").file("link/evil", b"x"),
            Refused(through),
        ),
        (
            "parent that is a link to a link",
            new().symlink("a", "../outside").symlink("b", "a").dir("b/evil"),
            Refused(through),
        ),
        (
            "link made through a link",
            new().symlink("a", "..").symlink("a/evil", "x"),
            Refused(through),
        ),
        (
            "whiteout through a link",
            new().symlink("link", "../outside").file("link/.wh.victim", b""),
            Refused(through),
        ),
        (
            "file over a link that leads out",
            new().symlink("x", "../outside/victim").file("x", b"overwritten"),
            Harmless(&["x"]),
        ),
        (
            "directory over a link that leads out",
            new().symlink("x", "../outside").dir("x").file("x/evil", b"x"),
            Harmless(&["x/evil"]),
        ),
        (
            "hard link that goes up",
            new().hard_link("x", "../outside/victim"),
            Refused(|why| matches!(why, Refusal::Parent)),
        ),
        (
            "hard link to an absolute name",
            new().hard_link("x", "/etc/passwd"),
            Refused(|why| matches!(why, Refusal::Absolute)),
        ),
        (
            "hard link through a link",
            new().symlink("out", "../outside").hard_link("x", "out/victim"),
            Refused(|why| matches!(why, Refusal::Link(_))),
        ),
        (
            "write through a hard link to a link",
            new().symlink("s", "../outside/victim").hard_link("h", "s").file("h", b"overwritten"),
            Harmless(&["h", "s"]),
        ),
        (
            "character device",
            new().device(EntryType::Char, "mem", 1, 1),
            Refused(|why| matches!(why, Refusal::Device)),
        ),
        (
            "block device",
            new().device(EntryType::Block, "disk", 8, 0),
            Refused(|why| matches!(why, Refusal::Device)),
        ),
        (
            "whiteout of overlayfs",
            new().device(EntryType::Char, "etc", 0, 0),
            Refused(|why| matches!(why, Refusal::Device)),
        ),
        (
            "redirect of overlayfs",
            new().pax(&[("SCHILY.xattr.trusted.overlay.redirect", b"/../../etc")]).dir("d"),
            Refused(|why| matches!(why, Refusal::OverlayXattr(_))),
        ),
        (
            "whiteout of the parent",
            new().dir("d").file("d/.wh...", b""),
            Refused(|why| matches!(why, Refusal::Whiteout)),
        ),
        (
            "size bomb",
            new().file("zeros", &vec![0; 4 << 20]),
            Refused(|why| matches!(why, Refusal::TooManyBytes(_))),
        ),
        ("count bomb", many, Refused(|why| matches!(why, Refusal::TooManyEntries(500)))),
        (
            "bomb behind the end of the archive",
            Archive([new().file("f", b"x").end(), vec![0; 4 << 20]].concat()),
            Refused(|why| matches!(why, Refusal::TooManyBytes(_))),
        ),
        ("sparse bomb", new().raw(&sparse, &[]), Refused(|why| matches!(why, Refusal::TooLong(_)))),
        (
            "long name of a tebibyte",
            new().raw(&huge(EntryType::GNULongName), &[]),
            Refused(|why| matches!(why, Refusal::HugeHeader(_))),
        ),
        (
            "pax header of a tebibyte",
            new().raw(&huge(EntryType::XHeader), &[]),
            Refused(|why| matches!(why, Refusal::HugeHeader(_))),
        ),
        (
            "damaged pax records",
            new()
                .raw(&Archive::header(EntryType::XHeader, "pax", "", 6), b"99 a=b")
                .file("f", b"x"),
            Refused(|why| matches!(why, Refusal::Header(_))),
        ),
        (
            "unknown type",
            new().raw(&Archive::header(EntryType::new(b'Z'), "z", "", 0), &[]),
            Refused(|why| matches!(why, Refusal::Kind('Z'))),
        ),
        (
            "wrong checksum",
            Archive(wrong_sum.as_bytes().to_vec()),
            Refused(|why| matches!(why, Refusal::Header(_))),
        ),
    ]
}

/// Unpacks one archive into `target` beside `outside`, which must not change.
fn unpack_beside(
    place: &Path,
    archive: &Archive,
    compression: Compression,
) -> Result<(), ImageError> {
    let outside = place.join("outside");
    fs::create_dir(&outside).expect("a folder");
    fs::write(outside.join("victim"), "untouched").expect("a file");
    let target = place.join("target");
    fs::create_dir(&target).expect("a folder");
    layout(&place.join("image"), &[archive.clone().end()], compression);
    let before: Vec<_> = tree::read(place).into_keys().collect();
    let victim = tree::read(&outside);
    let reference: Reference =
        format!("oci:{}", place.join("image").display()).parse().expect("a reference");
    let image = Image::open(&reference, &Platform::here()).expect("the image opens");
    let options = UnpackOptions { limits: limits(), ..Default::default() };
    let result = unpack(&image, &target, options, &AtomicBool::new(false));
    assert_eq!(tree::read(&outside), victim, "the outside was changed");
    let after = tree::read(place).into_keys().filter(|path| !path.starts_with("target/"));
    assert_eq!(after.collect::<Vec<_>>(), before, "something was made outside");
    result.map(|_| ())
}

#[test]
fn hostile_archives_are_refused_or_harmless_and_change_nothing_outside() {
    let cases = cases();
    assert!(cases.len() * COMPRESSIONS.len() >= 60);
    for (name, archive, answer) in &cases {
        for compression in COMPRESSIONS {
            let place = tempfile::tempdir().expect("a temporary folder");
            let result = unpack_beside(place.path(), archive, compression);
            match (answer, result) {
                (Refused(is_right), Err(ImageError::Refused { why, .. })) if is_right(&why) => {}
                (Harmless(paths), Ok(())) => {
                    for path in *paths {
                        let path = place.path().join("target/L000").join(path);
                        assert!(path.symlink_metadata().is_ok(), "{name}: {}", path.display());
                    }
                }
                (_, result) => panic!("{name}, {compression:?}: {result:?}"),
            }
        }
    }
}

#[test]
fn bytes_that_are_not_those_of_the_digest_are_never_unpacked() {
    for compression in COMPRESSIONS {
        let place = tempfile::tempdir().expect("a temporary folder");
        let image = place.path().join("image");
        let bytes = Archive::default().file("f", b"content").end();
        layout(&image, std::slice::from_ref(&bytes), compression);
        let packed = compression.pack(&bytes);
        let blob = image.join("blobs/sha256").join(&digest(&packed)["sha256:".len()..]);
        let open = || {
            let reference: Reference = format!("oci:{}", image.display()).parse().expect("one");
            Image::open(&reference, &Platform::here())
        };
        let mut changed = packed.clone();
        let middle = changed.len() / 2;
        changed[middle] ^= 1;
        fs::write(&blob, &changed).expect("a blob");
        let target = place.path().join("target");
        fs::create_dir(&target).expect("a folder");
        let opened = open().expect("its manifest is whole");
        let never = AtomicBool::new(false);
        let result = unpack(&opened, &target, UnpackOptions::default(), &never);
        assert!(matches!(result, Err(ImageError::Digest { .. })), "{result:?}");
        assert_eq!(tree::read(&target).len(), 0);
        fs::write(&blob, &packed[..packed.len() - 1]).expect("a blob");
        assert!(matches!(open(), Err(ImageError::Size { .. })));
    }
}

#[test]
fn a_layer_that_is_not_its_diff_id_is_refused() {
    let place = tempfile::tempdir().expect("a temporary folder");
    let image = place.path().join("image");
    let bytes = Archive::default().file("f", b"content").end();
    layout(&image, std::slice::from_ref(&bytes), Compression::Gzip);
    // A manifest and a configuration that are consistent, but lie.
    let find = |text: &str| {
        let blobs = fs::read_dir(image.join("blobs/sha256")).expect("blobs").flatten();
        let mut found = blobs.filter(|entry| {
            String::from_utf8_lossy(&fs::read(entry.path()).expect("a blob")).contains(text)
        });
        found.next().expect("there is one").path()
    };
    let replace = |path: &Path, from: &str, to: &str| {
        let old = fs::read_to_string(path).expect("text");
        let new = old.replace(from, to);
        let (old, new_digest) = (digest(old.as_bytes()), digest(new.as_bytes()));
        let name = &new_digest["sha256:".len()..];
        fs::write(path.with_file_name(name), new).expect("a blob");
        (old, new_digest)
    };
    let lie = digest(b"something else");
    let (old_config, new_config) = replace(&find("diff_ids"), &digest(&bytes), &lie);
    let (old, new) = replace(&find("config"), &old_config, &new_config);
    let index = fs::read_to_string(image.join("index.json")).expect("text");
    fs::write(image.join("index.json"), index.replace(&old, &new)).expect("an index");
    let reference: Reference = format!("oci:{}", image.display()).parse().expect("a reference");
    let opened = Image::open(&reference, &Platform::here()).expect("it is consistent");
    let target = place.path().join("target");
    fs::create_dir(&target).expect("a folder");
    let never = AtomicBool::new(false);
    let result = unpack(&opened, &target, UnpackOptions::default(), &never);
    assert!(matches!(result, Err(ImageError::Digest { ref expected, .. }) if *expected == lie));
}
