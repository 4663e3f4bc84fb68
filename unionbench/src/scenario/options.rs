//! Mount options of overlayfs, which are refused here if the kernel would
//! refuse them, or silently do something else, later.
//!
//! From `Documentation/filesystems/overlayfs.rst` and `fs/overlayfs/params.c`
//! of Linux 6.18 and, for `fsync`, 7.0.

use std::collections::BTreeMap;

use super::value::{Many, OptionValue};

/// An option and the values it takes; none for a flag.
const KNOWN: &[(&str, &[&str])] = &[
    ("redirect_dir", &["on", "follow", "nofollow", "off"]),
    ("index", &["on", "off"]),
    ("metacopy", &["on", "off"]),
    ("xino", &["on", "off", "auto"]),
    ("nfs_export", &["on", "off"]),
    ("uuid", &["null", "off", "on", "auto"]),
    ("verity", &["on", "off", "require"]),
    ("fsync", &["volatile", "auto", "strict"]),
    ("volatile", &[]),
    ("userxattr", &[]),
    ("default_permissions", &[]),
    ("override_creds", &[]),
    ("nooverride_creds", &[]),
];

/// Options that the run sets itself.
const OWN: &[&str] = &["lowerdir", "lowerdir+", "datadir+", "upperdir", "workdir"];

/// An option's name and value; a flag that is set has an empty value.
type Set = (&'static str, &'static str);

/// Pairs that Linux refuses, or that contradict one another, with the reason.
const CONTRADICTIONS: &[(Set, Set, &str)] = &[
    (("metacopy", "on"), ("redirect_dir", "off"), "metacopy needs redirect_dir=on"),
    (("metacopy", "on"), ("redirect_dir", "nofollow"), "metacopy needs redirect_dir=on"),
    (("metacopy", "on"), ("redirect_dir", "follow"), "metacopy needs redirect_dir=on"),
    (("metacopy", "on"), ("nfs_export", "on"), "nfs_export cannot follow metacopy files"),
    (("metacopy", "on"), ("userxattr", ""), "userxattr does not allow metacopy"),
    (("redirect_dir", "on"), ("userxattr", ""), "userxattr does not allow redirects"),
    (("nfs_export", "on"), ("index", "off"), "nfs_export needs index=on"),
    (("verity", "on"), ("metacopy", "off"), "verity needs metacopy=on"),
    (("verity", "require"), ("metacopy", "off"), "verity needs metacopy=on"),
    (("volatile", ""), ("fsync", "auto"), "both say when to fsync"),
    (("volatile", ""), ("fsync", "strict"), "both say when to fsync"),
    (("override_creds", ""), ("nooverride_creds", ""), "each undoes the other"),
];

/// Refuses options that overlayfs does not know; `Err` holds the option and
/// the problem.
pub fn check_overlayfs(
    options: &BTreeMap<String, Many<OptionValue>>,
) -> Result<(), (String, String)> {
    for (name, values) in options {
        if OWN.contains(&name.as_str()) {
            let problem = "unionbench sets it from `[stack]`; leave it out".to_owned();
            return Err((name.clone(), problem));
        }
        let Some((_, allowed)) = KNOWN.iter().find(|(known, _)| known == name) else {
            let known: Vec<&str> = KNOWN.iter().map(|(known, _)| *known).collect();
            let problem =
                format!("overlayfs does not know the option; it knows {}", known.join(", "));
            return Err((name.clone(), problem));
        };
        for value in &values.values {
            let fits = match value {
                OptionValue::Flag(_) => allowed.is_empty(),
                OptionValue::Text(text) => allowed.contains(&text.as_str()),
            };
            if !fits && allowed.is_empty() {
                let problem = format!("{value:?} does not fit: the option is a flag; write true");
                return Err((name.clone(), problem));
            }
            if !fits {
                let problem = format!("{value} is not one of \"{}\"", allowed.join("\", \""));
                return Err((name.clone(), problem));
            }
        }
    }
    for (a, b, why) in CONTRADICTIONS {
        if holds(options, a) && holds(options, b) {
            let problem = format!("contradicts `{}`: {why}", b.0);
            return Err((a.0.to_owned(), problem));
        }
    }
    Ok(())
}

/// Some cell of the matrix has this option with this value.
fn holds(options: &BTreeMap<String, Many<OptionValue>>, (name, wanted): &Set) -> bool {
    options.get(*name).is_some_and(|values| {
        values.values.iter().any(|value| match value {
            OptionValue::Flag(set) => *set && wanted.is_empty(),
            OptionValue::Text(text) => text == wanted,
        })
    })
}
