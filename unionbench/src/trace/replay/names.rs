//! Names as a scenario made from a trace shows them.

use sha2::{Digest as _, Sha256};

/// How names are written.
#[derive(Debug, Clone, Copy)]
pub struct Names {
    salt: Option<u64>,
}

impl Names {
    /// As they are.
    pub fn kept() -> Self {
        Self { salt: None }
    }

    /// Hashed, part by part, so that what lies in one directory still does. A
    /// salt of its own for each scenario keeps others from hashing names that
    /// they guess.
    pub fn hashed(salt: u64) -> Self {
        Self { salt: Some(salt) }
    }

    /// A path with its names so written.
    pub fn path(&self, path: &str) -> String {
        let Some(salt) = self.salt else { return path.to_owned() };
        let part = |part: &str| {
            let mut hash = Sha256::new();
            hash.update(salt.to_le_bytes());
            hash.update(part.as_bytes());
            hash.finalize().iter().take(6).map(|b| format!("{b:02x}")).collect::<String>()
        };
        path.split('/').map(part).collect::<Vec<_>>().join("/")
    }
}
