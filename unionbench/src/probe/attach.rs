//! Attaching: each role by the first engine and candidate that the kernel
//! takes, and a note of what it said to the others.

use std::sync::OnceLock;

use aya::programs::{
    FEntry, FExit, KProbe, PerfEvent, Program, ProgramError, RawTracePoint, TracePoint, UProbe,
};
use aya::util::online_cpus;
use aya::{Btf, Ebpf};
use unionbench_common::{Counter, Operation, ReplyOffsets};
use unionbench_fuse::{unionbench_copy_up_begin, unionbench_copy_up_end, unionbench_request_begin};

use super::catalogue::{COUNTED, CountedFunction, FUSE_REQUEST, Family, Role, roles_of};
use super::engine::{Engine, Refusal};
use super::kallsyms::Kallsyms;
use super::link::{Link, Place};
use super::tracefs::check_format;
use crate::record::ProbeStatus;

/// One probe that was tried.
#[derive(Debug)]
pub(super) struct Attached {
    pub target: Target,
    pub family: Family,
    pub engine: Engine,
    pub symbol: String,
    pub refusal: Option<Refusal>,
    /// Its programs at their places, in the order of attaching.
    pub links: Vec<Link>,
}

/// What a probe fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    Operation(Operation),
    Counter(Counter),
    Syscalls,
    FuseRequests,
    /// What a request waited for the daemon, and what the daemon took.
    FuseParts,
    /// What passes from an answer until its caller runs again.
    FuseReplies,
    Samples,
}

