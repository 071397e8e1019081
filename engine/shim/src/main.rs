//! The program `sampan-shim`: looks after one container. See `sampan_shim`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    sampan_shim::main()
}
