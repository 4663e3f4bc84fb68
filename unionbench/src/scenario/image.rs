//! What a scenario may say of a stack that comes from an image.

use super::check::{Problem, Verdict, refuse};
use super::file::{NO_LAYERS, Stack};
use super::value::{Many, Size};
use crate::unit::Bytes;

/// Keys of generated layers contradict an image: its files are what they are.
pub(super) fn check(stack: &Stack) -> Verdict {
    for reference in stack.image.iter().flat_map(|images| &images.values) {
        let known = ["oci:", "docker-archive:", "dir:"];
        if !known.iter().any(|kind| reference.strip_prefix(kind).is_some_and(|p| !p.is_empty())) {
            let problem = format!("{reference:?} is no image");
            return refuse("stack.image", problem);
        }
    }
    let generated = [
        ("layers", stack.layers != Many::one(NO_LAYERS)),
        ("files_per_layer", stack.files_per_layer != Many::one(100)),
        ("dirs", stack.dirs != Many::one(1)),
        ("depth", stack.depth != Many::one(0)),
        ("shared_dirs", stack.shared_dirs != Many::one(true)),
        ("size", stack.size != Size::Fixed(Many::one(Bytes(4 << 10)))),
        ("whiteouts_per_layer", stack.whiteouts_per_layer != Many::one(0)),
        ("opaque_dirs_per_layer", stack.opaque_dirs_per_layer != Many::one(0)),
        ("group", !stack.group.is_empty()),
    ];
    match generated.into_iter().find(|(_, given)| *given) {
        Some((key, _)) => {
            refuse(format!("stack.{key}"), "contradicts `image`, which brings its own")
        }
        None => Ok(()),
    }
}

/// An image has one group, which is made up of its largest files.
pub(super) fn check_group(name: &str, at: &str) -> Result<(), Problem> {
    if name == "largest" {
        return Ok(());
    }
    refuse(format!("{at}.files"), format!("an image has no group {name:?}; there is: largest"))
}
