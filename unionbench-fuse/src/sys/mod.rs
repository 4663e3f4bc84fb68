//! The calls that need `unsafe`: file handles, private mounts, signals, the
//! scheduler's classes, and the symbols that uprobes attach to.

pub(crate) mod handle;
pub(crate) mod private_mount;
pub(crate) mod probe_points;
pub(crate) mod schedule;
pub(crate) mod signals;
pub(crate) mod uuid;
