//! Verdicts against a baseline. No I/O.
//!
//! Three tiers. What is counted (instructions and counters) is compared exactly
//! and blocks; ratios of wall time block past a smallest effect that is shown by
//! test; the trend over stored records only warns. `compare` does the first two
//! with the [`Budget`] as its policy; [`trend`] does the third.

mod baseline;
mod budget;
mod error;
mod selftest;
mod trend;

pub use baseline::{Accepted, Baseline};
pub use budget::{Budget, Override};
pub use error::GateError;
pub use selftest::{
    Class, Injection, Outcome, Pairing, Report as SelftestReport, apart, draws, outcome, spreads,
};
pub use trend::{Change, trend};

use crate::compare::{Comparison, Subject, compare_subjects};

/// Compares `new` with `baseline` under `budget`. The kernel must be the
/// baseline's own unless `across_kernels`: then it is what is under test.
pub fn judge(
    baseline: &Baseline,
    new: &Subject,
    budget: &Budget,
    across_kernels: bool,
) -> Result<Comparison, GateError> {
    let base = &baseline.subject;
    let kernels = (&base.place.kernel_sha256, &new.place.kernel_sha256);
    if !across_kernels && kernels.0 != kernels.1 {
        return Err(GateError::Kernel { base: kernel(base), new: kernel(new) });
    }
    Ok(compare_subjects(base, new, budget)?)
}

fn kernel(subject: &Subject) -> String {
    let place = &subject.place;
    place.kernel_package.clone().unwrap_or_else(|| place.kernel.clone())
}