impl Target {
    pub fn name(self) -> &'static str {
        match self {
            Self::Operation(operation) => operation.name(),
            Self::Counter(counter) => counter.name(),
            Self::Syscalls => "syscall",
            Self::FuseRequests => "fuse_request",
            Self::FuseParts => "fuse_parts",
            Self::FuseReplies => "fuse_reply",
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
const TRACEPOINTS: [(&str, Counter); 3] = [
    ("mm_filemap_add_to_page_cache", Counter::PageCacheAdded),
    ("writeback_dirty_folio", Counter::FoliosDirtied),
    ("writeback_dirty_inode", Counter::InodesDirtied),
];

/// Every system call, by its two raw tracepoints.
pub(super) fn syscalls(ebpf: &mut Ebpf) -> Attached {
    let result = both_of(ebpf, |ebpf| raw(ebpf, "sys_exit"), |ebpf| raw(ebpf, "sys_enter"));
    attached(Target::Syscalls, Family::None, Engine::Tracepoint, "sys_enter", result)
}

/// What happens below the file system: page cache, writeback, ext4.
pub(super) fn evidence(ebpf: &mut Ebpf) -> Vec<Attached> {
    let mut probes: Vec<_> = TRACEPOINTS
        .iter()
        .map(|(name, counter)| {
            let result = raw(ebpf, name);
            attached(Target::Counter(*counter), Family::None, Engine::Tracepoint, name, result)
        })
        .collect();
    let result = both_of(
        ebpf,
        |ebpf| raw(ebpf, "ext4_sync_file_exit"),
        |ebpf| raw(ebpf, "ext4_sync_file_enter"),
    );
    probes.push(attached(
        Target::Operation(Operation::Ext4Fsync),
        Family::None,
        Engine::Tracepoint,
        "ext4_sync_file_enter",
        result,
    ));
    probes
}

/// FUSE requests: by two tracepoints that share a number, or by the function
/// that sends them.
pub(super) fn fuse_requests(ebpf: &mut Ebpf, functions: bool) -> Attached {
    let traced = traced_fuse_requests(ebpf);
    if traced.refusal.is_none() || !functions {
        return traced;
    }
    let sent = function(ebpf, &FUSE_REQUEST, kernel_types(), &Kallsyms::current());
    if sent.refusal.is_none() { Attached { target: Target::FuseRequests, ..sent } } else { traced }
}

fn traced_fuse_requests(ebpf: &mut Ebpf) -> Attached {
    const SEND: [(&str, usize); 3] = [("connection", 8), ("unique", 16), ("opcode", 24)];
    const END: [(&str, usize); 3] = [("connection", 8), ("unique", 16), ("error", 28)];
    let result = check_format("fuse", "fuse_request_send", &SEND)
        .and_then(|()| check_format("fuse", "fuse_request_end", &END))
        .and_then(|()| {
            both_of(
                ebpf,
                |ebpf| named(ebpf, "fuse", "fuse_request_end"),
                |ebpf| named(ebpf, "fuse", "fuse_request_send"),
            )
        });
    attached(Target::FuseRequests, Family::Fuse, Engine::Tracepoint, "fuse_request_send", result)
}

/// When the callers of FUSE requests run again. Its programs run at every switch
/// of the scheduler's, so it is for sessions of FUSE unions alone.
pub(super) fn fuse_replies(ebpf: &mut Ebpf, offsets: &ReplyOffsets) -> Attached {
    const SWITCH: &str = "sched_switch";
    let result = if offsets.are_known() {
        // What opens a wait comes last, so that each has its end.
        raw_program(ebpf, "fuse_reply_switch", SWITCH).and_then(|switch| {
            let mut links = both_of(
                ebpf,
                |ebpf| raw_program(ebpf, "fuse_reply_answer", "fuse_request_end"),
                |ebpf| raw_program(ebpf, "fuse_reply_send", "fuse_request_send"),
            )?;
            links.splice(0..0, switch);
            Ok(links)
        })
    } else {
        Err(Refusal::because(
            "where a request keeps its flags is not known: the kernel gives no types (CONFIG_DEBUG_INFO_BTF), or the module fuse is not loaded",
        ))
    };
    attached(Target::FuseReplies, Family::Fuse, Engine::Tracepoint, SWITCH, result)
}

/// The bundled union's daemon: its copy-ups, and when it takes requests, at the
/// functions it calls for that. Its program is this one.
pub(super) fn bundled(ebpf: &mut Ebpf) -> Vec<Attached> {
    let copy_ups = both_of(
        ebpf,
        |ebpf| uprobe(ebpf, "bundled_copy_up_end", unionbench_copy_up_end as *const () as usize),
        |ebpf| {
            uprobe(ebpf, "bundled_copy_up_begin", unionbench_copy_up_begin as *const () as usize)
        },
    );
    let requests = bundled_requests(ebpf);
    let target = Target::Operation(Operation::CopyUp);
    let (copy_up, request) = ("unionbench_copy_up_end", "unionbench_request_begin");
    vec![
        attached(target, Family::Bundled, Engine::Uprobe, copy_up, copy_ups),
        attached(Target::FuseParts, Family::Bundled, Engine::Uprobe, request, requests),
    ]
}

/// When the bundled union's daemon takes a request.
pub(super) fn bundled_requests(ebpf: &mut Ebpf) -> Result<Vec<Link>, Refusal> {
    uprobe(ebpf, "bundled_request", unionbench_request_begin as *const () as usize)
}

/// At a function of this program's own file, in every process that runs it.
pub(super) fn uprobe(ebpf: &mut Ebpf, name: &str, function: usize) -> Result<Vec<Link>, Refusal> {
    let program: &mut UProbe = program(ebpf, name)?;
    program.load().map_err(|error| Refusal::of(&error))?;
    Ok(vec![Link::attach(ebpf, name.to_owned(), Place::Own(function))?])
}

/// The functions of a file system, each by the best engine.
pub(super) fn functions(ebpf: &mut Ebpf, family: Family) -> Vec<Attached> {
    let (btf, table) = (kernel_types(), Kallsyms::current());
    let timed = roles_of(family).map(|role| function(ebpf, role, btf, &table));
    let mut probes: Vec<_> = timed.collect();
    let wanted = |counted: &&CountedFunction| family.takes(counted.family);
    for counted in COUNTED.iter().filter(wanted) {
        let CountedFunction { counter, family, candidates, programs } = *counted;
        let choice = Choice { target: Target::Counter(counter), family, candidates, programs };
        probes.push(choose(ebpf, &choice, btf, &table));
    }
    probes
}

/// Types of the kernel proper, which do not change while it runs.
pub(super) fn kernel_types() -> Option<&'static Btf> {
    static BTF: OnceLock<Option<Btf>> = OnceLock::new();
    BTF.get_or_init(|| Btf::from_sys_fs().ok()).as_ref()
}

fn function(ebpf: &mut Ebpf, role: &Role, btf: Option<&Btf>, table: &Kallsyms) -> Attached {
    let Role { operation, family, candidates, programs } = *role;
    choose(
        ebpf,
        &Choice { target: Target::Operation(operation), family, candidates, programs },
        btf,
        table,
    )
}

/// Functions of which one is to be probed. A counter needs no program at the
/// function's end.
struct Choice {
    target: Target,
    family: Family,
    candidates: &'static [&'static str],
    programs: &'static str,
}

impl Choice {
    fn sides(&self) -> Sides {
        if matches!(self.target, Target::Operation(_)) { Sides::Both } else { Sides::Entry }
    }
}

/// Where of a function a probe has programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sides {
    Both,
    Entry,
    Exit,
}

impl Sides {
    fn has_entry(self) -> bool {
        self != Self::Exit
    }

    fn has_exit(self) -> bool {
        self != Self::Entry
    }
}

fn choose(ebpf: &mut Ebpf, choice: &Choice, btf: Option<&Btf>, table: &Kallsyms) -> Attached {
    let Choice { target, family, candidates, programs } = *choice;
    let places = Candidates { functions: candidates, btf, table };
    let (engine, symbol, result) = at_first(ebpf, programs, choice.sides(), &places);
    attached(target, family, engine, symbol, result)
}

/// Functions of which the first that can be probed is taken.
pub(super) struct Candidates<'a> {
    pub functions: &'static [&'static str],
    pub btf: Option<&'a Btf>,
    pub table: &'a Kallsyms,
}

