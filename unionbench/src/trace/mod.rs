//! What happens in the unions of a running host, without a scenario: one event
//! for each copy-up, lookup, whiteout, listing, fsync or request.
//!
//! [`Tracer`] is the stream of events:
//!
//! ```no_run
//! # use std::time::Duration;
//! # use unionbench::trace::{Kind, Request, Tracer};
//! # fn main() -> Result<(), unionbench::trace::TraceError> {
//! let request = Request { kinds: vec![Kind::Fsync], ..Request::default() };
//! let mut tracer = Tracer::open(&request)?;
//! while let Some(event) = tracer.next(Duration::from_secs(1))? {
//!     // `event.process` has waited for `event.latency_ns`.
//! }
//! tracer.stop();
//! while let Some(event) = tracer.next(Duration::ZERO)? {
//!     // What was on its way.
//! }
//! let end = tracer.end()?;
//! # let _ = end;
//! # Ok(())
//! # }
//! ```

pub mod advise;
pub mod cgroup;
pub mod event;
pub mod mounts;
pub mod recording;
pub mod replay;
#[cfg(test)]
pub(crate) mod sample;
pub mod summary;

mod decode;
mod places;
mod probes;
mod show;
mod tracer;
mod trigger;

pub use event::{
    Container, CopiedBy, End, Event, FORMAT, Header, Kind, Line, Mount, Object, Trigger,
};
pub use recording::{Ending, Recording, RecordingError};
pub use show::{COLUMNS, csv_row, human_heading, human_line};
pub use summary::Summary;
pub use tracer::{DEFAULT_BUFFER, Request, Source, TraceError, Tracer};
