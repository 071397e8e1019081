//! `sampan`: the command line.
//!
//! Parses, runs one command, prints its error and hint, and turns the outcome into an exit status.
#![forbid(unsafe_code)]

mod cli;

use clap::Parser;
use clap::error::ErrorKind;
use cli::args::containers::{ContainerCommand, GenerateCommand};
use cli::args::{Cli, Command, ImageCommand, MonitorCommand, SystemCommand};
use cli::failure::{BAD_EVENT, Failure, USAGE};
use cli::{
    absent, archives, batch, containers, disk, emit, events, images, import, job, login, logs, output, ps,
    pull, push, run, signals, state, systemd, up,
};
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
    match command(&cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            report(&failure);
            if let Some(signal) = failure.signal {
                signals::die_of(signal);
            }
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

fn command(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Run(args) => run::run(args),
        Command::Create(args) => run::create(args),
        Command::Start(args) => run::start(args),
        Command::Attach(args) => run::attach(args),
        Command::Exec(args) => run::exec(args),
        Command::Stop(args) => containers::stop(args),
        Command::Kill(args) => containers::kill(args),
        Command::Restart(args) => containers::restart(args),
        Command::Pause(args) => containers::pause(args),
        Command::Unpause(args) => containers::unpause(args),
        Command::Wait(args) => containers::wait(args),
        Command::Rm(args) => containers::remove(args),
        Command::Ps(args) => ps::run(args),
        Command::Logs(args) => logs::run(args),
        Command::Rename(args) => containers::rename(args),
        Command::Top(args) => containers::top(args),
        Command::Container(group) => container(&group.command),
        Command::Generate(group) => match &group.command {
            GenerateCommand::Systemd(args) => systemd::run(args),
        },
        Command::Events(args) => events::run(args),
        Command::Emit(args) if args.batch => batch::run(args),
        Command::Emit(args) => emit::run(args),
        Command::Pull(args) => pull::run(args),
        Command::Jobs(args) => job::list(args),
        Command::Watch(args) => job::watch(args),
        Command::Cancel(args) => job::cancel(args),
        Command::Images(args) => images::list(args),
        Command::Inspect(args) => containers::inspect_any(args),
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

fn container(command: &ContainerCommand) -> Result<(), Failure> {
    match command {
        ContainerCommand::Attach(args) => run::attach(args),
        ContainerCommand::Create(args) => run::create(args),
        ContainerCommand::Exec(args) => run::exec(args),
        ContainerCommand::Inspect(args) => containers::inspect(args),
        ContainerCommand::Kill(args) => containers::kill(args),
        ContainerCommand::Logs(args) => logs::run(args),
        ContainerCommand::Ls(args) => ps::run(args),
        ContainerCommand::Pause(args) => containers::pause(args),
        ContainerCommand::Prune(args) => containers::prune(args),
        ContainerCommand::Rename(args) => containers::rename(args),
        ContainerCommand::Restart(args) => containers::restart(args),
        ContainerCommand::Rm(args) => containers::remove(args),
        ContainerCommand::Run(args) => run::run(args),
        ContainerCommand::Start(args) => run::start(args),
        ContainerCommand::Stop(args) => containers::stop(args),
        ContainerCommand::Top(args) => containers::top(args),
        ContainerCommand::Unpause(args) => containers::unpause(args),
        ContainerCommand::Wait(args) => containers::wait(args),
    }
}

/// Prints what clap has to say: help and version are asked for, the rest is bad usage.
fn refuse(error: &clap::Error) -> ExitCode {
    let words: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    match absent::explain(error, &words) {
        Some(failure) => report(&failure),
        None => drop(error.print()),
    }
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
        _ if words.get(1).is_some_and(|command| command == "emit") => ExitCode::from(BAD_EVENT),
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
