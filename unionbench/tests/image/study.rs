//! `run --image` without a scenario: a study of that image, from the command.

use std::process::Command;

use crate::builder::{Archive, Compression, layout};

#[test]
fn a_layer_that_shows_no_file_is_unsupported_and_the_rest_is_studied() {
    let bottom = (0..40)
        .fold(Archive::default().dir("etc/"), |archive, i| {
            archive.file(&format!("etc/file-{i:02}"), &[b'x'; 9000])
        })
        .end();
    // Only hides: what `RUN rm` leaves.
    let middle = Archive::default().dir("etc/").file("etc/.wh.file-00", b"").end();
    let top = Archive::default().dir("srv/").file("srv/one", b"1").end();
    let folder = tempfile::tempdir().expect("a folder");
    layout(folder.path(), &[bottom, middle, top], Compression::Zstd);

    let output = Command::new(env!("CARGO_BIN_EXE_unionbench"))
        .arg("run")
        .arg(format!("--image=oci:{}", folder.path().display()))
        .args(["--rounds", "1", "--no-probes", "--quiet"])
        .args(["--set", "backing.size=16MiB"])
        .args(["--scratch", ".", "--results", "results"])
        .current_dir(folder.path())
        .output()
        .expect("unionbench starts");
    let told = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert!(told.contains("nothing of what phase lookup-by-layer takes shows"), "{told}");
    // 39 lookups are enough to be ranked, one is not.
    assert!(told.contains("A cold lookup costs most in layer 2: "), "{told}");
    assert!(told.contains("Not ranked, for fewer than 30 lookups: layer 0."), "{told}");
    assert!(told.contains("The first byte written to one of the largest files costs"), "{told}");
}
