//! What happens in the unions of a running host, without a scenario: one event
//! for each copy-up, lookup, whiteout, listing, fsync or request.

pub mod event;

pub use event::{
    Container, CopiedBy, End, Event, FORMAT, Header, Kind, Line, Mount, Object, Trigger,
};
