//! Process 1 of the guest.
//!
//! Order: mount, read the job, load modules, open the port, say hello, idle,
//! run the command, send its output, power off. An error before the port is
//! open goes to the console behind [`CONSOLE_MARK`], where the host finds it.
//!
//! Nothing is written to port or console between hello and the command's end:
//! host-side flow control would be the one thing in `count` mode that is not
//! a function of the guest's instructions.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::mount::{MountFlags, mount};
use rustix::process::{Pid, WaitOptions, wait};
use rustix::system::{RebootCommand, init_module, reboot, uname};

use crate::sys::child::own_terminal;

use super::protocol::{
    CONSOLE_MARK, End, Exit, FileHead, Frame, Hello, JOB_PATH, Job, MODULE_DIR, OUT_DIR, PORT_NAME,
};

/// Whether this process is the init of a lab guest.
pub fn is_init() -> bool {
    std::process::id() == 1 && is_guest()
}

/// Whether this process runs in a lab guest.
pub fn is_guest() -> bool {
    Path::new(JOB_PATH).exists()
}

/// Does the whole job of an init and powers the guest off.
pub fn run_init() -> ! {
    if let Err(message) = boot_and_run() {
        say(&format!("{CONSOLE_MARK}{message}\n"));
        // The console drains while the guest sleeps.
        std::thread::sleep(Duration::from_millis(500));
    }
    let _ = reboot(RebootCommand::PowerOff);
    // Power-off does not return; if it was refused, the end of init panics the
    // kernel, which ends QEMU as well.
    std::process::exit(1)
}

fn boot_and_run() -> Result<(), String> {
    mount_all()?;
    let text = fs::read(JOB_PATH).map_err(|e| format!("read {JOB_PATH}: {e}"))?;
    let job: Job = serde_json::from_slice(&text).map_err(|e| format!("parse {JOB_PATH}: {e}"))?;
    load_modules(&job.modules)?;
    mount_what_modules_bring();
    let mut port = open_port()?;
    let names = uname();
    let hello = Hello {
        release: names.release().to_string_lossy().into_owned(),
        version: names.version().to_string_lossy().into_owned(),
    };
    let lost = |e: io::Error| format!("write to the port: {e}");
    Frame::Hello(hello).write_to(&mut port).map_err(lost)?;
    std::thread::sleep(Duration::from_millis(job.idle_ms));
    let exit = run_command(&job)?;
    send_outputs(&mut port).map_err(lost)?;
    let end = End { exit, oom_kills: oom_kills() };
    Frame::End(end).write_to(&mut port).map_err(lost)?;
    // A write returns once the kernel has queued it, and a power-off drops what
    // the host has not taken yet: wait until it says that it has everything.
    port.read_exact(&mut [0; 1]).map_err(|e| format!("read the host's answer: {e}"))
}

