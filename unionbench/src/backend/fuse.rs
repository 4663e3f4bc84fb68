//! What all unions in user space have in common: the kernel's FUSE, a program
//! that is there or not, and a daemon behind the mount.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::call::Call;
use super::daemon::Daemon;
use super::{BackendError, Request, Union};
use crate::plan::BackendPlan;
use crate::record::Availability;
use crate::sys::mount::{Mounted, mount_in_force};

/// Where programs lie that PATH may leave out.
const USUAL: [&str; 6] =
    ["/usr/local/bin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Whether this kernel serves FUSE to this user.
pub(super) fn availability() -> Availability {
    let device = std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse");
    match device {
        Ok(_) => Availability::Ok,
        Err(error) => {
            let remedy = match error.kind() {
                std::io::ErrorKind::PermissionDenied => {
                    "run as root, or let this user open it (`chmod a+rw /dev/fuse`)"
                }
                _ => "load it with `modprobe fuse`, or give the container the device",
            };
            let reason = format!("/dev/fuse cannot be opened ({error}): {remedy}");
            Availability::Unsupported { reason }
        }
    }
}

/// Whether a program of a Debian package can be used here.
pub(super) fn peer_availability(program: &str, package: &str) -> Availability {
    match (availability(), find(program)) {
        (Availability::Ok, None) => Availability::Unsupported {
            reason: format!("no {program} on this machine: `apt-get install {package}`"),
        },
        (found, _) => found,
    }
}

/// The program's file, in PATH or one of the usual folders.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(PathBuf::from(program)).filter(|path| path.is_file());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(USUAL.map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

/// The first line of what a program says of its version that names a number.
pub(super) fn version(program: &str, flag: &str) -> Option<String> {
    let output = Command::new(find(program)?).arg(flag).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text)
        .lines()
        .find(|line| line.contains(|c: char| c.is_ascii_digit()))
        .map(|line| line.trim().to_owned())
}

/// Options of the plan as `key=value` or `key`.
pub(super) fn options(plan: &BackendPlan) -> Vec<String> {
    plan.options
        .iter()
        .map(|(key, value)| match value.as_str() {
            "" => key.clone(),
            value => format!("{key}={value}"),
        })
        .collect()
}

/// Those of `own` that the scenario does not set itself, then the scenario's.
pub(super) fn with_defaults(own: &[&str], plan: &BackendPlan) -> Vec<String> {
    let key = |option: &str| option.split('=').next().unwrap_or_default().to_owned();
    let theirs = options(plan);
    own.iter()
        .filter(|option| !theirs.iter().any(|given| key(given) == key(option)))
        .map(|option| (*option).to_owned())
        .chain(theirs.iter().cloned())
        .collect()
}

/// `/u=RW:/l0=RO:/l1=RO`: how unionfs-fuse and mergerfs write branches.
pub(super) fn branches(request: &Request<'_>) -> String {
    let mut words = vec![format!("{}=RW", request.upper.display())];
    words.extend(request.lower.iter().enumerate().map(|(index, path)| {
        let mode = if request.is_writable(index) { "RW" } else { "RO" };
        format!("{}={mode}", path.display())
    }));
    words.join(":")
}

/// `lowerdir=…,upperdir=…,workdir=…`: how overlayfs and those like it write
/// layers. A backslash keeps what would separate.
pub(super) fn overlay_style(request: &Request<'_>, options: &[String]) -> String {
    let escaped = |path: &Path| {
        let text = path.display().to_string();
        text.replace('\\', "\\\\").replace(':', "\\:").replace(',', "\\,")
    };
    let (merged, data_only) = request.split_lower();
    let mut lower: Vec<String> = merged.iter().map(|path| escaped(path)).collect();
    // An empty name before the first one that holds data only: `a:b::c`.
    for path in data_only {
        lower.push(String::new());
        lower.push(escaped(path));
    }
    let layers = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.join(":"),
        escaped(request.upper),
        escaped(request.work)
    );
    std::iter::once(layers).chain(options.iter().cloned()).collect::<Vec<_>>().join(",")
}

/// Words as arguments.
pub(super) fn words<const N: usize>(words: [&str; N]) -> Vec<OsString> {
    words.map(OsString::from).to_vec()
}

/// Starts the programs of `calls` and waits until the last one has mounted.
pub(super) fn mount(request: &Request<'_>, calls: &[Call]) -> Result<Union, BackendError> {
    let mut daemon = None;
    for call in calls {
        daemon = match call {
            Call::Serve { argv } => Some(Daemon::serve(argv)?),
            Call::Keep { argv } => Some(Daemon::keep(request.own_program, argv)?),
            Call::Fsconfig { .. } | Call::Mount { .. } => daemon,
        };
    }
    if let Some(daemon) = &mut daemon {
        daemon.wait_until_mounted(request.target)?;
    }
    // From here on an error unmounts.
    let mounted = Mounted::adopt(request.target);
    let in_force = mount_in_force(request.target).map_err(BackendError::InForce)?;
    let options_in_force = in_force
        .map(|(kind, text)| {
            std::iter::once(kind).chain(text.split(',').map(str::to_owned)).collect()
        })
        .unwrap_or_default();
    Ok(Union {
        root: request.target.to_owned(),
        options_in_force,
        mount_api: None,
        mounted: Some(mounted),
        daemon,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::tests::{plan, request};

    #[test]
    fn layers_are_written_in_either_style() {
        let plan = plan("bundled", &[("metacopy", "on")]);
        let lower = [PathBuf::from("/l:0"), PathBuf::from("/l1")];
        let request = Request { writable_lower: &[1], ..request(&plan, &lower) };
        assert_eq!(
            overlay_style(&request, &options(&plan)),
            "lowerdir=/l\\:0:/l1,upperdir=/u,workdir=/w,metacopy=on"
        );
        assert_eq!(branches(&request), "/u=RW:/l:0=RO:/l1=RW");
    }

    #[test]
    fn the_scenario_overrides_what_is_set_by_default() {
        let plan = plan("mergerfs", &[("minfreespace", "1M"), ("use_ino", "")]);
        let all = with_defaults(&["minfreespace=0", "category.create=ff"], &plan);
        assert_eq!(all, ["category.create=ff", "minfreespace=1M", "use_ino"]);
    }

    #[test]
    fn an_absent_program_is_unsupported_with_the_line_to_type() {
        let found = peer_availability("no-such-union", "no-such-package");
        let Availability::Unsupported { reason } = found else { panic!("{found:?}") };
        assert!(reason.contains("apt-get install no-such-package") || reason.contains("/dev/fuse"));
    }
}
