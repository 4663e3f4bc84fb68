//! Control groups: the path of one by its id, and the container that a path
//! tells of.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::event::Container;

/// The groups of this machine by their ids, read when an unknown one is met.
#[derive(Debug)]
pub struct Cgroups {
    root: Option<PathBuf>,
    paths: HashMap<u64, Option<String>>,
}

impl Cgroups {
    pub fn new() -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        Self { root: unified_root(&mounts), paths: HashMap::new() }
    }

    /// The path below the root of the hierarchy, which itself is `/`. A group
    /// that is gone is asked of its process, and absent if that is gone too.
    pub fn path(&mut self, id: u64, pid: u32) -> Option<String> {
        if let Some(known) = self.paths.get(&id) {
            return known.clone();
        }
        let own = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok();
        let own = own.as_deref().and_then(path_of_process);
        if let (Some(path), Some(root)) = (&own, &self.root)
            && id_of(&root.join(path.trim_start_matches('/'))) == Some(id)
        {
            self.paths.insert(id, own.clone());
            return own;
        }
        if let Some(root) = self.root.clone() {
            self.read_below(&root, &root);
        }
        // On a machine with the old hierarchies, the process's path is all
        // there is, and it is not the path of this id.
        let old = own.filter(|_| self.root.is_none());
        if old.is_some() {
            return old;
        }
        self.paths.entry(id).or_default().clone()
    }

    fn read_below(&mut self, folder: &Path, root: &Path) {
        if let Some(id) = id_of(folder) {
            let below = folder.strip_prefix(root).unwrap_or(Path::new(""));
            self.paths.insert(id, Some(format!("/{}", below.display())));
        }
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.read_below(&entry.path(), root);
            }
        }
    }

    /// The id of the group at this path, which may be given below the root or
    /// with it, and how far it is from the root.
    pub fn find(&self, path: &str) -> Option<(u64, u32)> {
        let root = self.root.as_ref()?;
        let below = Path::new(path).strip_prefix(root).unwrap_or(Path::new(path));
        let below = below.strip_prefix("/").unwrap_or(below);
        let level = u32::try_from(below.components().count()).ok()?;
        Some((id_of(&root.join(below))?, level))
    }

    /// The group of the container whose id begins so, if there is just one: the
    /// outermost that carries the id.
    pub fn of_container(&mut self, id: &str) -> Option<String> {
        let root = self.root.clone()?;
        self.read_below(&root, &root);
        let is_it = |path: &&String| container(path).is_some_and(|found| found.id.starts_with(id));
        let mut found: Vec<&String> = self.paths.values().flatten().filter(is_it).collect();
        found.sort();
        let first = *found.first()?;
        let inside = |path: &&String| {
            path.strip_prefix(first).is_some_and(|r| r.is_empty() || r.starts_with('/'))
        };
        found.iter().all(inside).then(|| first.clone())
    }
}

impl Default for Cgroups {
    fn default() -> Self {
        Self::new()
    }
}

/// The inode's number is the group's id where the kernel's numbers have 64
/// bits.
fn id_of(folder: &Path) -> Option<u64> {
    fs::metadata(folder).ok().map(|found| found.ino())
}

/// Where the unified hierarchy is mounted: beside the old ones, it may have no
/// controllers, and the kernel counts by it all the same.
fn unified_root(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let fields: Vec<&str> = place.split(' ').collect();
        (kind.split(' ').next() == Some("cgroup2") && fields.get(3) == Some(&"/"))
            .then(|| PathBuf::from(fields[4]))
    })
}

/// The path in `/proc/PID/cgroup`: of the unified hierarchy, or where that has
/// only the root, of the one that a service manager or runtime keeps.
fn path_of_process(text: &str) -> Option<String> {
    let mut unified = None;
    let mut named = None;
    for line in text.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(number), Some(names), Some(path)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        if number == "0" && names.is_empty() {
            unified = Some(path);
        } else if named.is_none() || names == "name=systemd" {
            named = Some(path);
        }
    }
    match (unified, named) {
        (Some(path), _) if path != "/" => Some(path.to_owned()),
        (_, Some(path)) => Some(path.to_owned()),
        (Some(path), None) => Some(path.to_owned()),
        (None, None) => None,
    }
}

/// The container whose processes a group holds. Both drivers are known: that of
/// systemd names units (`docker-ID.scope`), that of cgroupfs folders (`docker/ID`).
pub fn container(path: &str) -> Option<Container> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let pod = parts.iter().find_map(|part| pod_of(part));
    // The innermost is the one: containers run in containers.
    parts.iter().enumerate().rev().find_map(|(index, part)| {
        let parent = index.checked_sub(1).map(|above| parts[above]);
        let (runtime, id) = identified(part, parent, &parts[..index])?;
        Some(Container { runtime: runtime.to_owned(), id: id.to_owned(), pod: pod.clone() })
    })
}

