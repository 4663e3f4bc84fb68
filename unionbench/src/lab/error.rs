//! What can go wrong between a host and its guest, each with its remedy.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::unit::Bytes;

/// Why the lab gave no outcome. "The guest's command failed" is not here: that
/// is an outcome with an exit status.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabError {
    #[error(
        "cannot start the lab: {program} is not installed; on Debian: apt-get install --no-install-recommends qemu-system-x86"
    )]
    QemuMissing { program: String },

    #[error(
        "cannot find a kernel for {name:?}: give a series (6.1), a Debian release (6.1.0-56-amd64), a .deb, an extracted package or a bzImage; {detail}"
    )]
    KernelUnknown { name: String, detail: String },

    #[error(
        "cannot fetch package {package}: {detail}; run apt-get update, or give a .deb file or a bzImage with --kernel"
    )]
    Fetch { package: String, detail: String },

    #[error("cannot use {} as a kernel: {why}; give an intact bzImage or fetch the package anew", path.display())]
    NotAKernel { path: PathBuf, why: String },

    #[error(
        "cannot run on kernel {release}: it has no {what}; use another kernel (`unionbench lab kernels` lists what each can do)"
    )]
    KernelLacks { release: String, what: String },

    #[error("cannot unpack kernel module {}: {why}; fetch the package anew", path.display())]
    BadModule { path: PathBuf, why: String },

    #[error(
        "cannot start a guest of {memory}: its initial file system takes {initramfs} and needs {need}; raise --memory"
    )]
    TooLittleMemory { memory: Bytes, initramfs: Bytes, need: Bytes },

    #[error("cannot put {} into the guest: {why}", path.display())]
    GuestFile { path: PathBuf, why: String },

    #[error("cannot use KVM here: {why}; use --accel tcg, whose counts are the same on every host")]
    NoKvm { why: String },

    #[error("cannot set up the guest: {what}; {remedy}")]
    BadGuest { what: String, remedy: String },

    #[error(
        "QEMU ended before the guest reported ({status}): {stderr}; check the QEMU version and the console {tail}"
    )]
    QemuFailed { status: String, stderr: String, tail: ConsoleTail },

    #[error(
        "the guest did not reach its init within {}: raise --boot-timeout, or look for what hangs{tail}",
        seconds(*.limit)
    )]
    BootTimeout { limit: Duration, tail: ConsoleTail },

    #[error(
        "the kernel did not boot and printed nothing: its image is corrupt or not for x86-64, or this host is too busy for --boot-timeout; fetch the package anew, give another --kernel or more time"
    )]
    DidNotBoot,

    #[error(
        "the guest did not finish within {}: raise --timeout, or look for a hang{tail}",
        seconds(*.limit)
    )]
    Timeout { limit: Duration, tail: ConsoleTail },

    #[error(
        "the guest's kernel panicked ({line}): a bug of that kernel or of what ran on it; try another --kernel{tail}"
    )]
    Panic { line: String, tail: ConsoleTail },

    #[error(
        "the guest ran out of memory ({victims} killed): raise --memory (now {memory}) or shrink the scenario{tail}"
    )]
    OutOfMemory { victims: u64, memory: Bytes, tail: ConsoleTail },

    #[error("the guest could not be set up: {message}{tail}")]
    GuestSetup { message: String, tail: ConsoleTail },

    #[error(
        "no exit status came back from the guest: it ended without reporting, so nothing is known of its command{tail}"
    )]
    NoExitStatus { tail: ConsoleTail },

    #[error("cannot read the guest's report: {why}; host and guest must be the same binary{tail}")]
    Protocol { why: String, tail: ConsoleTail },

    #[error("the lab was interrupted; the guest has been stopped")]
    Interrupted,

    #[error("cannot {action} {}: check that it exists and is accessible", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl LabError {
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}

/// The last lines of a guest's console, printed behind an error that needs
/// them; nothing if the console stayed empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConsoleTail(String);

impl ConsoleTail {
    /// Keeps the last `n_lines` non-empty lines of `console`.
    pub fn of(console: &str, n_lines: usize) -> Self {
        let lines: Vec<&str> = console.lines().filter(|l| !l.trim().is_empty()).collect();
        Self(lines[lines.len().saturating_sub(n_lines)..].join("\n"))
    }
}

impl std::fmt::Display for ConsoleTail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            return f.write_str(" (the console stayed empty)");
        }
        f.write_str("; the console ended with:\n")?;
        for line in self.0.lines() {
            writeln!(f, "  | {line}")?;
        }
        Ok(())
    }
}

fn seconds(limit: Duration) -> String {
    format!("{} s", limit.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tail_keeps_the_last_lines_that_say_something() {
        assert_eq!(ConsoleTail::of("a\n\nb\nc\n\n", 2), ConsoleTail("b\nc".into()));
        assert_eq!(ConsoleTail::of("", 2).to_string(), " (the console stayed empty)");
    }
}
