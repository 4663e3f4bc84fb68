//! Attaching: each role by the first engine and candidate that the kernel
//! takes, and a note of what it said to the others.

use std::sync::OnceLock;

use aya::programs::{FEntry, FExit, KProbe, Program, ProgramError, RawTracePoint, TracePoint};
use aya::{Btf, Ebpf};
use unionbench_common::{Counter, Operation};

use super::catalogue::{Family, Role, roles_of};
use super::engine::{Engine, Refusal};
use super::kallsyms::Kallsyms;
use super::tracefs::check_format;
use crate::record::ProbeStatus;

/// One probe that was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attached {
    pub target: Target,
    pub family: Family,
    pub engine: Engine,
    pub symbol: String,
    pub refusal: Option<Refusal>,
}

/// What a probe fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    Operation(Operation),
    Counter(Counter),
    Syscalls,
    FuseRequests,
    Samples,
}

impl Target {
    pub fn name(self) -> &'static str {
        match self {
            Self::Operation(operation) => operation.name(),
            Self::Counter(counter) => counter.name(),
            Self::Syscalls => "syscall",
            Self::FuseRequests => "fuse_request",
            Self::Samples => "sampling",
        }
    }
}

impl Attached {
    pub fn status(&self) -> ProbeStatus {
        let refusal = self.refusal.as_ref();
        ProbeStatus {
            operation: self.target.name().to_owned(),
            backend: self.family.name().to_owned(),
            engine: self.engine.name().to_owned(),
            symbol: self.symbol.clone(),
            attached: refusal.is_none(),
            errno: refusal.and_then(|refusal| refusal.errno),
            reason: refusal.map(|refusal| refusal.reason.clone()).unwrap_or_default(),
        }
    }
}

/// Raw tracepoints that need no partner, and what they fill.
const COUNTED: [(&str, Counter); 3] = [
    ("mm_filemap_add_to_page_cache", Counter::PageCacheAdded),
    ("writeback_dirty_folio", Counter::FoliosDirtied),
    ("writeback_dirty_inode", Counter::InodesDirtied),
];

/// Every system call, by its two raw tracepoints.
pub(super) fn syscalls(ebpf: &mut Ebpf) -> Attached {
    let result = raw(ebpf, "sys_exit").and_then(|()| raw(ebpf, "sys_enter"));
    attached(Target::Syscalls, Family::None, Engine::Tracepoint, "sys_enter", result)
}

/// What happens below the file system: page cache, writeback, ext4.
pub(super) fn evidence(ebpf: &mut Ebpf) -> Vec<Attached> {
    let mut probes: Vec<_> = COUNTED
        .iter()
        .map(|(name, counter)| {
            let result = raw(ebpf, name);
            attached(Target::Counter(*counter), Family::None, Engine::Tracepoint, name, result)
        })
        .collect();
    let result = raw(ebpf, "ext4_sync_file_exit").and_then(|()| raw(ebpf, "ext4_sync_file_enter"));
    probes.push(attached(
        Target::Operation(Operation::Ext4Fsync),
        Family::None,
        Engine::Tracepoint,
        "ext4_sync_file_enter",
        result,
    ));
    probes
}

/// FUSE requests, by two tracepoints that share a number.
pub(super) fn fuse_requests(ebpf: &mut Ebpf) -> Attached {
    const SEND: [(&str, usize); 3] = [("connection", 8), ("unique", 16), ("opcode", 24)];
    const END: [(&str, usize); 3] = [("connection", 8), ("unique", 16), ("error", 28)];
    let result = check_format("fuse", "fuse_request_send", &SEND)
        .and_then(|()| check_format("fuse", "fuse_request_end", &END))
        .and_then(|()| named(ebpf, "fuse", "fuse_request_end"))
        .and_then(|()| named(ebpf, "fuse", "fuse_request_send"));
    attached(Target::FuseRequests, Family::Fuse, Engine::Tracepoint, "fuse_request_send", result)
}

/// The functions of a file system, each by the best engine.
pub(super) fn functions(ebpf: &mut Ebpf, family: Family) -> Vec<Attached> {
    /// Types of the kernel proper, which do not change while it runs.
    static BTF: OnceLock<Option<Btf>> = OnceLock::new();
    let btf = BTF.get_or_init(|| Btf::from_sys_fs().ok()).as_ref();
    let table = Kallsyms::current();
    roles_of(family).map(|role| function(ebpf, role, btf, &table)).collect()
}

