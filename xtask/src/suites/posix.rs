//! pjdfstest and fsx on a mount.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::{Outcome, Place, Suite};
use crate::setup::{CargoTool, install_tool};

pub const SUITES: &[Suite] = &[
    ("pjdfstest", |place| pjdfstest(place, "")),
    ("pjdfstest-noopen", |place| pjdfstest(place, ",data=noopen")),
    ("fsx-cached", |place| fsx(place, "cached")),
    ("fsx-passthrough", |place| fsx(place, "passthrough")),
    ("fsx-noopen", |place| fsx(place, "noopen")),
];

const PJDFSTEST: CargoTool = CargoTool {
    name: "pjdfstest",
    version: "0.2.2",
    purpose: "it tests what POSIX says of files (about 1 to 3 minutes, once)",
};

const FSX: CargoTool = CargoTool {
    name: "fsx",
    version: "0.3.2",
    purpose: "it changes a file at random and compares it with a copy (about 1 to 2 minutes, once)",
};

/// Cases that make a character device 0:0 cannot pass: to a union that is a
/// whiteout, and the kernel's overlayfs refuses it as well.
fn needs_device_zero(case: &str) -> bool {
    case.ends_with("::char")
}

/// Where the union truncates as part of an open (`FUSE_ATOMIC_O_TRUNC`, all but
/// `data=noopen`), the kernel lets it do so before it asks whether the file is
/// being executed. The program of this case, if it is just being loaded, then
/// dies of its missing pages, and the file is no longer busy when it asks.
fn races_with_truncation(case: &str, more: &str) -> bool {
    case == "open::etxtbsy" && !more.contains("data=noopen")
}

fn pjdfstest(place: &Place, more: &str) -> Result<Outcome> {
    let program = install_tool(place.root(), &PJDFSTEST)?;
    let Some(group) = nobodys_group() else {
        return Ok(Outcome::Skipped("there is no user nobody with a group of its own".into()));
    };
    let (lower, merged) = (place.fresh("lower")?, place.fresh("merged")?);
    let served = place.mount(&lower, &merged, more)?;
    open_to_all(&merged)?;
    let settings = place.path("pjdfstest.toml");
    let text = format!(
        "[features]\nposix_fallocate = {{}}\nrename_ctime = {{}}\nutime_now = {{}}\n\
         utimensat = {{}}\n[settings]\nnaptime = 0.01\nallow_remount = false\n\
         [dummy_auth]\nentries = [[\"nobody\", \"{group}\"], [\"daemon\", \"daemon\"]]\n"
    );
    std::fs::write(&settings, text).context("cannot write pjdfstest's settings")?;
    let mut command = Command::new(program);
    command.arg("-c").arg(&settings).arg("-p").arg(&merged).env("RUST_BACKTRACE", "0");
    let said = command.output().context("cannot start pjdfstest")?;
    served.end()?;
    let text = String::from_utf8_lossy(&said.stdout);
    let failed: Vec<_> = text
        .lines()
        .filter_map(|line| line.trim_end().strip_suffix("FAILED"))
        .map(str::trim_end)
        .collect();
    let summary = text.lines().find_map(|line| line.strip_prefix("Summary: "));
    let Some(summary) = summary else {
        return Ok(Outcome::Failed("pjdfstest ended without a summary".into()));
    };
    let explained = |case: &str| needs_device_zero(case) || races_with_truncation(case, more);
    let unexpected: Vec<_> = failed.iter().filter(|case| !explained(case)).collect();
    if !unexpected.is_empty() {
        return Ok(Outcome::Failed(format!("{summary}; not for device 0:0: {unexpected:?}")));
    }
    let raced = failed.iter().filter(|case| !needs_device_zero(case)).count();
    Ok(Outcome::Passed(format!(
        "{summary}; each failed case makes a device 0:0, but for {raced} that raced with a truncation"
    )))
}

fn nobodys_group() -> Option<&'static str> {
    let groups = std::fs::read_to_string("/etc/group").ok()?;
    let has = |name: &str| groups.lines().any(|line| line.split(':').next() == Some(name));
    ["nogroup", "nobody"].into_iter().find(|name| has(name)).filter(|_| has("daemon"))
}

fn open_to_all(folder: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o777))
        .with_context(|| format!("cannot open {} to all", folder.display()))
}

/// Operations of each seed; 1,000,000 is what a release is shown with.
fn fsx_operations() -> u64 {
    let asked = std::env::var("UNIONBENCH_FSX_OPERATIONS").ok();
    asked.and_then(|text| text.parse().ok()).unwrap_or(20_000)
}

/// What fsx does how often. In `block mode` it takes the file as it finds it
/// and never changes its size, so the first write copies the lower file up;
/// else it begins by cutting the file to nothing, and does all that it knows.
///
/// fsx 0.3.2 keeps every mapping that it reads by: `msync` slows down with their
/// number, and at 65,530 the kernel gives no more. A long run reads by as many
/// as one of 40,000 operations.
fn fsx_settings(operations: u64, block_mode: bool) -> String {
    let mapread = 10.0 * 40_000.0 / operations.max(40_000) as f64;
    let mut text = format!(
        "blockmode = {block_mode}\n[weights]\nread = 10\nwrite = 10\nmapread = {mapread}\n\
         mapwrite = 10\ninvalidate = 1\nfsync = 1\nfdatasync = 1\npunch_hole = 1\n\
         sendfile = 1\nposix_fadvise = 1\ncopy_file_range = 1\n"
    );
    text += if block_mode {
        "close_open = 0\ntruncate = 0\nposix_fallocate = 0\n"
    } else {
        "close_open = 1\ntruncate = 5\nposix_fallocate = 1\n"
    };
    text
}

fn fsx(place: &Place, data: &str) -> Result<Outcome> {
    let program = install_tool(place.root(), &FSX)?;
    let operations = fsx_operations();
    let seeds = [1, 7, 42];
    for (seed, block_mode) in seeds.iter().flat_map(|seed| [(seed, false), (seed, true)]) {
        let (lower, merged) = (place.fresh("lower")?, place.fresh("merged")?);
        std::fs::write(lower.join("file"), vec![b'x'; 256 << 10])
            .context("cannot write the lower file")?;
        let settings = place.path("fsx.toml");
        std::fs::write(&settings, fsx_settings(operations, block_mode))
            .context("cannot write fsx's settings")?;
        let served = place.mount(&lower, &merged, &format!(",data={data}"))?;
        let mut command = Command::new(&program);
        command.args(["-N", &operations.to_string(), "-S", &seed.to_string(), "-f"]);
        command.arg(&settings).arg("-P").arg(place.fresh("artifacts")?).arg(merged.join("file"));
        let said = command.output().context("cannot start fsx")?;
        served.end()?;
        let untouched = std::fs::read(lower.join("file")).context("the lower file is gone")?;
        if !said.status.success() || untouched.iter().any(|byte| *byte != b'x') {
            let text = String::from_utf8_lossy(&said.stderr);
            let tail: Vec<_> = text.lines().rev().take(5).collect();
            let mode = if block_mode { "block mode, " } else { "" };
            return Ok(Outcome::Failed(format!("{mode}seed {seed}: {}: {tail:?}", said.status)));
        }
    }
    Ok(Outcome::Passed(format!(
        "{operations} operations of each of the seeds {seeds:?}, from a cut and from a whole lower file"
    )))
}
