//! Compares the union with a bare directory and kernel overlayfs, and with the
//! unions of others that are installed: rounds are interleaved, medians of
//! them are printed with their ratio to overlayfs.
//!
//! Run as root below `unshare -m --propagation private`:
//! `cargo run --release -p unionbench-fuse --example ratios -- [FOLDER]`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use unionbench_fuse::{MountOptions, mount};

const ROUNDS: usize = 5;
const LOOKUPS: usize = 2000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Union {
    Overlayfs,
    Bundled,
    FuseOverlayfs,
}

type Measure = fn(&Path) -> f64;

fn main() -> ExitCode {
    let base = std::env::args().nth(1).map_or_else(|| PathBuf::from("/dev/shm"), PathBuf::from);
    let mut unions = vec![Union::Overlayfs, Union::Bundled];
    if Command::new("fuse-overlayfs").arg("--version").output().is_ok() {
        unions.push(Union::FuseOverlayfs);
    }
    println!(
        "| measure | {} | ratio to overlayfs |",
        unions.iter().map(|u| format!("{u:?}")).collect::<Vec<_>>().join(" | ")
    );
    for layers in [1, 8, 32, 64] {
        row(
            &base,
            &unions,
            &format!("cold lookup, {layers} layers, µs"),
            layers,
            lookup_layers,
            cold_lookup,
        );
    }
    row(
        &base,
        &unions,
        "repeated absent name, 64 layers, µs",
        64,
        lookup_layers,
        repeated_negative,
    );
    row(&base, &unions, "cold ls -l, 8 layers × 10,000, ms", 8, wide_layers, list_attributes);
    row(&base, &unions, "warm listing of it, ms", 8, wide_layers, warm_listing);
    row(&base, &unions, "open + close, µs", 1, lookup_layers, open_close);
    row(&base, &unions, "unlink of a lower file, µs", 1, lookup_layers, unlink_lower);
    row(
        &base,
        &unions,
        "create + write + unlink, 2,000 files, µs a file",
        1,
        lookup_layers,
        |m| churn(m, 2000),
    );
    row(
        &base,
        &unions,
        "create + write + unlink, 10,000 files, µs a file",
        1,
        lookup_layers,
        |m| churn(m, 10_000),
    );
    row(&base, &unions, "copy-up of 64 MiB, ms", 1, big_layer, copy_up);
    ExitCode::SUCCESS
}

