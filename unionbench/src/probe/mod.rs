//! What the kernel does on behalf of the workload's threads.
//!
//! A [`Session`] loads the kernel-side object, tries for each wanted
//! [`Operation`](unionbench_common::Operation) the engines and symbols of the
//! [`catalogue`] in order, and keeps what attached. What did not is kept too,
//! with the errno of the refusal: a probe is never quietly missing.
//!
//! States: open (loaded) → begun (attached, filter on, maps empty) → ended
//! (attached, filter off) → begun again, or at rest (not attached).
//! [`Session::open`] has the kernel verify every program and is for once a run,
//! [`Session::rest`] for once a mount; [`Session::begin`] and [`Session::end`]
//! cost a few milliseconds and are
//! called from the thread that orders the phases; programs and links belong to
//! the session and go with it. Only threads named at `begin` are counted.

pub mod btf;
pub mod catalogue;

mod attach;
mod cost;
mod drain;
mod engine;
mod kallsyms;
mod link;
mod object;
mod sampling;
mod session;
mod syscalls;
mod system_wide;
mod tracefs;

pub use attach::Sides;
pub use catalogue::Family;
pub use cost::{PairCost, pair_costs};
pub use drain::{FUSE_NAMES, Observations, fuse_name};
pub use engine::{Availability, Engine};
pub use object::{bytes as object_bytes, is_embedded};
pub use sampling::DEFAULT_HERTZ;
pub use session::{Request, Session, Watch, engines};
pub use system_wide::{FunctionProbe, Seen, SystemWide};
pub use tracefs::is_readable as tracefs_is_readable;

/// Why probes could not be had at all. A single probe that is refused is no
/// error: it stands in [`Session::status`].
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error(
        "cannot load probes: this program was built without them; build it by `cargo xtask build`"
    )]
    NotBuilt,
    #[error(
        "cannot watch threads from inside a pid namespace, where the kernel's ids are others: run on the host"
    )]
    PidNamespace,
    #[error("cannot load the probes into the kernel: run as root, or with CAP_BPF and CAP_PERFMON")]
    Load(#[source] Box<aya::EbpfError>),
    #[error(
        "cannot find the map {0} in the kernel-side object: build object and program from one source"
    )]
    MapMissing(&'static str),
    #[error("cannot use the map {name} of the kernel side")]
    Map {
        name: &'static str,
        #[source]
        source: aya::maps::MapError,
    },
    #[error(
        "cannot watch threads {first} and {second} at once: their ids share a slot; start the workload again"
    )]
    SharedSlot { first: u32, second: u32 },
    #[error("cannot attach a probe that was attached before: {0}")]
    Attach(String),
    #[error("cannot measure what a probe costs: the call it is measured on failed")]
    Call(#[source] std::io::Error),
    #[error("cannot count the processors: mount /sys")]
    Processors(#[source] std::io::Error),
}
