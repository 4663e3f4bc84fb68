//! A scenario that does again what a recording saw: the same objects in the
//! same layers with the same sizes, changed in the same order by the same
//! calls. Names are hashed unless they are to be kept.
//!
//! What cannot be done again as it was is done as near as may be and told in
//! [`Replay::notes`].

mod names;
mod text;

use std::collections::{BTreeMap, BTreeSet};

pub use names::Names;

use super::probes::BUNDLED;
use super::{Event, Header, Kind, Mount, Object, Trigger, summary};
use crate::plan::{ListedKind, ListedPlan, ReplayPlan, Replayed};
use crate::scenario::{MAX_LAYERS, MAX_OPERATIONS};
use crate::unit::Bytes;

/// Why a recording gives no scenario.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error(
        "cannot make a scenario: the recording has no copy-up whose path is known{}; record with `unionbench trace copyup --record FILE`", on(.mount)
    )]
    NothingToDo { mount: Option<String> },
    #[error(
        "cannot make a scenario: more than {MAX_OPERATIONS} operations; record for a shorter time, or one --container alone"
    )]
    TooMany,
    #[error(
        "cannot make a scenario: the union has {n} layers, and at most {MAX_LAYERS} are stacked"
    )]
    TooDeep { n: usize },
}

fn on(mount: &Option<String>) -> String {
    mount.as_ref().map(|mount| format!(" on {mount}")).unwrap_or_default()
}

/// What a recording comes to as a scenario.
#[derive(Debug, Clone, PartialEq)]
pub struct Replay {
    /// Where the union was mounted.
    pub mount: String,
    pub n_layers: u32,
    pub files: Vec<ListedPlan>,
    pub operations: Vec<ReplayPlan>,
    /// Directories that lay in the upper layer when the recording began.
    pub up: Vec<String>,
    /// The backend that the union was.
    pub backend: &'static str,
    /// Mount options in force that a scenario can give.
    pub options: Vec<(String, Option<String>)>,
    /// What is not as it was.
    pub notes: Vec<String>,
}

/// Gathers events of one union; operations and files in their order.
#[derive(Debug, Default)]
pub struct Gatherer {
    by_mount: BTreeMap<String, Gathered>,
}

#[derive(Debug, Default)]
struct Gathered {
    device: u64,
    /// Path → layer, kind; of the first event that tells of it.
    objects: BTreeMap<String, (Option<u32>, ListedKind)>,
    operations: Vec<ReplayPlan>,
    /// Directories that were copied up during the recording.
    copied_directories: BTreeSet<String>,
    /// Thread → the last object that its rename copied up, and when.
    renamed: BTreeMap<u32, (String, u64)>,
    n_copy_ups: u64,
    n_pathless: u64,
    substituted: BTreeMap<&'static str, u64>,
    /// Directories in which something was removed, of which it is not known what.
    removed_in: BTreeSet<String>,
    removed: BTreeSet<String>,
}

impl Gatherer {
    /// Takes one event in.
    ///
    /// # Errors
    /// There are more than a scenario can hold.
    pub fn add(&mut self, event: &Event) -> Result<(), ReplayError> {
        if event.errno != 0 || !matches!(event.kind, Kind::Copyup | Kind::Whiteout | Kind::Fsync) {
            return Ok(());
        }
        let gathered = self.by_mount.entry(summary::mount(event)).or_default();
        gathered.device = event.device;
        if gathered.operations.len() > MAX_OPERATIONS {
            return Err(ReplayError::TooMany);
        }
        gathered.add(event);
        Ok(())
    }

    /// Mounts with their copy-ups, most first.
    pub fn mounts(&self) -> Vec<(&str, u64)> {
        let mut mounts: Vec<_> =
            self.by_mount.iter().map(|(mount, g)| (mount.as_str(), g.n_copy_ups)).collect();
        mounts.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        mounts
    }

    /// The scenario of one mount; of the one with most copy-ups if none is named.
    ///
    /// # Errors
    /// There is nothing to do again on it, or too many layers.
    pub fn replay(&self, header: &Header, mount: Option<&str>) -> Result<Replay, ReplayError> {
        let nothing = || ReplayError::NothingToDo { mount: mount.map(str::to_owned) };
        let chosen = match mount {
            Some(mount) => mount,
            None => self.mounts().first().map(|(mount, _)| *mount).ok_or_else(nothing)?,
        };
        let gathered = self.by_mount.get(chosen).ok_or_else(nothing)?;
        if gathered.operations.is_empty() || gathered.n_copy_ups == 0 {
            return Err(nothing());
        }
        let mounted = header.mounts.iter().find(|m| m.device == gathered.device);
        gathered.replay(chosen, mounted)
    }
}

