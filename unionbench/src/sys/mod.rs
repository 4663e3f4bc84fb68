//! The only place of the program that calls the kernel by hand.
