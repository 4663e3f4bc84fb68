//! The unions, each served by a process of its own.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Union {
    Bare,
    Overlayfs,
    Bundled,
    BundledNoOpen,
    BundledPassthrough,
    FuseOverlayfs,
    FuseOverlayfs2,
    UnionfsFuse,
    Mergerfs,
}

pub const ALL: &[Union] = &[
    Union::Bare,
    Union::Overlayfs,
    Union::Bundled,
    Union::BundledNoOpen,
    Union::BundledPassthrough,
    Union::FuseOverlayfs,
    Union::FuseOverlayfs2,
    Union::UnionfsFuse,
    Union::Mergerfs,
];

const SERVE: &str = "RATIOS_SERVE";

/// Serves the bundled union if this process was started to do that.
pub fn serve_if_asked() -> bool {
    let Some(options) = std::env::var_os(SERVE) else { return false };
    let options = options.into_string().expect("options are text");
    let point = PathBuf::from(std::env::args().nth(1).expect("a mount point is given"));
    let options = unionbench_fuse::MountOptions::parse(&options).expect("options are right");
    unionbench_fuse::serve(&options, &point, || println!("mounted")).expect("the union serves");
    true
}

impl Union {
    pub fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Overlayfs => "overlayfs",
            Self::Bundled => "bundled",
            Self::BundledNoOpen => "bundled noopen",
            Self::BundledPassthrough => "bundled passthrough",
            Self::FuseOverlayfs => "fuse-overlayfs 1",
            Self::FuseOverlayfs2 => "fuse-overlayfs 2",
            Self::UnionfsFuse => "unionfs-fuse",
            Self::Mergerfs => "mergerfs",
        }
    }

    fn program(self) -> Option<PathBuf> {
        match self {
            Self::FuseOverlayfs => Some("fuse-overlayfs".into()),
            Self::FuseOverlayfs2 => std::env::var_os("FUSE_OVERLAYFS_2").map(PathBuf::from),
            Self::UnionfsFuse => Some("unionfs".into()),
            Self::Mergerfs => Some("mergerfs".into()),
            _ => None,
        }
    }

    pub fn is_installed(self) -> bool {
        match self {
            Self::Bare
            | Self::Overlayfs
            | Self::Bundled
            | Self::BundledNoOpen
            | Self::BundledPassthrough => true,
            other => other.program().is_some_and(|program| {
                let said = Command::new(program).arg("--version").stderr(Stdio::null()).output();
                said.is_ok()
            }),
        }
    }
}

/// A mount, unmounted when dropped.
pub struct Mounted {
    point: Option<PathBuf>,
    daemon: Option<Child>,
}

impl Mounted {
    pub fn new(union: Union, dir: &Path, lower: &[PathBuf], more: &str) -> Self {
        let point = dir.join("m");
        let text: Vec<_> = lower.iter().map(|l| l.display().to_string()).collect();
        let text = text.join(":");
        let options = format!("lowerdir={text},upperdir={0}/u,workdir={0}/w{more}", dir.display());
        let mut command = match union {
            Union::Bare => return Self { point: None, daemon: None },
            Union::Bundled => return Self::serve(&options, point),
            Union::BundledNoOpen => return Self::serve(&format!("{options},data=noopen"), point),
            Union::BundledPassthrough => {
                return Self::serve(&format!("{options},data=passthrough"), point);
            }
            Union::Overlayfs => {
                let mut c = Command::new("mount");
                c.args(["-t", "overlay", "overlay", "-o", &options]);
                c
            }
            Union::UnionfsFuse => {
                let mut c = Command::new("unionfs");
                let lowers: Vec<_> = lower.iter().map(|l| format!("{}=RO", l.display())).collect();
                c.args(["-o", "cow"]);
                c.arg(format!("{}/u=RW:{}", dir.display(), lowers.join(":")));
                c
            }
            Union::Mergerfs => {
                let mut c = Command::new("mergerfs");
                c.arg(format!("{}/u:{text}", dir.display()));
                c
            }
            other => {
                let mut c = Command::new(other.program().expect("it is installed"));
                c.args(["-o", &options]);
                c
            }
        };
        let done = command.arg(&point).stderr(Stdio::null()).status().expect("the program starts");
        assert!(done.success(), "{union:?} does not mount");
        Self { point: Some(point), daemon: None }
    }

    fn serve(options: &str, point: PathBuf) -> Self {
        let me = std::env::current_exe().expect("this program is found");
        let mut command = Command::new(me);
        command.env(SERVE, options).arg(&point).stdout(Stdio::piped());
        let mut daemon = command.spawn().expect("the program starts");
        let mut line = String::new();
        let stdout = daemon.stdout.take().expect("it was piped");
        BufReader::new(stdout).read_line(&mut line).expect("the daemon speaks");
        assert_eq!(line, "mounted\n", "the union mounts");
        Self { point: Some(point), daemon: Some(daemon) }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let Some(point) = &self.point else { return };
        let done = Command::new("umount").arg(point).status().expect("umount starts");
        assert!(done.success(), "{} does not unmount", point.display());
        if let Some(daemon) = &mut self.daemon {
            daemon.wait().expect("the daemon ends");
        }
    }
}
