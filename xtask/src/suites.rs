//! `cargo xtask test --suites`: other people's file system tests, and real
//! work, on a mount of the bundled union.
//!
//! Everything runs in a mount namespace of its own and in a folder of its own
//! on tmpfs, so nothing is left behind. What cannot run here is skipped with
//! the reason.

mod posix;
mod workload;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::command::{cargo, must_succeed, on_path, output, say};

const INSIDE: &str = "UNIONBENCH_SUITES_INSIDE";

/// How one suite ended.
pub enum Outcome {
    Passed(String),
    Failed(String),
    Skipped(String),
}

/// Runs the suites whose names contain one of `wanted`, or all.
pub fn run(root: &Path, wanted: &[String]) -> Result<ExitCode> {
    if let Some(unknown) =
        wanted.iter().find(|w| !suites().any(|(name, _)| name.contains(w.as_str())))
    {
        let known: Vec<_> = suites().map(|(name, _)| *name).collect();
        bail!("no suite is called {unknown:?}: there are {}", known.join(", "));
    }
    if std::env::var_os(INSIDE).is_none() {
        return again_inside(wanted);
    }
    let mut build = cargo(root);
    build.args(["build", "--release", "--quiet", "-p", "unionbench-fuse", "--example", "serve"]);
    must_succeed(&mut build)?;
    let place = Place::new(root)?;
    let chosen = suites()
        .filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|w| name.contains(w.as_str())));
    let mut failed = 0;
    for (name, suite) in chosen {
        let outcome = suite(&place).unwrap_or_else(|e| Outcome::Failed(format!("{e:#}")));
        match outcome {
            Outcome::Passed(what) => println!("suite {name} ... ok: {what}"),
            Outcome::Skipped(why) => println!("suite {name} ... skipped: {why}"),
            Outcome::Failed(why) => {
                failed += 1;
                println!("suite {name} ... FAILED: {why}");
            }
        }
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn suites() -> impl Iterator<Item = &'static Suite> {
    posix::SUITES.iter().chain(workload::SUITES)
}

/// Starts this program again where its mounts are seen by no one else.
fn again_inside(wanted: &[String]) -> Result<ExitCode> {
    if !output(Command::new("id").arg("-u")).is_ok_and(|uid| uid.trim() == "0") {
        println!("suites ... skipped: mounting for other users needs root");
        return Ok(ExitCode::SUCCESS);
    }
    if on_path("unshare").is_none() {
        bail!("cannot enter a mount namespace: install util-linux for unshare");
    }
    let me = std::env::current_exe().context("cannot find this program")?;
    let mut command = Command::new("unshare");
    command.args(["-m", "--propagation", "private"]).arg(me).args(["test", "--suites"]);
    crate::command::status(command.args(wanted).env(INSIDE, "1"))
}

/// The folder in which the suites work, removed at the end.
pub struct Place {
    root: PathBuf,
    folder: PathBuf,
}

impl Place {
    fn new(root: &Path) -> Result<Self> {
        let base = Path::new("/dev/shm");
        let base = if base.is_dir() { base.to_path_buf() } else { std::env::temp_dir() };
        let folder = base.join(format!("unionbench-suites-{}", std::process::id()));
        std::fs::create_dir(&folder)
            .with_context(|| format!("cannot create {}: make room there", folder.display()))?;
        Ok(Self { root: root.to_path_buf(), folder })
    }

    /// The project's own folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A folder that is empty.
    pub fn fresh(&self, name: &str) -> Result<PathBuf> {
        let path = self.path(name);
        if path.exists() {
            std::fs::remove_dir_all(&path)
                .with_context(|| format!("cannot empty {}", path.display()))?;
        }
        std::fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(path)
    }

    /// Mounts a union over `merged`, which begins with what `lower` holds.
    pub fn mount(&self, lower: &Path, merged: &Path, more: &str) -> Result<Served> {
        let (upper, work) = (self.fresh("upper")?, self.fresh("work")?);
        let options = format!(
            "lowerdir={},upperdir={},workdir={},allow_other{more}",
            lower.display(),
            upper.display(),
            work.display()
        );
        let program = self.root.join("target/release/examples/serve");
        let mut command = Command::new(program);
        command.arg(options).arg(merged).stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot start the union: build it first")?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line).context("cannot hear from the union")?;
        }
        if line != "mounted\n" {
            bail!("the union did not mount at {}", merged.display());
        }
        Ok(Served { child: Some(child) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            say(&format!("cannot remove {}: {error}", self.folder.display()));
        }
    }
}

/// A mounted union, unmounted at the end.
pub struct Served {
    child: Option<Child>,
}

impl Served {
    /// Unmounts, and fails unless the union ended as it should.
    pub fn end(mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        must_succeed(Command::new("kill").arg(child.id().to_string()))?;
        let status = child.wait().context("cannot wait for the union")?;
        if status.success() { Ok(()) } else { bail!("the union ended with {status}") }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = Command::new("kill").arg(child.id().to_string()).status();
            let _ = child.wait();
        }
    }
}

pub type Suite = (&'static str, fn(&Place) -> Result<Outcome>);
