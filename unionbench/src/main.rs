//! The program: everything lies in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    // The same binary is process 1 of the lab's guests.
    if unionbench::lab::init::is_init() {
        unionbench::lab::init::run_init();
    }
    unionbench::cli::main()
}