/// Measures each union in each round on fresh layers, and prints the medians.
fn row(
    base: &Path,
    unions: &[Union],
    name: &str,
    layers: usize,
    fill: fn(&Path, usize),
    measure: Measure,
) {
    let mut all = vec![Vec::new(); unions.len()];
    for _ in 0..ROUNDS {
        for (values, union) in all.iter_mut().zip(unions) {
            values.push(once(base, *union, layers, fill, measure));
        }
    }
    let medians: Vec<f64> = all.iter_mut().map(|v| median(v)).collect();
    let cells =
        |values: Vec<f64>| values.iter().map(|v| format!("{v:.2}")).collect::<Vec<_>>().join(" / ");
    println!(
        "| {name} | {} | {} |",
        cells(medians.clone()).replace(" / ", " | "),
        cells(medians.iter().skip(1).map(|m| m / medians[0]).collect()),
    );
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn once(base: &Path, union: Union, layers: usize, fill: fn(&Path, usize), measure: Measure) -> f64 {
    let dir = base.join(format!("unionbench-ratios-{}", std::process::id()));
    for name in ["u", "w", "m"] {
        fs::create_dir_all(dir.join(name)).expect("the folder can be written");
    }
    let lower: Vec<PathBuf> = (0..layers).map(|i| dir.join(format!("l{i}"))).collect();
    lower.iter().for_each(|l| fs::create_dir_all(l).expect("the folder can be written"));
    fill(&dir, layers);
    let m = dir.join("m");
    let value = match union {
        Union::Bundled => {
            let options = MountOptions {
                lower,
                upper: Some(dir.join("u")),
                work: Some(dir.join("w")),
                ..MountOptions::default()
            };
            let mounted = mount(&options, &m).expect("the union mounts");
            let value = measure(&m);
            mounted.unmount().expect("the union unmounts");
            value
        }
        other => {
            let text = lower.iter().map(|l| l.display().to_string()).collect::<Vec<_>>().join(":");
            let options = format!("lowerdir={text},upperdir={0}/u,workdir={0}/w", dir.display());
            let mut command = if other == Union::Overlayfs {
                let mut c = Command::new("mount");
                c.args(["-t", "overlay", "overlay"]);
                c
            } else {
                Command::new("fuse-overlayfs")
            };
            let done = command.arg("-o").arg(options).arg(&m).status().expect("the program starts");
            assert!(done.success(), "{other:?} does not mount");
            let value = measure(&m);
            let done = Command::new("umount").arg(&m).status().expect("umount starts");
            assert!(done.success(), "{other:?} does not unmount");
            value
        }
    };
    fs::remove_dir_all(&dir).expect("the folder can be removed");
    value
}

/// Files in the bottom layer, and the directory itself in every layer.
fn lookup_layers(dir: &Path, layers: usize) {
    for layer in 0..layers {
        fs::create_dir_all(dir.join(format!("l{layer}/d"))).expect("layers can be written");
    }
    for i in 0..LOOKUPS {
        fs::write(dir.join(format!("l{}/d/f{i}", layers - 1)), "x").expect("layers can be written");
    }
}

fn wide_layers(dir: &Path, layers: usize) {
    for layer in 0..layers {
        fs::create_dir_all(dir.join(format!("l{layer}/d"))).expect("layers can be written");
        for i in 0..10_000 {
            fs::write(dir.join(format!("l{layer}/d/f{layer}-{i}")), "")
                .expect("layers can be written");
        }
    }
}

fn big_layer(dir: &Path, _layers: usize) {
    fs::write(dir.join("l0/big"), vec![7u8; 64 << 20]).expect("layers can be written");
}

/// Microseconds of each of `n` calls.
fn each(n: usize, mut call: impl FnMut(usize)) -> f64 {
    let start = Instant::now();
    (0..n).for_each(&mut call);
    start.elapsed().as_secs_f64() * 1e6 / n as f64
}

fn cold_lookup(m: &Path) -> f64 {
    each(LOOKUPS, |i| assert!(m.join(format!("d/f{i}")).symlink_metadata().is_ok()))
}

fn repeated_negative(m: &Path) -> f64 {
    let absent = m.join("d/absent");
    // The first question is not a repeated one.
    assert!(absent.symlink_metadata().is_err());
    each(LOOKUPS, |_| assert!(absent.symlink_metadata().is_err()))
}

fn list_attributes(m: &Path) -> f64 {
    let start = Instant::now();
    let listed = fs::read_dir(m.join("d")).expect("the directory opens");
    let seen =
        listed.filter(|e| e.as_ref().is_ok_and(|e| e.metadata().is_ok_and(|m| m.ino() != 0)));
    assert_eq!(seen.count(), 80_000);
    start.elapsed().as_secs_f64() * 1e3
}

fn warm_listing(m: &Path) -> f64 {
    let list = || fs::read_dir(m.join("d")).expect("the directory opens").count();
    // The kernel keeps a listing from its second reading on.
    list();
    list();
    let start = Instant::now();
    assert_eq!(list(), 80_000);
    start.elapsed().as_secs_f64() * 1e3
}

fn open_close(m: &Path) -> f64 {
    let path = m.join("d/f0");
    each(LOOKUPS, |_| drop(fs::File::open(&path)))
}

fn unlink_lower(m: &Path) -> f64 {
    each(LOOKUPS, |i| fs::remove_file(m.join(format!("d/f{i}"))).expect("the file goes"))
}

fn churn(m: &Path, files: usize) -> f64 {
    let path = |i: usize| m.join(format!("d/n{i}"));
    let made = each(files, |i| fs::write(path(i), "content").expect("the file is made"));
    made + each(files, |i| fs::remove_file(path(i)).expect("the file goes"))
}

fn copy_up(m: &Path) -> f64 {
    let start = Instant::now();
    drop(fs::OpenOptions::new().append(true).open(m.join("big")));
    start.elapsed().as_secs_f64() * 1e3
}
