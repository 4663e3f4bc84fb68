//! What the bundled union is to reach, and whether it does.

use crate::unions::Union::{
    self, Bare, Bundled, BundledNoOpen, BundledPassthrough, FuseOverlayfs, FuseOverlayfs2,
    Overlayfs,
};
use crate::{Measured, Ratio, median, ratio};

/// What a measured value is held against.
enum To {
    /// The same row of another union.
    Union(Union),
    /// Another row of the same union.
    Row(&'static str),
    /// Nothing: the value itself is limited.
    Nothing,
}

struct Target {
    row: &'static str,
    of: Union,
    to: To,
    most: f64,
}

const fn target(row: &'static str, of: Union, to: To, most: f64) -> Target {
    Target { row, of, to, most }
}

/// Rows are named by their beginnings.
const TARGETS: &[Target] = &[
    target("cold lookup, 8 ", Bundled, To::Union(Overlayfs), 0.9),
    target("cold lookup, 32 ", Bundled, To::Union(Overlayfs), 0.35),
    target("cold lookup, 64 ", Bundled, To::Union(Overlayfs), 0.2),
    target("cold lookup, 64 ", Bundled, To::Row("cold lookup, 1 "), 1.15),
    target("cold lookup, 1 ", Bundled, To::Union(FuseOverlayfs), 1.0),
    target("cold lookup, 8 ", Bundled, To::Union(FuseOverlayfs), 1.0),
    target("cold lookup, 32 ", Bundled, To::Union(FuseOverlayfs), 1.0),
    target("cold lookup, 64 ", Bundled, To::Union(FuseOverlayfs), 1.0),
    target("cold lookup, 1 ", Bundled, To::Union(FuseOverlayfs2), 0.7),
    target("cold lookup, 8 ", Bundled, To::Union(FuseOverlayfs2), 0.7),
    target("cold lookup, 32 ", Bundled, To::Union(FuseOverlayfs2), 0.7),
    target("cold lookup, 64 ", Bundled, To::Union(FuseOverlayfs2), 0.7),
    target("repeated absent", Bundled, To::Union(Overlayfs), 1.1),
    target("cold ls -l", Bundled, To::Union(Overlayfs), 0.55),
    target("warm listing", Bundled, To::Union(Overlayfs), 0.2),
    target("sequential read", BundledPassthrough, To::Union(Bare), 1.0 / 0.95),
    target("sequential read", Bundled, To::Union(Bare), 1.0 / 0.75),
    target("random read", BundledPassthrough, To::Union(Bare), 1.0 / 0.95),
    target("random read", Bundled, To::Union(Bare), 1.0 / 0.85),
    target("open + close", BundledNoOpen, To::Union(Bare), 1.2),
    target("open + close", Bundled, To::Union(FuseOverlayfs2), 0.8),
    target("unlink of a lower file, µs", Bundled, To::Union(Overlayfs), 2.5),
    target("unlink of lower files of 64", Bundled, To::Row("unlink of lower files of 1 B"), 1.2),
    target("create, write, unlink, 2,000", Bundled, To::Union(Overlayfs), 3.0),
    target("create, write, unlink, 10,000", Bundled, To::Row("create, write, unlink, 2,000"), 1.1),
    target("copy-up of 1 GiB", Bundled, To::Union(Bare), 1.0),
    target("blocks that copy-up", Bundled, To::Nothing, 0.0),
    target("bytes that chmod", Bundled, To::Nothing, 0.0),
    target("truncate of 256", Bundled, To::Union(Overlayfs), 0.01),
];

pub fn print(measured: &Measured) {
    println!("| target | of | at most | measured | |");
    println!("|---|---|---|---|---|");
    for target in TARGETS {
        let Some(own) = measured.of(target.row, target.of) else { continue };
        let (against, found) = match target.to {
            To::Union(union) => (
                format!(" × {}", union.name()),
                measured.of(target.row, union).and_then(|base| ratio(own, base)),
            ),
            To::Row(row) => (
                format!(" × {}", row.trim_end()),
                measured.of(row, target.of).and_then(|base| ratio(own, base)),
            ),
            To::Nothing => (String::new(), Some(Ratio::about(median(own), own))),
        };
        // A peer that is not installed sets no target here.
        let Some(found) = found else { continue };
        let verdict = if found.middle <= target.most { "met" } else { "missed" };
        let (row, of) = (target.row.trim_end(), target.of.name());
        println!("| {row} | {of} | {:.2}{against} | {found} | {verdict} |", target.most);
    }
}

impl Measured {
    fn of(&self, row: &str, union: Union) -> Option<&[f64]> {
        let at = self.rows.iter().position(|r| r.name.starts_with(row))?;
        let values = &self.values[at][union as usize];
        (!values.is_empty()).then_some(values)
    }
}
