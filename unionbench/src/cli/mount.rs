//! `unionbench mount`: the bundled union as a file system of its own.
//!
//! With `-f` it serves until it is unmounted or asked to end by a signal, which
//! unmounts it, and prints one line once the mount can be used, for whoever
//! started it. Without, it starts itself with `-f`, waits for that line, and
//! leaves the child behind, in a session of its own and without what its
//! starter has open.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use anyhow::Context as _;
use unionbench_fuse::MountOptions;

use super::Failure;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Layers and modes: lowerdir=a:b,upperdir=u,workdir=w or dirs=./a=rw:./b=ro;
    /// index=on keeps hard links together; all are in unionbench-fuse/README.md
    #[arg(short = 'o', value_name = "OPTIONS", required = true)]
    options: Vec<String>,
    /// Serve in the foreground; prints `mounted` once the mount can be used
    #[arg(short = 'f', long)]
    foreground: bool,
    /// Let go of the starter once the mount can be used
    #[arg(long, hide = true, requires = "foreground")]
    let_go: bool,
    /// Let other users than the mounting one in
    #[arg(long)]
    allow_other: bool,
    /// A source, which is ignored (mount helpers get one), and the mount point
    #[arg(required = true, num_args = 1..=2, value_name = "MOUNTPOINT")]
    paths: Vec<PathBuf>,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let parsed = MountOptions::parse(&args.options.join(","));
    let mut options = parsed.map_err(|e| Failure::Usage(e.to_string()))?;
    options.allow_other |= args.allow_other;
    let Some(mount_point) = args.paths.last() else {
        return Err(Failure::Usage("cannot mount: name a mount point".into()).into());
    };
    if !args.foreground {
        return leave_behind(args);
    }
    if args.let_go {
        // Fails only for a process that leads a session already.
        let _ = rustix::process::setsid();
    }
    unionbench_fuse::serve(&options, mount_point, || {
        // A starter that no longer listens does not end the mount.
        let _ = writeln!(std::io::stdout(), "mounted").and_then(|()| std::io::stdout().flush());
        if args.let_go {
            let_go();
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Gives up the working folder and the terminal, so that neither is held for
/// as long as the mount lasts.
fn let_go() {
    let _ = std::env::set_current_dir("/");
    if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
    }
}

/// Starts this program again in the foreground of a session of its own, and
/// returns once its mount can be used.
fn leave_behind(args: &Args) -> anyhow::Result<ExitCode> {
    let program = std::env::current_exe().context("cannot find this program to serve the mount")?;
    let mut command = Command::new(program);
    command.args(["mount", "--foreground", "--let-go", "-o", &args.options.join(",")]);
    if args.allow_other {
        command.arg("--allow-other");
    }
    let mut child = command
        .arg("--")
        .args(&args.paths)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the process that serves the mount")?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout)
            .read_line(&mut line)
            .context("cannot hear from the serving process")?;
    }
    if line.trim_end() == "mounted" {
        return Ok(ExitCode::SUCCESS);
    }
    // The child has said on stderr what went wrong.
    let status = child.wait().context("cannot wait for the serving process")?;
    Ok(status.code().and_then(|c| u8::try_from(c).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}
