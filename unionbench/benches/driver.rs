//! The timed loop against a bare `libc` loop that makes the same system call
//! on the same names and keeps no time: what the driver costs.
//!
//!     cargo xtask bench --bench driver

#[path = "sys/bare_loop.rs"]
mod bare_loop;

use std::ffi::CString;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use unionbench::plan::{Action, LayerChoice};
use unionbench::workload::{self, Gate, Prepared};

const N_NAMES: u32 = 10_000;

struct NoProbes;

impl Gate for NoProbes {
    fn open(&mut self, _: &[u32]) {}
    fn close(&mut self) {}
}

fn driver(criterion: &mut Criterion) {
    let folder = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
    let names: Vec<CString> = (0..N_NAMES)
        .map(|n| {
            let name = format!("file-{n:05}");
            std::fs::write(folder.path().join(&name), b"").expect("a file");
            CString::new(name).expect("no NUL in the name")
        })
        .collect();
    let prepared = Prepared {
        action: Action::Lookup { layer: LayerChoice::Top },
        names: names.clone(),
        targets: Vec::new(),
        sizes: Vec::new(),
        orders: vec![(0..N_NAMES).collect()],
        duration_ns: None,
    };
    let cancel = AtomicBool::new(false);
    let mut group = criterion.benchmark_group("statx");
    group.throughput(Throughput::Elements(u64::from(N_NAMES)));
    group.bench_function("libc loop", |bencher| {
        bencher.iter_custom(|n| (0..n).map(|_| bare_loop::statx_each(folder.path(), &names)).sum());
    });
    group.bench_function("driver", |bencher| {
        bencher.iter_custom(|n| {
            (0..n)
                .map(|_| {
                    let outcome = workload::run(&prepared, folder.path(), &mut NoProbes, &cancel)
                        .expect("the tree is there");
                    Duration::from_nanos(outcome.elapsed)
                })
                .sum()
        });
    });
    group.finish();
}

criterion_group!(benches, driver);
criterion_main!(benches);
