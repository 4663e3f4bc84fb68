//! Printing results on stdout.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write as _, stderr, stdout};
use std::sync::atomic::{AtomicBool, Ordering};

static FAILED: AtomicBool = AtomicBool::new(false);

/// Something could not be printed, which a script behind must learn from the
/// exit code.
pub fn failed() -> bool {
    FAILED.load(Ordering::Relaxed)
}

/// One line, as [`text`] prints it.
pub fn line(line: Arguments<'_>) {
    text(format_args!("{line}\n"));
}

/// A reader that has seen enough and closed the pipe (`| head`) is no error; a
/// full disk behind stdout is told, once.
pub fn text(text: Arguments<'_>) {
    let mut out = stdout().lock();
    match out.write_fmt(text).and_then(|()| out.flush()) {
        Err(error)
            if error.kind() != ErrorKind::BrokenPipe && !FAILED.swap(true, Ordering::Relaxed) =>
        {
            let _ = writeln!(stderr(), "unionbench: cannot print the result: {error}");
        }
        _ => {}
    }
}
