//! Mount options of aufs, refused here if aufs would refuse or ignore them.
//! From `fs/aufs/fsctx.c` and `opts.c` of aufs 6.1.

use std::collections::BTreeMap;

use super::value::{Many, OptionValue};

/// What an option takes.
enum Takes {
    Flag,
    /// Also known with `no` before it.
    Switch,
    Number,
    OneOf(&'static [&'static str]),
    /// A policy with up to so many numbers behind colons, at least the first.
    Create,
    /// A file in the work folder.
    File,
}

const COPY_UP: Takes =
    Takes::OneOf(&["tdp", "top-down-parent", "bup", "bottom-up-parent", "bu", "bottom-up"]);

const KNOWN: &[(&str, Takes)] = &[
    ("udba", Takes::OneOf(&["none", "reval", "notify", "fsnotify"])),
    ("xino", Takes::File),
    ("noxino", Takes::Flag),
    ("create", Takes::Create),
    ("create_policy", Takes::Create),
    ("cpup", COPY_UP),
    ("copyup", COPY_UP),
    ("copyup_policy", COPY_UP),
    ("diropq", Takes::OneOf(&["a", "always", "w", "whiteouted"])),
    ("trunc_xino", Takes::Switch),
    ("trunc_xib", Takes::Switch),
    ("plink", Takes::Switch),
    ("dio", Takes::Switch),
    ("dirren", Takes::Switch),
    ("dirperm1", Takes::Switch),
    ("shwh", Takes::Switch),
    ("warn_perm", Takes::Switch),
    ("verbose", Takes::Switch),
    ("sum", Takes::Switch),
    ("acl", Takes::Switch),
    ("wsum", Takes::Flag),
    ("dirwh", Takes::Number),
    ("rdcache", Takes::Number),
    ("rdblk", Takes::Number),
    ("rdhash", Takes::Number),
    ("fhsm_sec", Takes::Number),
];

/// Options that name branches, which the run does itself.
const OWN: &[&str] = &["br", "dirs", "add", "ins", "append", "prepend", "del", "mod"];

/// Policies of `create=` with the fewest and most numbers they take.
const CREATE: &[(&str, usize, usize)] = &[
    ("tdp", 0, 0),
    ("top-down-parent", 0, 0),
    ("rr", 0, 0),
    ("round-robin", 0, 0),
    ("mfs", 0, 1),
    ("most-free-space", 0, 1),
    ("tdmfs", 1, 2),
    ("mfsrr", 1, 2),
    ("pmfs", 0, 1),
    ("pmfsrr", 1, 2),
];

/// Refuses options that aufs does not know; `Err` holds the option and the
/// problem.
pub fn check_aufs(options: &BTreeMap<String, Many<OptionValue>>) -> Result<(), (String, String)> {
    for (name, values) in options {
        let refuse = |problem: String| Err((name.clone(), problem));
        if OWN.contains(&name.as_str()) {
            return refuse("unionbench sets it from `[stack]`; leave it out".to_owned());
        }
        let Some((known, takes)) = find(name) else {
            let known: Vec<&str> = KNOWN.iter().map(|(known, _)| *known).collect();
            return refuse(format!("aufs does not know the option; it knows {}", known.join(", ")));
        };
        for value in &values.values {
            if let Some(problem) = misfit(takes, value) {
                return refuse(problem);
            }
        }
        let opposite = if known == name { format!("no{known}") } else { known.to_owned() };
        if options.contains_key(&opposite) {
            return refuse(format!("contradicts `{opposite}`: each undoes the other"));
        }
    }
    Ok(())
}

fn find(name: &str) -> Option<(&'static str, &'static Takes)> {
    let exact = KNOWN.iter().find(|(known, _)| *known == name);
    let negated = || {
        let positive = name.strip_prefix("no")?;
        KNOWN.iter().find(|(known, takes)| *known == positive && matches!(takes, Takes::Switch))
    };
    exact.or_else(negated).map(|(known, takes)| (*known, takes))
}

fn misfit(takes: &Takes, value: &OptionValue) -> Option<String> {
    let text = match (takes, value) {
        (Takes::Flag | Takes::Switch, OptionValue::Flag(_)) => return None,
        (Takes::Flag | Takes::Switch, OptionValue::Text(text)) => {
            return Some(format!("{text:?} does not fit: the option is a flag; write true"));
        }
        (_, OptionValue::Flag(_)) => return Some("it wants a value".to_owned()),
        (_, OptionValue::Text(text)) => text,
    };
    let problem = match takes {
        Takes::OneOf(allowed) if !allowed.contains(&text.as_str()) => {
            format!("is not one of \"{}\"", allowed.join("\", \""))
        }
        Takes::Number if text.parse::<i32>().is_err() && text != "def" => {
            "is no whole number".to_owned()
        }
        Takes::Create if !is_create(text) => {
            let names: Vec<&str> = CREATE.iter().map(|(name, ..)| *name).collect();
            format!("is not one of {}, with the numbers they take", names.join(", "))
        }
        _ => return None,
    };
    Some(format!("{text:?} {problem}"))
}

fn is_create(text: &str) -> bool {
    let mut parts = text.split(':');
    let name = parts.next().unwrap_or_default();
    let numbers: Vec<&str> = parts.collect();
    CREATE.iter().any(|(known, fewest, most)| {
        *known == name
            && (*fewest..=*most).contains(&numbers.len())
            && numbers.iter().all(|number| number.parse::<u64>().is_ok())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<&str>) {
        let options = text
            .split(',')
            .map(|option| match option.split_once('=') {
                Some((key, value)) => {
                    (key.to_owned(), Many::one(OptionValue::Text(value.to_owned())))
                }
                None => (option.to_owned(), Many::one(OptionValue::Flag(true))),
            })
            .collect();
        match (check_aufs(&options), expected) {
            (Ok(()), None) => {}
            (Err((_, problem)), Some(part)) => assert!(problem.contains(part), "{problem}"),
            (got, _) => panic!("{text}: {got:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn options_of_aufs_are_known_with_their_values() {
        check("udba=none,xino=table,create=mfs:30,cpup=bu,noplink,dirwh=8,rdblk=def", None);
        check("create=pmfsrr:1000:10,wsum,diropq=a,udba=notify", None);
        check("udba=sometimes", Some("not one of"));
        check("create=mfsrr", Some("with the numbers"));
        check("create=rr:1", Some("with the numbers"));
        check("dirwh=many", Some("no whole number"));
        check("plink=yes", Some("write true"));
        check("udba", Some("wants a value"));
        check("noudba", Some("does not know"));
        check("br=a", Some("leave it out"));
        check("xino=a,noxino", Some("contradicts"));
        check("plink,noplink", Some("contradicts"));
    }
}
