//! Which functions and tracepoints show which kind of event.

use crate::probe::{FunctionProbe, Sides, SystemWide};

use super::event::Kind;
use super::tracer::Source;

const fn function(
    programs: &'static str,
    sides: Sides,
    candidates: &'static [&'static str],
) -> FunctionProbe {
    FunctionProbe { programs, candidates, sides }
}

/// One way of seeing a kind: a union's functions, of which the first is the one
/// without which nothing is seen.
struct Way {
    kind: Kind,
    union: &'static str,
    /// Attached first, so that an event is never told without them.
    further: &'static [FunctionProbe],
    main: FunctionProbe,
}

use Sides::{Both, Entry, Exit};

const WAYS: &[Way] = &[
    Way {
        kind: Kind::Copyup,
        union: "overlay",
        further: &[
            function("trace_copy_up_done", Entry, &["ovl_copy_up_end"]),
            function("trace_target", Both, &["ovl_copy_up_flags"]),
            function("trace_data", Both, &["ovl_copy_up_file", "ovl_copy_up_data"]),
            function("trace_clone", Exit, &["do_clone_file_range", "vfs_clone_file_range"]),
            function("trace_copy", Exit, &["vfs_copy_file_range"]),
            function("trace_splice", Exit, &["do_splice_direct"]),
            function("trace_sync", Both, &["vfs_fsync_range"]),
            function("trace_sync_whole", Both, &["vfs_fsync"]),
        ],
        main: function("trace_copy_up", Both, &["ovl_copy_up_one"]),
    },
    Way {
        kind: Kind::Copyup,
        union: "aufs",
        further: &[],
        main: function(
            "trace_aufs_copy_up",
            Both,
            &["au_do_sio_cpup_simple", "au_sio_cpup_simple"],
        ),
    },
    Way {
        kind: Kind::Lookup,
        union: "overlay",
        further: &[],
        main: function("trace_lookup", Both, &["ovl_lookup"]),
    },
    Way {
        kind: Kind::Lookup,
        union: "aufs",
        further: &[],
        main: function("trace_aufs_lookup", Both, &["au_lkup_dentry"]),
    },
    Way {
        kind: Kind::Whiteout,
        union: "overlay",
        further: &[
            function("trace_rmdir", Both, &["ovl_rmdir"]),
            function("trace_rename", Both, &["ovl_rename"]),
            function("trace_vfs_rename", Entry, &["vfs_rename"]),
            function("trace_unlink", Both, &["ovl_unlink"]),
        ],
        // `ovl_whiteout` cannot be traced on Debian's kernels.
        main: function("trace_whiteout", Entry, &["ovl_cleanup_and_whiteout", "ovl_whiteout"]),
    },
    Way {
        kind: Kind::Whiteout,
        union: "aufs",
        further: &[],
        main: function("trace_aufs_whiteout", Both, &["au_wh_create"]),
    },
    Way {
        kind: Kind::Readdir,
        union: "overlay",
        further: &[],
        main: function("trace_readdir", Both, &["ovl_dir_read_merged", "ovl_cache_get"]),
    },
    Way {
        kind: Kind::Readdir,
        union: "aufs",
        further: &[],
        main: function("trace_aufs_readdir", Both, &["au_vdir_init"]),
    },
];

/// What became of a kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage {
    /// The engine and symbol of each union that is seen.
    pub seen: Vec<(&'static str, String)>,
    /// What the kernel said of each that is not.
    pub unseen: Vec<(&'static str, String)>,
    /// Further probes that are in place: what their figures rest on.
    pub further: Vec<&'static str>,
}

impl Coverage {
    /// Engine of what is seen, reason for what is not.
    pub fn sentence(&self) -> String {
        let seen = self.seen.iter().map(|(union, by)| format!("{union}: {by}"));
        let unseen = self.unseen.iter().map(|(union, why)| format!("{union}: not seen: {why}"));
        seen.chain(unseen).collect::<Vec<_>>().join("; ")
    }
}

impl Coverage {
    /// The same for each kind of union by itself.
    pub fn sources(&self, kind: Kind) -> Vec<Source> {
        let seen = self.seen.iter().map(|(union, by)| (*union, Ok(by.clone())));
        let unseen = self.unseen.iter().map(|(union, why)| (*union, Err(why.clone())));
        let mut all: Vec<Source> =
            seen.chain(unseen).map(|(union, seen)| Source { kind, union, seen }).collect();
        if all.is_empty() {
            all.push(Source { kind, union: "fuse", seen: Err(OF_DAEMONS.to_owned()) });
        }
        all
    }
}

/// Where a kind can be seen of no union that there is.
pub const OF_DAEMONS: &str =
    "no probe tells it of a union in user space; `requests` has what that is asked";

/// What is of interest: where nothing of a sort is, or was asked for, its probes
/// are no answer to the question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unions {
    /// Those whose functions are the kernel's.
    pub of_kernel: bool,
    /// Those of the bundled daemon.
    pub bundled: bool,
}