impl Gathered {
    fn add(&mut self, event: &Event) {
        let Some(path) = event.path.as_deref().map(|path| path.trim_matches('/')) else {
            self.n_pathless += u64::from(event.kind == Kind::Copyup);
            return;
        };
        let size = Bytes(event.size_bytes.unwrap_or(0));
        let kind = match event.object {
            Some(Object::Directory) => ListedKind::Directory,
            Some(Object::Symlink) => ListedKind::Symlink,
            Some(Object::File | Object::Special) | None => ListedKind::File { size },
        };
        let directory = kind == ListedKind::Directory;
        match event.kind {
            Kind::Copyup => {
                self.n_copy_ups += 1;
                if path.is_empty() {
                    return;
                }
                if directory {
                    self.copied_directories.insert(path.to_owned());
                }
                self.objects.entry(path.to_owned()).or_insert((event.layer, kind));
                if event.trigger == Some(Trigger::Rename) {
                    self.renamed.insert(event.tid, (path.to_owned(), event.at_unix_ns));
                }
                if let Some(by) = self.replayed(event.trigger, directory, event) {
                    self.operations.push(ReplayPlan { by, on: path.to_owned() });
                } else if event.trigger == Some(Trigger::Unlink) && directory {
                    self.removed_in.insert(path.to_owned());
                }
            }
            // What a rename leaves behind comes with the rename.
            Kind::Whiteout if self.is_of_rename(path, event) => {}
            Kind::Whiteout if !path.is_empty() => {
                self.objects.entry(path.to_owned()).or_insert((None, kind));
                self.removed.insert(path.to_owned());
                self.operations.push(ReplayPlan { by: Replayed::Unlink, on: path.to_owned() });
            }
            // Of what is in the upper layer only; what it reads below is whole.
            Kind::Fsync if self.objects.contains_key(path) => {
                self.operations.push(ReplayPlan { by: Replayed::Fsync, on: path.to_owned() });
            }
            _ => {}
        }
    }

    /// The copy-up of the rename lies within the making of its whiteout.
    fn is_of_rename(&self, path: &str, event: &Event) -> bool {
        let within = event.at_unix_ns..=event.at_unix_ns + event.latency_ns.0;
        self.renamed
            .get(&event.tid)
            .is_some_and(|(renamed, at)| renamed == path && within.contains(at))
    }

    /// What does a copy-up again; none for one that another operation brings
    /// about.
    fn replayed(
        &mut self,
        trigger: Option<Trigger>,
        directory: bool,
        event: &Event,
    ) -> Option<Replayed> {
        let mut instead = |what: &'static str| *self.substituted.entry(what).or_default() += 1;
        Some(match (trigger, directory) {
            (Some(Trigger::Parent), _) | (Some(Trigger::Unlink), true) => return None,
            (Some(Trigger::OpenWrite), false) => Replayed::OpenWrite,
            (Some(Trigger::OpenTruncate), false) => Replayed::OpenTruncate,
            (Some(Trigger::Truncate), false) => Replayed::Truncate,
            (Some(Trigger::Chmod), _) => Replayed::Chmod,
            (Some(Trigger::Chown), _) => Replayed::Chown,
            (Some(Trigger::Utimes), _) => Replayed::Utimes,
            (Some(Trigger::Setxattr), _) => Replayed::Setxattr,
            (Some(Trigger::Removexattr), _) => {
                instead("removexattr is replayed as setxattr");
                Replayed::Setxattr
            }
            (Some(Trigger::Link), false) => Replayed::Link,
            (Some(Trigger::Rename), false) => Replayed::Rename,
            (Some(Trigger::Create), true) => Replayed::Create,
            (Some(Trigger::Mkdir), true) => Replayed::Mkdir,
            (Some(Trigger::Link | Trigger::Rename), true) => {
                instead(
                    "a directory into which something was linked or renamed has something made in it",
                );
                Replayed::Create
            }
            (_, true) => {
                instead("a directory copied up for an unknown reason is replayed as chmod");
                Replayed::Chmod
            }
            _ if event.copied_bytes.is_some_and(|bytes| bytes > 0) => {
                instead("a copy-up with data whose trigger is not known is replayed as open-write");
                Replayed::OpenWrite
            }
            _ => {
                instead("a copy-up without data whose trigger is not known is replayed as chmod");
                Replayed::Chmod
            }
        })
    }

