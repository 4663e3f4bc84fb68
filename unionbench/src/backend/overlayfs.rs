//! The kernel's overlayfs.
//!
//! Layers are given one at a time through fsconfig's `lowerdir+` (Linux 6.8,
//! Documentation/filesystems/overlayfs.rst), since one string of 500 paths
//! does not fit the page that mount(2) reads. Where the kernel does not know
//! `lowerdir+`, the option string is tried, whose length is the limit.

use std::path::{Path, PathBuf};

use super::{Backend, BackendError, Call, Request, SOURCE, Union};
use crate::plan::BackendPlan;
use crate::record::Availability;
use crate::sys::Errno;
use crate::sys::mount::{
    FsOption, MountFailure, Mounted, has_file_system, mount_by_fsconfig, mount_by_string,
    mount_in_force,
};
use crate::sys::namespace::unshare_working_directory;

/// Lower layers that one mount takes (OVL_MAX_STACK, fs/overlayfs/super.c).
pub const MAX_LOWER_LAYERS: usize = 500;

/// What mount(2) reads of an option string: one page.
const MAX_OPTION_STRING: usize = 4095;

pub(super) struct Overlayfs;

impl Backend for Overlayfs {
    fn availability(&self) -> Availability {
        if has_file_system("overlay") {
            return Availability::Ok;
        }
        Availability::Unsupported {
            reason: "this kernel has no overlayfs: load it with `modprobe overlay`, or use a \
                     kernel with CONFIG_OVERLAY_FS"
                .to_owned(),
        }
    }

    fn options(&self, plan: &BackendPlan, user_namespace: bool) -> Vec<String> {
        let mut options: Vec<String> = plan
            .options
            .iter()
            .map(|(key, value)| match value.as_str() {
                "" => key.clone(),
                value => format!("{key}={value}"),
            })
            .collect();
        // trusted.* attributes cannot be written in a user namespace
        // (xattr(7)); user.overlay.* can (Linux 5.11).
        if user_namespace && !options.iter().any(|option| option == "userxattr") {
            options.push("userxattr".to_owned());
        }
        options
    }

    fn calls(&self, request: &Request<'_>) -> Result<Vec<Call>, BackendError> {
        let options = self.options(request.plan, request.user_namespace);
        Ok(vec![match one_by_one(request) {
            Some(false) => as_one_string(request, &options)?,
            None if is_before_6_5(&kernel_release()) => as_one_string(request, &options)?,
            _ => layers_one_by_one(request, &options),
        }])
    }

    fn mount(&self, request: &Request<'_>) -> Result<Union, BackendError> {
        let options = self.options(request.plan, request.user_namespace);
        let asked = one_by_one(request);
        let tried = match asked.unwrap_or(!is_before_6_5(&kernel_release())) {
            false => None,
            true => Some(carry_out(&layers_one_by_one(request, &options))),
        };
        let (mounted, api) = match tried {
            Some(Ok(mounted)) => (mounted, "fsconfig"),
            Some(Err(failure)) if !predates_lowerdir_plus(&failure) => {
                return Err(refused(request, failure));
            }
            Some(Err(_)) if asked == Some(true) => {
                return Err(BackendError::Limit {
                    kind: request.plan.kind.clone(),
                    limit: "this kernel has no lowerdir+ (Linux 6.8): leave mount_api out".into(),
                });
            }
            _ => {
                let call = as_one_string(request, &options)?;
                (carry_out(&call).map_err(|failure| refused(request, failure))?, "mount")
            }
        };
        let in_force = mount_in_force(request.target).map_err(BackendError::InForce)?;
        let options_in_force = in_force.map(|(_, text)| own_options(&text)).unwrap_or_default();
        Ok(Union::of_kernel(mounted, options_in_force, api))
    }
}

/// Whether the scenario asks for layers one at a time or as one string.
fn one_by_one(request: &Request<'_>) -> Option<bool> {
    request.plan.extra.get("mount_api").map(|api| api == "fsconfig")
}

fn layers_one_by_one(request: &Request<'_>, options: &[String]) -> Call {
    let with = |key: &str, path: &Path| (key.to_owned(), Some(display(path)));
    let (merged, data_only) = request.split_lower();
    let mut all: Vec<_> = merged.iter().map(|path| with("lowerdir+", path)).collect();
    all.extend(data_only.iter().map(|path| with("datadir+", path)));
    all.push(with("upperdir", request.upper));
    all.push(with("workdir", request.work));
    all.extend(options.iter().map(|option| match option.split_once('=') {
        Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
        None => (option.clone(), None),
    }));
    Call::Fsconfig { fs_type: "overlay", options: all, target: request.target.to_owned() }
}