fn function(ebpf: &mut Ebpf, role: &Role, btf: Option<&Btf>, table: &Kallsyms) -> Attached {
    let target = Target::Operation(role.operation);
    let mut last = attached(
        target,
        role.family,
        Engine::Kprobe,
        role.candidates[0],
        Err(Refusal::because("this kernel has none of the functions: is the module loaded?")),
    );
    for candidate in role.candidates {
        let Some(symbol) = table.resolve(candidate) else { continue };
        if let Some(btf) = btf {
            let result = by_fentry(ebpf, role, symbol, btf);
            let taken = result.is_ok();
            last = attached(target, role.family, Engine::Fentry, symbol, result);
            if taken {
                return last;
            }
        }
        let result = by_kprobe(ebpf, role, symbol);
        let taken = result.is_ok();
        let fentry = last.refusal.take();
        last = attached(target, role.family, Engine::Kprobe, symbol, result);
        if taken {
            return last;
        }
        last.refusal = last.refusal.map(|kprobe| both(fentry, kprobe));
    }
    last
}

/// What both engines said to a symbol. Of two errnos the first is kept: that
/// of fentry, unless it only did not find the function.
fn both(fentry: Option<Refusal>, kprobe: Refusal) -> Refusal {
    match fentry {
        Some(fentry) => Refusal {
            errno: fentry.errno.or(kprobe.errno),
            reason: format!("fentry: {}; kprobe: {}", fentry.reason, kprobe.reason),
        },
        None => kprobe,
    }
}

/// The end is attached first: a call that begins in between is then an end
/// without a beginning, which is ignored.
fn by_fentry(ebpf: &mut Ebpf, role: &Role, symbol: &str, btf: &Btf) -> Result<(), Refusal> {
    if role.operation != Operation::LayersVisited {
        let exit: &mut FExit = program(ebpf, &format!("{}_fexit", role.programs))?;
        exit.load(symbol, btf).map_err(|error| Refusal::of(&error))?;
        exit.attach().map_err(|error| Refusal::of(&error))?;
    }
    let entry: &mut FEntry = program(ebpf, &format!("{}_fentry", role.programs))?;
    entry.load(symbol, btf).map_err(|error| Refusal::of(&error))?;
    entry.attach().map_err(|error| Refusal::of(&error))?;
    Ok(())
}

fn by_kprobe(ebpf: &mut Ebpf, role: &Role, symbol: &str) -> Result<(), Refusal> {
    if role.operation != Operation::LayersVisited {
        kprobe(ebpf, &format!("{}_kretprobe", role.programs), symbol)?;
    }
    kprobe(ebpf, &format!("{}_kprobe", role.programs), symbol)
}

fn kprobe(ebpf: &mut Ebpf, name: &str, symbol: &str) -> Result<(), Refusal> {
    let program: &mut KProbe = program(ebpf, name)?;
    // A program refused at one candidate is already loaded for the next.
    match program.load() {
        Ok(()) | Err(ProgramError::AlreadyLoaded) => {}
        Err(error) => return Err(Refusal::of(&error)),
    }
    program.attach(symbol, 0).map(drop).map_err(|error| Refusal::of(&error))
}

fn raw(ebpf: &mut Ebpf, name: &str) -> Result<(), Refusal> {
    let program: &mut RawTracePoint = program(ebpf, name)?;
    program.load().map_err(|error| Refusal::of(&error))?;
    program.attach(name).map(drop).map_err(|error| Refusal::of(&error))
}

fn named(ebpf: &mut Ebpf, category: &str, name: &str) -> Result<(), Refusal> {
    let program: &mut TracePoint = program(ebpf, name)?;
    program.load().map_err(|error| Refusal::of(&error))?;
    program.attach(category, name).map(drop).map_err(|error| Refusal::of(&error))
}

/// A program of the object by its name and type.
pub(super) fn program<'a, T>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut T, Refusal>
where
    &'a mut T: TryFrom<&'a mut Program, Error = ProgramError>,
{
    ebpf.program_mut(name)
        .ok_or_else(|| Refusal::because(format!("the object holds no program {name}")))?
        .try_into()
        .map_err(|error| Refusal::of(&error))
}

pub(super) fn attached(
    target: Target,
    family: Family,
    engine: Engine,
    symbol: &str,
    result: Result<(), Refusal>,
) -> Attached {
    Attached { target, family, engine, symbol: symbol.to_owned(), refusal: result.err() }
}
