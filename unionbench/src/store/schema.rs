//! The published JSON Schema of records.

use crate::record::Record;

/// The text of `results/record.schema.json`.
pub fn json_schema() -> String {
    let schema = schemars::schema_for!(Record);
    // A schema is a JSON value with text for keys, which always encodes.
    serde_json::to_string_pretty(&schema).expect("a JSON schema is JSON") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With `UNIONBENCH_BLESS` set the published file is written anew.
    #[test]
    fn published_schema_is_that_of_the_types() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../results/record.schema.json");
        if std::env::var_os("UNIONBENCH_BLESS").is_some() {
            std::fs::write(path, json_schema()).expect("the checkout can be written");
        }
        let published = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            published == json_schema(),
            "results/record.schema.json is out of date: run UNIONBENCH_BLESS=1 cargo test -p unionbench schema"
        );
    }
}
