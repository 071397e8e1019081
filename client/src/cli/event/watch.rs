//! `sampan events`: prints events when they happen, or runs a command for each event.
//!
//! Writes all lines before it handles any item except an event that has already arrived; commits the position after
//! that. docs/events.md states the guarantees that follow.

use crate::cli::args::event::Events;
use crate::cli::error::{Failure, USAGE};
use crate::cli::event::ack::{AckReader, Acks};
use crate::cli::event::exec::{BatchOutcome, Exec};
use crate::cli::event::format::{self, EventFormat, Format};
use crate::cli::output::{self, Output};
use crate::cli::signals::{self, Signals};
use sampan_client::{FilterSet, Item, Subscription, Watch, WatchError, time};
use sampan_ipc::watch::Reason;
use signal_hook::consts::SIGPIPE;
use std::io;
use std::os::unix::net::UnixStream;
use std::time::Duration;

pub(crate) fn run(args: &Events) -> Result<(), Failure> {
    // Do this before any code opens a descriptor: the number must be one that this process has inherited.
    let acks = args.ack_fd.map(Acks::open).transpose()?;
    let shape = Format::parse(args.format.as_deref())?;
    let mut subscription = watch(args)?.start().map_err(refused)?;
    let stopper = subscription.stopper()?;
    let signals = Signals::catch(&stopper.into()).map_err(|error| Failure::new(error.to_string()))?;
    let done = match (Exec::new(args, &signals)?, acks) {
        (Some(exec), _) => execute(&mut subscription, exec, &signals),
        (None, Some(acks)) => print_acknowledged(subscription, acks, &shape, &signals),
        (None, None) => print_all(subscription, &shape, &signals),
    };
    if let Some(signal) = signals.caught() {
        if let Err(failure) = done {
            // The signal did not cause this failure. Print it, since the stored position may be older than the person
            // believes.
            output::message("error", &failure.message);
        }
        signals::die_of(signal);
    }
    done
}

fn print_all(mut subscription: Subscription, format: &Format, signals: &Signals) -> Result<(), Failure> {
    let mut output = output(&mut subscription, signals)?;
    let printed = print(&mut subscription, &mut output, format, true);
    let is_stopped = subscription.is_stopped();
    // Save the position before a signal ends this process.
    let saved = subscription.save().map_err(Failure::from);
    die_if_reader_left(&output, printed.is_err() || is_stopped, signals);
    printed.and(saved)
}

/// Prints events for a consumer that acknowledges them. Only acknowledgements move the position.
fn print_acknowledged(
    mut subscription: Subscription,
    acks: Acks,
    format: &Format,
    signals: &Signals,
) -> Result<(), Failure> {
    let system = |error: io::Error| Failure::new(format!("cannot wait for acknowledgements: {error}"));
    let reading = acks.read(subscription.committer()?, subscription.stopper()?).map_err(system)?;
    let mut output = output(&mut subscription, signals)?;
    let printed = print(&mut subscription, &mut output, format, false);
    let is_cut_short = printed.is_err() || (subscription.is_stopped() && !reading.has_ended());
    if !is_cut_short && signals.caught().is_none() {
        await_acks(output, &reading, signals).map_err(system)?;
        subscription.save()?;
        let has_left = subscription.is_stopped();
        return match subscription.is_uncommitted() {
            true => Err(Failure::new("the consumer has left without acknowledging all events")
                .hint("the next run prints those events again")),
            false if has_left => Err(Failure::new("the consumer has left while more events may come")),
            false => printed,
        };
    }
    let saved = subscription.save().map_err(Failure::from);
    die_if_reader_left(&output, true, signals);
    printed.and(saved)
}

/// Closes standard output, so that the consumer sees its end. Then waits until the consumer closes its own end.
fn await_acks(output: Output, reading: &AckReader, signals: &Signals) -> io::Result<()> {
    let (signalled, wake) = UnixStream::pair()?;
    wake.set_nonblocking(true)?;
    signals.also_wake(&wake)?;
    output.close()?;
    if signals.caught().is_none() {
        reading.wait(&signalled);
    }
    Ok(())
}

fn output(subscription: &mut Subscription, signals: &Signals) -> Result<Output, Failure> {
    let mut output = Output::new(signals.clone()).map_err(|error| Failure::output(&error))?;
    output
        .stop_when_reader_leaves(subscription.stopper()?)
        .map_err(|error| Failure::new(error.to_string()))?;
    Ok(output)
}

fn die_if_reader_left(output: &Output, is_cut_short: bool, signals: &Signals) {
    if is_cut_short && signals.caught().is_none() && output.has_reader_left() {
        // End by SIGPIPE, as the kernel ends a program that does not ignore SIGPIPE.
        signals::die_of(SIGPIPE);
    }
}

