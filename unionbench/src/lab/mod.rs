//! The virtual machine that counts instructions.
//!
//! A [`Guest`] boots a [`Kernel`] in QEMU with nothing but an initial file
//! system, in which this very binary is process 1 ([`init`]). Init loads the
//! modules, mounts what a benchmark needs, runs one command, sends everything
//! below [`OUT_DIR`] back over a virtio-serial port ([`protocol`]) and powers
//! off.
//!
//! In [`Mode::Count`] QEMU runs without hardware acceleration and advances the
//! guest's clock by one nanosecond per guest instruction. A "latency" is then an
//! exact number of instructions, the same on every host that has the same
//! [`LabIdentity`]. Caches, devices and parallelism are outside it.
//!
//! Owner of each resource: the files in memory and the QEMU process belong to
//! one `Guest::run` call. The process dies when that call returns, when it
//! panics, and (by the kernel) when its thread dies; the files have no names
//! (`handed`). A killed run leaves nothing.

mod accel;
mod error;
mod fetch;
mod guest;
mod handed;
pub mod init;
mod initramfs;
mod kernel;
mod library;
mod modules;
mod protocol;
mod qemu;
mod vmlinux;
mod watch;

pub use accel::Accel;
pub use error::{ConsoleTail, LabError};
pub use fetch::cache_dir;
pub use guest::{Guest, GuestFile, GuestOutcome, LabIdentity, Mode, OutFile, Source};
pub use kernel::{Capabilities, Feature, Kernel};
pub use protocol::{Exit, OUT_DIR};

/// Tells a program in the guest how its time advances: `count` or `plain`.
pub const MODE_VARIABLE: &str = "UNIONBENCH_LAB";
