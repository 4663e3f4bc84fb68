//! aufs, where the kernel has it.
//!
//! Its parser holds options in an array of about 85 with no check of bounds:
//! `br=` with 100 branches oopses Linux 6.1.192 with aufs 6.1, 70 are fine.
//! So `br=` gets at most [`BRANCHES_AT_ONCE`], and the rest are appended one
//! remount at a time, each of which parses one option.

use std::fs;
use std::path::Path;

use super::{Backend, BackendError, Call, Request, SOURCE, Union, fuse};
use crate::plan::BackendPlan;
use crate::record::Availability;
use crate::stack::Whiteout;
use crate::sys::Errno;
use crate::sys::mount::{
    MountFailure, Mounted, has_file_system, mount_by_string, mount_in_force, remount_by_string,
};

/// Branches of one `br=`.
const BRANCHES_AT_ONCE: usize = 64;

/// What mount(2) reads of an option string: one page.
const MAX_OPTION_STRING: usize = 4095;

/// What is in force where `/proc/mounts` is silent (fs/aufs/opts.h).
const DEFAULTS: [(&str, &str); 3] = [("udba", "reval"), ("create", "tdp"), ("cpup", "tdp")];

pub(super) struct Aufs;

impl Backend for Aufs {
    fn availability(&self) -> Availability {
        if has_file_system("aufs") {
            return Availability::Ok;
        }
        Availability::Unsupported {
            reason: "this kernel has no aufs (bring one: --kernel …)".to_owned(),
        }
    }

    fn whiteouts(&self, _: &BackendPlan) -> Whiteout {
        Whiteout::Aufs
    }

    fn options(&self, plan: &BackendPlan, _: bool) -> Vec<String> {
        fuse::options(plan)
    }

    fn calls(&self, request: &Request<'_>) -> Result<Vec<Call>, BackendError> {
        let branches = branches(request)?;
        let options: Vec<String> = self
            .options(request.plan, request.user_namespace)
            .iter()
            .map(|option| with_xino_file(option, request.work))
            .collect();
        let room = MAX_OPTION_STRING - options.iter().map(|o| o.len() + 1).sum::<usize>();
        let n_first = how_many_fit(&branches, room);
        let mut data = format!("br={}", branches[..n_first].join(":"));
        for option in &options {
            data.push(',');
            data.push_str(option);
        }
        let call = |remount, data| Call::Mount {
            fs_type: "aufs",
            remount,
            data,
            base: None,
            target: request.target.to_owned(),
        };
        let rest = branches[n_first..].iter().map(|branch| call(true, format!("append:{branch}")));
        Ok(std::iter::once(call(false, data)).chain(rest).collect())
    }

    fn mount(&self, request: &Request<'_>) -> Result<Union, BackendError> {
        let mut mounted: Option<Mounted> = None;
        for call in &self.calls(request)? {
            let Call::Mount { data, target, .. } = call else { continue };
            match &mounted {
                None => {
                    let first = mount_by_string("aufs", SOURCE, data, target);
                    mounted = Some(first.map_err(|failure| refused(request, failure))?);
                }
                Some(mounted) => {
                    remount_by_string(mounted, data).map_err(|failure| refused(request, failure))?
                }
            }
        }
        let Some(mounted) = mounted else { return Err(BackendError::NoCall) };
        let in_force = mount_in_force(request.target).map_err(BackendError::InForce)?;
        let shown = in_force.map(|(_, options)| options).unwrap_or_default();
        let found = in_force_here(&shown);
        let wanted = 1 + request.lower.len();
        let n_rw = 1 + (0..request.lower.len()).filter(|i| request.is_writable(*i)).count();
        if found.branches.len() != wanted || found.n_writable() != n_rw {
            return Err(BackendError::NotInForce {
                kind: request.plan.kind.clone(),
                wanted: format!("{wanted} branches, {n_rw} of them writable"),
                found: format!("{} and {}", found.branches.len(), found.n_writable()),
            });
        }
        Ok(Union::of_kernel(mounted, found.describe(), "mount"))
    }
}

