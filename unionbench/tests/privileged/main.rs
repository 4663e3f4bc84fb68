//! What needs root and the kernel: probes and mounts.

mod data_only;
mod probes;
#[path = "../skip/mod.rs"]
mod skip;
mod trace;
