//! What a mount is asked for: layers, and how file data travels.

use std::path::PathBuf;

use rustix::mount::MountFlags;

/// How file data reaches the reader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DataMode {
    /// Through the page cache of the FUSE mount.
    #[default]
    Cached,
    /// By the kernel straight from the layer where that is possible (upper
    /// files, and every file of a read-only mount), else as `Cached`. Needs
    /// `CAP_SYS_ADMIN` and Linux 6.9.
    Passthrough,
    /// As `Cached`, but the kernel opens and closes files without asking. An
    /// open for writing then copies nothing up; the first write does.
    NoOpen,
}

/// More threads than this would only wait for one another.
const MOST_THREADS: usize = 256;

/// The layers and modes of one mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    /// Lower layers, topmost first; never empty in parsed options unless the
    /// upper layer stands alone.
    pub lower: Vec<PathBuf>,
    /// Layers that are not merged: they only hold data of metacopies that name
    /// it by an absolute redirect.
    pub data_only: Vec<PathBuf>,
    /// The layer that takes every write; none means a read-only union.
    pub upper: Option<PathBuf>,
    /// A folder on the file system of `upper`, for unfinished objects. With
    /// aufs-style options it is `<upper>.work` beside the upper layer.
    pub work: Option<PathBuf>,
    /// Make the work folder if it is missing.
    pub make_work: bool,
    /// Refuse writes even though there is an upper layer.
    pub read_only: bool,
    /// Marks live under `user.overlay.` instead of `trusted.overlay.`.
    pub userxattr: bool,
    /// What holds for every mount, such as `nosuid`.
    pub flags: MountFlags,
    /// Follow no redirect: what lies behind one gets `EPERM`.
    pub follow_none: bool,
    /// Let other users than the mounting one in.
    pub allow_other: bool,
    /// How file data travels.
    pub data: DataMode,
    /// Threads that serve requests; 0 means `min(4, cores)`.
    pub threads: usize,
    /// Never answer a caller that asks alone on its own processor.
    pub spread: bool,
    /// Leave out the flush to disk of each copied-up file.
    pub volatile: bool,
    /// Copy attributes alone when only they change. As with the kernel's
    /// option, such an upper layer is only read right where it is on too.
    pub metacopy: bool,
    /// Keep the names of a hard-linked lower file together when it is copied up,
    /// by an index in the work folder. Needs file handles of all layers.
    pub index: bool,
    /// Refuse with `EXDEV`, as a move to another file system, the rename of a
    /// directory that has lower parts, which would need a redirect. Redirects
    /// that the layers hold are followed all the same.
    pub no_redirects: bool,
    /// Turns of an empty loop after each lookup. For tests alone: a slowdown of
    /// known size, by which a measurement shows that it finds one.
    pub test_delay: u32,
    /// After how many names asked for one by one a directory is read whole,
    /// whatever that costs: 0 to read each at once. For tests alone.
    pub test_probes: Option<u32>,
}

/// Why options were refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum OptionsError {
    /// An option nobody knows.
    #[error(
        "cannot read mount option {0:?}: layers are given by lowerdir=, upperdir= and workdir= or by dirs=; the other options are in unionbench-fuse/README.md"
    )]
    Unknown(String),
    /// An option of the kernel's that promises what this union does not do.
    #[error(
        "cannot mount with {option}={value}: {why}; leave it out, or mount the layers by overlayfs"
    )]
    Promise {
        /// The option's name.
        option: &'static str,
        /// What was given.
        value: String,
        /// What is missing.
        why: &'static str,
    },
    /// Neither lower nor upper layers.
    #[error("cannot mount a union of nothing: give lowerdir= or dirs=")]
    NoLayer,
    /// An upper layer needs a work folder.
    #[error("cannot mount upperdir {0:?} without workdir=: name a folder on the same file system")]
    NoWork(PathBuf),
    /// A work folder without an upper layer does nothing.
    #[error("cannot use workdir {0:?} without upperdir=: add it or leave both out")]
    NoUpper(PathBuf),
    /// A data-only layer needs a merged one above it.
    #[error("cannot use {0:?} without a lower layer before ::, as in lowerdir=a::b")]
    DataAlone(String),
    /// A writable branch under a read-only one would hide what is written.
    #[error(
        "cannot write to branch {0:?} below a read-only one, whose files would hide what is written: put it first"
    )]
    WritableBelow(PathBuf),
    /// A branch mode nobody knows.
    #[error("cannot read branch mode {0:?}: use rw, ro or rr")]
    Mode(String),
    /// A value that is not one of those allowed.
    #[error("cannot read {value:?} as {option}: use {allowed}")]
    Value {
        /// The option's name.
        option: &'static str,
        /// What was given.
        value: String,
        /// What may be given.
        allowed: &'static str,
    },
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            lower: Vec::new(),
            data_only: Vec::new(),
            upper: None,
            work: None,
            make_work: false,
            read_only: false,
            userxattr: false,
            flags: MountFlags::empty(),
            follow_none: false,
            allow_other: false,
            data: DataMode::default(),
            threads: 0,
            spread: false,
            volatile: false,
            metacopy: false,
            index: false,
            no_redirects: false,
            test_delay: 0,
            test_probes: None,
        }
    }
}

