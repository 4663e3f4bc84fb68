//! What the programs in the kernel and the program that loads them agree on.
//!
//! Every type here is `repr(C)`, holds no padding, and has its size asserted:
//! both sides are built by different compilers, and a map's value is whatever
//! bytes lie in it.

#![no_std]
#![allow(unsafe_code)]

pub mod event;
pub mod hist;
pub mod op;
pub mod reply;
pub mod thread;
pub mod trace;

pub use event::{Control, CopyUpEvent, LayerTurn};
pub use hist::Histogram;
pub use op::{Counter, Operation};
pub use reply::{ReplyOffsets, Wait};
pub use thread::{Frame, Thread};

#[cfg(feature = "user")]
mod plain {
    // SAFETY: all of these are `repr(C)`, `Copy`, made of integers only and
    // without padding (asserted beside each), so any bytes are a valid value.
    unsafe impl aya::Pod for crate::Control {}
    // SAFETY: as above.
    unsafe impl aya::Pod for crate::CopyUpEvent {}
    // SAFETY: as above.
    unsafe impl aya::Pod for crate::Histogram {}
    // SAFETY: as above.
    unsafe impl aya::Pod for crate::LayerTurn {}
    // SAFETY: as above.
    unsafe impl aya::Pod for crate::ReplyOffsets {}
    // SAFETY: as above.
    unsafe impl aya::Pod for crate::Thread {}
    // SAFETY: as above.
    unsafe impl aya::Pod for crate::Wait {}
    // SAFETY: as above.
    unsafe impl aya::Pod for crate::trace::Offsets {}
    // SAFETY: as above.
    unsafe impl aya::Pod for crate::trace::Settings {}
    // SAFETY: as above.
    unsafe impl aya::Pod for crate::trace::Task {}
}