/// File systems every kernel of interest has; the guest is useless without.
const REQUIRED_MOUNTS: [(&str, &str); 3] =
    [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")];

/// File systems whose absence the benchmark itself reports.
const OPTIONAL_MOUNTS: [(&str, &str); 6] = [
    ("tmpfs", OUT_DIR),
    ("tmpfs", "/scratch"),
    ("cgroup2", "/sys/fs/cgroup"),
    ("debugfs", "/sys/kernel/debug"),
    ("tracefs", "/sys/kernel/tracing"),
    ("bpf", "/sys/fs/bpf"),
];

fn mount_all() -> Result<(), String> {
    for (kind, target) in REQUIRED_MOUNTS {
        mount_at(kind, target).map_err(|e| format!("mount {kind} at {target}: {e}"))?;
    }
    // Files that were sent along under this name stay in sight.
    if fs::read_dir("/tmp").is_ok_and(|mut entries| entries.next().is_none()) {
        mount_at("tmpfs", "/tmp").map_err(|e| format!("mount tmpfs at /tmp: {e}"))?;
    }
    for (kind, target) in OPTIONAL_MOUNTS {
        if let Err(error) = mount_at(kind, target) {
            say(&format!("unionbench-lab: no {kind} at {target}: {error}\n"));
        }
    }
    Ok(())
}

fn mount_at(kind: &str, target: &str) -> io::Result<()> {
    if !Path::new(target).exists() {
        fs::create_dir_all(target)?;
    }
    Ok(mount(kind, target, kind, MountFlags::empty(), None)?)
}

fn mount_what_modules_bring() {
    if Path::new("/sys/fs/fuse/connections").exists() {
        let _ = mount_at("fusectl", "/sys/fs/fuse/connections");
    }
}

fn load_modules(names: &[String]) -> Result<(), String> {
    for name in names {
        let path = format!("{MODULE_DIR}/{name}.ko");
        let bytes = fs::read(&path).map_err(|e| format!("read {path}: {e}"))?;
        match init_module(&bytes, c"") {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            // Drivers of absent hardware and rival implementations refuse; what
            // the benchmark needs of them it finds missing itself.
            Err(error) => say(&format!("unionbench-lab: module {name} not loaded: {error}\n")),
        }
        // The archive's copy would only take memory from the benchmark.
        let _ = fs::remove_file(&path);
    }
    Ok(())
}

/// The port the host listens on. Its device appears when the driver has
/// talked to QEMU, a little after its module was loaded.
fn open_port() -> Result<File, String> {
    for _ in 0..300 {
        if let Some(path) = find_port() {
            return OpenOptions::new()
                .read(true)
                .write(true)
                .open(&path)
                .map_err(|e| format!("open {}: {e}", path.display()));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Err("find the virtio-serial port: the kernel has no virtio_pci or virtio_console".into())
}

fn find_port() -> Option<PathBuf> {
    fs::read_dir("/sys/class/virtio-ports").ok()?.filter_map(Result::ok).find_map(|entry| {
        let name = fs::read_to_string(entry.path().join("name")).ok()?;
        (name.trim() == PORT_NAME).then(|| Path::new("/dev").join(entry.file_name()))
    })
}

/// The console by its own name: /dev/console can be nobody's terminal.
const TERMINAL: &str = "/dev/ttyS0";

fn run_command(job: &Job) -> Result<Exit, String> {
    let Some((program, arguments)) = job.argv.split_first() else { return Ok(Exit::Code(0)) };
    let mut options = OpenOptions::new();
    // Else it would be the terminal of init itself.
    options.create(true).append(true).custom_flags(OFlags::NOCTTY.bits().cast_signed());
    let output = |name: &str| -> Result<Stdio, String> {
        let path = if job.interactive { TERMINAL.into() } else { format!("{OUT_DIR}/{name}") };
        let file = options.open(&path);
        Ok(file.map_err(|e| format!("open {path}: {e}"))?.into())
    };
    let input = if job.interactive {
        let mut options = options.clone();
        let file = options.create(false).append(false).read(true).open(TERMINAL);
        file.map_err(|e| format!("open {TERMINAL}: {e}"))?.into()
    } else {
        Stdio::null()
    };
    let mut command = Command::new(program);
    if job.interactive {
        own_terminal(&mut command);
    }
    let child = command
        .args(arguments)
        .env_clear()
        .envs(job.env.iter().map(|(key, value)| (key, value)))
        .current_dir("/scratch")
        .stdin(input)
        .stdout(output("stdout")?)
        .stderr(output("stderr")?)
        .spawn()
        .map_err(|e| not_started(program, &e))?;
    wait_for(child.id())
}

/// Why a program does not run, and what to do. The guest has this program and
/// what it was given, nothing of the host's.
fn not_started(program: &str, error: &std::io::Error) -> String {
    let remedy = match error.kind() {
        std::io::ErrorKind::NotFound => {
            let name = program.rsplit('/').next().unwrap_or(program);
            format!(
                "; the guest has `unionbench` and what --file brings, here --file /bin/{name}=/path/to/{name}"
            )
        }
        _ => String::new(),
    };
    format!("start {program} in the guest: {error}{remedy}")
}

/// Waits for `child` and, as init must, for every orphan that ends meanwhile.
fn wait_for(child: u32) -> Result<Exit, String> {
    let child = i32::try_from(child).ok().and_then(Pid::from_raw);
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if Some(pid) == child => {
                if let Some(code) = status.exit_status() {
                    return Ok(Exit::Code(code));
                }
                if let Some(signal) = status.terminating_signal() {
                    return Ok(Exit::Signal(signal));
                }
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(format!("wait for the command: {error}")),
        }
    }
}

fn send_outputs(port: &mut File) -> io::Result<()> {
    let mut files = Vec::new();
    collect_files(Path::new(OUT_DIR), &mut files)?;
    files.sort();
    let mut chunk = vec![0; 1 << 16];
    for path in files {
        let mut file = File::open(&path)?;
        let name = path.strip_prefix(OUT_DIR).unwrap_or(&path).to_string_lossy().into_owned();
        Frame::File(FileHead { path: name, size: file.metadata()?.len() }).write_to(port)?;
        loop {
            let n = file.read(&mut chunk)?;
            if n == 0 {
                break;
            }
            Frame::Data(chunk[..n].to_vec()).write_to(port)?;
        }
    }
    Ok(())
}

/// Regular files only: a link or device has no meaning on the host.
fn collect_files(dir: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            collect_files(&entry.path(), found)?;
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
    Ok(())
}

/// The kernel's own count, Linux 4.13 and newer.
fn oom_kills() -> u64 {
    let text = fs::read_to_string("/proc/vmstat").unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("oom_kill "))
        .and_then(|count| count.trim().parse().ok())
        .unwrap_or(0)
}

fn say(text: &str) {
    if let Ok(mut console) = OpenOptions::new().write(true).open("/dev/console") {
        let _ = console.write_all(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::not_started;

    #[test]
    fn a_program_that_was_not_brought_along_is_asked_for() {
        let absent = std::io::Error::from_raw_os_error(libc::ENOENT);
        let told = not_started("true", &absent);
        assert!(told.contains("--file /bin/true=/path/to/true"), "{told}");
        assert!(not_started("/opt/x/prog", &absent).contains("--file /bin/prog="));
        let closed = std::io::Error::from_raw_os_error(libc::EACCES);
        assert!(!not_started("true", &closed).contains("--file"));
    }
}
