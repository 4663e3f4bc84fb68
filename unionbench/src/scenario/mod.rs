//! What a scenario file says: TOML types and their validation.
