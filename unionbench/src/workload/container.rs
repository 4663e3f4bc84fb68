//! The life of containers on the same layers: init layer and writable layer,
//! start, run, commit, remove. All of them live side by side, as on a host; one
//! stage of that life is timed.
//!
//! The control has no layers: a container there is a copy of the whole tree,
//! which is what the graph driver `vfs` of docker does.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::WorkloadError;
use super::commit::{Changes, Counting, native_diff, walked_diff};
use super::whole::{Ground, Run, Seat, Standing, counter, write};
use crate::plan::Stage;
use crate::record::Counter;

/// What docker puts into a container's init layer.
const INIT_FILES: [&str; 3] = ["etc/hosts", "etc/hostname", "etc/resolv.conf"];

/// Files that a container writes anew while it runs, and their length.
const NEW_FILES: usize = 16;
const NEW_LENGTH: usize = 4 << 10;
/// Files of the image that it reads, and of those that it changes.
const READ_FILES: usize = 64;
const CHANGED_FILES: usize = 4;

struct Container {
    seat: Seat,
    /// The init layer's folder; of the control there is none.
    init: PathBuf,
    standing: Option<Standing>,
}

pub(super) fn live(run: &mut Run<'_>, n: u64, timed: Stage) -> Result<Vec<Counter>, WorkloadError> {
    let ground = run.ground;
    let mut containers = Vec::with_capacity(n as usize);
    run.open(n);
    for i in 0..n {
        run.interrupted()?;
        let seat = run.seat(i)?;
        let init = seat.base.join("init");
        let mut container = Container { seat, init, standing: None };
        stage(run, timed, Stage::Start, "start a container", || start(ground, &mut container))?;
        containers.push(container);
    }
    for container in &containers {
        run.interrupted()?;
        stage(run, timed, Stage::Run, "run a container", || work(ground, container))?;
    }
    let (mut bytes, mut init_files, mut changes) = (0, 0, Changes::default());
    for container in &containers {
        run.interrupted()?;
        let mut out = Counting::default();
        changes = stage(run, timed, Stage::Commit, "commit a container", || {
            commit(ground, container, &mut out)
        })?;
        bytes += out.bytes;
        init_files += init_files_of(ground, container);
    }
    let space = space(ground, &containers).map_err(run.failed("add up what they take"))?;
    while let Some(mut container) = containers.pop() {
        stage(run, timed, Stage::Remove, "remove a container", || remove(&mut container))?;
    }
    run.close();
    run.bytes = bytes;
    Ok(vec![
        counter("containers", n),
        counter("commit.objects", changes.objects),
        counter("commit.init_files", init_files),
        counter("space.blocks", space.taken.blocks),
        counter("space.inodes", space.taken.inodes),
        counter("space.blocks_of_copies", n * space.image.blocks),
        counter("space.inodes_of_copies", n * space.image.inodes),
    ])
}

fn stage<T>(
    run: &mut Run<'_>,
    timed: Stage,
    this: Stage,
    action: &'static str,
    work: impl FnOnce() -> io::Result<T>,
) -> Result<T, WorkloadError> {
    if timed == this { run.time(action, work) } else { work().map_err(run.failed(action)) }
}

fn start(ground: &Ground<'_>, container: &mut Container) -> io::Result<()> {
    let seat = &container.seat;
    if let Some(flat) = ground.flat {
        copy_tree(flat, &seat.target)?;
        return init_layer(&seat.target);
    }
    fs::create_dir(&container.init)?;
    init_layer(&container.init)?;
    let mut lower = vec![container.init.clone()];
    lower.extend_from_slice(ground.lower);
    let standing = (ground.mount)(&seat.with(&lower)).map_err(io::Error::other)?;
    container.standing = Some(standing);
    Ok(())
}

fn init_layer(root: &Path) -> io::Result<()> {
    fs::create_dir_all(root.join("etc"))?;
    for name in INIT_FILES {
        let path = root.join(name);
        if path.exists() {
            fs::remove_file(&path)?;
        }
        write(&path, b"127.0.0.1 localhost\n")?;
    }
    Ok(())
}

fn work(ground: &Ground<'_>, container: &Container) -> io::Result<()> {
    let root = &container.seat.target;
    for name in INIT_FILES {
        fs::read(root.join(name))?;
    }
    for name in ground.files.iter().rev().take(READ_FILES) {
        fs::read(root.join(name))?;
    }
    let folder = root.join("container-data");
    fs::create_dir(&folder)?;
    for file in 0..NEW_FILES {
        write(&folder.join(file.to_string()), &[b'n'; NEW_LENGTH])?;
    }
    for name in ground.files.iter().rev().take(CHANGED_FILES) {
        let file = fs::OpenOptions::new().append(true).open(root.join(name))?;
        io::Write::write_all(&mut &file, b"changed")?;
    }
    Ok(())
}

/// The init layer is a lower one of the container's union, so its files are not
/// in the upper layer and not in the commit.
fn commit(ground: &Ground<'_>, container: &Container, out: &mut Counting) -> io::Result<Changes> {
    let seat = &container.seat;
    match ground.flat {
        Some(flat) => walked_diff(&seat.target, flat, out),
        None => native_diff(&seat.upper, &seat.target, out),
    }
}

fn init_files_of(ground: &Ground<'_>, container: &Container) -> u64 {
    let changed =
        if ground.flat.is_some() { &container.seat.target } else { &container.seat.upper };
    INIT_FILES.iter().filter(|name| changed.join(name).exists()).count() as u64
}

fn remove(container: &mut Container) -> io::Result<()> {
    if let Some(standing) = container.standing.take() {
        standing.unmount().map_err(io::Error::other)?;
    }
    fs::remove_dir_all(&container.seat.base)
}

#[derive(Debug, Default, Clone, Copy)]
struct Usage {
    inodes: u64,
    blocks: u64,
}

struct Space {
    /// By all containers beside the image.
    taken: Usage,
    /// By one whole copy of what the image shows.
    image: Usage,
}

fn space(ground: &Ground<'_>, containers: &[Container]) -> io::Result<Space> {
    let mut taken = Usage::default();
    for container in containers {
        match ground.flat {
            Some(_) => add(&container.seat.target, &mut taken)?,
            None => {
                add(&container.init, &mut taken)?;
                add(&container.seat.upper, &mut taken)?;
            }
        }
    }
    let mut image = Usage::default();
    add(ground.flat.unwrap_or(ground.root), &mut image)?;
    Ok(Space { taken, image })
}

fn add(root: &Path, usage: &mut Usage) -> io::Result<()> {
    let metadata = fs::symlink_metadata(root)?;
    usage.inodes += 1;
    usage.blocks += metadata.blocks();
    if metadata.is_dir() {
        for entry in fs::read_dir(root)? {
            add(&entry?.path(), usage)?;
        }
    }
    Ok(())
}

/// `cp -a` of files, directories and links.
fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            fs::create_dir(&target)?;
            copy_tree(&source, &target)?;
        } else if metadata.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&source)?, &target)?;
            continue;
        } else if metadata.is_file() {
            fs::copy(&source, &target)?;
        } else {
            continue;
        }
        std::os::unix::fs::chown(&target, Some(metadata.uid()), Some(metadata.gid()))?;
        fs::set_permissions(&target, metadata.permissions())?;
        let times = fs::FileTimes::new().set_modified(metadata.modified()?);
        fs::File::open(&target)?.set_times(times)?;
    }
    Ok(())
}
