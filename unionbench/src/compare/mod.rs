//! Two records side by side. No I/O.
