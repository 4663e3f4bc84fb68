//! `[backend.extra]`: settings that only one kind of backend reads.

use super::file::{Backend, Stack};

/// What a word of a mount command may hold in braces.
const PLACEHOLDERS: [&str; 6] = ["lower", "each", "upper", "work", "target", "options"];
/// Whose whiteouts the layers of a `command` may hold.
const WHITEOUTS: [&str; 3] = ["overlayfs", "aufs", "unionfs-fuse"];

/// Refuses settings that the kind does not read, and values it cannot use;
/// `Err` holds the setting and the problem.
pub fn check_extra(backend: &Backend, stack: &Stack) -> Result<(), (String, String)> {
    let known: &[&str] = match backend.kind.as_str() {
        "command" => &["command", "whiteouts"],
        "overlayfs" => &["data_only", "mount_api"],
        "bundled" => &["data_only"],
        "aufs" | "unionfs-fuse" | "mergerfs" => &["writable_layers"],
        _ => &[],
    };
    if let Some(name) = backend.extra.keys().find(|name| !known.contains(&name.as_str())) {
        let problem = match known {
            [] => format!("{} reads no such setting", backend.kind),
            known => format!("{} reads only {}", backend.kind, known.join(", ")),
        };
        return Err((name.clone(), problem));
    }
    if backend.kind == "command" {
        command(backend.extra.get("command")).map_err(|problem| ("command".to_owned(), problem))?;
    }
    if let Some(text) = backend.extra.get("writable_layers") {
        let n = stack.layers.min();
        let is_there = |part: &str| part.trim().parse::<u32>().is_ok_and(|index| index < n);
        if let Some(bad) = text.split(',').find(|part| !is_there(part)) {
            let problem = format!("{bad:?} is no index of {n} layers; 0 is the topmost");
            return Err(("writable_layers".to_owned(), problem));
        }
    }
    for (name, values) in [("data_only", ["true", "false"]), ("mount_api", ["fsconfig", "mount"])] {
        if let Some(value) = backend.extra.get(name).filter(|v| !values.contains(&v.as_str())) {
            let problem = format!("{value:?} is not one of \"{}\"", values.join("\", \""));
            return Err((name.to_owned(), problem));
        }
    }
    match backend.extra.get("whiteouts") {
        Some(value) if !WHITEOUTS.contains(&value.as_str()) => {
            let problem = format!("{value:?} is not one of \"{}\"", WHITEOUTS.join("\", \""));
            Err(("whiteouts".to_owned(), problem))
        }
        _ => Ok(()),
    }
}

fn command(text: Option<&String>) -> Result<(), String> {
    let Some(text) = text else {
        return Err("a backend of kind command needs it: the mount command".to_owned());
    };
    let words = shlex::split(text).ok_or("a quotation mark is never closed")?;
    if words.is_empty() {
        return Err("it is empty".to_owned());
    }
    for word in &words {
        for part in word.split('{').skip(1) {
            let name = part.split(['}', ':']).next().unwrap_or_default();
            if !part.contains('}') || !PLACEHOLDERS.contains(&name) {
                let all = PLACEHOLDERS.map(|name| format!("{{{name}}}")).join(", ");
                return Err(format!("{{{part} is no placeholder; there are {all}"));
            }
        }
    }
    if !words.iter().any(|word| word.contains("{target}")) {
        return Err("{target} is nowhere in it: say where to mount".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const STACK: &str = "name = \"x\"\ntitle = \"x\"\n[stack]\nlayers = 3\n[[backend]]\n\
                         kind = \"bare\"\n[[phase]]\nname = \"p\"\nworkload = \"readdir\"\n";

    fn check(kind: &str, extra: &[(&str, &str)], expected: Option<&str>) {
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let backend = Backend {
            kind: kind.to_owned(),
            name: None,
            options: BTreeMap::new(),
            extra: extra.iter().map(own).collect(),
        };
        let scenario = super::super::parse(std::path::Path::new("x.toml"), STACK.as_bytes(), &[]);
        let stack = scenario.expect("a scenario").0.stack;
        match (check_extra(&backend, &stack), expected) {
            (Ok(()), None) => {}
            (Err((_, problem)), Some(part)) => assert!(problem.contains(part), "{problem}"),
            (got, _) => panic!("{got:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn a_command_says_where_to_mount_and_uses_known_placeholders() {
        check("command", &[("command", "m -o 'l={lower:=RO}' {each} {target}")], None);
        check("command", &[], Some("needs it"));
        check("command", &[("command", " ")], Some("empty"));
        check("command", &[("command", "m 'x {target}")], Some("never closed"));
        check("command", &[("command", "m {lower}")], Some("{target}"));
        check("command", &[("command", "m {target} {layers}")], Some("no placeholder"));
        check("command", &[("command", "m {target} {lower")], Some("no placeholder"));
        check("command", &[("command", "m {target}"), ("whiteouts", "zfs")], Some("not one of"));
    }

    #[test]
    fn writable_layers_are_indices_of_the_stack() {
        check("aufs", &[("writable_layers", "0, 2")], None);
        check("aufs", &[("writable_layers", "3")], Some("no index"));
        check("mergerfs", &[("writable_layers", "")], Some("no index"));
        check("overlayfs", &[("writable_layers", "0")], Some("reads only"));
    }

    #[test]
    fn overlayfs_takes_its_layers_as_data_and_by_either_call() {
        check("overlayfs", &[("data_only", "true"), ("mount_api", "mount")], None);
        check("bundled", &[("data_only", "true")], None);
        check("overlayfs", &[("data_only", "yes")], Some("not one of"));
        check("overlayfs", &[("mount_api", "fsmount")], Some("not one of"));
        check("bundled", &[("mount_api", "mount")], Some("reads only"));
    }

    #[test]
    fn settings_that_nobody_reads_are_refused() {
        check("overlayfs", &[("command", "m {target}")], Some("reads only"));
        check("command", &[("command", "m {target}"), ("colour", "red")], Some("reads only"));
        check("bare", &[("command", "m {target}")], Some("no such setting"));
        check("bundled", &[], None);
    }
}
