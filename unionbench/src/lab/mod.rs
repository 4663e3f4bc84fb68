//! The virtual machine that counts instructions.
