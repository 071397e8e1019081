//! `make fuzz`: runs each target, or those named as arguments, for `FUZZ_SECONDS` (60).
//!
//! It stops at the first failing input, saves that input and prints its path. `FUZZ_SEED` repeats a run.

use sampan_tests::fuzz;
use sampan_tests::targets::{TARGETS, Target, target};
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let (Some(seconds), Some(seed)) = (number("FUZZ_SECONDS", 60), number("FUZZ_SEED", now())) else {
        return ExitCode::from(2);
    };
    let names: Vec<String> = std::env::args().skip(1).collect();
    let mut targets: Vec<&Target> = Vec::new();
    for name in &names {
        let Some(target) = target(name) else {
            let known: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
            eprintln!("error: no target is called '{name}'\nhint: targets are {}", known.join(", "));
            return ExitCode::from(2);
        };
        targets.push(target);
    }
    if names.is_empty() {
        targets.extend(&TARGETS);
    }
    fuzz::save_inputs_on_panic();
    println!("FUZZ_SEED={seed}, {seconds} s each");
    for target in targets {
        let report = fuzz::run(target, Duration::from_secs(seconds), seed);
        println!("{:<10} {:>12} inputs {:>12} accepted", target.name, report.inputs, report.accepted);
    }
    ExitCode::SUCCESS
}

/// Parses the number in an environment variable; `None`, after a message, if it is not a number.
fn number(name: &str, default: u64) -> Option<u64> {
    let Ok(text) = std::env::var(name) else { return Some(default) };
    let number = text.parse().ok();
    if number.is_none() {
        eprintln!("error: {name} is '{text}'\nhint: it must be a number");
    }
    number
}

fn now() -> u64 {
    sampan_ipc::time::now().unsigned_abs()
}