/// The programs at the first function that takes them, by the first engine; of
/// refusals the last.
pub(super) fn at_first<'a>(
    ebpf: &mut Ebpf,
    programs: &str,
    sides: Sides,
    places: &Candidates<'a>,
) -> (Engine, &'a str, Result<Vec<Link>, Refusal>) {
    let none = Refusal::because("this kernel has none of the functions: is the module loaded?");
    let mut last = (Engine::Kprobe, places.functions[0], Err(none));
    for candidate in places.functions {
        let Some(symbol) = places.table.resolve(candidate) else { continue };
        let fentry = match places.btf.map(|btf| by_fentry(ebpf, programs, sides, symbol, btf)) {
            Some(Ok(links)) => return (Engine::Fentry, symbol, Ok(links)),
            Some(Err(refusal)) => Some(refusal),
            None => None,
        };
        match by_kprobe(ebpf, programs, sides, symbol) {
            Ok(links) => return (Engine::Kprobe, symbol, Ok(links)),
            Err(kprobe) => last = (Engine::Kprobe, symbol, Err(both(fentry, kprobe))),
        }
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
pub(super) fn by_fentry(
    ebpf: &mut Ebpf,
    programs: &str,
    sides: Sides,
    symbol: &str,
    btf: &Btf,
) -> Result<Vec<Link>, Refusal> {
    let mut links = Vec::new();
    if sides.has_exit() {
        let name = format!("{programs}_fexit");
        let exit: &mut FExit = program(ebpf, &name)?;
        exit.load(symbol, btf).map_err(|error| Refusal::of(&error))?;
        links.push(Link::attach(ebpf, name, Place::Exit)?);
    }
    if sides.has_entry() {
        let name = format!("{programs}_fentry");
        let entry: &mut FEntry = program(ebpf, &name)?;
        entry.load(symbol, btf).map_err(|error| Refusal::of(&error))?;
        links.push(Link::attach(ebpf, name, Place::Entry)?);
    }
    Ok(links)
}

pub(super) fn by_kprobe(
    ebpf: &mut Ebpf,
    programs: &str,
    sides: Sides,
    symbol: &str,
) -> Result<Vec<Link>, Refusal> {
    let mut links = Vec::new();
    if sides.has_exit() {
        links.push(kprobe(ebpf, format!("{programs}_kretprobe"), symbol)?);
    }
    if sides.has_entry() {
        links.push(kprobe(ebpf, format!("{programs}_kprobe"), symbol)?);
    }
    Ok(links)
}

fn kprobe(ebpf: &mut Ebpf, name: String, symbol: &str) -> Result<Link, Refusal> {
    let program: &mut KProbe = program(ebpf, &name)?;
    // A program refused at one candidate is already loaded for the next.
    match program.load() {
        Ok(()) | Err(ProgramError::AlreadyLoaded) => {}
        Err(error) => return Err(Refusal::of(&error)),
    }
    Link::attach(ebpf, name, Place::Kprobe(symbol.to_owned()))
}

pub(super) fn raw(ebpf: &mut Ebpf, name: &str) -> Result<Vec<Link>, Refusal> {
    raw_program(ebpf, name, name)
}

/// The program `programs` at the raw tracepoint `name`.
pub(super) fn raw_program(
    ebpf: &mut Ebpf,
    programs: &str,
    name: &str,
) -> Result<Vec<Link>, Refusal> {
    let program: &mut RawTracePoint = program(ebpf, programs)?;
    program.load().map_err(|error| Refusal::of(&error))?;
    Ok(vec![Link::attach(ebpf, programs.to_owned(), Place::Raw(name.to_owned()))?])
}

pub(super) fn named(
    ebpf: &mut Ebpf,
    category: &'static str,
    name: &str,
) -> Result<Vec<Link>, Refusal> {
    let program: &mut TracePoint = program(ebpf, name)?;
    program.load().map_err(|error| Refusal::of(&error))?;
    Ok(vec![Link::attach(ebpf, name.to_owned(), Place::Named(category))?])
}

pub(super) fn sampling(ebpf: &mut Ebpf, hertz: u32) -> Result<Vec<Link>, Refusal> {
    let name = "sample";
    let program: &mut PerfEvent = program(ebpf, name)?;
    program.load().map_err(|error| Refusal::of(&error))?;
    let cpus = online_cpus().map_err(|(_, error)| Refusal::of(&error))?;
    cpus.into_iter()
        .map(|cpu| Link::attach(ebpf, name.to_owned(), Place::Clock { cpu, hertz }))
        .collect()
}

/// The links of the first, then of the second; of a refusal that one.
pub(super) fn both_of(
    ebpf: &mut Ebpf,
    first: impl FnOnce(&mut Ebpf) -> Result<Vec<Link>, Refusal>,
    second: impl FnOnce(&mut Ebpf) -> Result<Vec<Link>, Refusal>,
) -> Result<Vec<Link>, Refusal> {
    let mut links = first(ebpf)?;
    links.extend(second(ebpf)?);
    Ok(links)
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
    result: Result<Vec<Link>, Refusal>,
) -> Attached {
    let (links, refusal) = match result {
        Ok(links) => (links, None),
        Err(refusal) => (Vec::new(), Some(refusal)),
    };
    Attached { target, family, engine, symbol: symbol.to_owned(), refusal, links }
}
