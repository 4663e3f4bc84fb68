//! The unions that are mounted, by the device of their files.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::event::Mount;

/// How long is believed what the kernel does not tell changes of: the mounts of
/// other namespaces, and that a device is none of a union.
const BELIEVED: Duration = Duration::from_secs(1);

/// The unions of every namespace that was looked into. Devices get the numbers
/// of those that are gone, so what is known is looked at again when it changes;
/// of a union that is gone, the last events may still be on their way.
#[derive(Debug, Default)]
pub struct Mounts {
    known: HashMap<u64, Known>,
    /// Tells that the mounts of this namespace have changed.
    table: Option<File>,
}

#[derive(Debug)]
struct Known {
    mount: Option<Mount>,
    /// None for what the kernel tells changes of.
    until: Option<Instant>,
}

impl Mounts {
    /// The unions of this process's namespace.
    pub fn here() -> Self {
        let mut mounts = Self { known: HashMap::new(), table: File::open(OWN).ok() };
        mounts.read_own();
        mounts
    }

    /// What was found so far, by the places of the mounts.
    pub fn all(&self) -> Vec<Mount> {
        let mounts = self.known.values().filter_map(|known| known.mount.as_ref());
        let mut all: Vec<Mount> = mounts.cloned().collect();
        all.sort_by(|a, b| a.path.cmp(&b.path));
        all
    }

    /// Whether a union with this device is mounted here.
    pub fn is_here(&self, device: u64) -> bool {
        self.known.get(&device).is_some_and(|known| known.mount.is_some())
    }

    /// The union with this device. One that is not mounted here is looked for in
    /// the namespace of the process that used it, so that what a container
    /// mounts for itself is found; its path is then the container's.
    pub fn find(&mut self, device: u64, pid: u32) -> Option<&Mount> {
        if self.have_changed() {
            self.read_own();
        }
        let now = Instant::now();
        let is_fresh = |known: &Known| known.until.is_none_or(|until| now < until);
        if !self.known.get(&device).is_some_and(is_fresh) {
            let text = fs::read(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
            let theirs = parse(&String::from_utf8_lossy(&text));
            let found = theirs.into_iter().find(|mount| mount.device == device);
            let known = self.known.entry(device).or_insert(Known { mount: None, until: None });
            if found.is_some() || !text.is_empty() {
                known.mount = found;
            }
            known.until = Some(now + BELIEVED);
        }
        self.known.get(&device)?.mount.as_ref()
    }

    fn read_own(&mut self) {
        let text = fs::read(OWN).unwrap_or_default();
        for mount in parse(&String::from_utf8_lossy(&text)) {
            self.known.insert(mount.device, Known { mount: Some(mount), until: None });
        }
    }

    /// The kernel reports a change of the table as an urgent condition of the
    /// open file, once.
    fn have_changed(&self) -> bool {
        let Some(table) = &self.table else { return false };
        let mut fds = [PollFd::from_borrowed_fd(table.as_fd(), PollFlags::PRI)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|n| n > 0)
    }
}

const OWN: &str = "/proc/self/mountinfo";

/// The type of a FUSE union; none for a file system that answers requests too,
/// but has no layers. A daemon that mounts by the system call itself has its
/// name in the source only.
fn fuse_union(file_system: &str, source: &str) -> Option<String> {
    const UNIONS: [&str; 5] =
        ["unionbench", "fuse-overlayfs", "mergerfs", "unionfs", "unionfs-fuse"];
    let name = match file_system.strip_prefix("fuse.") {
        Some(name) => name,
        None if file_system == "fuse" => source,
        None => return None,
    };
    UNIONS.contains(&name).then(|| format!("fuse.{name}"))
}

/// Every union in a `mountinfo`; of mounts of the same one, that of its root
/// that stands first.
fn parse(mountinfo: &str) -> Vec<Mount> {
    let mut mounts: Vec<(bool, Mount)> = Vec::new();
    for line in mountinfo.lines() {
        let Some((is_root, mount)) = parse_line(line) else { continue };
        match mounts.iter_mut().find(|(_, known)| known.device == mount.device) {
            None => mounts.push((is_root, mount)),
            Some(known) if is_root && !known.0 => *known = (is_root, mount),
            Some(_) => {}
        }
    }
    mounts.into_iter().map(|(_, mount)| mount).collect()
}

/// `36 35 0:31 / /merged rw,noatime shared:1 - overlay overlay rw,lowerdir=…`
fn parse_line(line: &str) -> Option<(bool, Mount)> {
    let (place, kind) = line.split_once(" - ")?;
    let fields: Vec<&str> = place.split(' ').collect();
    let (device, root, path) = (fields.get(2)?, fields.get(3)?, fields.get(4)?);
    let kind: Vec<&str> = kind.split(' ').collect();
    let (file_system, source, options) = (*kind.first()?, *kind.get(1)?, kind.get(2..)?.join(" "));
    let file_system = match file_system {
        "overlay" | "aufs" => file_system.to_owned(),
        other => fuse_union(other, source)?,
    };
    let (major, minor) = device.split_once(':')?;
    let mut mount = Mount {
        device: rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?),
        path: unescape(path),
        file_system,
        lower: Vec::new(),
        upper: None,
        options: Vec::new(),
    };
    for option in split_escaped(&options, ',') {
        match option.split_once('=') {
            Some(("lowerdir", list)) => mount.lower.extend(layers(list)),
            // Linux 6.5 and later may show one layer at a time.
            Some(("lowerdir+" | "datadir+", layer)) => mount.lower.push(plain(layer)),
            Some(("upperdir", upper)) => mount.upper = Some(plain(upper)),
            Some(("si", id)) if mount.file_system == "aufs" => branches(id, &mut mount),
            _ => mount.options.push(unescape(&option)),
        }
    }
    Some((*root == "/", mount))
}

