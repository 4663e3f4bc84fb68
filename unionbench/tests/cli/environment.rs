//! Machines that lack something: one clear error, nothing half-done, nothing
//! left. What a case needs is mounted in a namespace of its own.

use super::*;

/// Runs a script below `unshare`, so that its mounts are seen by nobody else.
/// `$PROGRAM`, `$SCENARIO` and `$HERE` are set.
fn in_own_namespace(place: &Place, script: &str) -> Output {
    Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-ec", script])
        .env("PROGRAM", PROGRAM)
        .env("SCENARIO", scenario("smoke"))
        .env("HERE", place.0.path())
        .output()
        .expect("unshare starts")
}

fn is_root(case: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skipped(case, "mounting outside a user namespace needs root");
    }
    root
}

const RUN: &str = "$PROGRAM run $SCENARIO --rounds 1 --no-probes --quiet --format csv";

/// The run fails with exit code 1 and tells `expected` on stdout or stderr.
fn check_refused(case: &str, script: &str, expected: &str) {
    check_ends(case, script, 1, expected);
}

/// The same with another exit code.
fn check_ends(case: &str, script: &str, code: i32, expected: &str) {
    if !is_root(case) {
        return;
    }
    let place = Place::new();
    let output = in_own_namespace(&place, &script.replace("RUN", RUN));
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), stderr(&output));
    assert_eq!(output.status.code(), Some(code), "{case}: {told}");
    assert!(told.contains(expected), "{case}: {told}");
    place.assert_scratch_is_empty();
    assert_nothing_mounted(place.0.path());
}

#[test]
fn results_that_cannot_be_written_are_told_before_anything_is_measured() {
    check_refused(
        "read-only results",
        "mkdir $HERE/ro; mount -t tmpfs -o ro none $HERE/ro;
         RUN --scratch $HERE/scratch --results $HERE/ro/results",
        "choose a folder that can be written with --results",
    );
}

#[test]
fn results_that_fill_their_file_system_end_the_run() {
    check_refused(
        "full results",
        "mkdir $HERE/full; mount -t tmpfs -o size=64k none $HERE/full;
         RUN --scratch $HERE/scratch --results $HERE/full \\
             --set phase.0.count=20000 --set phase.0.cache=warm --set phase.0.keys=uniform",
        "No space left on device",
    );
}

#[test]
fn an_image_larger_than_the_scratch_folder_is_refused() {
    check_refused(
        "full scratch",
        "mkdir $HERE/small; mount -t tmpfs -o size=3M none $HERE/small;
         RUN --scratch $HERE/small --results $HERE/results \\
             --set backing.fs=ext4 --set backing.size=64MiB",
        "give another folder by --scratch",
    );
}

#[test]
fn layers_are_not_stacked_on_overlayfs() {
    check_refused(
        "scratch on overlayfs",
        "mkdir $HERE/t; mount -t tmpfs none $HERE/t; cd $HERE/t; mkdir l u w m;
         mount -t overlay none -o lowerdir=l,upperdir=u,workdir=w m;
         cd /; RUN --scratch $HERE/t/m --results $HERE/results --set backing.fs=dir",
        "overlayfs takes neither whiteouts nor an upper layer there",
    );
}

#[test]
fn an_image_without_its_mkfs_is_unsupported() {
    check_ends(
        "no mkfs",
        "PATH=/nowhere RUN --scratch $HERE/scratch --results $HERE/results --set backing.fs=ext4 \\
             --set backing.size=64MiB",
        5,
        "install e2fsprogs",
    );
}

