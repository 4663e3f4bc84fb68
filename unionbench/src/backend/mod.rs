//! What is mounted: one file per file system.
