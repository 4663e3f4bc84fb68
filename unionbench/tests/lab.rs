//! The lab as a whole: guests that report, and guests that do not.
//!
//! Needs QEMU and a Debian 6.1 kernel, in the cache or from the package
//! manager. Where either is missing, each test says so and is skipped.

#[path = "image/builder.rs"]
#[allow(dead_code, reason = "the tests of images use the rest of it")]
mod builder;
mod skip;

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use skip::skipped;
use unionbench::lab::{Exit, Guest, GuestOutcome, Kernel, LabError, Mode};
use unionbench::unit::Bytes;

const BINARY: &str = env!("CARGO_BIN_EXE_unionbench");

fn cache() -> PathBuf {
    match std::env::var_os("UNIONBENCH_LAB_CACHE") {
        Some(dir) => dir.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/lab"),
    }
}

/// The kernel to test on, or nothing after saying why the test is skipped.
fn kernel(test: &str) -> Option<Kernel> {
    if Command::new("qemu-system-x86_64").arg("--version").output().is_err() {
        skipped(test, "QEMU is not installed (package qemu-system-x86)");
        return None;
    }
    match Kernel::resolve_in("6.1", &cache()) {
        Ok(kernel) => Some(kernel),
        Err(error) => {
            skipped(test, error);
            None
        }
    }
}

/// A guest whose QEMU can be told from every other one by its command line.
fn guest(kernel: Kernel, test: &str, arguments: &[&str]) -> Guest {
    let mut guest = Guest::new(kernel, Mode::Count);
    guest.binary = Some(BINARY.into());
    guest.memory = Bytes(1 << 30);
    guest.append = mark(test);
    let words = ["unionbench", "lab-selftest"];
    guest.argv = words.iter().chain(arguments).map(|word| (*word).to_owned()).collect();
    guest
}

fn mark(test: &str) -> String {
    format!("unionbench.test={test}-{}", std::process::id())
}

/// Runs the guest and makes sure that no QEMU of it is left.
fn run(guest: &Guest) -> Result<GuestOutcome, LabError> {
    let outcome = guest.run();
    assert_eq!(n_qemu_with(&guest.append), 0, "a QEMU outlived its run");
    outcome
}

fn n_qemu_with(mark: &str) -> usize {
    let mut found = 0;
    for entry in fs::read_dir("/proc").expect("a mounted /proc").filter_map(Result::ok) {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        found += usize::from(line.starts_with("qemu-system") && line.contains(mark));
    }
    found
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "timed out waiting until {what}");
        std::thread::yield_now();
    }
}

#[test]
fn counts_are_the_same_on_an_idle_and_on_a_busy_host() {
    let Some(kernel) = kernel("counts") else { return };
    let guest = guest(kernel, "counts", &["lookup", "--depth", "8"]);
    let lookups = |outcome: GuestOutcome| {
        assert_eq!(outcome.exit, Exit::Code(0), "{:?}", outcome.file("stderr"));
        let bytes = outcome.file("lookups").expect("the self-test writes them");
        String::from_utf8(bytes.to_vec()).expect("numbers")
    };
    let idle = lookups(run(&guest).expect("an idle run"));
    let stop = Arc::new(AtomicBool::new(false));
    let n_cores = std::thread::available_parallelism().map_or(2, usize::from);
    let burn = |stop: Arc<AtomicBool>| {
        move || {
            while !stop.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        }
    };
    let burners: Vec<_> =
        (0..n_cores).map(|_| std::thread::spawn(burn(Arc::clone(&stop)))).collect();
    let busy = run(&guest);
    stop.store(true, Ordering::Relaxed);
    burners.into_iter().for_each(|burner| burner.join().expect("a burner that only spins"));
    assert_eq!(idle.lines().count(), 100);
    assert_eq!(idle, lookups(busy.expect("a busy run")));
}

#[test]
fn exit_codes_come_back() {
    let Some(kernel) = kernel("exit") else { return };
    let outcome = run(&guest(kernel, "exit", &["exit", "--code", "7"]));
    assert_eq!(outcome.expect("a failed command is an outcome").exit, Exit::Code(7));
}

/// Runs the self-test `arguments` in a guest changed by `adjust` and checks the
/// error it ends with.
fn check_error(
    test: &str,
    arguments: &[&str],
    adjust: impl FnOnce(&mut Guest),
    expected: fn(&LabError) -> bool,
) {
    let Some(kernel) = kernel(test) else { return };
    let mut guest = guest(kernel, test, arguments);
    adjust(&mut guest);
    let error = run(&guest).expect_err("this guest cannot report");
    assert!(expected(&error), "{error}");
}

#[test]
fn a_guest_that_hangs_is_stopped() {
    let limit = |guest: &mut Guest| guest.timeout = Duration::from_secs(5);
    check_error("hang", &["hang"], limit, |e| matches!(e, LabError::Timeout { .. }));
}

#[test]
fn a_guest_that_oopses_names_the_panic() {
    check_error(
        "oops",
        &["oops"],
        |_| {},
        |e| matches!(e, LabError::Panic { line, .. } if line.contains("sysrq")),
    );
}