    fn replay(&self, mount: &str, mounted: Option<&Mount>) -> Result<Replay, ReplayError> {
        let mut notes: Vec<String> =
            self.substituted.iter().map(|(what, n)| format!("{n} times, {what}")).collect();
        let deepest = self.objects.values().filter_map(|(layer, _)| *layer).max();
        let n_layers =
            mounted.map_or(0, |m| m.lower.len()).max(deepest.map_or(1, |l| l as usize + 1));
        if n_layers > MAX_LAYERS as usize {
            return Err(ReplayError::TooDeep { n: n_layers });
        }
        let n_layers = n_layers as u32;
        let unknown = self.objects.values().filter(|(layer, _)| layer.is_none()).count();
        if unknown > 0 {
            notes.push(format!(
                "{unknown} objects are put into the bottom layer: theirs is not known"
            ));
        }
        if self.n_pathless > 0 {
            notes.push(format!(
                "{} copy-ups are left out: their path is not known",
                self.n_pathless
            ));
        }
        if mounted.is_some_and(|mount| backend(mount) == "bundled") {
            notes.push(
                "removals are left out: whiteouts of a union in user space are not seen".into(),
            );
        }
        let mut objects = self.objects.clone();
        let mut operations = self.operations.clone();
        let parent = |path: &str| path.rsplit_once('/').map(|(parent, _)| parent.to_owned());
        for directory in &self.removed_in {
            if self.removed.iter().any(|path| parent(path).as_ref() == Some(directory)) {
                continue;
            }
            let path = format!("{directory}/unionbench-removed");
            objects.insert(path.clone(), (None, ListedKind::File { size: Bytes(0) }));
            operations.push(ReplayPlan { by: Replayed::Unlink, on: path });
        }
        // What lies below a name makes that name a directory.
        let mut leading = BTreeSet::new();
        for path in objects.keys() {
            leading.extend(path.match_indices('/').map(|(end, _)| path[..end].to_owned()));
        }
        let bottom = n_layers - 1;
        let mut files = Vec::with_capacity(objects.len());
        for (path, (layer, kind)) in &objects {
            let kind = if leading.contains(path) { ListedKind::Directory } else { *kind };
            let layer = layer.unwrap_or(bottom);
            files.push(ListedPlan { path: path.clone(), layer, kind });
        }
        let up = leading.iter().filter(|path| !self.copied_directories.contains(*path)).cloned();
        Ok(Replay {
            mount: mount.to_owned(),
            n_layers,
            files,
            operations,
            up: up.collect(),
            backend: mounted.map_or("overlayfs", backend),
            options: mounted.map(options).unwrap_or_default(),
            notes,
        })
    }
}

fn backend(mount: &Mount) -> &'static str {
    match mount.file_system.as_str() {
        "aufs" => "aufs",
        BUNDLED => "bundled",
        _ => "overlayfs",
    }
}

/// Options that change what a copy-up does; others are the mount's own matter.
fn options(mount: &Mount) -> Vec<(String, Option<String>)> {
    const KEPT: [&str; 8] = [
        "redirect_dir",
        "index",
        "metacopy",
        "xino",
        "volatile",
        "fsync",
        "userxattr",
        "nfs_export",
    ];
    let pair = |option: &String| match option.split_once('=') {
        Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
        None => (option.clone(), None),
    };
    mount.options.iter().map(pair).filter(|(name, _)| KEPT.contains(&name.as_str())).collect()
}

impl Replay {
    /// The same with other names.
    pub fn renamed(mut self, names: &Names) -> Self {
        for file in &mut self.files {
            file.path = names.path(&file.path);
        }
        for operation in &mut self.operations {
            operation.on = names.path(&operation.on);
        }
        for path in &mut self.up {
            *path = names.path(path);
        }
        self
    }

