//! Printing results on stdout.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write as _, stderr, stdout};

/// One line. A reader that has seen enough and closed the pipe (`| head`) is
/// no error; a full disk behind stdout is told, once for every line.
pub fn line(text: Arguments<'_>) {
    match writeln!(stdout().lock(), "{text}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            let _ = writeln!(stderr(), "unionbench: cannot print the result: {error}");
        }
        _ => {}
    }
}
