//! Writes the man pages and the completions of `sampan` into a directory.
//!
//! `cargo run -p sampan-client --example generate -- DIR` makes `DIR/man/*.1` and `DIR/completions/{bash,zsh,fish}/`.
//! Both come from the definition that the command itself parses with. Run at build or installation time.

#[path = "../src/cli/args.rs"]
#[allow(dead_code, reason = "this program describes the arguments and never reads them")]
mod args;

use clap::CommandFactory;
use clap_complete::Shell;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs, io};

fn main() -> ExitCode {
    let Some(dir) = env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("error: no directory given\nhint: generate DIR");
        return ExitCode::from(2);
    };
    match generate(&dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: cannot write into {}: {error}", dir.display());
            ExitCode::FAILURE
        }
    }
}

fn generate(dir: &Path) -> io::Result<()> {
    let man = dir.join("man");
    fs::create_dir_all(&man)?;
    // A page for 'help' would say nothing that the others do not.
    clap_mangen::generate_to(args::Cli::command().disable_help_subcommand(true), &man)?;
    for (shell, name) in [(Shell::Bash, "bash"), (Shell::Zsh, "zsh"), (Shell::Fish, "fish")] {
        let dir = dir.join("completions").join(name);
        fs::create_dir_all(&dir)?;
        clap_complete::generate_to(shell, &mut args::Cli::command(), "sampan", &dir)?;
    }
    Ok(())
}
