//! Statistics over samples: quantiles, intervals, fits, rank tests, change
//! points. No I/O, no printing;
//! nothing here knows what a sample means.

pub mod alignment;
pub mod bootstrap;
pub mod change_point;
pub mod correction;
pub mod fit;
pub mod hdr;
pub mod proportion;
mod quantile;
pub mod signed_rank;

pub use quantile::{Summary, nearest_rank, summary};
