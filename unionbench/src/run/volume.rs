//! Volumes: a group's files somewhere else than in the union, mounted over
//! where they were. What is written to them must leave the upper layer alone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use super::step::{Step, hides};
use crate::backend::{OWN_PROGRAM, Request, Union};
use crate::plan::{Action, FileChoice, PhasePlan, Volume};
use crate::record::Counter;
use crate::sys::child::die_with_parent;
use crate::sys::loop_device::LoopDevice;
use crate::sys::mount::{Mounted, bind, mount_read_only};

/// A volume in its place; dropping it puts the union's own files back.
#[derive(Debug, Default)]
pub(super) struct Attached {
    pub counters: Vec<Counter>,
    // In the order of undoing.
    mounts: Vec<Mounted>,
    other: Option<Union>,
    _device: Option<LoopDevice>,
    /// The folders that were made for it.
    base: Option<PathBuf>,
}

impl Drop for Attached {
    fn drop(&mut self) {
        while let Some(last) = self.mounts.pop() {
            drop(last);
        }
        drop(self.other.take());
        if let Some(base) = &self.base {
            let _ = fs::remove_dir_all(base);
        }
    }
}

/// Puts the phase's volume in place, if it has one.
///
/// # Errors
/// What could not be mounted or copied.
pub(super) fn attach(
    step: &Step<'_>,
    phase: &PhasePlan,
    root: &Path,
    user_namespace: bool,
) -> Result<Attached, String> {
    let Some(volume) = phase.volume else { return Ok(Attached::default()) };
    let told = |action: &str| {
        let action = action.to_owned();
        move |error: io::Error| format!("cannot {action} a volume: {error}")
    };
    let files = group_files(step, phase)?;
    let folder = match files.first().and_then(|file| file.parent()) {
        Some(folder) if files.iter().all(|file| file.parent() == Some(folder)) => folder,
        _ => return Err("cannot mount a volume: its files lie in several directories".to_owned()),
    };
    let point = root.join(folder);
    let base = step.folders.base.join("volume");
    let contents = base.join("contents");
    fs::create_dir(&base).and_then(|()| fs::create_dir(&contents)).map_err(told("make"))?;
    let mut attached = Attached::default();
    attached.base = Some(base.clone());
    // What docker does on the first use of a managed volume, and what puts the
    // same contents into the others.
    let began = Instant::now();
    for file in &files {
        let name = file.file_name().unwrap_or_default();
        fs::copy(root.join(file), contents.join(name)).map_err(told("fill"))?;
    }
    let filled = began.elapsed();
    let mounted = |result: Result<Mounted, crate::sys::mount::MountFailure>| {
        result.map_err(|failure| format!("cannot mount a volume: {failure}"))
    };
    match volume {
        Volume::Bind => attached.mounts.push(mounted(bind(&contents, &point, false))?),
        Volume::BindReadOnly => attached.mounts.push(mounted(bind(&contents, &point, true))?),
        Volume::BindFile => {
            for file in &files {
                let name = file.file_name().unwrap_or_default();
                let source = contents.join(name);
                attached.mounts.push(mounted(bind(&source, &root.join(file), false))?);
            }
        }
        Volume::Managed => {
            attached.counters.push(Counter {
                name: "volume.fill_ns".to_owned(),
                engine: "driver".to_owned(),
                value: u64::try_from(filled.as_nanos()).unwrap_or(u64::MAX),
            });
            attached.mounts.push(mounted(bind(&contents, &point, false))?);
        }
        Volume::Shared => {
            let (other, second) = another(step, &base, user_namespace)?;
            attached.other = other;
            attached.mounts.push(mounted(bind(&contents, &second.join(folder), false))?);
            attached.mounts.push(mounted(bind(&contents, &point, false))?);
        }
        Volume::DataPacked => {
            let device = packed(&contents, &base)?;
            let source = device.path().display().to_string();
            attached.mounts.push(mounted(mount_read_only("ext4", &source, &point))?);
            attached._device = Some(device);
        }
    }
    Ok(attached)
}

fn group_files(step: &Step<'_>, phase: &PhasePlan) -> Result<Vec<PathBuf>, String> {
    let (Action::FirstWrite { files, .. } | Action::Fsync { files } | Action::Read { files }) =
        &phase.action
    else {
        return Err("cannot mount a volume: the phase takes no files".to_owned());
    };
    let FileChoice::Group(name) = files else {
        return Err("cannot mount a volume: it holds a group".to_owned());
    };
    let tree = step.site.any().map(|built| &built.tree);
    let files = tree.map(|tree| tree.group_files(name)).unwrap_or_default();
    Ok(files.into_iter().map(|file| file.path.into()).collect())
}

/// A second container on the same layers. The control's is its own tree again.
fn another(
    step: &Step<'_>,
    base: &Path,
    user_namespace: bool,
) -> Result<(Option<Union>, PathBuf), String> {
    let [upper, work, target] = ["upper", "work", "merged"].map(|name| base.join(name));
    for path in [&upper, &work, &target] {
        fs::create_dir(path).map_err(|error| format!("cannot make a second container: {error}"))?;
    }
    let plan = &step.plan.backends[step.setup.backend];
    if plan.kind == crate::backend::CONTROL_KIND {
        return Ok((None, step.folders.flat.clone()));
    }
    let request = Request {
        plan,
        lower: step.site.lower(step.backend.whiteouts(plan)),
        writable_lower: &[],
        n_data_only: 0,
        hides: hides(&step.plan.stacks[step.setup.stack]),
        flat: None,
        upper: &upper,
        work: &work,
        target: &target,
        user_namespace,
        own_program: Path::new(OWN_PROGRAM),
    };
    let union = step.backend.mount(&request).map_err(|error| super::chain(&error))?;
    let root = union.root.clone();
    Ok((Some(union), root))
}

/// The contents as an ext4 image on a loop device.
fn packed(contents: &Path, base: &Path) -> Result<LoopDevice, String> {
    let image = base.join("packed.img");
    let mut length = 16 << 20;
    for entry in fs::read_dir(contents).into_iter().flatten().flatten() {
        length += entry.metadata().map_or(0, |m| m.len().next_multiple_of(4096));
    }
    fs::File::create(&image)
        .and_then(|file| file.set_len(length))
        .map_err(|error| format!("cannot make the image of a volume: {error}"))?;
    let mut command = Command::new("mkfs.ext4");
    command.args(["-q", "-F", "-O", "^has_journal", "-d"]).arg(contents).arg(&image);
    let output = die_with_parent(&mut command)
        .output()
        .map_err(|error| format!("cannot run mkfs.ext4: {error}; `apt-get install e2fsprogs`"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("cannot make the image of a volume: {}", said.trim()));
    }
    LoopDevice::attach(&image).map_err(|error| {
        format!("cannot attach the image of a volume: {error}; loop devices need root")
    })
}
