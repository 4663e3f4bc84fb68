//! Building generated layers against `cp -a` of the same tree, both in memory.
//!
//!     cargo xtask bench --bench stack

use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use criterion::{Criterion, criterion_group, criterion_main};
use unionbench::plan::{BackingKind, BackingPlan, SizePlan, StackPlan};
use unionbench::stack::{self, BuildOptions, Whiteout, XattrNamespace};
use unionbench::unit::Bytes;

fn plan() -> StackPlan {
    StackPlan {
        params: Default::default(),
        image: None,
        n_layers: 500,
        files_per_layer: 1000,
        dirs: 10,
        depth: 0,
        size: SizePlan::Fixed(Bytes(1024)),
        whiteouts_per_layer: 0,
        opaque_dirs_per_layer: 0,
        verity: false,
        shared_dirs: true,
        groups: Vec::new(),
        files: Vec::new(),
        seed: 42,
        backing: BackingPlan {
            kind: BackingKind::Tmpfs,
            size: Bytes(8 << 30),
            mount_options: Vec::new(),
            mkfs: String::new(),
        },
    }
}

fn build(criterion: &mut Criterion) {
    let options =
        BuildOptions { xattr_namespace: XattrNamespace::User, whiteout: Whiteout::CharDev };
    let cancel = AtomicBool::new(false);
    let source = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
    stack::build(&plan(), source.path(), options, &cancel).expect("a stack");
    let mut group = criterion.benchmark_group("stack 500x1000");
    group.sample_size(10);
    group.bench_function("build", |bencher| {
        bencher.iter_custom(|n| {
            (0..n)
                .map(|_| {
                    let folder = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
                    let start = Instant::now();
                    stack::build(&plan(), folder.path(), options, &cancel).expect("a stack");
                    start.elapsed()
                })
                .sum()
        });
    });
    group.bench_function("cp -a", |bencher| {
        bencher.iter_custom(|n| {
            (0..n)
                .map(|_| {
                    let folder = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
                    let start = Instant::now();
                    let status = Command::new("cp")
                        .arg("-a")
                        .arg(source.path())
                        .arg(folder.path())
                        .status()
                        .expect("cp starts");
                    assert!(status.success());
                    start.elapsed()
                })
                .sum()
        });
    });
    group.finish();
}

criterion_group!(benches, build);
criterion_main!(benches);
