//! The calls that need `unsafe`: file handles and the symbols that uprobes
//! attach to.

pub(crate) mod handle;
pub(crate) mod probe_points;
