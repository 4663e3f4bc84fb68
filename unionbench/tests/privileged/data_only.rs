//! What a union of data-only layers shows is what the layers show.

use std::process::Command;

use unionbench::stack::write_metadata_layer;

use super::skip::skipped;

/// Set in the process that runs below `unshare`.
const INSIDE: &str = "UNIONBENCH_TEST_DATA_ONLY";

const LAYERS: &str = "
    set -eu
    mount -t tmpfs none \"$HERE\"; cd \"$HERE\"
    mkdir -p top/d top/opaque bottom/d bottom/opaque u w m u2 w2 m2
    echo top > top/d/both; echo bottom > bottom/d/both; echo low > bottom/d/low
    echo gone > bottom/d/gone; mknod top/d/gone c 0 0
    echo hidden > bottom/opaque/hidden; setfattr -n trusted.overlay.opaque -v y top/opaque \
        || python3 -c 'import os; os.setxattr(\"top/opaque\", \"trusted.overlay.opaque\", b\"y\")'
    ln -s d/low bottom/link; mkfifo bottom/pipe; : > bottom/empty
    chmod 4751 bottom/d/low; chown 12:34 bottom/d/both top/d/both; chmod 1777 bottom/d top/d
    head -c 300000 /dev/urandom > bottom/large
    mount -t overlay none -o lowerdir=top:bottom,upperdir=u,workdir=w m
";

const COMPARE: &str = "
    set -eu
    cd \"$HERE\"
    mount -t overlay none \
        -o lowerdir=meta::top::bottom,upperdir=u2,workdir=w2,metacopy=on,redirect_dir=on m2
    # Without the roots: their upper folders were made one after the other.
    for at in m m2; do
        (cd $at; find . -mindepth 1 -printf '%P %y %m %U %G %s %l %T@\\n' | sed 's/ d \\([0-9 ]*\\) [0-9]*  / d \\1 /' | sort
         find . -type f | sort | xargs sha256sum) > $at.list
    done
    diff m.list m2.list
    test $(wc -l < m2.list) -gt 11
    # The first write brings the data up and leaves the layers alone.
    echo more >> m2/d/low
    test \"$(cat m2/d/low)\" = \"$(printf 'low\\nmore')\"
    test \"$(cat bottom/d/low)\" = low
";

#[test]
fn a_layer_of_names_shows_the_files_of_data_only_layers() {
    const TEST: &str = "data-only layers";
    if !rustix::process::geteuid().is_root() {
        return skipped(TEST, "mounting needs root");
    }
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !known.contains("overlay") {
        return skipped(TEST, "this kernel has no overlayfs");
    }
    if std::env::var_os(INSIDE).is_none() {
        let place = tempfile::tempdir().expect("a folder");
        let output = Command::new("unshare")
            .args(["-m", "--propagation", "private"])
            .arg(std::env::current_exe().expect("this test"))
            .args(["--exact", "data_only::a_layer_of_names_shows_the_files_of_data_only_layers"])
            .arg("--nocapture")
            .env(INSIDE, "1")
            .env("HERE", place.path())
            .output()
            .expect("unshare starts");
        let told = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && told.contains("1 passed"), "{told}");
        return;
    }
    let place = std::path::PathBuf::from(std::env::var_os("HERE").expect("a folder"));
    shell(LAYERS);
    write_metadata_layer(&place.join("m"), &place.join("meta")).expect("a layer of names");
    shell(COMPARE);
}

fn shell(script: &str) {
    let output = Command::new("sh").args(["-c", script]).output().expect("sh starts");
    let told = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
}
