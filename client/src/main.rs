//! `sampan`: the command line.
//!
//! Parses, runs one command, prints its error and hint, and turns the outcome into an exit status.
#![forbid(unsafe_code)]

mod cli;

use clap::Parser;
use clap::error::ErrorKind;
use cli::args::{Cli, Command, ImageCommand, MonitorCommand, SystemCommand};
use cli::failure::{BAD_EVENT, Failure, USAGE};
use cli::{archives, disk, emit, events, images, import, job, login, output, pull, push, state, up};
use log::{Level, LevelFilter, Log, Metadata, Record};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    if log::set_logger(&Notes).is_ok() {
        log::set_max_level(LevelFilter::Warn);
    }
    match run(&cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            report(&failure);
            ExitCode::from(failure.status)
        }
    }
}

/// Prints an error, then its hint.
fn report(failure: &Failure) {
    if failure.quiet {
        return;
    }
    output::tell("error", &failure.message);
    if !failure.hint.is_empty() {
        output::tell("hint", &failure.hint);
    }
}

fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Events(args) => events::run(args),
        Command::Emit(args) => emit::run(args),
        Command::Pull(args) => pull::run(args),
        Command::Jobs(args) => job::list(args),
        Command::Watch(args) => job::watch(args),
        Command::Cancel(args) => job::cancel(args),
        Command::Images(args) => images::list(args),
        Command::Inspect(args) => images::inspect(args),
        Command::Tag(args) => images::tag(args),
        Command::Rmi(args) => images::remove(args),
        Command::Import(args) => import::run(args),
        Command::Login(args) => login::login(args),
        Command::Logout(args) => login::logout(args),
        Command::Push(args) => push::run(args),
        Command::Load(args) => archives::load(args),
        Command::Save(args) => archives::save(args),
        Command::Serve(args) => job::serve(args),
        Command::Image(group) => match &group.command {
            ImageCommand::Ls(args) => images::list(args),
            ImageCommand::Rm(args) => images::remove(args),
            ImageCommand::Prune(args) => disk::prune(args),
            ImageCommand::Verify(args) => disk::verify(args),
            ImageCommand::Tag(args) => images::tag(args),
            ImageCommand::Pull(args) => pull::run(args),
            ImageCommand::Push(args) => push::run(args),
            ImageCommand::Inspect(args) => images::inspect(args),
            ImageCommand::Import(args) => import::run(args),
            ImageCommand::Load(args) => archives::load(args),
            ImageCommand::Save(args) => archives::save(args),
        },
        Command::System(group) => match &group.command {
            SystemCommand::Df(args) => disk::usage(args),
        },
        Command::Info(args) => state::info(args),
        Command::Version(args) => state::version(args),
        Command::Monitor(args) => match &args.command {
            MonitorCommand::Status(args) => state::monitor(args),
        },
        Command::Up(args) => up::run(args),
    }
}

/// Prints what clap has to say: help and version are asked for, the rest is bad usage.
fn refuse(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
        _ if std::env::args_os().nth(1).is_some_and(|command| command == "emit") => ExitCode::from(BAD_EVENT),
        _ => ExitCode::from(USAGE),
    }
}

/// Prints the library's warnings for people.
struct Notes;

impl Log for Notes {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Warn
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            output::note(&record.args().to_string());
        }
    }

    fn flush(&self) {}
}
