//! `sampan`: the command line.
//!
//! Parses the arguments, runs one command, prints its error and hint, and exits with the status of the outcome.
#![forbid(unsafe_code)]
#![warn(unreachable_pub)]
#![warn(clippy::expect_used, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::expect_used, clippy::indexing_slicing))]

mod cli;

use clap::Parser;
use clap::error::ErrorKind;
use cli::args::container::{ContainerCommand, GenerateCommand};
use cli::args::image::ImageCommand;
use cli::args::replication::ReplicationCommand;
use cli::args::system::{MonitorCommand, SystemCommand};
use cli::args::{Cli, Command};
use cli::container::{inspect, lifecycle, logs, prune, ps, run, systemd_unit, top};
use cli::error::{BAD_EVENT, Failure, USAGE};
use cli::event::{emit, emit_batch, watch};
use cli::image;
use cli::image::{archives, import, login, pull, push};
use cli::job::commands;
use cli::replication::{executions, graph, policies, replicate};
use cli::system::{disk_usage, info, up};
use cli::{docker_hints, output, signals};
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
            output::report(&failure);
            if let Some(signal) = failure.signal {
                signals::die_of(signal);
            }
            ExitCode::from(failure.status)
        }
    }
}

fn command(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Run(args) => run::run(args),
        Command::Create(args) => run::create(args),
        Command::Start(args) => run::start(args),
        Command::Attach(args) => run::attach(args),
        Command::Exec(args) => run::exec(args),
        Command::Stop(args) => lifecycle::stop(args),
        Command::Kill(args) => lifecycle::kill(args),
        Command::Restart(args) => lifecycle::restart(args),
        Command::Pause(args) => lifecycle::pause(args),
        Command::Unpause(args) => lifecycle::unpause(args),
        Command::Wait(args) => lifecycle::wait(args),
        Command::Rm(args) => lifecycle::remove(args),
        Command::Ps(args) => ps::run(args),
        Command::Logs(args) => logs::run(args),
        Command::Rename(args) => lifecycle::rename(args),
        Command::Top(args) => top::run(args),
        Command::Container(group) => container(&group.command),
        Command::Generate(group) => match &group.command {
            GenerateCommand::Systemd(args) => systemd_unit::run(args),
        },
        Command::Events(args) => watch::run(args),
        Command::Emit(args) if args.batch => emit_batch::run(args),
        Command::Emit(args) => emit::run(args),
        Command::Pull(args) => pull::run(args),
        Command::Jobs(args) => commands::list(args),
        Command::Watch(args) => commands::watch(args),
        Command::Cancel(args) => commands::cancel(args),
        Command::Images(args) => image::list::run(args),
        Command::History(args) => image::history::run(args),
        Command::Inspect(args) => inspect::run_any(args),
        Command::Tag(args) => image::tag::run(args),
        Command::Rmi(args) => image::remove::run(args),
        Command::Import(args) => import::run(args),
        Command::Login(args) => login::login(args),
        Command::Logout(args) => login::logout(args),
        Command::Push(args) => push::run(args),
        Command::Replicate(args) => replicate::run(args),
        Command::Replication(group) => match &group.command {
            ReplicationCommand::Ls(args) => executions::list(args),
            ReplicationCommand::Show(args) => executions::show(args),
            ReplicationCommand::Stop(args) => executions::stop(args),
            ReplicationCommand::Resume(args) => executions::resume(args),
            ReplicationCommand::Retry(args) => executions::retry(args),
            ReplicationCommand::Policies(args) => policies::list(args),
            ReplicationCommand::Run(args) => policies::run(args),
            ReplicationCommand::Graph(args) => graph::run(args),
        },
        Command::Load(args) => archives::load(args),
        Command::Save(args) => archives::save(args),
        Command::Serve(args) => image::serve::run(args),
        Command::Image(group) => match &group.command {
            ImageCommand::History(args) => image::history::run(args),
            ImageCommand::Ls(args) => image::list::run(args),
            ImageCommand::Rm(args) => image::remove::run(args),
            ImageCommand::Prune(args) => image::prune::run(args),
            ImageCommand::Verify(args) => image::verify::run(args),
            ImageCommand::Tag(args) => image::tag::run(args),
            ImageCommand::Pull(args) => pull::run(args),
            ImageCommand::Push(args) => push::run(args),
            ImageCommand::Inspect(args) => image::inspect::run(args),
            ImageCommand::Import(args) => import::run(args),
            ImageCommand::Load(args) => archives::load(args),
            ImageCommand::Save(args) => archives::save(args),
        },
        Command::System(group) => match &group.command {
            SystemCommand::Df(args) => disk_usage::run(args),
        },
        Command::Info(args) => info::info(args),
        Command::Version(args) => info::version(args),
        Command::Monitor(args) => match &args.command {
            MonitorCommand::Status(args) => info::monitor(args),
        },
        Command::Up(args) => up::run(args),
    }
}

fn container(command: &ContainerCommand) -> Result<(), Failure> {
    match command {
        ContainerCommand::Attach(args) => run::attach(args),
        ContainerCommand::Create(args) => run::create(args),
        ContainerCommand::Exec(args) => run::exec(args),
        ContainerCommand::Inspect(args) => inspect::run(args),
        ContainerCommand::Kill(args) => lifecycle::kill(args),
        ContainerCommand::Logs(args) => logs::run(args),
        ContainerCommand::Ls(args) => ps::run(args),
        ContainerCommand::Pause(args) => lifecycle::pause(args),
        ContainerCommand::Prune(args) => prune::run(args),
        ContainerCommand::Rename(args) => lifecycle::rename(args),
        ContainerCommand::Restart(args) => lifecycle::restart(args),
        ContainerCommand::Rm(args) => lifecycle::remove(args),
        ContainerCommand::Run(args) => run::run(args),
        ContainerCommand::Start(args) => run::start(args),
        ContainerCommand::Stop(args) => lifecycle::stop(args),
        ContainerCommand::Top(args) => top::run(args),
        ContainerCommand::Unpause(args) => lifecycle::unpause(args),
        ContainerCommand::Wait(args) => lifecycle::wait(args),
    }
}

/// Prints clap's message: help or version if the person requested it, otherwise the error in the usage.
fn refuse(error: &clap::Error) -> ExitCode {
    let words: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    match docker_hints::explain(error, &words) {
        Some(failure) => output::report(&failure),
        None => drop(error.print()),
    }
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
        _ if words.get(1).is_some_and(|command| command == "emit") => ExitCode::from(BAD_EVENT),
        _ => ExitCode::from(USAGE),
    }
}

/// Prints the library's warnings as notes.
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