impl MountOptions {
    /// Reads a `-o` string: overlay's `lowerdir=a:b,upperdir=u,workdir=w`, or
    /// aufs' `dirs=a=rw:b=ro` (also `br:`), whose first branch is writable
    /// unless it says otherwise; of several writable ones the leftmost takes
    /// the writes. After `::` come data-only layers. A backslash takes the next
    /// `,` or `:` as part of a name. Options of the kernel that change nothing here
    /// (`xino=`, `uuid=`) are accepted, and so are those of every mount; those
    /// that promise what this union does not do are refused.
    pub fn parse(text: &str) -> Result<Self, OptionsError> {
        let mut options = Self::default();
        for item in split(text, ',').iter().filter(|item| !item.is_empty()) {
            options.apply(item)?;
        }
        options.check()?;
        Ok(options)
    }

    fn apply(&mut self, item: &str) -> Result<(), OptionsError> {
        let (key, value) = item.split_once('=').unwrap_or((item, ""));
        match key {
            "lowerdir" => self.lower_layers(value)?,
            "lowerdir+" => self.lower.push(unescape(value)),
            "datadir+" => self.data_only.push(unescape(value)),
            "upperdir" => self.upper = Some(unescape(value)),
            "workdir" => self.work = Some(unescape(value)),
            "dirs" => self.branches(value)?,
            "metacopy" => self.metacopy = on_or_off("metacopy", value)?,
            "ro" => self.read_only = true,
            "userxattr" => self.userxattr = true,
            "allow_other" => self.allow_other = true,
            "volatile" => self.volatile = true,
            "data" => self.data = data_mode(value)?,
            "near" => self.spread = !on_or_off("near", value)?,
            "threads" => {
                let wanted = value.parse().ok().filter(|n| *n <= MOST_THREADS);
                self.threads = wanted.ok_or_else(|| OptionsError::Value {
                    option: "threads",
                    value: value.to_owned(),
                    allowed: "a whole number up to 256",
                })?;
            }
            "test_probes" => self.test_probes = Some(number("test_probes", value)?),
            "test_delay" => self.test_delay = number("test_delay", value)?,
            _ if item.starts_with("br:") => self.branches(&item[3..])?,
            "redirect_dir" => {
                self.no_redirects = !creates_redirects(value)?;
                self.follow_none = value == "nofollow";
            }
            "index" => self.index = on_or_off("index", value)?,
            "nfs_export" => refuse_on("nfs_export", value, NO_HANDLES)?,
            "verity" if value != "off" => {
                return Err(OptionsError::Promise {
                    option: "verity",
                    value: value.to_owned(),
                    why: "it checks no digests of file data",
                });
            }
            "xino"
            | "uuid"
            | "rw"
            | "default_permissions"
            | "auto"
            | "noauto"
            | "user"
            | "users"
            | "nouser"
            | "owner"
            | "group"
            | "nofail"
            | "_netdev"
            | "xattr"
            | "verity" => {}
            _ if self.generic(key) => {}
            // What fstab says to mount and to its generators.
            _ if key.starts_with("x-") || key.starts_with("X-") || key == "comment" => {}
            _ => return Err(OptionsError::Unknown(item.to_owned())),
        }
        Ok(())
    }

    /// Takes an option of every mount's; false if it is none. The later of two wins.
    fn generic(&mut self, key: &str) -> bool {
        let (flag, set) = match key {
            "nosuid" => (MountFlags::NOSUID, true),
            "suid" => (MountFlags::NOSUID, false),
            "nodev" => (MountFlags::NODEV, true),
            "dev" => (MountFlags::NODEV, false),
            "noexec" => (MountFlags::NOEXEC, true),
            "exec" => (MountFlags::NOEXEC, false),
            "noatime" => (MountFlags::NOATIME, true),
            "atime" => (MountFlags::NOATIME, false),
            "relatime" => (MountFlags::RELATIME, true),
            "norelatime" => (MountFlags::RELATIME, false),
            "strictatime" => (MountFlags::STRICTATIME, true),
            "nostrictatime" => (MountFlags::STRICTATIME, false),
            "nodiratime" => (MountFlags::NODIRATIME, true),
            "diratime" => (MountFlags::NODIRATIME, false),
            "lazytime" => (MountFlags::LAZYTIME, true),
            "nolazytime" => (MountFlags::LAZYTIME, false),
            "sync" => (MountFlags::SYNCHRONOUS, true),
            "async" => (MountFlags::SYNCHRONOUS, false),
            "dirsync" => (MountFlags::DIRSYNC, true),
            "defaults" => (MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, false),
            _ => return false,
        };
        self.flags.set(flag, set);
        true
    }

