//! What the kernel counts of another process, and who its children are.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use rustix::process::Pid;

/// Processor time of all threads of a process, ended ones included, in
/// nanoseconds. Source: its CPU-time clock (clock_getcpuclockid(3)), which is
/// exact where `/proc/PID/stat` counts ticks of 10 ms.
///
/// # Errors
/// ESRCH: there is no such process.
pub fn cpu_time_ns(pid: u32) -> io::Result<u64> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    let mut clock: libc::clockid_t = 0;
    // SAFETY: the function writes one clockid_t, which `clock` is.
    let code = unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) };
    if code != 0 {
        return Err(io::Error::from_raw_os_error(code));
    }
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the function writes one timespec, which `time` is.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// Most memory that a process had resident at once, in bytes. Source: `VmHWM`
/// of `/proc/PID/status`.
///
/// # Errors
/// There is no such process, or it has ended and waits to be reaped.
pub fn peak_memory_bytes(pid: u32) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    text.lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok())
        .map(|kib| kib * 1024)
        .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
}

/// Children of a process, their children and so on, in no order.
///
/// # Errors
/// `/proc` cannot be listed.
pub fn descendants(of: u32) -> io::Result<Vec<u32>> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        // One that has ended since the listing has no parent to note.
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        if let Some(parent) = parent(&stat) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut pending = vec![of];
    while let Some(pid) = pending.pop() {
        for child in children.get(&pid).into_iter().flatten() {
            found.push(*child);
            pending.push(*child);
        }
    }
    Ok(found)
}

/// Has orphans among this process's descendants become its children.
///
/// # Errors
/// The kernel refuses; none is known to.
pub fn adopt_orphans() -> io::Result<()> {
    let own = Pid::from_raw(std::process::id().cast_signed());
    Ok(rustix::process::set_child_subreaper(own)?)
}

/// The parent in proc_pid_stat(5): field 4, behind a name in parentheses that
/// may hold anything.
fn parent(stat: &str) -> Option<u32> {
    stat.get(stat.rfind(')')? + 1..)?.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_time_grows_and_own_memory_is_there() {
        let own = std::process::id();
        let before = cpu_time_ns(own).expect("an own clock");
        let mut sum = 0u64;
        while cpu_time_ns(own).expect("an own clock") == before {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(peak_memory_bytes(own).expect("an own status") > 1 << 16);
        assert!(cpu_time_ns(4_194_305).is_err());
    }

    #[test]
    fn parents_are_read_behind_any_name() {
        assert_eq!(parent("12 (a) b (c) S 7 12 12 0"), Some(7));
        assert_eq!(parent("12 (cat"), None);
    }

    #[test]
    fn a_child_is_a_descendant() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("a child");
        let found = descendants(std::process::id()).expect("/proc");
        child.kill().expect("killed");
        child.wait().expect("reaped");
        assert!(found.contains(&child.id()));
    }
}
