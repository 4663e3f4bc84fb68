//! A traced function's beginning and end, whatever engine reports them.

use aya_ebpf::programs::{FEntryContext, ProbeContext};

/// What a program at a function's entry knows of the call.
pub trait Arguments {
    fn pointer(&self, index: usize) -> *const u8;
    /// The stack at the entry; zero where the engine does not tell.
    fn stack(&self) -> u64;
}

impl Arguments for FEntryContext {
    #[inline(always)]
    fn pointer(&self, index: usize) -> *const u8 {
        self.arg::<*const u8>(index)
    }

    #[inline(always)]
    fn stack(&self) -> u64 {
        // Ends are not missed by this engine.
        0
    }
}

impl Arguments for ProbeContext {
    #[inline(always)]
    fn pointer(&self, index: usize) -> *const u8 {
        self.arg::<*const u8>(index).unwrap_or(core::ptr::null())
    }

    #[cfg(bpf_target_arch = "x86_64")]
    #[inline(always)]
    fn stack(&self) -> u64 {
        // SAFETY: the kernel hands the registers to the program.
        unsafe { (*self.regs).rsp as u64 }
    }

    #[cfg(not(bpf_target_arch = "x86_64"))]
    #[inline(always)]
    fn stack(&self) -> u64 {
        0
    }
}

/// A program at a function's entry, for both engines.
macro_rules! entry {
    ($fentry:ident, $kprobe:ident, $begin:expr) => {
        #[aya_ebpf::macros::fentry]
        pub fn $fentry(ctx: aya_ebpf::programs::FEntryContext) -> u32 {
            ($begin)(&ctx);
            0
        }

        #[aya_ebpf::macros::kprobe]
        pub fn $kprobe(ctx: aya_ebpf::programs::ProbeContext) -> u32 {
            ($begin)(&ctx);
            0
        }
    };
}
pub(crate) use entry;

/// A program at a function's end, for both engines; it is given what the
/// function returned.
macro_rules! exit {
    ($fexit:ident, $kretprobe:ident, $end:expr) => {
        #[aya_ebpf::macros::fexit]
        pub fn $fexit(ctx: aya_ebpf::programs::FExitContext) -> u32 {
            ($end)(ctx.ret::<i64>().unwrap_or(0));
            0
        }

        #[aya_ebpf::macros::kretprobe]
        pub fn $kretprobe(ctx: aya_ebpf::programs::RetProbeContext) -> u32 {
            ($end)(ctx.ret::<i64>());
            0
        }
    };
}
pub(crate) use exit;

/// What a function that gives a pointer or an error as one failed with.
#[inline(always)]
pub fn error_of(returned: i64) -> i32 {
    if (-4095..0).contains(&returned) { returned as i32 } else { 0 }
}
