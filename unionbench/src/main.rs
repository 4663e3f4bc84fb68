//! The program: everything lies in the library.

use std::process::ExitCode;

/// Bytes before all other constants, none but in builds for a baseline of the gate:
/// that everything lies elsewhere after a change must not move what the lab counts
/// (docs/gate.md).
#[used]
static PADDING: [u8; padding()] = [1; padding()];

fn main() -> ExitCode {
    // The same binary is process 1 of the lab's guests.
    if unionbench::lab::init::is_init() {
        unionbench::lab::init::run_init();
    }
    unionbench::cli::main()
}

const fn padding() -> usize {
    match option_env!("UNIONBENCH_PADDING") {
        None => 0,
        Some(text) => match usize::from_str_radix(text, 10) {
            Ok(bytes) => bytes,
            Err(_) => panic!("UNIONBENCH_PADDING is a number of bytes"),
        },
    }
}