#[test]
fn a_guest_that_fills_its_memory_is_told_from_a_failed_command() {
    check_error(
        "memory",
        &["fill-memory"],
        |_| {},
        |e| matches!(e, LabError::OutOfMemory { victims: 1.., .. }),
    );
}

#[test]
fn a_guest_that_ends_silently_gives_no_exit_status() {
    check_error("silent", &["power-off"], |_| {}, |e| matches!(e, LabError::NoExitStatus { .. }));
}

#[test]
fn too_little_memory_is_refused_before_a_boot() {
    let shrink = |guest: &mut Guest| guest.memory = Bytes(64 << 20);
    check_error("small", &["exit"], shrink, |e| matches!(e, LabError::TooLittleMemory { .. }));
}

#[test]
fn count_mode_refuses_a_second_cpu() {
    let widen = |guest: &mut Guest| guest.cpus = 2;
    check_error("cpus", &["exit"], widen, |e| matches!(e, LabError::BadGuest { .. }));
}

/// An extracted package that holds the kernel's image and names only `modules`.
fn tree_with(kernel: &Kernel, modules: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let boot = dir.path().join("boot");
    let tree = dir.path().join("lib/modules").join(&kernel.release);
    fs::create_dir_all(&boot).expect("a folder");
    fs::create_dir_all(&tree).expect("a folder");
    let image = fs::canonicalize(&kernel.image).expect("a kernel image");
    symlink(image, boot.join(format!("vmlinuz-{}", kernel.release))).expect("a link");
    fs::write(tree.join("modules.dep"), modules).expect("a written list");
    fs::write(tree.join("modules.builtin"), "").expect("a written list");
    dir
}

