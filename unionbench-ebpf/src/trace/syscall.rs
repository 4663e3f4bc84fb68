//! The system call that the current thread is in, from the registers it entered
//! the kernel with: nothing is paid for calls that are not looked at.

use aya_ebpf::helpers::{
    bpf_get_current_task_btf, bpf_probe_read_kernel, bpf_probe_read_user, bpf_task_pt_regs,
};
use unionbench_common::trace::{Frame, NO_SYSCALL, note};

/// Notes the call's number, and the flags if it opens a file.
#[inline(always)]
pub fn note_in(frame: &mut Frame) {
    frame.syscall = NO_SYSCALL;
    frame.flags = 0;
    arch::note_in(frame);
}

#[cfg(bpf_target_arch = "x86_64")]
mod arch {
    use super::*;

    // Words of `struct pt_regs` on x86-64.
    const RDX: usize = 12;
    const RSI: usize = 13;
    const RDI: usize = 14;
    const ORIG_RAX: usize = 15;
    const CS: usize = 17;
    /// `__USER_CS`: a 32-bit program has other numbers of system calls.
    const USER_CS: u64 = 0x33;

    const OPEN: u64 = 2;
    const CREAT: u64 = 85;
    const OPENAT: u64 = 257;
    const OPENAT2: u64 = 437;
    /// `O_CREAT | O_WRONLY | O_TRUNC`.
    const CREAT_FLAGS: u32 = 0o1101;

    #[inline(always)]
    pub fn note_in(frame: &mut Frame) {
        // SAFETY: the current task is alive, and so are its registers; neither
        // helper has other preconditions.
        let registers = unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) } as u64;
        if word(registers, CS) & 0xffff != USER_CS {
            return;
        }
        let number = word(registers, ORIG_RAX);
        // A thread of the kernel, or a fault, is in no call.
        if number > 0xffff {
            return;
        }
        frame.syscall = number as u32;
        let flags = match number {
            OPEN => word(registers, RSI) as u32,
            OPENAT => word(registers, RDX) as u32,
            CREAT => CREAT_FLAGS,
            OPENAT2 => {
                // `struct open_how` begins with its flags.
                let how = word(registers, RDX) as *const u64;
                // SAFETY: the helper fails on an address that cannot be read.
                match unsafe { bpf_probe_read_user(how) } {
                    Ok(flags) => flags as u32,
                    Err(_) => return,
                }
            }
            _ => {
                frame.flags = word(registers, RDI) as u32;
                return;
            }
        };
        frame.flags = flags;
        frame.notes |= note::FLAGS;
    }

    #[inline(always)]
    fn word(registers: u64, index: usize) -> u64 {
        let at = registers.wrapping_add(8 * index as u64) as *const u64;
        // SAFETY: the helper fails on an address that cannot be read.
        unsafe { bpf_probe_read_kernel(at) }.unwrap_or(0)
    }
}

#[cfg(not(bpf_target_arch = "x86_64"))]
mod arch {
    use super::Frame;

    /// The registers of other processors are not known here.
    #[inline(always)]
    pub fn note_in(_: &mut Frame) {}
}
