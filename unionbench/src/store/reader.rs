//! Reading a record back.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::error::Category;

use super::{PACKED, RECORD, StoreError, packed};
use crate::record::{Record, SCHEMA_VERSION};

/// The one field that every version of the schema has.
#[derive(Deserialize)]
struct Head {
    schema: u32,
}

/// The file is called as a record is, packed or not.
pub fn is_record(path: &Path) -> bool {
    path.ends_with(RECORD) || path.ends_with(PACKED)
}

/// Reads a record, packed or not, from its file or from the folder that holds
/// it. A record of another schema version is refused before anything else of it
/// is looked at.
pub fn read(path: &Path) -> Result<Record, StoreError> {
    let path = if path.is_dir() { file_in(path) } else { path.to_owned() };
    let bytes =
        std::fs::read(&path).map_err(|source| StoreError::Open { path: path.clone(), source })?;
    let text = packed::unpacked(bytes)
        .map_err(|source| StoreError::Packed { path: path.clone(), source })?;
    // A structure may stand as an array in serde's data model; a record may not.
    if text.trim_ascii_start().first() == Some(&b'[') {
        let source = serde::de::Error::custom("it is an array");
        return Err(StoreError::NotARecord { path, source });
    }
    let head: Head = serde_json::from_slice(&text).map_err(|source| match source.classify() {
        Category::Eof => StoreError::Truncated { path: path.clone(), line: source.line() },
        _ => StoreError::NotARecord { path: path.clone(), source },
    })?;
    if head.schema != SCHEMA_VERSION {
        return Err(StoreError::Schema { path, found: head.schema, supported: SCHEMA_VERSION });
    }
    serde_json::from_slice(&text).map_err(|source| StoreError::Damaged { path, source })
}

/// The record of a folder: the packed one if there is no other.
fn file_in(folder: &Path) -> PathBuf {
    let (plain, packed) = (folder.join(RECORD), folder.join(PACKED));
    if !plain.exists() && packed.exists() { packed } else { plain }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::sample::record;

    fn refusal_of(text: &[u8]) -> StoreError {
        let dir = tempfile::tempdir().expect("room for a test");
        std::fs::write(dir.path().join(RECORD), text).expect("room for a test");
        read(dir.path()).expect_err("it must be refused")
    }

    #[test]
    fn record_cut_anywhere_is_called_truncated() {
        let text = serde_json::to_vec_pretty(&record()).expect("encodes");
        for share in [1, 10, 50, 90, 99] {
            let cut = &text[..text.len() * share / 100];
            assert!(matches!(refusal_of(cut), StoreError::Truncated { .. }), "{share} %");
        }
        assert!(matches!(refusal_of(b""), StoreError::Truncated { .. }));
    }

    #[test]
    fn newer_schema_is_refused_even_with_fields_unknown_today() {
        let message = refusal_of(br#"{"schema": 99, "wonders": []}"#).to_string();
        assert!(message.contains("its schema is 99"), "{message}");
        assert!(message.contains("use a newer unionbench"), "{message}");
    }

    #[test]
    fn other_files_are_not_records() {
        for text in [&b"\x7fELF\0\0"[..], b"[]", b"[1]", b"{}", b"{\"schema\": \"one\"}"] {
            assert!(matches!(refusal_of(text), StoreError::NotARecord { .. }));
        }
        let head = format!("{{\"schema\": {SCHEMA_VERSION}}}");
        assert!(matches!(refusal_of(head.as_bytes()), StoreError::Damaged { .. }));
    }

    #[test]
    fn missing_record_names_the_file() {
        let error = read(Path::new("/nonexistent/record.json")).expect_err("nothing there");
        assert!(error.to_string().contains("/nonexistent/record.json"), "{error}");
    }
}
