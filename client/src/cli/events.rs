//! `sampan events`: prints events as they come.
//!
//! Each line goes out before the next wait, and only then does the cursor move.

use crate::cli::args::{EventFormat, Events};
use crate::cli::failure::Failure;
use crate::cli::format;
use crate::cli::output::{self, Output};
use crate::cli::signals::{self, Signals};
use sampan_client::{FilterSet, Item, Subscription, Watch, WatchError, time};
use sampan_ipc::watch::Reason;
use signal_hook::consts::SIGPIPE;
use std::io;

/// Runs the command.
///
/// # Errors
/// Bad arguments, no monitord, or a stream that broke and was not to be taken up again.
pub fn run(args: &Events) -> Result<(), Failure> {
    let mut subscription = watch(args)?.start().map_err(refused)?;
    let stopper = subscription.stopper()?;
    let signals = Signals::catch(&stopper.into()).map_err(|error| Failure::new(error.to_string()))?;
    let mut output = Output::new(signals.clone()).map_err(|error| Failure::output(&error))?;
    output.stop_when_unread(subscription.stopper()?).map_err(|error| Failure::new(error.to_string()))?;
    let printed = print(&mut subscription, &mut output, args.format);
    if let Some(signal) = signals.caught() {
        signals::die_of(signal);
    }
    if (printed.is_err() || subscription.is_stopped()) && output.is_unread() {
        // What the kernel does to a program that does not ignore it.
        signals::die_of(SIGPIPE);
    }
    printed
}

fn print(subscription: &mut Subscription, output: &mut Output, format: EventFormat) -> Result<(), Failure> {
    while let Some(item) = subscription.next() {
        match item {
            Ok(Item::Event(event)) => {
                if event.lost > 0 && format == EventFormat::Line {
                    let (lost, seq) = (event.lost, event.seq);
                    output::note(&format!("the writer of event {seq} had to drop {lost} events before it"));
                }
                format::event(output.lines(), &event, format);
            }
            Ok(Item::Lost { first, last }) => {
                if !format::lost(output.lines(), first, last, format) {
                    output::note(&format!(
                        "events {first} to {last} are gone: monitord's journal no longer holds them"
                    ));
                }
            }
            Err(error) => {
                flush(output)?;
                return Err(refused(error));
            }
        }
        if output.is_full() || !subscription.is_pending() {
            flush(output)?;
        }
    }
    flush(output)
}

fn flush(output: &mut Output) -> Result<(), Failure> {
    match output.flush() {
        // The caller dies of the signal.
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(Failure::new("interrupted")),
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
    watch = args.cursor_file.iter().fold(watch, Watch::cursor_file);
    Ok(args.socket.socket.iter().fold(watch, Watch::socket))
}

fn refused(error: WatchError) -> Failure {
    let is_ahead = matches!(&error, WatchError::Refused(refusal) if refusal.reason == Reason::Ahead);
    let failure = Failure::from(error);
    if is_ahead {
        return failure
            .hint("monitord's journal was replaced; start without --after, or remove the cursor file");
    }
    failure
}
