//! What the programs of `unionbench trace` and their loader agree on.
//!
//! Unlike the benchmark's, these programs see every thread of the machine; what
//! they leave out is decided by [`Settings`], which the kernel's verifier reads
//! as constants.

/// Where a member lies that this kernel does not have, or whose place could not
/// be read: what depends on it is then absent.
pub const UNKNOWN: u32 = u32::MAX;

/// Places of members in the running kernel's structures, in bytes, read from
/// its BTF and that of its modules.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offsets {
    pub dentry_parent: u32,
    /// Of the pointer to the name.
    pub dentry_name: u32,
    pub dentry_inode: u32,
    pub dentry_sb: u32,
    pub dentry_fsdata: u32,
    pub inode_mode: u32,
    pub inode_size: u32,
    pub sb_dev: u32,
    pub sb_magic: u32,
    pub file_dentry: u32,
    pub task_files: u32,
    pub files_fdt: u32,
    pub fdt_max: u32,
    pub fdt_fd: u32,
    /// From an inode of overlayfs to its `ovl_entry` pointer, as a difference
    /// modulo 2^32 (Linux 6.5); [`UNKNOWN`] where `d_fsdata` points to it.
    pub ovl_inode_entry: u32,
    pub ovl_entry_count: u32,
    pub ovl_entry_stack: u32,
    pub ovl_layer_index: u32,
    pub fuse_mount_connection: u32,
    pub fuse_connection_device: u32,
    pub fuse_args_opcode: u32,
    pub aufs_copy_dentry: u32,
    pub aufs_copy_source: u32,
    /// How many bytes an index of a branch has.
    pub aufs_index_bytes: u32,
    /// Of the flags of a rename.
    pub rename_flags: u32,
    pub reserved: u32,
}

const _: () = assert!(size_of::<Offsets>() == 26 * 4);

impl Offsets {
    pub const NONE: Self = Self {
        dentry_parent: UNKNOWN,
        dentry_name: UNKNOWN,
        dentry_inode: UNKNOWN,
        dentry_sb: UNKNOWN,
        dentry_fsdata: UNKNOWN,
        inode_mode: UNKNOWN,
        inode_size: UNKNOWN,
        sb_dev: UNKNOWN,
        sb_magic: UNKNOWN,
        file_dentry: UNKNOWN,
        task_files: UNKNOWN,
        files_fdt: UNKNOWN,
        fdt_max: UNKNOWN,
        fdt_fd: UNKNOWN,
        ovl_inode_entry: UNKNOWN,
        ovl_entry_count: UNKNOWN,
        ovl_entry_stack: UNKNOWN,
        ovl_layer_index: UNKNOWN,
        fuse_mount_connection: UNKNOWN,
        fuse_connection_device: UNKNOWN,
        fuse_args_opcode: UNKNOWN,
        aufs_copy_dentry: UNKNOWN,
        aufs_copy_source: UNKNOWN,
        aufs_index_bytes: UNKNOWN,
        rename_flags: UNKNOWN,
        reserved: 0,
    };
}

/// What is traced. Zero in a field means: everything.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    pub min_latency_ns: u64,
    /// The id of a cgroup: what runs in it or below it.
    pub cgroup: u64,
    /// How far that cgroup is from the root.
    pub cgroup_level: u32,
    /// A process by its id.
    pub tgid: u32,
    /// A file system by the kernel's number of its device.
    pub device: u32,
    /// The tracer itself, which is left out.
    pub own_tgid: u32,
    /// Not 0: requests to daemons are told of, and not only remembered.
    pub tell_requests: u32,
    /// Not 0: a request is remembered with the system call that it serves.
    pub note_callers: u32,
    /// A process by its name, padded with zeros.
    pub comm: [u8; 16],
}

const _: () = assert!(size_of::<Settings>() == 56);

impl Settings {
    pub const ALL: Self = Self {
        min_latency_ns: 0,
        cgroup: 0,
        cgroup_level: 0,
        tgid: 0,
        device: 0,
        own_tgid: 0,
        tell_requests: 1,
        note_callers: 0,
        comm: [0; 16],
    };
}

/// What a running call, and the event that it becomes, is about.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    CopyUp = 0,
    Lookup = 1,
    /// A name removed from a union: an event if it left a whiteout.
    Remove = 2,
    Readdir = 3,
    Fsync = 4,
    Request = 5,
    /// Not told of: the object for whose sake others are copied up.
    Target = 6,
    /// Not told of: the data of a copy-up.
    Data = 7,
    /// Not told of: a synchronisation within a copy-up.
    Sync = 8,
}

impl Call {
    pub const TOLD: [Self; 6] =
        [Self::CopyUp, Self::Lookup, Self::Remove, Self::Readdir, Self::Fsync, Self::Request];
}

/// Bits of [`Head::notes`] and [`Frame::notes`].
pub mod note {
    /// The object is the one that the caller asked to copy up.
    pub const TARGET: u32 = 1;
    /// Whether it is, is known.
    pub const TARGET_KNOWN: u32 = 1 << 1;
    /// The path has more components, or bytes, than were kept.
    pub const CUT: u32 = 1 << 2;
    /// The work was really done; another thread was first otherwise.
    pub const DONE: u32 = 1 << 3;
    /// `open_flags` were read.
    pub const FLAGS: u32 = 1 << 4;
    /// The path is one name from the root of the union, as a daemon tells it.
    pub const FROM_ROOT: u32 = 1 << 5;
}

/// No layer, size or system call is known.
pub const NO_LAYER: u32 = u32::MAX;
pub const NO_SIZE: u64 = u64::MAX;
pub const NO_SYSCALL: u32 = u32::MAX;