    /// The scenario file.
    pub fn toml(&self, name: &str, backing: &str) -> String {
        text::toml(self, name, backing)
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    fn replay(events: &[Event]) -> Replay {
        let mut gatherer = Gatherer::default();
        events.iter().for_each(|event| gatherer.add(event).expect("fits"));
        gatherer.replay(&sample::header(), None).expect("there is something to do")
    }

    fn at(path: &str, trigger: Trigger, object: Object) -> Event {
        Event {
            path: Some(path.into()),
            trigger: Some(trigger),
            object: Some(object),
            ..sample::event(1)
        }
    }

    #[test]
    fn each_copy_up_is_done_again_once_and_in_order() {
        let found = replay(&[
            at("/a", Trigger::Parent, Object::Directory),
            at("/a/f", Trigger::Chown, Object::File),
            at("/b/c/g", Trigger::OpenWrite, Object::File),
        ]);
        let done: Vec<_> = found.operations.iter().map(|o| (o.by, o.on.as_str())).collect();
        assert_eq!(done, [(Replayed::Chown, "a/f"), (Replayed::OpenWrite, "b/c/g")]);
        // `b` and `b/c` were not copied up, so they were up already.
        assert_eq!(found.up, ["b", "b/c"]);
        assert_eq!((found.n_layers, found.files.len()), (3, 3));
        assert!(found.notes.is_empty(), "{:?}", found.notes);
    }

    #[test]
    fn the_union_that_was_recorded_is_the_one_measured() {
        let event = at("/f", Trigger::Chown, Object::File);
        for (file_system, wanted) in
            [("overlay", "overlayfs"), ("aufs", "aufs"), ("fuse.unionbench", "bundled")]
        {
            let mut header = sample::header();
            header.mounts[0].file_system = file_system.into();
            header.mounts[0].device = event.device;
            let mut gatherer = Gatherer::default();
            gatherer.add(&event).expect("fits");
            let found = gatherer.replay(&header, None).expect("replays");
            assert_eq!(found.backend, wanted);
            assert_eq!(found.notes.len(), usize::from(wanted == "bundled"), "{:?}", found.notes);
        }
    }

    #[test]
    fn the_whiteout_of_a_rename_is_not_a_removal() {
        let rename = at("/a/f", Trigger::Rename, Object::File);
        let whiteout = |at_unix_ns| Event {
            kind: Kind::Whiteout,
            trigger: None,
            layer: None,
            at_unix_ns,
            latency_ns: crate::unit::Nanos(50),
            ..rename.clone()
        };
        let began = rename.at_unix_ns;
        let found = replay(&[rename.clone(), whiteout(began - 10), whiteout(began + 1000)]);
        let done: Vec<_> = found.operations.iter().map(|o| o.by).collect();
        assert_eq!(done, [Replayed::Rename, Replayed::Unlink]);
    }

    #[test]
    fn what_cannot_be_done_as_it_was_is_told() {
        let found = replay(&[
            at("/a", Trigger::Unlink, Object::Directory),
            at("/a/f", Trigger::Removexattr, Object::File),
            Event { layer: None, ..at("/g", Trigger::Other, Object::File) },
            Event { path: None, ..sample::event(1) },
        ]);
        assert_eq!(found.notes.len(), 4, "{:?}", found.notes);
        let removed = found.operations.iter().find(|o| o.by == Replayed::Unlink);
        assert_eq!(removed.map(|o| o.on.as_str()), Some("a/unionbench-removed"));
    }

    #[test]
    fn the_scenario_is_one_that_this_program_reads() {
        let found = replay(&[
            at("/ä \"x\\xff\"/f", Trigger::Chmod, Object::File),
            at("/d", Trigger::Create, Object::Directory),
            at("/l", Trigger::Chown, Object::Symlink),
        ]);
        for found in [found.clone(), found.renamed(&Names::hashed(7))] {
            let text = found.toml("replayed", "ext4");
            let path = std::path::Path::new("t.toml");
            let (scenario, _) = crate::scenario::parse(path, text.as_bytes(), &[])
                .unwrap_or_else(|e| panic!("{e}\n{text}"));
            let plan = crate::plan::expand(&scenario, &Default::default()).expect("expands");
            assert_eq!(plan.stacks[0].files, found.files);
        }
    }

    #[test]
    fn hashed_names_keep_the_shape_and_nothing_else() {
        let (one, other) = (Names::hashed(1), Names::hashed(2));
        let hashed = one.path("etc/passwd");
        assert!(hashed.starts_with(&one.path("etc")) && !hashed.contains("passwd"));
        assert_ne!(hashed, other.path("etc/passwd"));
        assert_eq!(Names::kept().path("etc/passwd"), "etc/passwd");
    }

    #[test]
    fn a_trace_without_copy_ups_gives_no_scenario() {
        let mut gatherer = Gatherer::default();
        assert!(gatherer.replay(&sample::header(), None).is_err());
        gatherer.add(&Event { kind: Kind::Lookup, ..sample::event(1) }).expect("fits");
        let error = gatherer.replay(&sample::header(), Some("/x")).expect_err("nothing");
        assert!(error.to_string().contains("on /x"), "{error}");
    }
}
