//! Starting with ids shifted for a user namespace: by a `chown` of everything,
//! which copies every file up, or by mounts that map ids and copy nothing.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::WorkloadError;
use super::whole::{Run, counter};
use crate::record::Counter;
use crate::sys::idmap::{mount_mapped, user_namespace};

/// The first id of the first range that useradd(8) gives to a user.
const FIRST: u32 = 100_000;
const COUNT: u32 = 65_536;

pub(super) fn start(
    run: &mut Run<'_>,
    n: u64,
    mapped: bool,
) -> Result<Vec<Counter>, WorkloadError> {
    let ground = run.ground;
    let namespace =
        user_namespace(FIRST, COUNT).map_err(run.failed("make a user namespace for the ids"))?;
    let mut n_shifted = 0;
    run.open(n);
    for i in 0..n {
        run.interrupted()?;
        let seat = run.seat(i)?;
        let points: Vec<PathBuf> =
            (0..ground.lower.len()).map(|l| seat.base.join(format!("mapped-{l:03}"))).collect();
        for point in &points {
            fs::create_dir(point).map_err(run.failed("make a mount point"))?;
        }
        // In the order of undoing: the union lies on the mapped mounts.
        let (union, _mounts) = run.time("start", || {
            let mut mounts = Vec::new();
            if mapped {
                for (layer, point) in ground.lower.iter().zip(&points) {
                    mounts.push(mount_mapped(layer, point, &namespace)?);
                }
            }
            let lower = if mapped { &points } else { ground.lower };
            let union = (ground.mount)(&seat.with(lower)).map_err(io::Error::other)?;
            if !mapped {
                shift(&seat.target)?;
            }
            Ok::<_, io::Error>((union, mounts))
        })?;
        let shifted = ground.files.first().map(|name| fs::metadata(seat.target.join(name)));
        let owner = shifted.transpose().map_err(run.failed("look at a file"))?;
        if owner.is_some_and(|metadata| metadata.uid() >= FIRST) {
            n_shifted += 1;
        }
        union.unmount().map_err(run.failed("unmount"))?;
    }
    run.close();
    // Fewer than the starts would mean that nothing was measured.
    Ok(vec![counter("starts_shifted", n_shifted)])
}

fn shift(root: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(root)?;
    std::os::unix::fs::lchown(root, Some(FIRST + metadata.uid()), Some(FIRST + metadata.gid()))?;
    if metadata.is_dir() {
        for entry in fs::read_dir(root)? {
            shift(&entry?.path())?;
        }
    }
    Ok(())
}