/// `PATH=rw`, `PATH=ro` or `PATH=ro+wh`, the upper layer first.
fn branches(request: &Request<'_>) -> Result<Vec<String>, BackendError> {
    let lower = request.lower.iter().enumerate();
    let lower = lower.map(|(index, path)| (path.as_path(), request.is_writable(index)));
    std::iter::once((request.upper, true))
        .chain(lower)
        .map(|(path, writable)| {
            let text = path.display().to_string();
            // aufs has no escape for what separates branches and options.
            if text.contains([',', ':', '=']) {
                return Err(BackendError::LayerName { path: path.to_owned() });
            }
            // aufs looks for whiteouts in a read-only branch only if told to.
            let mode = match (writable, request.hides) {
                (true, _) => "rw",
                (false, false) => "ro",
                (false, true) => "ro+wh",
            };
            Ok(format!("{text}={mode}"))
        })
        .collect()
}

/// Branches of the first mount: at least one, or nothing could be appended to.
fn how_many_fit(branches: &[String], room: usize) -> usize {
    let mut length = "br=".len();
    let fitting = branches.iter().take(BRANCHES_AT_ONCE).take_while(|branch| {
        length += branch.len() + 1;
        length <= room
    });
    fitting.count().max(1)
}

/// A scenario names the xino file by one word; it lies in the work folder,
/// outside of every branch as aufs wants it.
fn with_xino_file(option: &str, work: &Path) -> String {
    match option.strip_prefix("xino=") {
        Some(name) => format!("xino={}/{name}", work.display()),
        None => option.to_owned(),
    }
}

/// What the kernel says of a mount.
#[derive(Debug, Default, PartialEq, Eq)]
struct InForce {
    /// As `/proc/mounts` shows them, `si` and `br` left out.
    options: Vec<String>,
    /// `PATH=PERMISSION`, the upper layer first.
    branches: Vec<String>,
    /// File of the inode number table.
    xino: Option<String>,
}

impl InForce {
    fn n_writable(&self) -> usize {
        let permission = |branch: &&String| {
            branch.rsplit_once('=').is_some_and(|(_, mode)| mode.split('+').next() == Some("rw"))
        };
        self.branches.iter().filter(permission).count()
    }

    fn describe(&self) -> Vec<String> {
        let mut all = self.options.clone();
        for (key, value) in DEFAULTS {
            let shown = |option: &String| option.split('=').next() == Some(key);
            if !all.iter().any(shown) {
                all.push(format!("{key}={value}"));
            }
        }
        let named = |path: &String| path.rsplit('/').next().map(|name| format!("xino={name}"));
        all.extend(self.xino.as_ref().and_then(named));
        all.push(format!("branches={}", self.branches.len()));
        all.push(format!("writable={}", self.n_writable()));
        all
    }
}

/// Reads options that `/proc/mounts` shows, and the branches from
/// `/sys/fs/aufs/si_ID/brN`, or from the options themselves where aufs was
/// told not to make those files (`brs=0`).
fn in_force_here(shown: &str) -> InForce {
    let folder = id(shown).map(|id| format!("/sys/fs/aufs/si_{id}"));
    let read = |name: &str| {
        let text = fs::read_to_string(format!("{}/{name}", folder.as_ref()?)).ok()?;
        Some(text.trim_end().to_owned())
    };
    parse(shown, read)
}

fn id(shown: &str) -> Option<&str> {
    shown.split(',').find_map(|option| option.strip_prefix("si="))
}

fn parse(shown: &str, read: impl Fn(&str) -> Option<String>) -> InForce {
    let mut found = InForce::default();
    for option in shown.split(',') {
        if let Some(list) = option.strip_prefix("br:") {
            found.branches = list.split(':').map(str::to_owned).collect();
        } else if !option.starts_with("si=") && !option.is_empty() {
            found.options.push(option.to_owned());
        }
    }
    if found.branches.is_empty() {
        found.branches = (0..).map_while(|index| read(&format!("br{index}"))).collect();
    }
    found.xino = read("xi_path").filter(|path| !path.is_empty());
    found
}