/// The branches of an aufs mount stand in files below `/sys/fs/aufs`.
fn branches(id: &str, mount: &mut Mount) {
    let folder = Path::new("/sys/fs/aufs").join(format!("si_{id}"));
    for index in 0.. {
        let Ok(text) = fs::read_to_string(folder.join(format!("br{index}"))) else { return };
        let Some((path, rights)) = text.trim_end().rsplit_once('=') else { return };
        if rights.starts_with("rw") && mount.upper.is_none() {
            mount.upper = Some(path.to_owned());
        } else {
            mount.lower.push(path.to_owned());
        }
    }
}

/// `a:b::c`: layers, the last ones for data only. A colon in a name has a
/// backslash before it.
fn layers(list: &str) -> Vec<String> {
    let list = unescape(list);
    split_escaped(&list, ':').iter().filter(|layer| !layer.is_empty()).map(|l| strip(l)).collect()
}

/// Splits where the separator has no backslash before it. The escapes stay.
fn split_escaped(text: &str, separator: char) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut escaped = false;
    for letter in text.chars() {
        if letter == separator && !escaped {
            parts.push(String::new());
            continue;
        }
        escaped = letter == '\\' && !escaped;
        if let Some(part) = parts.last_mut() {
            part.push(letter);
        }
    }
    parts
}

/// A path without the escapes of `mountinfo` and those of overlayfs.
fn plain(text: &str) -> String {
    strip(&unescape(text))
}

/// Without the backslashes before what they protect.
fn strip(text: &str) -> String {
    let mut path = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        path.push(match letter {
            '\\' => letters.next().unwrap_or('\\'),
            other => other,
        });
    }
    path
}

/// `\040` is a blank.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let octal = (*first == b'\\')
            .then(|| tail.get(..3))
            .flatten()
            .filter(|digits| digits.iter().all(|digit| (b'0'..b'8').contains(digit)));
        match octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok())
        {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
40 22 0:51 /sub /bound rw - overlay overlay rw,lowerdir=/l1:/l2,upperdir=/u,workdir=/w
41 22 0:51 / /merged\\040here rw,relatime shared:7 - overlay overlay rw,lowerdir=/l1:/l2,upperdir=/u,workdir=/w,metacopy=on
42 22 0:52 / /escaped rw - overlay none rw,lowerdir=/a\\134:b:/c::/data,redirect_dir=on
43 22 0:53 / /b rw,nosuid - fuse unionbench rw,user_id=0
45 22 0:55 / /f rw,nosuid - fuse.fuse-overlayfs fuse-overlayfs rw,user_id=0
44 22 0:54 / /ssh rw - fuse.sshfs host: rw
";

    #[test]
    fn unions_are_read_with_their_layers() {
        let mounts = parse(TABLE);
        let paths: Vec<&str> = mounts.iter().map(|mount| mount.path.as_str()).collect();
        assert_eq!(paths, ["/merged here", "/escaped", "/b", "/f"]);
        assert_eq!(mounts[0].lower, ["/l1", "/l2"]);
        assert_eq!(mounts[0].upper.as_deref(), Some("/u"));
        assert_eq!(mounts[0].device, rustix::fs::makedev(0, 51));
        assert!(mounts[0].options.contains(&"metacopy=on".to_owned()));
        assert_eq!(mounts[1].lower, ["/a:b", "/c", "/data"]);
        assert_eq!(mounts[1].upper, None);
        assert_eq!(mounts[2].file_system, "fuse.unionbench");
        assert_eq!(mounts[3].file_system, "fuse.fuse-overlayfs");
    }
}