fn check_lacks(test: &str, modules: &str, what: &str) {
    let Some(kernel) = kernel(test) else { return };
    let tree = tree_with(&kernel, modules);
    let path = tree.path().to_str().expect("a readable path");
    let kernel = Kernel::resolve_in(path, &cache()).expect("a tree of a kernel");
    match run(&guest(kernel, test, &["exit"])) {
        Err(LabError::KernelLacks { what: lacking, .. }) => {
            assert!(lacking.starts_with(what), "{lacking}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_kernel_without_overlay_is_refused_before_a_boot() {
    check_lacks("no-overlay", "virtio_pci.ko:\nvirtio_console.ko:\n", "overlay");
}

#[test]
fn a_kernel_without_virtio_is_refused_before_a_boot() {
    check_lacks("no-virtio", "overlay.ko:\n", "virtio_pci");
}

#[test]
fn a_bare_image_without_virtio_says_so_from_the_guest() {
    let Some(kernel) = kernel("bare") else { return };
    let image = kernel.image.to_str().expect("a readable path");
    let bare = Kernel::resolve_in(image, &cache()).expect("a kernel image");
    match run(&guest(bare, "bare", &["exit"])) {
        Err(LabError::GuestSetup { message, .. }) => {
            assert!(message.contains("virtio"), "{message}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_corrupt_image_does_not_boot_and_says_so() {
    let Some(kernel) = kernel("corrupt") else { return };
    let mut bytes = fs::read(&kernel.image).expect("a kernel image");
    // Header and setup code stay; most of the compressed kernel is gone.
    let start = bytes.len() / 4;
    bytes[start..].fill(0);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let image = dir.path().join("bzImage");
    fs::write(&image, bytes).expect("a written image");
    let path = image.to_str().expect("a readable path");
    let corrupt = Kernel::resolve_in(path, &cache()).expect("its header is whole");
    let mut guest = guest(corrupt, "corrupt", &["exit"]);
    guest.boot_timeout = Duration::from_secs(20);
    let error = run(&guest).expect_err("there is no kernel to boot");
    assert!(matches!(error, LabError::DidNotBoot), "{error}");
}

fn program(test: &str, arguments: &[&str]) -> Command {
    // Whoever runs the tests below nohup must not decide what a hangup does.
    let mut command = Command::new("env");
    command
        .args(["--default-signal=HUP", BINARY])
        .args(["lab", "run", "--memory", "1GiB", "--append", &mark(test)])
        .args(["--", "unionbench", "lab-selftest"])
        .args(arguments)
        .env("UNIONBENCH_LAB_CACHE", cache())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

#[test]
fn a_missing_qemu_is_named_with_its_package() {
    if kernel("no-qemu").is_none() {
        return;
    }
    let output = program("no-qemu", &["exit"])
        .env("UNIONBENCH_QEMU", "/nonexistent/qemu")
        .output()
        .expect("the program runs");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("apt-get install --no-install-recommends qemu-system-x86"), "{text}");
}

#[test]
fn the_guests_exit_code_is_the_programs() {
    if kernel("code").is_none() {
        return;
    }
    let output = program("code", &["exit", "--code", "3"]).output().expect("the program runs");
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
}

/// However the program is ended, QEMU ends with it and no file stays.
#[test]
fn a_signal_leaves_neither_qemu_nor_files() {
    const TEST: &str = "killed";
    if kernel(TEST).is_none() {
        return;
    }
    for (signal, code) in [
        (Signal::INT, Some(130)),
        (Signal::TERM, Some(130)),
        (Signal::HUP, Some(130)),
        (Signal::KILL, None),
    ] {
        let temporary = tempfile::tempdir().expect("a temporary folder");
        let mut child = program(TEST, &["hang"])
            .env("TMPDIR", temporary.path())
            .spawn()
            .expect("the program runs");
        wait_until("QEMU runs", || n_qemu_with(&mark(TEST)) == 1);
        let id = Pid::from_raw(child.id().cast_signed()).expect("a child");
        kill_process(id, signal).expect("a running program");
        let status = child.wait().expect("a child that ends");
        assert_eq!(status.code(), code, "{signal:?}");
        wait_until("QEMU is gone", || n_qemu_with(&mark(TEST)) == 0);
        let left = fs::read_dir(temporary.path()).expect("a folder").count();
        assert_eq!(left, 0, "{signal:?} leaves files");
    }
}

/// Ctrl-C ends what runs in the shell, and neither the shell nor the guest.
#[test]
fn a_shell_has_a_terminal_and_gives_its_exit_code() {
    const TEST: &str = "shell";
    if kernel(TEST).is_none() {
        return;
    }
    let pty = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    grantpt(&pty).and_then(|()| unlockpt(&pty)).expect("a terminal");
    let name = ptsname(&pty, Vec::new()).expect("a name");
    let name = PathBuf::from(name.to_str().expect("plain"));
    let inside = || Stdio::from(File::options().read(true).write(true).open(&name).expect("opens"));
    let mut child = Command::new(BINARY)
        .args(["lab", "shell", "--append", &mark(TEST)])
        .env("UNIONBENCH_LAB_CACHE", cache())
        .stdin(inside())
        .stdout(inside())
        .stderr(inside())
        .spawn()
        .expect("the program runs");
    let mut keyboard = File::from(pty.try_clone().expect("a second descriptor"));
    let mut screen = File::from(pty);
    let mut seen = String::new();
    // What is typed is echoed, so it is not written as it shall be answered. The
    // answer comes from the process that Ctrl-C shall end, once it has the terminal.
    for (shown, typed) in [
        ("# ", "sh -c 'echo he\"\"re; exec sleep 10000'\n"),
        ("here", "\x03"),
        ("^C", "uname -r; exit 7\n"),
        ("-amd64", ""),
    ] {
        while !seen.contains(shown) {
            let mut buffer = [0; 4096];
            let n = screen.read(&mut buffer).unwrap_or(0);
            assert!(n > 0, "the shell ended early: {seen}");
            seen.push_str(&String::from_utf8_lossy(&buffer[..n]));
        }
        seen = seen.split_once(shown).expect("it is there").1.to_owned();
        keyboard.write_all(typed.as_bytes()).expect("types");
    }
    std::thread::spawn(move || std::io::copy(&mut screen, &mut std::io::sink()));
    assert_eq!(child.wait().expect("a child that ends").code(), Some(7));
    assert_eq!(n_qemu_with(&mark(TEST)), 0);
}

/// The image lies below /tmp, where the guest would mount a file system.
#[test]
fn an_image_goes_into_the_guest() {
    const TEST: &str = "an image";
    if kernel(TEST).is_none() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let image = folder.path().join("image");
    fs::create_dir(&image).expect("a folder");
    let layers: Vec<_> = ["top", "middle", "bottom"]
        .map(|name| builder::Archive::default().file(name, name.as_bytes()).end())
        .into();
    builder::layout(&image, &layers, builder::Compression::Gzip);
    let scenario = folder.path().join("image.toml");
    let text = format!(
        r#"
            name = "image"
            title = "Files of an image in the guest"
            [stack]
            image = "oci:{}"
            [backing]
            fs = "tmpfs"
            size = "64MiB"
            [[backend]]
            kind = "overlayfs"
            [[phase]]
            name = "lookup"
            workload = "lookup"
            layer = [0, 1, 2]
            [[phase]]
            name = "list"
            workload = "walk"
        "#,
        image.display()
    );
    fs::write(&scenario, text).expect("a scenario");
    let results = folder.path().join("results");
    let output = Command::new(BINARY)
        .env("UNIONBENCH_LAB_CACHE", cache())
        .args(["run", "--lab", "--no-probes", "--rounds", "1", "--append", &mark(TEST)])
        .arg("--results")
        .arg(&results)
        .arg(&scenario)
        .output()
        .expect("the program starts");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    let record = fs::read_dir(results.join("image")).expect("results").flatten().next();
    let record = unionbench::store::read(&record.expect("a record").path()).expect("a record");
    let samples: Vec<u64> = record
        .cells
        .iter()
        .filter(|cell| cell.backend == "overlayfs")
        .map(|cell| cell.rounds.iter().map(|round| round.n_ops).sum())
        .collect();
    // A file in each of three layers, and the root, which is the only directory.
    assert_eq!(samples, [1, 1, 1, 1], "{told}");
    assert_eq!(n_qemu_with(&mark(TEST)), 0);
}
