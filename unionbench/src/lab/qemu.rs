//! QEMU's command line and process.

use std::ffi::OsString;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::accel::Accel;
use super::error::LabError;
use super::guest::Mode;
use super::handed::{MemoryFile, hand};
use super::protocol::PORT_NAME;
use crate::sys::child::die_with_parent;
use crate::unit::Bytes;

const PROGRAM: &str = "qemu-system-x86_64";

/// The versioned machine type: plain `q35` changes with QEMU.
pub(crate) const MACHINE: &str = "pc-q35-7.2";

/// CPU of `count` mode. Named and versioned, because `max` changes with QEMU;
/// one without RDRAND and RDSEED, whose values would differ on every run, and
/// wholly emulated by TCG.
const COUNT_CPU: &str = "Westmere-v1";

/// Kernel parameters of both modes. A kernel that oopsed is not worth
/// measuring on, and `panic=-1` makes QEMU end instead of hanging.
const APPEND: &str = "console=ttyS0 rdinit=/init loglevel=5 oops=panic panic=-1 mitigations=off";

/// Further parameters of `count` mode: no address or seed may come from
/// outside, and the clock is the one that counts instructions.
const COUNT_APPEND: &str = "nokaslr norandmaps random.trust_cpu=off clocksource=tsc tsc=reliable";

/// A further parameter of `plain` mode, whose time is the host's: on a busy one
/// the kernel would not see the timer tick as often as it waits for, and panic
/// ("IO-APIC + timer doesn't work!").
const PLAIN_APPEND: &str = "no_timer_check";

/// Everything of a guest that QEMU has to be told.
#[derive(Debug)]
pub(crate) struct Machine<'a> {
    pub mode: Mode,
    pub accel: Accel,
    pub memory: Bytes,
    pub cpus: u32,
    pub kernel: &'a Path,
    pub append: &'a str,
    /// The console is the terminal instead of a file.
    pub interactive: bool,
}

/// What QEMU gets beside its arguments.
#[derive(Debug)]
pub(crate) struct Handed<'a> {
    pub initramfs: &'a MemoryFile,
    pub console: &'a MemoryFile,
    pub errors: &'a MemoryFile,
    /// The guest's end of the results.
    pub port: UnixStream,
}

/// Where QEMU finds them.
#[derive(Debug)]
struct Places {
    initramfs: String,
    console: String,
    port: i32,
}

impl Machine<'_> {
    pub(crate) fn cpu_model(&self) -> &'static str {
        match (self.mode, self.accel) {
            (Mode::Count, _) => COUNT_CPU,
            (Mode::Plain, Accel::Kvm) => "host",
            (Mode::Plain, _) => "max",
        }
    }

    pub(crate) fn kernel_parameters(&self) -> String {
        let parts = match self.mode {
            Mode::Count => [APPEND, COUNT_APPEND, self.append],
            Mode::Plain => [APPEND, PLAIN_APPEND, self.append],
        };
        parts.iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join(" ")
    }

    fn arguments(&self, places: &Places) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = Vec::new();
        let mut add = |flag: &str, value: OsString| {
            arguments.push(flag.into());
            arguments.push(value);
        };
        add("-machine", MACHINE.into());
        add("-cpu", self.cpu_model().into());
        add("-smp", self.cpus.to_string().into());
        add("-m", format!("{}M", self.memory.0 >> 20).into());
        match self.mode {
            Mode::Count => {
                add("-accel", "tcg".into());
                add("-icount", "shift=0,sleep=off".into());
                add("-seed", "7".into());
                add("-rtc", "base=2026-01-01T00:00:00,clock=vm".into());
            }
            Mode::Plain if self.accel == Accel::Kvm => add("-accel", "kvm".into()),
            Mode::Plain => add("-accel", "tcg,thread=multi".into()),
        }
        add("-kernel", self.kernel.into());
        add("-initrd", (&places.initramfs).into());
        add("-append", self.kernel_parameters().into());
        if self.interactive {
            add("-chardev", "stdio,id=console,signal=off".into());
        } else {
            // A file never makes the guest wait, unlike a pipe or a socket.
            add("-chardev", format!("file,id=console,path={}", places.console).into());
        }
        add("-serial", "chardev:console".into());
        add("-chardev", format!("socket,id=results,fd={}", places.port).into());
        // Without an event descriptor the guest's notification is served on its
        // own CPU thread; with one, the guest would spin for as long as QEMU's
        // main loop takes to wake up, and no two runs would count alike.
        add("-device", "virtio-serial-pci,ioeventfd=off".into());
        add("-device", format!("virtserialport,chardev=results,name={PORT_NAME}").into());
        for flag in ["-nodefaults", "-no-user-config", "-no-reboot"] {
            arguments.push(flag.into());
        }
        arguments.extend(["-display", "none"].map(Into::into));
        arguments
    }
}

