//! The scenario file: TOML read, overridden from the command line, checked.
//!
//! A refusal names file and line, the key, what is wrong and what would be
//! accepted. The line is looked up only when a refusal needs it: the tree that
//! is read has no positions, because `--set` may have changed it.

mod aufs_options;
mod check;
mod error;
mod extra;
mod file;
mod image;
mod mkfs;
mod options;
mod overrides;
mod replay;
mod value;
mod verbs;

use std::path::Path;

use sha2::{Digest, Sha256};

use crate::record::ScenarioText;

pub use check::MAX_LAYERS;
pub use error::ScenarioError;
pub use file::{
    Backend, Backing, Cache, FileSystem, Group, Method, Phase, Scenario, Stack, Stage, Trigger,
    Volume, Workload,
};
pub use replay::{Listed, ListedKind, MAX_OPERATIONS, Operation, Replayed};
pub use value::{Files, Keys, Layer, Many, OptionValue, Size, Span};

/// Reads the scenario in `path` with `overrides` (`key=value`) on top of it.
pub fn load(path: &Path, overrides: &[String]) -> Result<(Scenario, ScenarioText), ScenarioError> {
    let bytes = std::fs::read(path)
        .map_err(|source| ScenarioError::Read { path: path.to_owned(), source })?;
    parse(path, &bytes, overrides)
}

/// The same for bytes that are in memory; `path` is for messages.
pub fn parse(
    path: &Path,
    bytes: &[u8],
    overrides: &[String],
) -> Result<(Scenario, ScenarioText), ScenarioError> {
    let text = std::str::from_utf8(bytes)
        .map_err(|e| ScenarioError::Binary { path: path.to_owned(), offset: e.valid_up_to() })?;
    if let Some(offset) = bytes.iter().position(|&b| b == 0) {
        return Err(ScenarioError::Binary { path: path.to_owned(), offset });
    }
    if text.trim().is_empty() {
        return Err(ScenarioError::Empty { path: path.to_owned() });
    }
    let mut tree: toml::Table = text.parse().map_err(|e: toml::de::Error| {
        let line = line_at(text, e.span().map_or(0, |s| s.start));
        // The first line says what; the others draw the place again.
        let message = e.message().lines().next().unwrap_or_default().to_owned();
        ScenarioError::Syntax { path: path.to_owned(), line, message }
    })?;
    let mut changed = Vec::new();
    for text in overrides {
        let key = overrides::apply(&mut tree, text)
            .map_err(|problem| ScenarioError::Override { text: text.clone(), problem })?;
        changed.push((key, text.as_str()));
    }
    let refusal = |key: String, problem: String| {
        let place = changed.iter().rev().find(|(k, _)| *k == key).map_or_else(
            || format!("{}:{}", path.display(), line_of(text, &key)),
            |(_, set)| format!("--set {set}"),
        );
        let accepted = error::accepted(&key);
        ScenarioError::Key { place, key, problem, accepted }
    };
    let scenario: Scenario = serde_path_to_error::deserialize(tree).map_err(|e| {
        let key = e.path().to_string();
        refusal(key, e.inner().message().trim().to_owned())
    })?;
    check::check(&scenario).map_err(|p| refusal(p.key, p.problem))?;
    let hash = Sha256::digest(bytes);
    let source = ScenarioText {
        name: scenario.name.clone(),
        title: scenario.title.clone(),
        toml: text.to_owned(),
        sha256: hash.iter().map(|b| format!("{b:02x}")).collect(),
        overrides: overrides.to_vec(),
    };
    Ok((scenario, source))
}

/// The JSON schema of scenario files, as published in
/// `scenarios/scenario.schema.json`.
pub fn schema() -> String {
    let schema = schemars::schema_for!(Scenario);
    let text = serde_json::to_string_pretty(&schema).expect("a schema is a JSON value");
    text + "\n"
}

fn line_at(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|&b| b == b'\n').count() + 1
}

/// Line of a key such as `phase[1].count`; of its nearest parent if it is not
/// there itself, as when it is missing.
fn line_of(text: &str, key: &str) -> usize {
    use toml::de::{DeTable, DeValue};
    let Ok(root) = DeTable::parse(text) else { return 1 };
    let mut line = 1;
    let mut table = Some(root.get_ref());
    for part in key.split('.') {
        let (name, index) = match part.split_once('[') {
            Some((name, rest)) => (name, rest.trim_end_matches(']').parse::<usize>().ok()),
            None => (part, None),
        };
        let Some((at, value)) = table.and_then(|t| t.iter().find(|(k, _)| k.get_ref() == name))
        else {
            break;
        };
        line = line_at(text, at.span().start);
        let value = match (value.get_ref(), index) {
            (DeValue::Array(items), Some(i)) => match items.get(i) {
                Some(item) => {
                    line = line_at(text, item.span().start);
                    item.get_ref()
                }
                None => break,
            },
            (value, _) => value,
        };
        table = value.as_table();
    }
    line
}

#[cfg(test)]
mod tests;
