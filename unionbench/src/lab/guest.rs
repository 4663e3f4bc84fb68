//! One guest: what goes in, what comes out.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use std::os::unix::net::UnixStream;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::MODE_VARIABLE;
use super::accel::Accel;
use super::error::LabError;
use super::handed::MemoryFile;
use super::initramfs::Initramfs;
use super::kernel::{Feature, Kernel, hex};
use super::library;
use super::modules::ModuleTree;
use super::protocol::{Exit, JOB_PATH, Job, MODULE_DIR};
use super::qemu::{self, Handed, MACHINE, Machine, Process};
use super::watch::{Limits, watch};
use crate::record;
use crate::unit::Bytes;

/// How the guest's time advances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// One nanosecond per guest instruction, one CPU, nothing from outside.
    Count,
    /// At the host's pace, with several CPUs; for functional runs.
    Plain,
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "count" => Ok(Self::Count),
            "plain" => Ok(Self::Plain),
            _ => Err(format!("cannot run the lab in mode {text:?}: write count or plain")),
        }
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Count => "count",
            Self::Plain => "plain",
        })
    }
}

/// Where a guest file's bytes come from.
#[derive(Debug, Clone)]
pub enum Source {
    Bytes(Vec<u8>),
    /// A file of the host; a program brings its libraries along.
    Host(PathBuf),
}

/// A file the guest shall find at `path`.
#[derive(Debug, Clone)]
pub struct GuestFile {
    pub path: String,
    pub source: Source,
}

/// A virtual machine to be run once.
#[derive(Debug, Clone)]
pub struct Guest {
    pub kernel: Kernel,
    pub mode: Mode,
    /// Accelerator of `plain` mode; `count` always emulates.
    pub accel: Accel,
    pub memory: Bytes,
    /// One in `count` mode.
    pub cpus: u32,
    pub files: Vec<GuestFile>,
    /// Program and arguments; `unionbench` is on the guest's path. Empty boots,
    /// does nothing and reports success.
    pub argv: Vec<String>,
    pub env: Vec<(String, String)>,
    /// Modules the guest cannot do without, built in or loaded.
    pub required_modules: Vec<String>,
    /// Modules loaded where the kernel has them.
    pub optional_modules: Vec<String>,
    /// From init's first word to the end.
    pub timeout: Duration,
    /// From start to init's first word.
    pub boot_timeout: Duration,
    /// Virtual time the guest idles before the command.
    pub idle: Duration,
    /// Further kernel parameters.
    pub append: String,
    /// The binary that is init; this process's own unless said otherwise.
    pub binary: Option<PathBuf>,
    /// Set from elsewhere, it stops the guest.
    pub stop: Arc<AtomicBool>,
    /// The command talks to the terminal; its output is not recorded.
    pub interactive: bool,
}

/// A file below the guest's [`super::OUT_DIR`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutFile {
    /// Relative to the output folder, without `..`.
    pub path: String,
    pub bytes: Vec<u8>,
}

/// What a guest gave back. Its command may have failed: see `exit`.
#[derive(Debug, Clone)]
pub struct GuestOutcome {
    pub exit: Exit,
    /// Files below the output folder, `stdout` and `stderr` of the command
    /// among them, in order of their paths.
    pub files: Vec<OutFile>,
    pub console: String,
    pub identity: LabIdentity,
    /// On the host, from the start of QEMU.
    pub wall: Duration,
}

/// What must be equal before two counts may be compared, and what further
/// helps to tell why they differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabIdentity {
    pub mode: Mode,
    pub qemu_version: String,
    pub machine: String,
    pub cpu_model: String,
    pub accel: Accel,
    pub cpus: u32,
    pub memory_bytes: u64,
    pub kernel_release: String,
    pub kernel_sha256: String,
    pub kernel_parameters: String,
    pub initramfs_sha256: String,
    pub binary_sha256: String,
    /// Interpreter and libraries of a binary that is not static; these are then
    /// part of what runs and were taken from the host.
    pub libraries: Vec<PathBuf>,
}

