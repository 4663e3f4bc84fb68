//! What is wrong with a scenario, where, and what would be right.

use std::path::PathBuf;

/// Why a scenario was refused.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    #[error("cannot read the scenario {path}: check the path, or see `unionbench list`", path = .path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "cannot read the scenario {path}: the file is empty; start from scenarios/smoke.toml", path = .path.display()
    )]
    Empty { path: PathBuf },
    #[error(
        "cannot read the scenario {path}: it is not text (byte {offset}); give a TOML file", path = .path.display()
    )]
    Binary { path: PathBuf, offset: usize },
    #[error("{path}:{line}: cannot read the scenario as TOML: {message}", path = .path.display())]
    Syntax { path: PathBuf, line: usize, message: String },
    /// `place` is `FILE:LINE`, or `--set key=value` where the value came from
    /// the command line.
    #[error("{place}: cannot accept `{key}`: {problem}{}", hint(.accepted))]
    Key { place: String, key: String, problem: String, accepted: Option<&'static str> },
    #[error("cannot apply --set {text}: {problem}")]
    Override { text: String, problem: String },
}

fn hint(accepted: &Option<&'static str>) -> String {
    accepted.map(|text| format!("; accepted is {text}")).unwrap_or_default()
}

/// What a key accepts, for messages; a key without its indices.
pub fn accepted(key: &str) -> Option<&'static str> {
    let mut plain = String::new();
    let mut inside = false;
    for c in key.chars() {
        match c {
            '[' => inside = true,
            ']' => inside = false,
            c if !inside => plain.push(c),
            _ => {}
        }
    }
    ACCEPTED.iter().find(|(k, _)| *k == plain).map(|(_, text)| *text)
}

const ACCEPTED: &[(&str, &str)] = &[
    ("name", "a word of lower-case letters, digits, `-` and `_`"),
    ("title", "a line of text"),
    ("seed", "a whole number from 0"),
    ("rounds", "a whole number from 1 to 1000"),
    ("probes", "true or false"),
    ("stack", "a table with at least `layers` or `image`"),
    ("stack.image", "\"oci:PATH\", \"docker-archive:FILE\" or \"dir:PATH\", or a list of them"),
    ("stack.squash", "true, false or [false, true], with `image`"),
    ("stack.layers", "a whole number from 1 to 500, or a list of them"),
    ("stack.files_per_layer", "a whole number from 0 to 1000000, or a list of them"),
    ("stack.dirs", "a whole number from 1 to 10000, or a list of them"),
    ("stack.depth", "a whole number from 0 to 64, or a list of them"),
    ("stack.shared_dirs", "true, false or [true, false]"),
    (
        "stack.size",
        "a size such as \"4KiB\", a list of them, { min, max } or { median, sigma, max }",
    ),
    ("stack.whiteouts_per_layer", "a whole number below `files_per_layer`, or a list of them"),
    ("stack.opaque_dirs_per_layer", "a whole number from 0 to 1000, or a list of them"),
    ("stack.verity", "true, false or [true, false], on one `backing.fs` of ext4 or btrfs"),
    ("stack.group.name", "a word of lower-case letters, digits, `-` and `_`, unique"),
    ("stack.group.layer", "\"top\", \"bottom\", \"any\", an index below `layers`, or a list"),
    ("stack.group.count", "a whole number from 1 to 1000000, or a list of them"),
    ("stack.group.size", "a size such as \"1MiB\", or a list of them"),
    ("stack.group.sparse", "true, false or [true, false]"),
    ("backing.fs", "\"tmpfs\", \"ext4\", \"xfs\", \"btrfs\", \"dir\", or a list of them"),
    ("backing.size", "a size such as \"4GiB\" that holds the layers and what is written"),
    ("backing.options", "a list of mount options, such as [\"noatime\"]"),
    (
        "backing.mkfs",
        "words for the mkfs of one `fs` of ext4, xfs, btrfs, such as \"-m reflink=0\"",
    ),
    ("backend", "at least one [[backend]] table"),
    (
        "backend.kind",
        "bare, overlayfs, aufs, bundled, fuse-overlayfs, unionfs-fuse, mergerfs or command",
    ),
    ("backend.name", "a word of lower-case letters, digits, `-` and `_`, unique"),
    ("phase", "at least one [[phase]] table"),
    ("phase.name", "a word of lower-case letters, digits, `-` and `_`, unique"),
    (
        "phase.volume",
        "none, bind, bind-read-only, bind-file, managed, shared, data-packed, or a list of them",
    ),
    (
        "phase.method",
        "native or walk with workload \"commit\", chown or idmap with \"idmap-start\"",
    ),
    ("phase.stage", "start, run, commit or remove, or a list of them, with workload \"container\""),
    ("phase.layer", "\"top\", \"bottom\", \"any\", an index below `layers`, or a list"),
    ("phase.missing", "true or false, with workload \"lookup\" and without `layer`"),
    (
        "phase.trigger",
        "write, chmod, chown, truncate, link, rename, setxattr, or a list of them, with workload \"first-write\"",
    ),
    ("phase.files", "\"group:NAME\", a layer, or a list of them, with workload \"first-write\""),
    ("phase.count", "a whole number from 1 up to the files there, or a list of them"),
    ("phase.duration", "a span such as \"2s\" or \"500ms\", or a list of them"),
    ("phase.threads", "a whole number from 1 to 1024, or a list of them"),
    ("phase.cache", "\"cold\", \"warm\" or both in a list"),
    (
        "phase.keys",
        "\"permutation\" (the only one for cold caches and for writes), \"uniform\", { zipf = 1.1 }, or a list",
    ),
];