/// Attaches what shows the kind. Unions whose functions the kernel does not
/// have, because their module is not loaded, are named only if nothing is seen.
pub fn attach(kernel: &mut SystemWide, kind: Kind, unions: Unions) -> Coverage {
    let mut coverage = match kind {
        Kind::Fsync => fsync(kernel),
        Kind::Requests => requests(kernel),
        _ if unions.of_kernel => functions(kernel, kind),
        _ => Coverage::default(),
    };
    if kind == Kind::Copyup && (unions.bundled || !coverage.seen.is_empty()) {
        match bundled(kernel) {
            Ok(()) => coverage.seen.push((BUNDLED, format!("uprobe {BUNDLED_PROBE}"))),
            Err(reason) => coverage.unseen.push((BUNDLED, reason)),
        }
    }
    if !coverage.seen.is_empty() {
        coverage.unseen.retain(|(_, why)| !why.contains("is the module loaded"));
    }
    coverage
}

fn functions(kernel: &mut SystemWide, kind: Kind) -> Coverage {
    let mut coverage = Coverage::default();
    for way in WAYS.iter().filter(|way| way.kind == kind) {
        // Ends before beginnings, and what only counts before what tells.
        for probe in way.further {
            match kernel.attach(probe) {
                Ok(_) => coverage.further.push(probe.programs),
                Err(reason) => tracing::debug!(probe = probe.programs, reason, "not attached"),
            }
        }
        match kernel.attach(&way.main) {
            Ok(seen) => coverage.seen.push((way.union, seen.to_string())),
            Err(reason) => coverage.unseen.push((way.union, reason)),
        }
    }
    coverage
}

/// By the system calls' own tracepoints, on every kernel.
fn fsync(kernel: &mut SystemWide) -> Coverage {
    const ENTERS: [&str; 3] = ["sys_enter_fsync", "sys_enter_fdatasync", "sys_enter_syncfs"];
    const EXITS: [&str; 3] = ["sys_exit_fsync", "sys_exit_fdatasync", "sys_exit_syncfs"];
    let enter = [("__syscall_nr", 8), ("fd", 16)];
    let exit = [("__syscall_nr", 8), ("ret", 16)];
    let attached = kernel
        .attach_tracepoints("trace_fsync_exit", "syscalls", &EXITS, &exit)
        .and_then(|()| kernel.attach_tracepoints("trace_fsync_enter", "syscalls", &ENTERS, &enter));
    one("any", "tracepoint syscalls:sys_enter_fsync", attached)
}

/// The bundled union, as its mounts are called.
pub const BUNDLED: &str = "fuse.unionbench";
const BUNDLED_PROBE: &str = "unionbench_copy_up_end";

/// By the daemon's own functions, and by the requests that it serves meanwhile.
fn bundled(kernel: &mut SystemWide) -> Result<(), String> {
    let by_number = |why| format!("who asked its daemon cannot be told before Linux 6.11: {why}");
    sent_requests(kernel).map_err(by_number)?;
    kernel.attach_bundled()
}

fn sent_requests(kernel: &mut SystemWide) -> Result<(), String> {
    let send = [("connection", 8), ("unique", 16), ("opcode", 24)];
    let end = [("connection", 8), ("unique", 16), ("error", 28)];
    kernel.attach_tracepoints("trace_request_end", "fuse", &["fuse_request_end"], &end)?;
    kernel.attach_tracepoints("trace_request_send", "fuse", &["fuse_request_send"], &send)
}

/// By tracepoints since Linux 6.11, by the function that sends before.
fn requests(kernel: &mut SystemWide) -> Coverage {
    let Err(tracepoint) = sent_requests(kernel) else {
        return one("fuse", "tracepoint fuse:fuse_request_send", Ok(()));
    };
    let sender = function("trace_request", Both, &["fuse_simple_request"]);
    match kernel.attach(&sender) {
        Ok(seen) => one("fuse", &seen.to_string(), Ok(())),
        Err(reason) => one("fuse", "", Err(format!("{tracepoint}; {reason}"))),
    }
}

fn one(union: &'static str, by: &str, attached: Result<(), String>) -> Coverage {
    let mut coverage = Coverage::default();
    match attached {
        Ok(()) => coverage.seen.push((union, by.to_owned())),
        Err(reason) => coverage.unseen.push((union, reason)),
    }
    coverage
}
