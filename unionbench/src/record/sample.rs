//! A small record for tests: a control and overlayfs over four depths and four
//! sizes, aufs unsupported, one cell with losses. Its latencies follow a rule, so that
//! fits and ratios of it are known beforehand.

use super::*;
use crate::stats::{hdr, summary};

/// Depths of the lookup cells.
const DEPTHS: [u64; 4] = [1, 8, 32, 128];
/// Sizes of the first-write cells.
const SIZES: [u64; 4] = [4 << 10, 64 << 10, 1 << 20, 16 << 20];
/// Samples of each round.
const N: u64 = 200;

/// The record. Cold lookup on bare takes 2 µs; on overlayfs 3 µs and 100 ns per
/// layer. First write takes 5 µs on bare; on overlayfs 20 ns per KiB more.
pub(crate) fn record() -> Record {
    let mut cells = Vec::new();
    for (stack, depth) in DEPTHS.into_iter().enumerate() {
        let params = Params::from([("stack.layers".into(), ParamValue::Integer(depth))]);
        let cell = |backend, median| {
            cell(backend, stack as u32, "cold-lookup", "statx", params.clone(), median)
        };
        cells.push(cell("bare", 2_000));
        cells.push(cell("overlayfs", 3_000 + 100 * depth));
    }
    for size in SIZES {
        let params = Params::from([("size".into(), ParamValue::Integer(size))]);
        let cell = |backend, median| {
            cell(backend, 0, "first-write", "open+write+close", params.clone(), median)
        };
        cells.push(cell("bare", 5_000));
        cells.push(cell("overlayfs", 5_000 + 20 * (size >> 10)));
    }
    let reason = "the kernel has no aufs; run it in the lab".to_owned();
    let mut unsupported = cell("aufs", 0, "cold-lookup", "statx", Params::new(), 1);
    unsupported.status = CellStatus::Unsupported { reason: reason.clone() };
    unsupported.rounds.clear();
    cells.push(unsupported);
    let mut invalid = cell("overlayfs", 0, "deletes", "unlink", Params::new(), 9_000);
    invalid.status = CellStatus::Invalid { reason: "3 events were lost".to_owned() };
    invalid.rounds[0].losses.events = 3;
    cells.push(invalid);

    Record {
        schema: SCHEMA_VERSION,
        program: Program {
            version: "0.1.0".into(),
            commit: None,
            sha256: "00".into(),
            ebpf_sha256: None,
        },
        started: "2026-11-24T02:00:00Z".into(),
        elapsed_ms: 12_345,
        scenario: ScenarioText {
            name: "sample".into(),
            title: "A record for tests".into(),
            toml: String::new(),
            sha256: "00".into(),
            overrides: Vec::new(),
        },
        seed: 7,
        latency_unit: LatencyUnit::Nanoseconds,
        host: host(),
        lab: None,
        stacks: DEPTHS.map(stack).into(),
        backends: vec![
            backend("bare", true, Availability::Ok),
            backend("overlayfs", false, Availability::Ok),
            backend("aufs", false, Availability::Unsupported { reason }),
        ],
        engines: Vec::new(),
        probes: Vec::new(),
        driver: DriverOverhead { empty_sample: 25, n: 10_000 },
        further: Vec::new(),
        cells,
        order: Vec::new(),
        warnings: vec!["the load average was 3.1 at the start".into()],
    }
}

fn host() -> Host {
    Host {
        hostname: "host".into(),
        kernel_release: "6.12.0".into(),
        kernel_version: "#1 SMP".into(),
        architecture: "x86_64".into(),
        distribution: None,
        cpu_model: "a processor".into(),
        n_cpus: 2,
        memory_bytes: 4 << 30,
        uid: 0,
        user_namespace: false,
        btf: true,
        cold_method: "drop_caches".into(),
        load_1min: 3.1,
    }
}

fn stack(depth: u64) -> Stack {
    Stack {
        params: Params::from([("stack.layers".into(), ParamValue::Integer(depth))]),
        n_layers: depth as u32,
        n_files: 100 * depth,
        n_dirs: depth,
        n_whiteouts: 0,
        n_bytes: 4096 * depth,
        hash: format!("{depth:064x}"),
        build_ms: depth,
    }
}

fn backend(name: &str, control: bool, availability: Availability) -> Backend {
    Backend {
        name: name.into(),
        kind: name.into(),
        control,
        options_requested: Vec::new(),
        options_in_force: Vec::new(),
        mount_api: None,
        program: None,
        availability,
    }
}

/// Two rounds without probes and one with, whose latencies are 10 % higher.
fn cell(
    backend: &str,
    stack: u32,
    phase: &str,
    operation: &str,
    params: Params,
    median: u64,
) -> Cell {
    let coordinates: Vec<String> = params.iter().map(|(k, v)| format!("{k}={v}")).collect();
    let mut cell = Cell {
        id: format!("{backend}/{stack}/{phase}/{}", coordinates.join(",")),
        backend: backend.into(),
        stack,
        backing: Backing {
            kind: "tmpfs".into(),
            file_system: "tmpfs".into(),
            options: "rw".into(),
            size_bytes: 1 << 30,
        },
        phase: phase.into(),
        workload: "lookup".into(),
        operation: operation.into(),
        params,
        status: CellStatus::Ok,
        rounds: vec![
            round(0, false, median, operation),
            round(0, true, median * 11 / 10, operation),
            round(1, false, median, operation),
        ],
    };
    if backend == "overlayfs" && phase != "cold-lookup" {
        let value = cell.rounds[1].n_ops;
        let counter = Counter { name: "copy_ups".into(), engine: "tracepoint".into(), value };
        cell.rounds[1].counters.push(counter);
    }
    cell
}

/// Samples spread evenly from half the median to one and a half, with a tail
/// of one in a hundred at ten times the median.
fn round(round: u32, probes: bool, median: u64, operation: &str) -> Round {
    let mut samples: Vec<u64> = (0..N)
        .map(|i| if i % 100 == 99 { 10 * median } else { median / 2 + median * i / N })
        .collect();
    let histogram = hdr::of_samples(&samples).and_then(|h| hdr::encode(&h)).expect("encodes");
    let kernel = KernelHistogram {
        operation: format!("syscall:{operation}"),
        engine: "tracepoint".into(),
        symbol: "sys_enter".into(),
        count: N,
        sum: N * median,
        min: median / 2,
        max: 10 * median,
        buckets: vec![(median / 2, median, N / 2), (median, 2 * median, N / 2)],
    };
    Round {
        round,
        probes,
        step: 0,
        n_ops: N,
        errors: Default::default(),
        elapsed: samples.iter().sum(),
        latency: summary(&mut samples),
        histogram,
        bytes: 0,
        counters: Vec::new(),
        kernel: if probes { vec![kernel] } else { Vec::new() },
        layers: Vec::new(),
        sampling: None,
        losses: Losses::default(),
    }
}