/// The kernel copies one page of options, so the layers are named relative to
/// the folder that holds them all: 128 absolute paths would not fit.
fn as_one_string(request: &Request<'_>, options: &[String]) -> Result<Call, BackendError> {
    let base = request.lower.first().and_then(|path| path.parent());
    let base = base.filter(|base| request.lower.iter().all(|path| path.parent() == Some(base)));
    let named = |path: &PathBuf| {
        display(base.and_then(|base| path.strip_prefix(base).ok()).unwrap_or(path))
    };
    let (merged, data_only) = request.split_lower();
    let mut lower = merged.iter().map(named).collect::<Vec<_>>().join(":");
    for path in data_only {
        lower.push_str("::");
        lower.push_str(&named(path));
    }
    let mut text = format!(
        "lowerdir={lower},upperdir={},workdir={}",
        display(&absolute(request.upper)),
        display(&absolute(request.work))
    );
    for option in options {
        text.push(',');
        text.push_str(option);
    }
    if text.len() > MAX_OPTION_STRING {
        return Err(BackendError::Limit {
            kind: request.plan.kind.clone(),
            limit: format!(
                "{} layers make an option string of {} bytes and mount(2) reads \
                 {MAX_OPTION_STRING}: use fewer layers, or Linux 6.8 which has lowerdir+",
                request.lower.len(),
                text.len()
            ),
        });
    }
    Ok(Call::Mount {
        fs_type: "overlay",
        remount: false,
        data: text,
        base: Some(base.unwrap_or(Path::new("/")).to_owned()),
        target: request.target.to_owned(),
    })
}

fn carry_out(call: &Call) -> Result<Mounted, MountFailure> {
    match call {
        Call::Fsconfig { fs_type, options, target } => {
            let options: Vec<FsOption<'_>> =
                options.iter().map(|(key, value)| (key.as_str(), value.as_deref())).collect();
            mount_by_fsconfig(fs_type, SOURCE, &options, target)
        }
        Call::Mount { data, base, target, .. } => {
            mount_in(base.as_deref().unwrap_or(Path::new("/")), data, target)
        }
        Call::Serve { .. } | Call::Keep { .. } => {
            Err(MountFailure { errno: Errno::INVAL, log: "overlayfs has no program".to_owned() })
        }
    }
}

/// Mounts from a thread whose working directory is `base`; that of the other
/// threads stays.
fn mount_in(base: &Path, options: &str, target: &Path) -> Result<Mounted, MountFailure> {
    let target = absolute(target);
    let failed = |errno| MountFailure { errno, log: String::new() };
    let mount = || {
        unshare_working_directory().map_err(failed)?;
        rustix::process::chdir(base).map_err(failed)?;
        let mounted = mount_by_string("overlay", SOURCE, options, &target);
        // A thread that has ended may hold its directory for a moment longer.
        rustix::process::chdir("/").map_err(failed)?;
        mounted
    };
    std::thread::scope(|scope| {
        scope.spawn(mount).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn absolute(path: &Path) -> std::path::PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// A kernel without `lowerdir+` answers the first one with EINVAL and says so,
/// one without fsopen(2) with ENOSYS.
fn predates_lowerdir_plus(failure: &MountFailure) -> bool {
    failure.errno == Errno::NOSYS
        || (failure.errno == Errno::INVAL && failure.log.starts_with("option lowerdir+"))
}

/// Before Linux 6.5 overlayfs has no option parser of its own behind fsopen(2):
/// any option is taken there, and only the mount is refused, without a word.
fn is_before_6_5(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) < (6, 5),
        _ => false,
    }
}

fn kernel_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

fn refused(request: &Request<'_>, source: MountFailure) -> BackendError {
    let hint = match source.errno {
        Errno::PERM | Errno::ACCESS => {
            "run as root, or where user namespaces may mount overlayfs (Linux 5.11)"
        }
        Errno::INVAL if request.lower.len() > MAX_LOWER_LAYERS => "use at most 500 lower layers",
        Errno::INVAL => {
            "an option is not known to this kernel or contradicts another, or upper and work \
             lie on a file system that overlayfs refuses (another overlayfs, NFS): try \
             --scratch on ext4, xfs, btrfs or tmpfs"
        }
        Errno::NODEV => "this kernel has no overlayfs: `modprobe overlay`",
        Errno::OPNOTSUPP => "the backing file system lacks what an option needs",
        _ => "see the cause",
    };
    BackendError::Mount {
        kind: request.plan.kind.clone(),
        target: request.target.to_owned(),
        hint: hint.to_owned(),
        source,
    }
}

/// Super block options without the layers, which only repeat the plan.
fn own_options(text: &str) -> Vec<String> {
    text.split(',')
        .filter(|option| {
            let key = option.split('=').next().unwrap_or(option);
            !matches!(key, "lowerdir" | "lowerdir+" | "datadir+" | "upperdir" | "workdir")
        })
        .map(str::to_owned)
        .collect()
}

fn display(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_left_out_of_the_options_in_force() {
        let text = "rw,lowerdir=/a:/b,lowerdir+=/c,upperdir=/u,workdir=/w,xino=off,metacopy=on";
        assert_eq!(own_options(text), ["rw", "xino=off", "metacopy=on"]);
    }

    #[test]
    fn only_an_unknown_lowerdir_plus_leads_to_the_option_string() {
        let of = |errno, log: &str| MountFailure { errno, log: log.to_owned() };
        assert!(predates_lowerdir_plus(&of(Errno::INVAL, "option lowerdir+: e overlay: Unknown")));
        assert!(predates_lowerdir_plus(&of(Errno::NOSYS, "")));
        assert!(!predates_lowerdir_plus(&of(Errno::INVAL, "option metacopy: bad")));
        assert!(!predates_lowerdir_plus(&of(Errno::PERM, "option lowerdir+: no")));
    }

    #[test]
    fn kernels_before_6_5_are_told_by_their_release() {
        assert!(is_before_6_5("6.1.0-56-amd64"));
        assert!(is_before_6_5("5.15"));
        assert!(!is_before_6_5("6.12.117+deb12-amd64"));
        assert!(!is_before_6_5("7.0.1"));
    }
}