    /// `a:b::c`: merged layers, then data-only ones, each after two colons.
    fn lower_layers(&mut self, value: &str) -> Result<(), OptionsError> {
        let mut parts = split(value, ':').into_iter().peekable();
        let mut data_only = false;
        while let Some(part) = parts.next() {
            if !part.is_empty() {
                let list = if data_only { &mut self.data_only } else { &mut self.lower };
                list.push(unescape(part));
                // Once begun, only data-only layers may follow.
            } else if self.lower.is_empty() || parts.peek().is_none_or(String::is_empty) {
                return Err(OptionsError::DataAlone(value.to_owned()));
            } else {
                data_only = true;
            }
        }
        Ok(())
    }

    fn branches(&mut self, value: &str) -> Result<(), OptionsError> {
        for (idx, branch) in split(value, ':').iter().filter(|p| !p.is_empty()).enumerate() {
            let (path, mode) = match branch.rsplit_once('=') {
                Some((path, mode)) => (unescape(path), mode),
                None => (unescape(branch), if idx == 0 { "rw" } else { "ro" }),
            };
            // aufs lets `+` join attributes to a mode, as in `ro+wh`.
            match mode.split('+').next().unwrap_or(mode) {
                "ro" | "rr" => self.lower.push(path),
                "rw" if self.upper.is_some() => self.lower.push(path),
                "rw" if !self.lower.is_empty() => return Err(OptionsError::WritableBelow(path)),
                "rw" => {
                    let mut work = path.components().as_path().as_os_str().to_owned();
                    work.push(".work");
                    self.make_work |= self.work.is_none();
                    self.work.get_or_insert(PathBuf::from(work));
                    self.upper = Some(path);
                }
                _ => return Err(OptionsError::Mode(mode.to_owned())),
            }
        }
        Ok(())
    }

    /// Refuses combinations that no mount could serve.
    pub fn check(&self) -> Result<(), OptionsError> {
        match (&self.upper, &self.work) {
            (Some(upper), None) => Err(OptionsError::NoWork(upper.clone())),
            (None, Some(work)) => Err(OptionsError::NoUpper(work.clone())),
            _ if self.lower.is_empty() && !self.data_only.is_empty() => {
                Err(OptionsError::DataAlone(self.data_only[0].display().to_string()))
            }
            (None, None) if self.lower.is_empty() => Err(OptionsError::NoLayer),
            _ => Ok(()),
        }
    }
}

const NO_HANDLES: &str = "its files cannot be found by a handle after a remount";

/// `follow` and `nofollow` create none, as with the kernel's overlayfs.
fn creates_redirects(value: &str) -> Result<bool, OptionsError> {
    match value {
        "on" => Ok(true),
        "off" | "follow" | "nofollow" => Ok(false),
        _ => Err(OptionsError::Value {
            option: "redirect_dir",
            value: value.to_owned(),
            allowed: "on, off, follow or nofollow",
        }),
    }
}

fn refuse_on(option: &'static str, value: &str, why: &'static str) -> Result<(), OptionsError> {
    if !on_or_off(option, value)? {
        return Ok(());
    }
    Err(OptionsError::Promise { option, value: value.to_owned(), why })
}

fn on_or_off(option: &'static str, value: &str) -> Result<bool, OptionsError> {
    match value {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(OptionsError::Value { option, value: value.to_owned(), allowed: "on or off" }),
    }
}

fn number<T: std::str::FromStr>(option: &'static str, value: &str) -> Result<T, OptionsError> {
    value.parse().map_err(|_| OptionsError::Value {
        option,
        value: value.to_owned(),
        allowed: "a whole number",
    })
}

fn data_mode(value: &str) -> Result<DataMode, OptionsError> {
    match value {
        "cached" => Ok(DataMode::Cached),
        "passthrough" => Ok(DataMode::Passthrough),
        "noopen" => Ok(DataMode::NoOpen),
        _ => Err(OptionsError::Value {
            option: "data",
            value: value.to_owned(),
            allowed: "cached, passthrough or noopen",
        }),
    }
}