/// Prints until the iterator ends. With `commits`, commits each event after its line is written.
fn print(
    subscription: &mut Subscription,
    output: &mut Output,
    format: &Format,
    commits: bool,
) -> Result<(), Failure> {
    while let Some(item) = subscription.next() {
        let journal = subscription.journal().unwrap_or(0);
        let seq = match item {
            Ok(Item::Event(event)) => {
                if event.lost > 0 && format.is_line() {
                    let (lost, seq) = (event.lost, event.seq);
                    output::note(&format!("the emitter of event {seq} had dropped {lost} earlier events"));
                }
                if let Err(failure) = format.event(output.lines(), &event, journal) {
                    flush(output, subscription)?;
                    return Err(failure);
                }
                Some(event.seq)
            }
            Ok(Item::Lost { first, last }) => {
                if !format.lost(output.lines(), first, last, journal)? {
                    output::note(&lost(first, last));
                }
                Some(last)
            }
            Ok(Item::Replaced { uncommitted }) => {
                if !format.replaced(output.lines()) {
                    output::note(REPLACED);
                }
                if uncommitted && !commits {
                    flush(output, subscription)?;
                    return Err(
                        Failure::new(UNACKNOWLEDGED).hint("start again; reading begins at the oldest event")
                    );
                }
                None
            }
            Err(error) => return Err(refused(error)),
        };
        if output.is_full() || !subscription.is_pending() {
            flush(output, subscription)?;
            if let Some(seq) = seq.filter(|_| commits) {
                subscription.commit(seq)?;
            }
        }
    }
    Ok(())
}

const REPLACED: &str =
    "monitord has another journal than the one of the position; reading begins at its oldest event";
const UNACKNOWLEDGED: &str = "monitord's journal was replaced before all events were acknowledged: the sequence numbers now mean other events";

fn lost(first: u64, last: u64) -> String {
    format!("events {first} to {last} are lost: monitord's journal no longer holds them")
}

/// Runs the command for each event, or for several events at a time.
fn execute(subscription: &mut Subscription, mut exec: Exec, signals: &Signals) -> Result<(), Failure> {
    while let Some(item) = subscription.next() {
        let seq = match item {
            Ok(Item::Event(event)) => {
                let mut line = String::new();
                format::event(&mut line, &event, EventFormat::Json);
                let seq = event.seq;
                exec.push(event, line);
                Some(seq)
            }
            Ok(Item::Lost { first, last }) => {
                output::note(&lost(first, last));
                Some(last)
            }
            // The command has run for all earlier events, so no event of the old journal is pending.
            Ok(Item::Replaced { .. }) => {
                output::note(REPLACED);
                None
            }
            Err(error) => return Err(refused(error)),
        };
        if exec.is_full() || !subscription.is_pending() {
            let ran = exec.run()?;
            if let Some(seq) = seq.filter(|_| ran == BatchOutcome::Done) {
                subscription.commit(seq)?;
            }
            // Handle a signal before events that have already arrived.
            if ran == BatchOutcome::Interrupted || signals.caught().is_some() {
                break;
            }
        }
    }
    Ok(subscription.save()?)
}

/// Writes all lines. Meanwhile saves the acknowledgements that arrive.
fn flush(output: &mut Output, subscription: &mut Subscription) -> Result<(), Failure> {
    match output.flush(|| subscription.keep().map_err(io::Error::other)) {
        // The signal ends this process in the caller.
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {
            Err(Failure::new("a signal came before the reader had taken all lines"))
        }
        other => other.map_err(|error| Failure::output(&error)),
    }
}

fn watch(args: &Events) -> Result<Watch, Failure> {
    let now = time::now();
    let at = |text: &Option<String>| match text {
        Some(text) => time::parse(text, now).map(Some).map_err(Failure::usage),
        None => Ok(None),
    };
    let (since, until) = (at(&args.since)?, at(&args.until)?);
    time::in_order(since, until).map_err(Failure::usage)?;
    let names = args.names.iter().map(|name| format!("name={name}"));
    let filters: Vec<String> = args.filters.iter().cloned().chain(names).collect();
    FilterSet::parse(&filters).map_err(Failure::usage)?;
    let mut watch = Watch::new().follow(!args.no_follow).reconnect(!args.no_reconnect);
    watch = filters.into_iter().fold(watch, Watch::filter);
    watch = since.into_iter().fold(watch, Watch::since);
    watch = until.into_iter().fold(watch, Watch::until);
    watch = args.after.into_iter().fold(watch, Watch::after);
    watch = args.cursor_file.iter().fold(watch, Watch::cursor_file).cursor_interval(interval(args)?);
    Ok(args.socket.socket.iter().fold(watch, Watch::socket))
}

fn interval(args: &Events) -> Result<Duration, Failure> {
    let nanos = time::duration(&args.cursor_interval).and_then(|nanos| u64::try_from(nanos).ok());
    nanos.map(Duration::from_nanos).ok_or_else(|| {
        Failure::new(format!(
            "cursor interval {:?} is not a duration: write 500ms, 1s, 5m",
            args.cursor_interval
        ))
        .status(USAGE)
    })
}

fn refused(error: WatchError) -> Failure {
    let is_ahead = matches!(&error, WatchError::Refused(refusal) if refusal.reason == Reason::Ahead);
    let failure = Failure::from(error);
    if is_ahead {
        return failure.hint("start without --after: the number is of another journal");
    }
    failure
}