/// One event, before the bytes of its path: the names from the object up to the
/// root of its file system, each ended by a zero.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// On the monotonic clock.
    pub start_ns: u64,
    pub duration_ns: u64,
    pub cgroup: u64,
    /// The object's size, or [`NO_SIZE`].
    pub size: u64,
    /// Bytes by each way of copying.
    pub cloned: u64,
    pub copied: u64,
    pub spliced: u64,
    pub data_ns: u64,
    pub sync_ns: u64,
    pub pid: u32,
    pub tid: u32,
    pub device: u32,
    /// The [`Call`].
    pub call: u32,
    /// The system call in progress, or [`NO_SYSCALL`].
    pub syscall: u32,
    /// Flags of an open, or the opcode of a request.
    pub flags: u32,
    pub returned: i32,
    pub n_syncs: u32,
    /// The index of the layer in the union's own numbering, or [`NO_LAYER`].
    pub layer: u32,
    /// `i_mode`; zero if it was not read.
    pub mode: u32,
    pub notes: u32,
    /// The bytes of the path that follow.
    pub path_len: u32,
    /// `s_magic` of the file system.
    pub magic: u32,
    pub reserved: u32,
    pub comm: [u8; 16],
}

const _: () = assert!(size_of::<Head>() == 9 * 8 + 14 * 4 + 16);

impl Head {
    pub const EMPTY: Self = Self {
        start_ns: 0,
        duration_ns: 0,
        cgroup: 0,
        size: 0,
        cloned: 0,
        copied: 0,
        spliced: 0,
        data_ns: 0,
        sync_ns: 0,
        pid: 0,
        tid: 0,
        device: 0,
        call: 0,
        syscall: 0,
        flags: 0,
        returned: 0,
        n_syncs: 0,
        layer: 0,
        mode: 0,
        notes: 0,
        path_len: 0,
        magic: 0,
        reserved: 0,
        comm: [0; 16],
    };
}

/// Bytes of a path that are kept, its zeros included.
pub const PATH_BYTES: usize = 4096;
/// Room for one more name behind them, so that each is read in one piece.
pub const NAME_BYTES: usize = 256;
/// Names of a path that are kept.
pub const PATH_NAMES: usize = 200;

/// Where an event is put together: a program has one on each processor.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Scratch {
    pub head: Head,
    pub path: [u8; PATH_BYTES + NAME_BYTES],
}

const _: () = assert!(size_of::<Scratch>() == size_of::<Head>() + PATH_BYTES + NAME_BYTES);

/// Programs that put events together, each with a scratch of its own: one may
/// be interrupted by another on its processor, never by itself.
pub const SCRATCHES: u32 = 16;

/// A running call of a thread.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    pub start_ns: u64,
    /// The dentry.
    pub object: u64,
    /// The stack at the call's entry, where the engine tells it. Frames of
    /// calls whose end was missed are found by it.
    pub stack: u64,
    pub size: u64,
    pub cloned: u64,
    pub copied: u64,
    pub spliced: u64,
    pub data_ns: u64,
    pub sync_ns: u64,
    pub call: u32,
    pub syscall: u32,
    pub flags: u32,
    pub n_syncs: u32,
    pub layer: u32,
    pub mode: u32,
    pub notes: u32,
    pub device: u32,
}

const _: () = assert!(size_of::<Frame>() == 9 * 8 + 8 * 4);

/// Calls of one thread that may be running inside one another: two unions on
/// one another, each with a target, its copy-up, and the data of it.
pub const TRACE_DEPTH: usize = 8;

/// What is remembered of a thread while a call of it runs.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Task {
    pub depth: u32,
    /// Copy-ups among the frames.
    pub copy_ups: u32,
    pub frames: [Frame; TRACE_DEPTH],
}

impl Task {
    pub const IDLE: Self = Self {
        depth: 0,
        copy_ups: 0,
        frames: [Frame {
            start_ns: 0,
            object: 0,
            stack: 0,
            size: 0,
            cloned: 0,
            copied: 0,
            spliced: 0,
            data_ns: 0,
            sync_ns: 0,
            call: 0,
            syscall: 0,
            flags: 0,
            n_syncs: 0,
            layer: 0,
            mode: 0,
            notes: 0,
            device: 0,
        }; TRACE_DEPTH],
    };
}

/// What the bundled union's daemon tells of a copy-up: `unionbench_fuse::CopyUp`
/// as it lies in its memory.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct BundledCopyUp {
    pub unique: u64,
    pub device: u64,
    pub size: u64,
    pub mode: u32,
    pub layer: u32,
    pub cloned: u64,
    pub copied: u64,
    pub rewritten: u64,
    pub n_fsyncs: u32,
    pub is_parent: u32,
    pub path: u64,
    pub path_len: u64,
}

const _: () = assert!(size_of::<BundledCopyUp>() == 10 * 8);

/// A copy-up that a daemon's thread is about. The scratch is the thread's own,
/// since one thread at a probe in user space may be put off for another on its
/// processor.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct BundledCall {
    pub scratch: Scratch,
    pub start_ns: u64,
}

impl BundledCall {
    pub const IDLE: Self = Self {
        scratch: Scratch { head: Head::EMPTY, path: [0; PATH_BYTES + NAME_BYTES] },
        start_ns: 0,
    };
}

/// Threads of daemons that may copy up at once.
pub const BUNDLED_CALLS: u32 = 512;

/// Threads that may be in a traced call at once.
pub const TASKS: u32 = 16384;

/// What the kernel side counts.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tally {
    /// Events that were to be told of, found room or not.
    Events = 0,
    /// Those that found the buffer full.
    LostBuffer = 1,
    /// Calls that could not be remembered until their end.
    LostCalls = 2,
    /// Calls whose end was not seen.
    LostEnds = 3,
}

pub const TALLIES: usize = 4;
