//! The programs unionbench loads into the kernel.
//!
//! Every program first asks the filter (`maps::thread`): is a phase running,
//! and does the current thread belong to the workload? Durations go into
//! per-CPU histograms, finished copy-ups into a ring buffer, and everything
//! that could not be kept into a counter of losses.
//!
//! One function role has up to four programs: fentry and fexit, kprobe and
//! kretprobe. Which pair is loaded, and on which symbol, the loading side
//! decides; programs that are not wanted are never loaded.

#![no_std]
#![no_main]
// Inline assembly for BPF is not stable yet; see `maps::masked`.
#![feature(asm_experimental_arch)]

mod aufs;
mod bundled;
mod call;
mod fuse;
mod maps;
mod nothing;
mod overlay;
mod reply;
mod sample;
mod syscall;
mod trace;
mod vfs;

/// Some helpers (kernel stacks, kernel memory) are for GPL programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
pub static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses a program that could get here.
    loop {}
}
