//! Verdicts against a baseline. No I/O.
