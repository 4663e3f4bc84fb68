//! Statistics over samples: quantiles, intervals, fits. No I/O, no printing;
//! nothing here knows what a sample means.

pub mod bootstrap;
pub mod fit;
pub mod hdr;
mod quantile;

pub use quantile::{Summary, nearest_rank, summary};
