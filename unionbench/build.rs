//! Embeds the kernel-side object, when one was built.
//!
//! `cargo xtask` names it in `UNIONBENCH_EBPF_OBJECT` (empty: build without
//! probes). A plain `cargo build` takes the one that stands in `target/ebpf`.

use std::path::{Path, PathBuf};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=UNIONBENCH_EBPF_OBJECT");
    println!("cargo::rustc-check-cfg=cfg(ebpf_object)");
    let object = match std::env::var_os("UNIONBENCH_EBPF_OBJECT") {
        Some(named) if named.is_empty() => None,
        Some(named) => Some(PathBuf::from(named)),
        None => standing_object(),
    };
    if let Some(object) = object {
        println!("cargo::rerun-if-changed={}", object.display());
        println!("cargo::rustc-env=UNIONBENCH_EBPF_OBJECT_FILE={}", object.display());
        println!("cargo::rustc-cfg=ebpf_object");
    }
}

/// A missing file is not watched: cargo would rebuild the crate each time.
fn standing_object() -> Option<PathBuf> {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR")?;
    let object = Path::new(&manifest).parent()?.join("target/ebpf/unionbench-ebpf");
    object.is_file().then_some(object)
}