/// The QEMU to use: `$UNIONBENCH_QEMU`, else the one on the path.
pub(crate) fn program() -> PathBuf {
    std::env::var_os("UNIONBENCH_QEMU").map_or_else(|| PROGRAM.into(), PathBuf::from)
}

/// Version of `program`, as `7.2.22 (Debian …)`.
pub(crate) fn version(program: &Path) -> Result<String, LabError> {
    let missing = || LabError::QemuMissing { program: program.display().to_string() };
    let output = Command::new(program).arg("--version").output().map_err(|_| missing())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().next().unwrap_or_default();
    match line.split_once("version ") {
        Some((_, version)) => Ok(version.trim().to_owned()),
        None => Err(missing()),
    }
}

/// A running QEMU, killed and reaped when dropped.
pub(crate) struct Process(pub Child);

impl Process {
    pub(crate) fn spawn(
        program: &Path,
        machine: &Machine<'_>,
        handed: Handed<'_>,
    ) -> Result<Self, LabError> {
        let mut command = Command::new(program);
        let failed = || LabError::io("hand to QEMU", "a guest's files");
        let places = Places {
            initramfs: handed.initramfs.hand_to(&mut command).map_err(failed())?,
            console: handed.console.hand_to(&mut command).map_err(failed())?,
            port: hand(handed.port.into(), &mut command),
        };
        let stderr = handed.errors.duplicate().map_err(failed())?;
        command.args(machine.arguments(&places)).stderr(Stdio::from(stderr));
        if !machine.interactive {
            command.stdin(Stdio::null()).stdout(Stdio::null());
        }
        die_with_parent(&mut command)
            .spawn()
            .map(Self)
            .map_err(|_| LabError::QemuMissing { program: program.display().to_string() })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only for a process that has ended and was reaped.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(mode: Mode, accel: Accel) -> String {
        let machine = Machine {
            mode,
            accel,
            memory: Bytes(1 << 30),
            cpus: 1,
            kernel: Path::new("k"),
            append: "extra",
            interactive: false,
        };
        let places = Places { initramfs: "i".into(), console: "c".into(), port: 7 };
        let words: Vec<String> =
            machine.arguments(&places).iter().map(|a| a.to_string_lossy().into_owned()).collect();
        words.join(" ")
    }

    #[test]
    fn count_mode_takes_nothing_from_the_host() {
        let line = arguments(Mode::Count, Accel::Tcg);
        for part in [
            "-machine pc-q35-7.2 -cpu Westmere-v1 -smp 1 -m 1024M",
            "-icount shift=0,sleep=off -seed 7 -rtc base=2026-01-01T00:00:00,clock=vm",
            "nokaslr norandmaps",
            "mitigations=off nokaslr norandmaps random.trust_cpu=off clocksource=tsc tsc=reliable extra",
            "-initrd i",
            "file,id=console,path=c",
            "socket,id=results,fd=7",
        ] {
            assert!(line.contains(part), "{part} is not in {line}");
        }
    }

    #[test]
    fn plain_mode_runs_at_the_hosts_pace() {
        for accel in [Accel::Tcg, Accel::Kvm] {
            let line = arguments(Mode::Plain, accel);
            assert!(!line.contains("icount") && !line.contains("nokaslr"), "{line}");
            assert!(line.contains("no_timer_check"), "{line}");
        }
    }

    #[test]
    fn a_missing_qemu_is_named() {
        let error = version(Path::new("/nonexistent/qemu")).expect_err("nothing is there");
        assert!(matches!(error, LabError::QemuMissing { .. }), "{error}");
    }
}