fn refused(request: &Request<'_>, source: MountFailure) -> BackendError {
    let n = 1 + request.lower.len();
    let hint = match source.errno {
        Errno::PERM | Errno::ACCESS => "aufs cannot be mounted in a user namespace: run as root",
        // fs/aufs/branch.c: the number of branches is set by the build.
        Errno::NOSPC => {
            return BackendError::Limit {
                kind: request.plan.kind.clone(),
                limit: format!(
                    "this kernel's aufs takes fewer than {n} branches: use fewer layers, or a \
                     kernel built with a higher CONFIG_AUFS_BRANCH_MAX"
                ),
            };
        }
        Errno::NODEV => "this kernel has no aufs (bring one: --kernel …)",
        Errno::INVAL => {
            "an option is not known to this aufs, or a layer lies on a file system that it \
             refuses: the kernel's log says which (dmesg)"
        }
        _ => "see the cause and the kernel's log (dmesg)",
    };
    BackendError::Mount {
        kind: request.plan.kind.clone(),
        target: request.target.to_owned(),
        hint: hint.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::backend::tests::{plan, request};

    fn layers(n: usize) -> Vec<PathBuf> {
        (0..n).map(|index| PathBuf::from(format!("/scratch/lower-aufs/L{index:03}"))).collect()
    }

    fn printed(n_branches: usize) -> String {
        let plan = plan("aufs", &[("udba", "none"), ("xino", "table")]);
        let lower = layers(n_branches - 1);
        let calls = Aufs.calls(&request(&plan, &lower)).expect("calls");
        calls.iter().map(|call| format!("{call}\n")).collect()
    }

    #[test]
    fn mount_calls_of_1_branch() {
        insta::assert_snapshot!(printed(1));
    }

    #[test]
    fn mount_calls_of_64_branches() {
        insta::assert_snapshot!(printed(64));
    }

    #[test]
    fn mount_calls_of_65_branches() {
        insta::assert_snapshot!(printed(65));
    }

    #[test]
    fn mount_calls_of_126_branches() {
        insta::assert_snapshot!(printed(126));
    }

    #[test]
    fn no_call_holds_more_than_the_kernel_reads_or_aufs_survives() {
        for length in [1, 60, 200, 1000, 3000] {
            let folder = "f".repeat(length);
            let lower: Vec<PathBuf> =
                (0..200).map(|index| PathBuf::from(format!("/{folder}/{index}"))).collect();
            let plan = plan("aufs", &[("create", "mfs")]);
            let calls = Aufs.calls(&request(&plan, &lower)).expect("calls");
            let mut n_branches = 0;
            for call in &calls {
                let Call::Mount { data, .. } = call else { panic!("{call:?}") };
                assert!(data.len() <= MAX_OPTION_STRING, "{} bytes", data.len());
                let here = data.matches("=rw").count() + data.matches("=ro").count();
                assert!((1..=BRANCHES_AT_ONCE).contains(&here), "{here} branches in one call");
                n_branches += here;
            }
            assert_eq!(n_branches, 201);
        }
    }

    #[test]
    fn layers_are_writable_where_the_request_says_so() {
        let plan = plan("aufs", &[]);
        let lower = layers(3);
        for (hides, read_only) in [(false, "L000=ro:"), (true, "L000=ro+wh:")] {
            let request = Request { writable_lower: &[1], hides, ..request(&plan, &lower) };
            let calls = Aufs.calls(&request).expect("calls");
            let Call::Mount { data, .. } = &calls[0] else { panic!("{calls:?}") };
            assert!(data.contains(read_only) && data.contains("L001=rw:"), "{data}");
        }
    }

    #[test]
    fn a_layer_that_cannot_be_written_as_a_branch_is_refused() {
        let plan = plan("aufs", &[]);
        for name in ["/a,b", "/a:b", "/a=b"] {
            let lower = [PathBuf::from(name)];
            let error = Aufs.calls(&request(&plan, &lower)).expect_err("refused");
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    /// From Linux 6.1 with aufs 6.1.
    #[test]
    fn what_is_in_force_is_read_back() {
        let shown = "rw,si=d0ce7a4f0c3b1a9e,udba=none,noplink,create=mfs,dirwh=8";
        let files = |name: &str| {
            Some(match name {
                "br0" => "/u=rw".to_owned(),
                "br1" => "/l0=ro".to_owned(),
                "br2" => "/l1=ro+wh".to_owned(),
                "xi_path" => "/u/.aufs.xino".to_owned(),
                _ => return None,
            })
        };
        let found = parse(shown, files);
        assert_eq!(id(shown), Some("d0ce7a4f0c3b1a9e"));
        assert_eq!(
            found.describe(),
            [
                "rw",
                "udba=none",
                "noplink",
                "create=mfs",
                "dirwh=8",
                "cpup=tdp",
                "xino=.aufs.xino",
                "branches=3",
                "writable=1"
            ]
        );
        let listed = parse("rw,si=1,noxino,br:/u=rw:/l0=rw+nolwh:/l1=rr", |_| None);
        assert_eq!((listed.branches.len(), listed.n_writable()), (3, 2));
        assert_eq!(listed.options, ["rw", "noxino"]);
    }
}
