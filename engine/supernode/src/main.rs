//! The program `sampan-supernode`.
#![forbid(unsafe_code)]

fn main() {}
