//! The machine, as `/proc` and `uname` tell.

use std::fs;

use crate::record::Host;
use crate::sys::namespace::Entered;

/// What the record says of the machine.
pub fn describe(entered: Entered, cold_method: &str) -> Host {
    let names = rustix::system::uname();
    let text = |name: &std::ffi::CStr| name.to_string_lossy().into_owned();
    Host {
        hostname: text(names.nodename()),
        kernel_release: text(names.release()),
        kernel_version: text(names.version()),
        architecture: text(names.machine()),
        distribution: distribution(),
        cpu_model: cpu_model(),
        n_cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u32),
        memory_bytes: memory_bytes(),
        uid: entered.uid,
        user_namespace: entered.user_namespace,
        btf: fs::metadata("/sys/kernel/btf/vmlinux").is_ok(),
        cold_method: cold_method.to_owned(),
        load_1min: fs::read_to_string("/proc/loadavg")
            .ok()
            .and_then(|text| text.split(' ').next()?.parse().ok())
            .unwrap_or(0.0),
    }
}

fn distribution() -> Option<String> {
    let text = fs::read_to_string("/etc/os-release").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(line.trim_matches('"').to_owned())
}

fn cpu_model() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    text.lines()
        .find(|line| line.starts_with("model name"))
        .and_then(|line| line.split_once(": "))
        .map_or_else(|| "unknown".to_owned(), |(_, model)| model.to_owned())
}

fn memory_bytes() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok())
        .map_or(0, |kib| kib * 1024)
}
