//! The only place of the program that calls the kernel by hand. Each file is
//! one subject; what they return is plain data or a guard that undoes.

#![allow(unsafe_code)]

pub mod caches;
pub mod child;
pub mod idmap;
pub mod loop_device;
pub mod mapping;
pub mod mount;
pub mod namespace;
pub mod own_mounts;
pub mod process;
pub mod resident;
pub mod truncate;
pub mod verity;

pub use rustix::io::Errno;
