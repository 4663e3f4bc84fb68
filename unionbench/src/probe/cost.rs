//! What one probe costs: a call measured without it, with programs that do
//! nothing, and with those of this suite.
//!
//! The call is `fsync` of a file on tmpfs, which has nothing to do there, so
//! that the function underneath is entered and left once for each call. In the
//! lab's count mode the figures are exact instruction counts.

use std::fs::File;
use std::io;
use std::time::Instant;

use aya::Ebpf;
use serde::{Deserialize, Serialize};
use unionbench_common::thread::slot;
use unionbench_common::{Control, Thread};

use super::ProbeError;
use super::attach::{Sides, both_of, by_fentry, by_kprobe, kernel_types, raw, raw_program};
use super::drain::map_mut;
use super::engine::{self, Engine, Refusal};
use super::link::Link;

/// Cost of one pair of probes, at a call's beginning and its end, in the
/// clock's unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairCost {
    pub engine: String,
    /// Function or tracepoints that were probed.
    pub symbol: String,
    /// The call without any probe.
    pub bare: u64,
    /// With programs that do nothing: the engine itself.
    pub engine_alone: u64,
    /// With this suite's programs, on a thread that is watched.
    pub watched: u64,
    /// The same on a thread that is not.
    pub unwatched: u64,
    /// Why the figures are missing (then zero); empty otherwise.
    pub reason: String,
}

impl PairCost {
    /// What this suite's programs add to the engine.
    pub fn programs(&self) -> i64 {
        self.watched.cast_signed() - self.engine_alone.cast_signed()
    }
}

/// Calls of which the median is taken; the first ones warm everything up.
const CALLS: usize = 1001;
const FUNCTION: &str = "vfs_fsync_range";

/// Measures every engine that works by pairs of programs, on this thread.
///
/// # Errors
/// The program holds no object, or the file cannot be synchronised.
pub fn pair_costs(file: &File) -> Result<Vec<PairCost>, ProbeError> {
    let bare = median(file)?;
    [Engine::Fentry, Engine::Kprobe, Engine::Tracepoint]
        .into_iter()
        .map(|engine| pair_cost(file, engine, bare))
        .collect()
}

fn pair_cost(file: &File, engine: Engine, bare: u64) -> Result<PairCost, ProbeError> {
    let symbol = if engine == Engine::Tracepoint { "sys_enter, sys_exit" } else { FUNCTION };
    let mut cost = PairCost {
        engine: engine.name().to_owned(),
        symbol: symbol.to_owned(),
        bare,
        engine_alone: 0,
        watched: 0,
        unwatched: 0,
        reason: String::new(),
    };
    let mut nothing = engine::load()?;
    if let Err(refusal) = pair(&mut nothing, engine, "nothing") {
        cost.reason = refusal.reason;
        return Ok(cost);
    }
    cost.engine_alone = median(file)?;
    drop(nothing);
    let mut own = engine::load()?;
    if let Err(refusal) = pair(&mut own, engine, "fsync") {
        cost.reason = refusal.reason;
        return Ok(cost);
    }
    let control = Control { enabled: 1, tgid: 0 };
    let mut word: aya::maps::Array<_, Control> = map_mut(&mut own, "CONTROL")?;
    word.set(0, control, 0).map_err(|source| ProbeError::Map { name: "CONTROL", source })?;
    cost.unwatched = median(file)?;
    let id = rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned();
    let mut threads: aya::maps::Array<_, Thread> = map_mut(&mut own, "THREADS")?;
    threads
        .set(slot(id), Thread { tid: id, ..Thread::IDLE }, 0)
        .map_err(|source| ProbeError::Map { name: "THREADS", source })?;
    cost.watched = median(file)?;
    Ok(cost)
}

fn pair(ebpf: &mut Ebpf, engine: Engine, programs: &str) -> Result<Vec<Link>, Refusal> {
    match engine {
        Engine::Fentry => {
            let btf = kernel_types().ok_or_else(|| {
                Refusal::because("the kernel gives no types (CONFIG_DEBUG_INFO_BTF)")
            })?;
            by_fentry(ebpf, programs, Sides::Both, FUNCTION, btf)
        }
        Engine::Kprobe => by_kprobe(ebpf, programs, Sides::Both, FUNCTION),
        Engine::Tracepoint if programs == "nothing" => both_of(
            ebpf,
            |ebpf| raw_program(ebpf, "nothing_sys_exit", "sys_exit"),
            |ebpf| raw_program(ebpf, "nothing_sys_enter", "sys_enter"),
        ),
        Engine::Tracepoint => {
            both_of(ebpf, |ebpf| raw(ebpf, "sys_exit"), |ebpf| raw(ebpf, "sys_enter"))
        }
        Engine::Uprobe | Engine::Sampling => {
            Err(Refusal::because("only probes of the kernel have pairs"))
        }
    }
}

/// The clock is read around each call; its own cost is in every figure alike.
fn median(file: &File) -> Result<u64, ProbeError> {
    let mut samples = Vec::with_capacity(CALLS);
    for _ in 0..CALLS {
        let start = Instant::now();
        let done = rustix::fs::fsync(file);
        let spent = start.elapsed();
        done.map_err(|errno| ProbeError::Call(io::Error::from(errno)))?;
        samples.push(u64::try_from(spent.as_nanos()).unwrap_or(u64::MAX));
    }
    samples.sort_unstable();
    Ok(samples[CALLS / 2])
}
