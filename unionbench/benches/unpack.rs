//! Unpacking an image against `tar -x` of each of its layers, both into memory.
//! The image is of 28 layers, each the files of one Debian package that is
//! installed here, the largest packages first.
//!
//!     cargo xtask bench --bench unpack

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use unionbench::stack::image::{self, Image, Platform, UnpackOptions};

#[path = "../tests/image/builder.rs"]
#[allow(dead_code, reason = "the tests use the rest of it")]
mod builder;
use builder::Compression;

const N_LAYERS: usize = 28;

/// The archives of the largest packages, largest first.
fn packages() -> Vec<Vec<u8>> {
    let listed = Command::new("dpkg-query")
        .args(["--show", "--showformat=${Installed-Size} ${Package} ${db:Status-Status}\n"])
        .output()
        .expect("dpkg-query starts: this bench takes Debian's packages for layers");
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let mut sizes: Vec<(u64, &str)> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let (size, name, status) = (words.next()?, words.next()?, words.next()?);
            // Kernel images and compilers of hundreds of MiB would be all of it.
            let size = size.parse().ok().filter(|kib| *kib < 100_000)?;
            (status == "installed").then_some((size, name))
        })
        .collect();
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    sizes.iter().take(N_LAYERS).map(|(_, name)| archive(name)).collect()
}

/// The files of a package that are still here, as an archive.
fn archive(package: &str) -> Vec<u8> {
    let listed = Command::new("dpkg").args(["-L", package]).output().expect("dpkg starts");
    let names: Vec<String> = String::from_utf8_lossy(&listed.stdout)
        .lines()
        .filter(|name| name.len() > 2 && Path::new(name).symlink_metadata().is_ok())
        .map(|name| format!(".{name}"))
        .collect();
    let mut tar = Command::new("tar")
        .args(["--create", "--no-recursion", "--directory=/", "--verbatim-files-from"])
        .arg("--files-from=-")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("tar starts");
    let mut stdin = tar.stdin.take().expect("piped");
    let writer = std::thread::spawn(move || stdin.write_all(names.join("\n").as_bytes()));
    let output = tar.wait_with_output().expect("tar ends");
    writer.join().expect("the writer").expect("tar reads its list");
    assert!(output.status.success(), "tar of {package}");
    output.stdout
}

/// A folder in memory that is emptied outside the time that is taken.
fn timed(work: impl Fn(&Path)) -> Duration {
    let folder = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
    let start = Instant::now();
    work(folder.path());
    start.elapsed()
}

/// `tar -x` of every layer into a folder of its own, `at_once` at a time.
fn extract(archives: &[PathBuf], flag: &str, at_once: usize, folder: &Path) {
    std::thread::scope(|scope| {
        for part in 0..at_once {
            scope.spawn(move || {
                for (number, archive) in archives.iter().enumerate().skip(part).step_by(at_once) {
                    let target = folder.join(number.to_string());
                    std::fs::create_dir(&target).expect("a folder");
                    let status = Command::new("tar")
                        .args(["--extract", flag, "--preserve-permissions", "--file"])
                        .arg(archive)
                        .arg("--directory")
                        .arg(&target)
                        .status()
                        .expect("tar starts");
                    assert!(status.success(), "{}", archive.display());
                }
            });
        }
    });
}

fn unpack(criterion: &mut Criterion) {
    let home = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
    let layers = packages();
    let n_cores = std::thread::available_parallelism().map_or(1, usize::from);
    for (name, compression, flag) in [
        ("gzip", Compression::Gzip, "--gzip"),
        ("zstd", Compression::Zstd, "--zstd"),
        ("plain", Compression::Plain, "--numeric-owner"),
    ] {
        let layout = home.path().join(name);
        std::fs::create_dir(&layout).expect("a folder");
        builder::layout(&layout, &layers, compression);
        let archives: Vec<PathBuf> = layers
            .iter()
            .enumerate()
            .map(|(number, layer)| {
                let path = home.path().join(format!("{name}-{number}.tar"));
                std::fs::write(&path, compression.pack(layer)).expect("room");
                path
            })
            .collect();
        let reference = format!("oci:{}", layout.display()).parse().expect("a reference");
        let image = Image::open(&reference, &Platform::here()).expect("an image");
        let mut group = criterion.benchmark_group(format!("unpack {} layers", layers.len()));
        group.sample_size(10);
        let cancel = AtomicBool::new(false);
        group.bench_function(BenchmarkId::new("unionbench", name), |bencher| {
            bencher.iter_custom(|n| {
                let once = |_| {
                    timed(|folder| {
                        let options = UnpackOptions::default();
                        image::unpack(&image, folder, options, &cancel).expect("unpacked");
                    })
                };
                (0..n).map(once).sum()
            });
        });
        for (at, at_once) in [("tar -x, one layer at a time", 1), ("tar -x, in parallel", n_cores)]
        {
            group.bench_function(BenchmarkId::new(at, name), |bencher| {
                bencher.iter_custom(|n| {
                    (0..n).map(|_| timed(|folder| extract(&archives, flag, at_once, folder))).sum()
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, unpack);
criterion_main!(benches);
