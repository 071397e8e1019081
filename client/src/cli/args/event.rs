//! The command line of events: `events` and `emit`.
//!
//! Only describes the command line. The commands parse times and filters.

use super::socket::EventsSocket;
use clap::{Args, ValueHint};
use std::path::PathBuf;

/// The end of the help of `events`.
pub(crate) const TIMES: &str = "\
Times: RFC 3339 with any offset, as events are printed (2024-05-06T15:04:05.123456789+08:00); local time, whole or \
shortened (2024-05-06, 2024-05-06T15, T15:04, T15:04:05.5); unix seconds (1714979045.5); a duration back from now \
(10m, 1h30m, 7d, 2w); now. Both ends are included.

Filters: an event matches if it matches one value of each key.
  type=WORD             Events of this type: container, image, job, daemon, or a type that a program emits
  event=ACTION          Events with this action; exec_start also matches 'exec_start: sh'
  container=ID|NAME     Events of the container with this name, or whose ID begins with this
  image=REFERENCE       Events of this image and of its containers, with or without tag
  label=KEY[=VALUE]     Events with this label
  name=NAME             Events whose attribute name, or whose ID, is this
  id=PREFIX             Events whose ID begins with this
  daemon=ID|NAME        Events of this daemon
  origin=facts|emit     Facts that the engine reports, or events that other programs emitted
  attr.KEY=VALUE        Events whose attribute KEY is VALUE";

/// The end of the help of `emit`.
pub(crate) const BATCH: &str = "\
A program may keep the standard input of --batch open for as long as it runs. While monitord is away or busy, events \
wait in this command. Once 256 events wait, the command reads no more input, so that the pipe makes the producer wait; \
no event is dropped. At the end of the input, the command exits when monitord's FIFO has taken all events. With \
--timeout, or when a signal ends the command, it reports how many events were written, and the line of the last one.

Lines of --batch: one JSON object per line, as 'events --format json' prints them. type, action and id are required; \
attributes and labels are objects of strings, numbers and booleans. Numbers keep every digit of the line. A \
field that is null counts as absent. seq is ignored: monitord gives the event a new sequence number.

The time of an event is its field time, in any form that --time takes, or a number of Unix seconds. timeNano counts \
only if there is no time, even if time has fewer digits: programs that store numbers as doubles, such as jq, change \
timeNano.

A line that is not an event is reported on standard error with its number, and skipped; the exit status is then 2. A \
notice of 'events --format json', that is an object with lost or journal and without type, is skipped with a note.";

#[derive(Debug, Args)]
pub(crate) struct Events {
    /// Print only events of this name or ID [same as --filter name=NAME]
    #[arg(short, long = "name", value_name = "NAME")]
    pub names: Vec<String>,
    /// Begin with past events of this time and later
    #[arg(short = 'S', long, value_name = "TIME", allow_hyphen_values = true)]
    pub since: Option<String>,
    /// Exit after the last event of this time
    #[arg(short = 'U', long, value_name = "TIME", allow_hyphen_values = true)]
    pub until: Option<String>,
    /// Begin after the event with this sequence number; 0 prints all events
    #[arg(long, value_name = "SEQ")]
    pub after: Option<u64>,
    /// Print only events that match
    #[arg(short, long = "filter", value_name = "KEY=VALUE")]
    pub filters: Vec<String>,
    /// Exit after the last past event instead of waiting for new ones; without --since and --after, print all events
    #[arg(long)]
    pub no_follow: bool,
    /// Fail when monitord goes away, instead of waiting for it to return
    #[arg(long)]
    pub no_reconnect: bool,
    /// Print events in this format: line, json (one object per line with Sampan's keys), logfmt, or a template of Go
    /// with docker's keys [default: line]
    #[arg(long, value_name = "FORMAT", allow_hyphen_values = true)]
    pub format: Option<String>,
    /// Store the position of the output in this file, and continue from there the next time
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub cursor_file: Option<PathBuf>,
    /// Write the cursor file at most once in this time
    #[arg(long, value_name = "TIME", default_value = "1s", requires = "cursor_file")]
    pub cursor_interval: String,
    /// Run this command with 'sh -c' for each event: its standard input is the event as a line of JSON, and
    /// SAMPAN_EVENT_TYPE, _ACTION, _ID and _SEQ are set; continue when the command exits with status 0
    #[arg(long, value_name = "COMMAND", value_hint = ValueHint::CommandString, conflicts_with_all = ["format", "ack_fd"], requires = "cursor_file")]
    pub exec: Option<String>,
    /// Pass up to N events to one run of the command, one per line
    #[arg(long, value_name = "N", default_value_t = 1, requires = "exec", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub exec_batch: u32,
    /// Retry a command that fails up to N times, then set its events aside
    #[arg(long, value_name = "N", default_value_t = 5, requires = "exec")]
    pub exec_retries: u32,
    /// Append events that are set aside to this file [default: the cursor file's name plus '.failed']
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "exec")]
    pub exec_failed: Option<PathBuf>,
    /// Read acknowledgements from this file descriptor: each line is the sequence number up to which the consumer has
    /// processed the events; only acknowledgements move the cursor
    #[arg(long, value_name = "N", requires = "cursor_file")]
    pub ack_fd: Option<i32>,
    #[command(flatten)]
    pub socket: EventsSocket,
}

#[derive(Debug, Args)]
pub(crate) struct Emit {
    /// The type of the event, a word of your own: [a-z0-9][a-z0-9_.-]*
    #[arg(value_name = "TYPE", required_unless_present = "batch")]
    pub kind: Option<String>,
    /// The action that happened: [a-z0-9][a-z0-9_.-]*, optionally followed by ': ' and text
    #[arg(value_name = "ACTION", required_unless_present = "batch")]
    pub action: Option<String>,
    /// The ID of what the event is about
    #[arg(value_name = "ID", required_unless_present = "batch")]
    pub id: Option<String>,
    /// Attributes of the event
    #[arg(value_name = "KEY=VALUE")]
    pub attributes: Vec<String>,
    /// Add a label
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub labels: Vec<String>,
    /// Set the time of the event, in any form that 'events --since' takes [default: now]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, conflicts_with = "batch")]
    pub time: Option<String>,
    /// Read events from standard input until its end, one JSON object per line, as 'events --format json' prints them
    #[arg(long, conflicts_with_all = ["kind", "labels"])]
    pub batch: bool,
    /// Give up when monitord has taken no event for this long [default: 5; with --batch, never]
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u32>,
    /// Exit at the first line of --batch that is not an event, instead of skipping the line
    #[arg(long, requires = "batch")]
    pub strict: bool,
    /// Write to this FIFO; root and members of the group sampan-facts may use RUN/monitor.fifo [default: RUN/emit.fifo]
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub fifo: Option<PathBuf>,
}
