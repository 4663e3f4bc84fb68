//! Imports between the modules of `unionbench/src` go down the flow only.

use std::collections::BTreeMap;

use super::source::Source;

/// The flow from its bottom up. Modules of one step may import one another,
/// as long as only one of the two does.
const STEPS: &[&[&str]] = &[
    &["unit"],
    &["record", "stats", "sys"],
    &["scenario"],
    &["plan"],
    &["stack"],
    &["backend"],
    &["probe"],
    &["workload"],
    &["run", "lab", "trace", "conformance"],
    &["store"],
    &["report", "compare", "gate", "export"],
    &["cli"],
];

/// One line for each import that goes up, or round in a ring.
pub fn violations(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    let mut seen: BTreeMap<(String, String), String> = BTreeMap::new();
    for source in sources {
        let Ok(inner) = source.path.strip_prefix("unionbench/src") else { continue };
        let Some(first) = inner.iter().next().and_then(|name| name.to_str()) else { continue };
        let module = first.trim_end_matches(".rs");
        if matches!(module, "lib" | "main") {
            continue;
        }
        let Some(own) = step(module) else {
            found.push(format!("{}: `{module}` has no place in the flow", source.path.display()));
            continue;
        };
        for (line, imported) in imports(&source.text) {
            let Some(theirs) = step(&imported) else { continue };
            let place = format!("{}:{line}", source.path.display());
            if theirs > own {
                found
                    .push(format!("{place}: `{module}` imports `{imported}`, which lies above it"));
            } else if theirs == own && imported != module {
                if let Some(other) = seen.get(&(imported.clone(), module.to_owned())) {
                    found.push(format!(
                        "{place}: `{module}` and `{imported}` import each other, see {other}"
                    ));
                }
                seen.entry((module.to_owned(), imported)).or_insert(place);
            }
        }
    }
    found
}

fn step(module: &str) -> Option<usize> {
    STEPS.iter().position(|modules| modules.contains(&module))
}

/// The modules named behind `crate::`, with their line numbers. Comments do
/// not count: a doc link may point up.
fn imports(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or("");
        for rest in code.split("crate::").skip(1) {
            let names = match rest.strip_prefix('{') {
                Some(list) => list.split(',').map(first_word).collect(),
                None => vec![first_word(rest)],
            };
            found.extend(names.into_iter().filter(|name| !name.is_empty()).map(|n| (index + 1, n)));
        }
    }
    found
}

fn first_word(text: &str) -> String {
    text.trim().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, text: &str) -> usize {
        violations(&[Source { path: path.into(), text: text.into() }]).len()
    }

    #[test]
    fn an_import_down_the_flow_is_allowed() {
        assert_eq!(check("unionbench/src/run/mod.rs", "use crate::probe::Session;"), 0);
        assert_eq!(check("unionbench/src/run/mod.rs", "use crate::{probe::Session, unit};"), 0);
    }

    #[test]
    fn an_import_up_the_flow_is_refused() {
        assert_eq!(check("unionbench/src/probe/mod.rs", "use crate::run::Phase;"), 1);
        assert_eq!(check("unionbench/src/record/mod.rs", "let x = crate::cli::main();"), 1);
        assert_eq!(check("unionbench/src/plan/mod.rs", "use crate::{unit, run::Phase};"), 1);
    }

    #[test]
    fn a_doc_link_may_point_up() {
        assert_eq!(check("unionbench/src/probe/mod.rs", "/// See [`crate::run`]."), 0);
    }

    #[test]
    fn a_module_outside_the_flow_is_named() {
        assert_eq!(check("unionbench/src/utils.rs", ""), 1);
    }

    #[test]
    fn two_modules_of_one_step_may_not_import_each_other() {
        let pair = [
            Source {
                path: "unionbench/src/gate/mod.rs".into(),
                text: "use crate::compare;".into(),
            },
            Source {
                path: "unionbench/src/compare/mod.rs".into(),
                text: "use crate::gate;".into(),
            },
        ];
        assert_eq!(violations(&pair).len(), 1);
        assert!(violations(&pair[..1]).is_empty());
    }
}
