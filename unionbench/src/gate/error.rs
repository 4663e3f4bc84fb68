//! Why the gate gives no verdict.

use crate::compare::CompareError;

/// Why there is no verdict. None of these is a pass.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    #[error(transparent)]
    Compare(#[from] CompareError),
    #[error(
        "cannot gate kernel {new} by a baseline of {base}: use that kernel, save a baseline of this one, or give --across-kernels"
    )]
    Kernel { base: String, new: String },
    #[error("cannot read the baseline: {reason}; restore it, or save it anew")]
    Baseline { reason: String },
    #[error(
        "cannot use the baseline: it was edited by hand (its checksum is that of another text); restore it, accept a change with --accept METRIC --because REASON, or save it anew"
    )]
    Edited,
    #[error("cannot read the budget: {reason}")]
    Budget { reason: String },
    #[error(
        "cannot accept {metric}: nothing of that name became worse; name a metric or `CELL METRIC` as the gate printed it"
    )]
    NothingToAccept { metric: String },
    #[error("cannot accept a change without a reason: give it with --because")]
    NoReason,
}

impl GateError {
    /// The baseline does not hold for this machine: nothing is wrong with the
    /// record, it only cannot be judged here.
    pub fn is_unsupported(&self) -> bool {
        matches!(self, Self::Kernel { .. } | Self::Compare(CompareError::Labs { .. }))
    }
}