/// Splits at `separator` where no backslash precedes it; escapes stay.
fn split(text: &str, separator: char) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut escaped = false;
    for c in text.chars() {
        if c == separator && !escaped {
            parts.push(String::new());
            continue;
        }
        escaped = c == '\\' && !escaped;
        if let Some(last) = parts.last_mut() {
            last.push(c);
        }
    }
    parts
}

fn unescape(text: impl AsRef<str>) -> PathBuf {
    let mut out = String::new();
    let mut chars = text.as_ref().chars();
    while let Some(c) = chars.next() {
        out.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    PathBuf::from(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlay_style_names_layers_topmost_first() {
        let o = MountOptions::parse("lowerdir=a:b\\:c,upperdir=u\\,v,workdir=w").unwrap();
        assert_eq!(o.lower, [PathBuf::from("a"), PathBuf::from("b:c")]);
        assert_eq!(o.upper, Some("u,v".into()));
        assert_eq!(o.work, Some("w".into()));
    }

    #[test]
    fn aufs_style_makes_the_first_branch_writable() {
        for text in ["dirs=./a=rw:./b=ro", "dirs=./a:./b", "br:./a:./b=ro+wh"] {
            let o = MountOptions::parse(text).unwrap();
            assert_eq!(o.upper, Some("./a".into()), "{text}");
            assert_eq!(o.work, Some("./a.work".into()), "{text}");
            assert_eq!(o.lower, [PathBuf::from("./b")], "{text}");
        }
        assert_eq!(MountOptions::parse("dirs=a=ro:b=ro").unwrap().upper, None);
    }

    #[test]
    fn of_several_writable_branches_the_leftmost_takes_the_writes() {
        let o = MountOptions::parse("dirs=a=rw:b=rw:c=ro").unwrap();
        assert_eq!(o.upper, Some("a".into()));
        assert_eq!(o.lower, [PathBuf::from("b"), PathBuf::from("c")]);
    }

    #[test]
    fn two_colons_begin_the_data_only_layers() {
        let o = MountOptions::parse("lowerdir=a:b::c::d,x-systemd.automount,nofail").unwrap();
        assert_eq!(o.lower, [PathBuf::from("a"), PathBuf::from("b")]);
        assert_eq!(o.data_only, [PathBuf::from("c"), PathBuf::from("d")]);
    }

    #[test]
    fn what_cannot_be_served_is_refused() {
        let refused = |text| MountOptions::parse(text).unwrap_err();
        assert_eq!(refused(""), OptionsError::NoLayer);
        assert_eq!(refused("lowerdir=a,upperdir=u"), OptionsError::NoWork("u".into()));
        assert_eq!(refused("lowerdir=a,workdir=w"), OptionsError::NoUpper("w".into()));
        assert_eq!(refused("lowerdir=::d"), OptionsError::DataAlone("::d".into()));
        assert_eq!(refused("lowerdir=a::"), OptionsError::DataAlone("a::".into()));
        assert_eq!(refused("lowerdir=a:::b"), OptionsError::DataAlone("a:::b".into()));
        assert_eq!(refused("dirs=a=ro:b=rw"), OptionsError::WritableBelow("b".into()));
        for value in [
            "metacopy=maybe",
            "index=yes",
            "near=",
            "threads=257",
            "threads=-1",
            "test_delay=-1",
            "test_probes=-1",
            "data=fast",
        ] {
            let error = MountOptions::parse(&format!("lowerdir=a,{value}")).unwrap_err();
            assert!(matches!(error, OptionsError::Value { .. }), "{value}: {error}");
        }
        for promise in ["nfs_export=on", "verity=on", "verity=require"] {
            let error = MountOptions::parse(&format!("lowerdir=a,{promise}")).unwrap_err();
            assert!(matches!(error, OptionsError::Promise { .. }), "{promise}: {error}");
            assert!(error.to_string().contains(promise), "{error}");
        }
        for plain in ["index=off", "nfs_export=off", "verity=off", "redirect_dir=on"] {
            assert!(!MountOptions::parse(&format!("lowerdir=a,{plain}")).unwrap().no_redirects);
        }
        assert!(MountOptions::parse("lowerdir=a,redirect_dir=off").unwrap().no_redirects);
        assert!(MountOptions::parse("lowerdir=a,index=on").unwrap().index);
        assert!(!MountOptions::parse("lowerdir=a,index=off").unwrap().index);
        assert_eq!(refused("lowerdir=a,colour=red"), OptionsError::Unknown("colour=red".into()));
    }
}
