//! The timed loop against a bare `libc` loop that makes the same system call
//! on the same names and keeps no time: what the driver costs.
//!
//!     cargo xtask bench --bench driver

#![allow(unsafe_code)]

use std::ffi::CString;
use std::hint::black_box;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use unionbench::plan::{Action, LayerChoice};
use unionbench::workload::{self, Gate, Prepared};

const N_NAMES: u32 = 10_000;

struct NoProbes;

impl Gate for NoProbes {
    fn open(&mut self, _: &[u32]) {}
    fn close(&mut self) {}
}

fn bare_loop(root: &Path, names: &[CString]) -> Duration {
    let path = CString::new(root.as_os_str().as_encoded_bytes()).expect("no NUL in the path");
    // SAFETY: opens a folder by a string that ends in NUL.
    let fd = unsafe { libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_DIRECTORY) };
    assert!(fd >= 0);
    let mask = libc::STATX_BASIC_STATS;
    let start = Instant::now();
    for name in names {
        let mut found = std::mem::MaybeUninit::<libc::statx>::uninit();
        // SAFETY: the name ends in NUL and the kernel writes one statx.
        let status = unsafe {
            libc::statx(fd, name.as_ptr(), libc::AT_SYMLINK_NOFOLLOW, mask, found.as_mut_ptr())
        };
        black_box(status);
    }
    let elapsed = start.elapsed();
    // SAFETY: the descriptor is ours and is not used again.
    unsafe { libc::close(fd) };
    elapsed
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
        bencher.iter_custom(|n| (0..n).map(|_| bare_loop(folder.path(), &names)).sum());
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
