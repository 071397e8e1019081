//! The program `sampan-shim`: looks after one container. See `sampan_engine::shim`.

use std::process::ExitCode;

fn main() -> ExitCode {
    sampan_engine::shim::main()
}