impl GuestOutcome {
    /// What a record says of the machine that `guest` was.
    pub fn lab_record(&self, guest: &Guest) -> record::Lab {
        let identity = self.identity.clone();
        record::Lab {
            mode: identity.mode.to_string(),
            qemu_version: identity.qemu_version,
            machine: identity.machine,
            cpu_model: identity.cpu_model,
            accelerator: identity.accel.to_string(),
            n_cpus: identity.cpus,
            memory_bytes: identity.memory_bytes,
            kernel_release: identity.kernel_release,
            kernel_sha256: identity.kernel_sha256,
            kernel_package: guest.kernel.package.clone(),
            initramfs_sha256: identity.initramfs_sha256,
            binary_sha256: identity.binary_sha256,
            kernel_command_line: identity.kernel_parameters,
            wall_ms: u64::try_from(self.wall.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// The output file at `path`.
    pub fn file(&self, path: &str) -> Option<&[u8]> {
        self.files.iter().find(|file| file.path == path).map(|file| file.bytes.as_slice())
    }
}

/// Virtual time the guest idles before the command, so that what the kernel
/// puts off after boot is done. Costs no wall time in `count` mode.
const IDLE: Duration = Duration::from_secs(4);
/// What a kernel needs beside the initial file system.
const KERNEL_MEMORY: u64 = 192 << 20;
const TRANSPORT_MODULES: [&str; 2] = ["virtio_pci", "virtio_console"];

impl Guest {
    /// A guest with the defaults: 2 GiB, overlay required, file systems and
    /// block devices for benchmarks loaded where the kernel has them.
    pub fn new(kernel: Kernel, mode: Mode) -> Self {
        Self {
            kernel,
            mode,
            accel: Accel::Auto,
            memory: Bytes(2 << 30),
            cpus: match mode {
                Mode::Count => 1,
                Mode::Plain => 2,
            },
            files: Vec::new(),
            argv: Vec::new(),
            env: Vec::new(),
            required_modules: vec!["overlay".into()],
            optional_modules: ["fuse", "crc32c_generic", "ext4", "loop", "brd"]
                .map(str::to_owned)
                .to_vec(),
            timeout: Duration::from_secs(600),
            boot_timeout: Duration::from_secs(300),
            idle: match mode {
                Mode::Count => IDLE,
                Mode::Plain => Duration::ZERO,
            },
            append: String::new(),
            binary: None,
            stop: Arc::default(),
            interactive: false,
        }
    }

    /// Boots the guest, runs the command and brings its output back.
    ///
    /// No QEMU is left behind, whatever the outcome. A command that failed is
    /// an outcome, not an error.
    pub fn run(&self) -> Result<GuestOutcome, LabError> {
        self.check()?;
        let accel = self.accel.decide(self.mode, &self.kernel)?;
        self.run_on(accel)
    }

    pub(crate) fn run_on(&self, accel: Accel) -> Result<GuestOutcome, LabError> {
        let program = qemu::program();
        let qemu_version = qemu::version(&program)?;
        let payload = self.payload()?;
        let held = |name, bytes: &[u8]| {
            MemoryFile::new(name, bytes).map_err(LabError::io("hold in memory", "a guest's files"))
        };
        let initramfs = held(c"initramfs", &payload.archive)?;
        let (console, errors) = (held(c"console", b"")?, held(c"qemu-stderr", b"")?);
        let (results, port) =
            UnixStream::pair().map_err(LabError::io("open", "a socket for the results"))?;
        let machine = Machine {
            mode: self.mode,
            accel,
            memory: self.memory,
            cpus: self.cpus,
            kernel: &self.kernel.image,
            append: &self.append,
            interactive: self.interactive,
        };
        let started = Instant::now();
        let handed = Handed { initramfs: &initramfs, console: &console, errors: &errors, port };
        let mut process = Process::spawn(&program, &machine, handed)?;
        let limits = Limits {
            boot: self.boot_timeout,
            run: self.timeout,
            memory: self.memory,
            stop: &self.stop,
        };
        let report = watch(&mut process, results, &console, &errors, &limits)?;
        Ok(GuestOutcome {
            exit: report.exit,
            files: report.files,
            console: report.console,
            identity: LabIdentity {
                mode: self.mode,
                qemu_version,
                machine: MACHINE.into(),
                cpu_model: machine.cpu_model().into(),
                accel,
                cpus: self.cpus,
                memory_bytes: self.memory.0,
                kernel_release: self.kernel.release.clone(),
                kernel_sha256: self.kernel.sha256.clone(),
                kernel_parameters: machine.kernel_parameters(),
                initramfs_sha256: hex(&Sha256::digest(&payload.archive)),
                binary_sha256: payload.binary_sha256,
                libraries: payload.libraries,
            },
            wall: started.elapsed(),
        })
    }

    /// Refuses what could only end in a guest that hangs or says nothing.
    pub fn check(&self) -> Result<(), LabError> {
        let refuse = |what: &str, remedy: &str| {
            Err(LabError::BadGuest { what: what.into(), remedy: remedy.into() })
        };
        if self.mode == Mode::Count && self.cpus != 1 {
            return refuse("count mode has one CPU", "leave --cpus at 1 or use --mode plain");
        }
        if self.cpus == 0 {
            return refuse("a guest needs a CPU", "give --cpus 1 or more");
        }
        let lacks =
            |what: String| LabError::KernelLacks { release: self.kernel.release.clone(), what };
        let can = &self.kernel.capabilities;
        for (feature, name) in
            [(can.virtio_pci, "virtio_pci"), (can.virtio_console, "virtio_console")]
        {
            if feature == Feature::Absent {
                return Err(lacks(format!("{name}, over which the guest reports")));
            }
        }
        let Some(root) = &self.kernel.modules else {
            // Without modules at hand there is only what is built in.
            let missing = |name: &&String| match name.as_str() {
                "overlay" => can.overlay == Feature::Absent,
                "fuse" => can.fuse == Feature::Absent,
                "aufs" => can.aufs == Feature::Absent,
                _ => false,
            };
            return match self.required_modules.iter().find(missing) {
                Some(name) => Err(lacks(format!("{name}, which this run needs"))),
                None => Ok(()),
            };
        };
        let tree = ModuleTree::open(root)?;
        match self.required_modules.iter().find(|name| tree.feature(name) == Feature::Absent) {
            Some(name) => Err(lacks(format!("{name}, which this run needs"))),
            None => Ok(()),
        }
    }

    fn payload(&self) -> Result<Payload, LabError> {
        let binary = match &self.binary {
            Some(path) => path.clone(),
            None => std::env::current_exe().map_err(LabError::io("find", "this program"))?,
        };
        let bytes = fs::read(&binary).map_err(LabError::io("read", &binary))?;
        let binary_sha256 = hex(&Sha256::digest(&bytes));
        let mut initramfs = Initramfs::default();
        for dir in ["/proc", "/sys", "/tmp", "/out", "/scratch", "/dev"] {
            initramfs.dir(dir);
        }
        // The kernel opens init's standard streams before devtmpfs is mounted.
        initramfs.char_device("/dev/console", 5, 1);
        let libraries = initramfs.host_file("/init", &binary)?;
        initramfs.file("/init", library::loaded_part(&bytes), 0o755);
        initramfs.symlink("/bin/unionbench", "/init");
        for file in &self.files {
            match &file.source {
                Source::Bytes(bytes) => initramfs.file(&file.path, bytes.clone(), 0o644),
                Source::Host(path) => {
                    initramfs.host_file(&file.path, path)?;
                }
            }
        }
        let modules = self.add_modules(&mut initramfs)?;
        let job = serde_json::to_vec(&self.job(modules)).map_err(|error| LabError::BadGuest {
            what: format!("the job cannot be written ({error})"),
            remedy: "use plain text in arguments and environment".into(),
        })?;
        initramfs.file(JOB_PATH, job, 0o644);
        let archive = initramfs.archive().map_err(LabError::io("build", "the initramfs"))?;
        self.check_memory(archive.len() as u64)?;
        Ok(Payload { archive, binary_sha256, libraries })
    }

    fn add_modules(&self, initramfs: &mut Initramfs) -> Result<Vec<String>, LabError> {
        let Some(root) = &self.kernel.modules else { return Ok(Vec::new()) };
        // They ask for this checksum by its name when they are loaded, which no
        // list of needs tells. Elsewhere the order stays: counts rest on it.
        let asks = |name: &String| matches!(name.as_str(), "xfs" | "btrfs");
        let checksum = self.required_modules.iter().any(asks).then_some("crc32c_generic");
        let wanted: Vec<&str> = TRANSPORT_MODULES
            .into_iter()
            .chain(checksum)
            .chain(self.required_modules.iter().map(String::as_str))
            .chain(self.optional_modules.iter().map(String::as_str))
            .collect();
        let mut names = Vec::new();
        for module in ModuleTree::open(root)?.load_order(&wanted)? {
            let path = format!("{MODULE_DIR}/{}.ko", module.name);
            initramfs.file(&path, module.bytes, 0o644);
            names.push(module.name);
        }
        Ok(names)
    }

    fn job(&self, modules: Vec<String>) -> Job {
        let mut env = vec![
            ("PATH".to_owned(), "/bin:/usr/bin:/sbin:/usr/sbin".to_owned()),
            ("HOME".to_owned(), "/tmp".to_owned()),
            (MODE_VARIABLE.to_owned(), self.mode.to_string()),
        ];
        env.extend(self.env.iter().cloned());
        Job {
            argv: self.argv.clone(),
            env,
            modules,
            idle_ms: u64::try_from(self.idle.as_millis()).unwrap_or(u64::MAX),
            interactive: self.interactive,
        }
    }

    /// The archive is in memory twice while the kernel unpacks it.
    fn check_memory(&self, archive: u64) -> Result<(), LabError> {
        let need = 2 * archive + KERNEL_MEMORY;
        if self.memory.0 >= need {
            return Ok(());
        }
        let whole = |bytes: u64| Bytes(bytes.div_ceil(1 << 20) << 20);
        Err(LabError::TooLittleMemory {
            memory: self.memory,
            initramfs: whole(archive),
            need: whole(need),
        })
    }
}

struct Payload {
    archive: Vec<u8>,
    binary_sha256: String,
    libraries: Vec<PathBuf>,
}

impl GuestFile {
    pub fn bytes(path: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        Self { path: path.into(), source: Source::Bytes(bytes.into()) }
    }

    pub fn host(path: impl Into<String>, host: impl AsRef<Path>) -> Self {
        Self { path: path.into(), source: Source::Host(host.as_ref().to_owned()) }
    }
}