fn identified<'a>(
    part: &'a str,
    parent: Option<&str>,
    above: &[&str],
) -> Option<(&'static str, &'a str)> {
    const UNITS: [(&str, &str); 4] = [
        ("docker-", "docker"),
        ("cri-containerd-", "containerd"),
        ("crio-", "cri-o"),
        ("libpod-", "podman"),
    ];
    let unit = part.strip_suffix(".scope").unwrap_or(part);
    for (prefix, runtime) in UNITS {
        if let Some(id) = unit.strip_prefix(prefix)
            && is_id(id)
        {
            return Some((runtime, id));
        }
    }
    // containerd's own client under systemd: `namespace-name.scope`, below a
    // slice of the namespace, is any name; only ids are told apart safely.
    // With kubelet's cgroup driver of containerd: `slice:cri-containerd:ID`.
    if let Some((_, rest)) = part.split_once(":cri-containerd:")
        && is_id(rest)
    {
        return Some(("containerd", rest));
    }
    if !is_id(unit) {
        return None;
    }
    match parent {
        Some("docker" | "actions_job") => Some(("docker", unit)),
        Some("libpod_parent" | "libpod") => Some(("podman", unit)),
        Some("default" | "k8s.io" | "moby" | "containerd") => Some(("containerd", unit)),
        // The folders of cgroupfs under kubernetes do not tell the runtime.
        _ if above.iter().any(|part| pod_of(part).is_some()) => Some(("kubernetes", unit)),
        _ => None,
    }
}

fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// `pod1234-…`, `kubepods-burstable-pod1234_….slice`: systemd's units have
/// underscores for dashes.
fn pod_of(part: &str) -> Option<String> {
    let unit = part.strip_suffix(".slice").unwrap_or(part);
    let id = match unit.strip_prefix("pod") {
        Some(id) => id,
        None if unit.starts_with("kubepods") => unit.rsplit_once("-pod")?.1,
        None => return None,
    };
    let id = id.replace('_', "-");
    // A static pod's id has no dashes.
    let is_pod = id.len() >= 32 && id.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    is_pod.then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "8f1c0e2b7d9a4c6e5f3b2a1908d7c6e5f4a3b2c1d0e9f8a7b6c5d4e3f2a1b0c9";

    fn check(path: &str, runtime: &str, pod: Option<&str>) {
        let found = container(&path.replace("ID", ID));
        let expected = Container {
            runtime: runtime.to_owned(),
            id: ID.to_owned(),
            pod: pod.map(str::to_owned),
        };
        assert_eq!(found, Some(expected), "{path}");
    }

    #[test]
    fn recorded_paths_of_every_runtime_are_told() {
        let pod = Some("2f1e6c0a-9d3b-4a57-8c2e-0b1d2c3e4f50");
        let unit = "kubepods-burstable-pod2f1e6c0a_9d3b_4a57_8c2e_0b1d2c3e4f50.slice";
        let folder = "pod2f1e6c0a-9d3b-4a57-8c2e-0b1d2c3e4f50";
        check("/system.slice/docker-ID.scope", "docker", None);
        check("/docker/ID", "docker", None);
        // systemd or a shell inside the container.
        check("/system.slice/docker-ID.scope/init.scope", "docker", None);
        check("/docker/ID/system.slice/cron.service", "docker", None);
        check("/machine.slice/libpod-ID.scope", "podman", None);
        check("/machine.slice/libpod-ID.scope/container", "podman", None);
        check(
            "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope",
            "podman",
            None,
        );
        check("/libpod_parent/libpod-ID", "podman", None);
        check("/default/ID", "containerd", None);
        check(
            &format!("/kubepods.slice/kubepods-burstable.slice/{unit}/cri-containerd-ID.scope"),
            "containerd",
            pod,
        );
        check(
            &format!("/kubepods.slice/kubepods-burstable.slice/{unit}/crio-ID.scope"),
            "cri-o",
            pod,
        );
        check(
            &format!("/kubepods.slice/kubepods-burstable.slice/{unit}/docker-ID.scope"),
            "docker",
            pod,
        );
        check(&format!("/kubepods/burstable/{folder}/ID"), "kubernetes", pod);
        check(&format!("/kubepods/{folder}/crio-ID"), "cri-o", pod);
        check(
            &format!("/system.slice/containerd.service/{unit}:cri-containerd:ID"),
            "containerd",
            None,
        );
        // A static pod: its id is a hash.
        check(
            "/kubepods/besteffort/pod0123456789abcdef0123456789abcdef/ID",
            "kubernetes",
            Some("0123456789abcdef0123456789abcdef"),
        );
    }

    #[test]
    fn a_container_in_a_container_is_the_inner_one() {
        let inner = ID.replace('8', "7");
        let path = format!("/docker/{ID}/docker/{inner}");
        assert_eq!(container(&path).expect("a container").id, inner);
    }

    #[test]
    fn other_groups_are_no_containers() {
        for path in [
            "/",
            "/init.scope",
            "/system.slice/docker.service",
            "/user.slice/user-0.slice/session-1.scope",
            "/system.slice/docker-short.scope",
            &format!("/somewhere/{ID}"),
        ] {
            assert_eq!(container(path), None, "{path}");
        }
    }

    #[test]
    fn a_process_has_one_path_on_either_hierarchy() {
        assert_eq!(path_of_process("0::/user.slice\n").as_deref(), Some("/user.slice"));
        let hybrid = "12:cpu,cpuacct:/docker/x\n1:name=systemd:/docker/y\n0::/\n";
        assert_eq!(path_of_process(hybrid).as_deref(), Some("/docker/y"));
        assert_eq!(path_of_process("0::/\n").as_deref(), Some("/"));
        assert_eq!(path_of_process(""), None);
    }

    #[test]
    fn the_unified_hierarchy_is_found_beside_the_old_ones() {
        let text = "30 25 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs rw\n31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        assert_eq!(unified_root(text), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(unified_root("1 0 8:1 / / rw - ext4 /dev/sda1 rw\n"), None);
    }
}
