//! Many runs, half of them interrupted at random moments: nothing may be left.
//!
//! `UNIONBENCH_HAMMER=200 cargo test --test hammer` does two hundred; without
//! it a few are enough to find what breaks every time.

mod skip;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _};
use rand_pcg::Pcg64;
use rustix::process::{Pid, Signal, kill_process};
use skip::skipped;

const PROGRAM: &str = env!("CARGO_BIN_EXE_unionbench");
const FEW: u32 = 8;
/// Longer than a whole run, so that some signals come too late.
const LATEST_MS: u64 = 3000;

#[test]
fn interrupted_runs_leave_nothing() {
    if !rustix::process::geteuid().is_root() {
        skipped("hammer", "loop devices and probes need root");
        return;
    }
    let n_runs = std::env::var("UNIONBENCH_HAMMER").map_or(FEW, |n| n.parse().expect("a number"));
    let place = tempfile::tempdir().expect("a temporary folder");
    let scratch = place.path().join("scratch");
    fs::create_dir(&scratch).expect("scratch");
    let loops_before = loop_devices();
    let mut rng = Pcg64::seed_from_u64(42);
    for n in 0..n_runs {
        let mut child = start(place.path(), &scratch, n);
        if n % 2 == 0 {
            let status = child.wait().expect("its status");
            assert!(status.success(), "run {n} ended with {status}");
        } else {
            let signal = [Signal::INT, Signal::TERM, Signal::KILL][(n as usize / 2) % 3];
            std::thread::sleep(Duration::from_millis(rng.random_range(0..LATEST_MS)));
            interrupt(&mut child, signal, n);
            if signal == Signal::KILL {
                clean(&scratch, place.path());
            }
        }
        assert_eq!(left_in(&scratch), Vec::<PathBuf>::new(), "run {n}");
        assert_eq!(partial_results(place.path()), Vec::<PathBuf>::new(), "run {n}");
        assert_eq!(mounts_under(place.path()), Vec::<String>::new(), "run {n}");
        assert_eq!(processes_naming(place.path()), Vec::<String>::new(), "run {n}");
    }
    wait_until_gone(|| loop_devices().into_iter().filter(|l| !loops_before.contains(l)).collect());
}

/// One run in four has its layers on a loop device.
fn start(place: &Path, scratch: &Path, n: u32) -> Child {
    let scenario = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios/smoke.toml");
    let mut command = Command::new(PROGRAM);
    command.arg("run").arg(scenario).args(["--quiet", "--rounds", "2"]);
    command.arg("--scratch").arg(scratch).arg("--results").arg(place.join("results"));
    if n % 4 == 3 {
        command.args(["--set", "backing.fs=ext4", "--set", "backing.size=64MiB"]);
    }
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts")
}

/// An interrupted run ends with 130, or had ended before.
fn interrupt(child: &mut Child, signal: Signal, n: u32) {
    let pid = Pid::from_raw(child.id().cast_signed()).expect("a pid");
    kill_process(pid, signal).expect("the child was not waited for");
    let status = child.wait().expect("its status");
    match status.code() {
        Some(0 | 130) => {}
        // Before the handler stands, the signal itself ends the program.
        None => {}
        Some(code) => panic!("run {n} ended with {code} after {signal:?}"),
    }
}

fn clean(scratch: &Path, place: &Path) {
    let output = Command::new(PROGRAM)
        .args(["clean", "--scratch"])
        .arg(scratch)
        .arg("--results")
        .arg(place.join("results"))
        .output()
        .expect("clean");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn left_in(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).expect("scratch").flatten().map(|entry| entry.path()).collect()
}

fn partial_results(place: &Path) -> Vec<PathBuf> {
    let results = place.join("results/smoke");
    let entries = fs::read_dir(results).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| !path.join("record.json").is_file()).collect()
}

fn mounts_under(place: &Path) -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let place = place.display().to_string();
    text.lines().filter(|line| line.contains(&place)).map(str::to_owned).collect()
}

fn processes_naming(place: &Path) -> Vec<String> {
    let place = place.display().to_string();
    let entries = fs::read_dir("/proc").expect("a mounted /proc").flatten();
    entries
        .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(&place))
        .collect()
}

/// Backing files of all loop devices in use.
fn loop_devices() -> Vec<String> {
    let entries = fs::read_dir("/sys/block").expect("a mounted /sys").flatten();
    entries
        .filter_map(|entry| fs::read_to_string(entry.path().join("loop/backing_file")).ok())
        .map(|line| line.trim().to_owned())
        .collect()
}

/// A device clears itself with its last user, which may be a dying process.
fn wait_until_gone(left: impl Fn() -> Vec<String>) {
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while !left().is_empty() {
        assert!(std::time::Instant::now() < deadline, "still attached: {:?}", left());
        std::thread::yield_now();
    }
}