#[test]
fn without_tracefs_and_btf_the_run_measures_and_says_what_it_could_not_see() {
    if !is_root("no tracefs") {
        return;
    }
    let place = Place::new();
    let script = "mount -t tmpfs none /sys/kernel; \
                  $PROGRAM run $SCENARIO --rounds 1 --quiet --scratch $HERE/scratch \
                      --results $HERE/results";
    let output = in_own_namespace(&place, script);
    assert!(output.status.success(), "{}", stderr(&output));
    let record = unionbench::store::read(&place.records()[0]).expect("a record");
    assert!(!record.host.btf);
    let fentry = record.engines.iter().find(|engine| engine.engine == "fentry").expect("fentry");
    assert!(!fentry.available && !fentry.reason.is_empty(), "{fentry:?}");
    place.assert_scratch_is_empty();
}

#[test]
fn an_ordinary_user_measures_in_a_user_namespace_without_probes() {
    if !is_root("an ordinary user") || !can_mount("an ordinary user") {
        return;
    }
    let place = Place::new();
    // The program may lie where only root can enter.
    let program = place.0.path().join("unionbench");
    fs::copy(PROGRAM, &program).expect("a copy");
    let open = |path: &Path| {
        std::os::unix::fs::chown(path, Some(65534), Some(65534)).expect("chown");
    };
    open(place.0.path());
    open(&place.scratch());
    let script = place.0.path().join("smoke.toml");
    fs::copy(scenario("smoke"), &script).expect("a copy");
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&program)
        .args(["run", "--rounds", "1", "--quiet"])
        .arg(&script)
        .arg("--scratch")
        .arg(place.scratch())
        .arg("--results")
        .arg(place.results())
        .output()
        .expect("setpriv starts");
    if stderr(&output).contains("cannot make a mount namespace") {
        skipped("an ordinary user", "this machine gives ordinary users no user namespace");
        return;
    }
    assert!(output.status.success(), "{}", stderr(&output));
    let record = unionbench::store::read(&place.records()[0]).expect("a record");
    assert!(record.host.user_namespace && record.host.uid == 65534);
    assert!(record.warnings.iter().any(|told| told.contains("ordinary user")), "{record:?}");
    let union = record.backends.iter().find(|backend| !backend.control).expect("overlayfs");
    assert!(union.options_in_force.iter().any(|option| option == "userxattr"), "{union:?}");
    assert!(record.cells.iter().all(|cell| cell.rounds.iter().all(|round| !round.probes)));
    place.assert_scratch_is_empty();
}

#[test]
fn what_is_to_be_kept_is_kept_until_it_is_cleaned_by_name() {
    if !is_root("--keep") {
        return;
    }
    let place = Place::new();
    let refused = place.run(&[&scenario("smoke"), "--keep", "--dry-run"]);
    assert!(refused.status.success(), "a dry run keeps nothing: {}", stderr(&refused));
    let refused = place.run(&[&scenario("smoke"), "--keep"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(stderr(&refused).contains("backing.fs=dir"), "{}", stderr(&refused));

    let arguments = ["--keep", "--rounds", "1", "--no-probes", "--set", "backing.fs=dir"];
    let kept = place.run(&[&[scenario("smoke").as_str()], &arguments[..]].concat());
    assert!(kept.status.success(), "{}", stderr(&kept));
    let folders = || -> Vec<PathBuf> {
        let entries = fs::read_dir(place.scratch()).expect("scratch");
        entries.flatten().map(|entry| entry.path()).collect()
    };
    let folder = folders().pop().expect("the kept folder");
    assert!(folder.join("backing-0/lower/L000").is_dir());
    let next = place.run(&[&scenario("smoke"), "--rounds", "1", "--no-probes"]);
    assert!(next.status.success(), "{}", stderr(&next));
    assert_eq!(folders(), [folder]);
    let clean = |arguments: &[&str]| {
        let scratch = place.scratch();
        let output = Command::new(PROGRAM)
            .args(["clean", "--scratch"])
            .arg(&scratch)
            .args(arguments)
            .output()
            .expect("clean");
        assert!(output.status.success(), "{}", stderr(&output));
    };
    clean(&[]);
    assert_eq!(folders().len(), 1);
    clean(&["--kept"]);
    place.assert_scratch_is_empty();
}
