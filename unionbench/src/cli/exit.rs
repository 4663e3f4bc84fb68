//! Exit codes.

use std::process::ExitCode;

use crate::gate::GateError;
use crate::run::RunError;
use crate::stack::image::ImageError;
use crate::trace::TraceError;

/// What was asked for cannot be done as it was written.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Bad input of the user's: exit code 2.
    #[error("{0}")]
    Usage(String),
    /// Nothing that was asked for can be measured here: exit code 5.
    #[error("{0}")]
    Unsupported(String),
}

/// The exit code that belongs to an error.
pub(super) fn of(error: &anyhow::Error) -> ExitCode {
    if let Some(RunError::Interrupted) = error.downcast_ref() {
        return ExitCode::from(130);
    }
    if let Some(ImageError::Cancelled) = error.downcast_ref() {
        return ExitCode::from(130);
    }
    if let Some(error) = error.downcast_ref::<GateError>()
        && error.is_unsupported()
    {
        return ExitCode::from(5);
    }
    match error.downcast_ref() {
        Some(TraceError::Usage(_)) => return ExitCode::from(2),
        Some(TraceError::Unsupported { .. }) => return ExitCode::from(5),
        _ => {}
    }
    match error.downcast_ref() {
        Some(Failure::Usage(_)) => ExitCode::from(2),
        Some(Failure::Unsupported(_)) => ExitCode::from(5),
        None => ExitCode::FAILURE,
    }
}
