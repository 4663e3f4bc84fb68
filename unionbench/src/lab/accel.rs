//! Which accelerator `plain` mode uses.

use std::fs;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::LabError;
use super::guest::{Guest, Mode};
use super::kernel::Kernel;

/// How QEMU runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// KVM where a smoke boot proves it, else TCG.
    Auto,
    Tcg,
    Kvm,
}

impl FromStr for Accel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "tcg" => Ok(Self::Tcg),
            "kvm" => Ok(Self::Kvm),
            _ => Err(format!("cannot use accelerator {text:?}: write auto, tcg or kvm")),
        }
    }
}

impl std::fmt::Display for Accel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Auto => "auto",
            Self::Tcg => "tcg",
            Self::Kvm => "kvm",
        })
    }
}

/// A guest under KVM reaches its init in about two seconds.
const SMOKE_LIMIT: Duration = Duration::from_secs(20);

impl Accel {
    /// The accelerator to use for `mode`, tried on `kernel` where it is KVM.
    pub(crate) fn decide(self, mode: Mode, kernel: &Kernel) -> Result<Self, LabError> {
        match (mode, self) {
            (Mode::Count, Self::Kvm) => {
                Err(LabError::NoKvm { why: "count mode needs an emulated CPU".into() })
            }
            (Mode::Count, _) | (Mode::Plain, Self::Tcg) => Ok(Self::Tcg),
            (Mode::Plain, Self::Auto) => {
                Ok(if prove_kvm(kernel).is_ok() { Self::Kvm } else { Self::Tcg })
            }
            (Mode::Plain, Self::Kvm) => prove_kvm(kernel).map(|()| Self::Kvm),
        }
    }
}

/// `/dev/kvm` opens on machines where it cannot work: QEMU then aborts or
/// hangs. The CPU's flags are asked first, then a guest is booted against the
/// clock.
fn prove_kvm(kernel: &Kernel) -> Result<(), LabError> {
    let refuse = |why: String| LabError::NoKvm { why };
    let cpuinfo = fs::read_to_string("/proc/cpuinfo")
        .map_err(|error| refuse(format!("/proc/cpuinfo is unreadable ({error})")))?;
    let virtualizes = cpuinfo
        .lines()
        .filter(|line| line.starts_with("flags"))
        .any(|line| line.split_whitespace().any(|flag| flag == "vmx" || flag == "svm"));
    if !virtualizes {
        return Err(refuse("the CPU offers neither vmx nor svm".into()));
    }
    let mut smoke = Guest::new(kernel.clone(), Mode::Plain);
    smoke.timeout = SMOKE_LIMIT;
    smoke.boot_timeout = SMOKE_LIMIT;
    smoke
        .run_on(Accel::Kvm)
        .map(drop)
        .map_err(|error| refuse(format!("a smoke boot failed: {error}")))
}
