//! The command line of events: `events` and `emit`.
//!
//! Pure description. Times and filters are parsed by the commands.

use super::socket::EventsSocket;
use clap::{Args, ValueEnum, ValueHint};
use std::path::PathBuf;

/// What the help of `events` says of times and filters.
pub(crate) const TIMES: &str = "\
Times: RFC 3339 with any offset, as events are printed (2024-05-06T15:04:05.123456789+08:00); local time, whole or \
shortened (2024-05-06, 2024-05-06T15, T15:04, T15:04:05.5); unix seconds (1714979045.5); a duration back from now \
(10m, 1h30m, 7d, 2w); now. Both ends are included.

Filters: values of one key are OR, keys are AND.
  type=WORD             Events of this type: container, image, job, daemon, or any producer's word
  event=ACTION          This action; exec_start matches 'exec_start: sh'
  container=ID|NAME     Events of containers whose id begins with this, or whose name is this
  image=REFERENCE       Events about this image or of its containers, with or without tag
  label=KEY[=VALUE]     Events with this label
  name=NAME             Events whose attribute name, or whose id, is this
  id=PREFIX             Events whose id begins with this
  daemon=ID|NAME        Events of this daemon
  origin=facts|emit     Facts that the engine tells, or events that others emitted
  attr.KEY=VALUE        Events whose attribute KEY is VALUE";

/// What the help of `emit` says of `--batch`.
pub(crate) const BATCH: &str = "\
A program may keep the standard input of --batch open for as long as it runs. While monitord is away or busy, events \
wait here, and once 256 of them wait, no more input is read: the pipe makes the producer wait, and nothing is dropped. \
At the end of the input, the command ends when monitord's FIFO has taken all events. With --timeout it gives up \
instead, and says how many events were written and from which line the last one was; so it does when a signal ends \
it.

Lines of --batch: one JSON object a line, as 'events --format json' prints them. type, action and id are required; \
attributes and labels are objects of strings, numbers and booleans. Numbers are taken as they stand in the line. A \
field that is null counts as absent. seq is ignored: monitord gives the event a new number.

The time of an event is its field time, in any form that --time takes, or a number of unix seconds. timeNano counts \
only where there is no time, even if time has fewer digits: programs that keep numbers as doubles, such as jq, change \
timeNano.

A line that is no event is told on standard error with its number and passed over; the exit status is 2 at the end. \
What 'events --format json' says beside events, an object with lost or journal and without type, is passed over with \
a note.";

/// Arguments of `events`.
#[derive(Debug, Args)]
pub(crate) struct Events {
    /// Print only events of this name or id [same as --filter name=NAME]
    #[arg(short, long = "name", value_name = "NAME")]
    pub names: Vec<String>,
    /// Begin with past events of this time and later
    #[arg(short = 'S', long, value_name = "TIME", allow_hyphen_values = true)]
    pub since: Option<String>,
    /// End with events of this time
    #[arg(short = 'U', long, value_name = "TIME", allow_hyphen_values = true)]
    pub until: Option<String>,
    /// Begin behind the event with this sequence number; 0 is all there is
    #[arg(long, value_name = "SEQ")]
    pub after: Option<u64>,
    /// Print only events that match
    #[arg(short, long = "filter", value_name = "KEY=VALUE")]
    pub filters: Vec<String>,
    /// End when the past is through, instead of waiting for more; without --since and --after, print all of it
    #[arg(long)]
    pub no_follow: bool,
    /// Fail when monitord goes away, instead of waiting for it to return
    #[arg(long)]
    pub no_reconnect: bool,
    /// Print each event like this
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub format: EventFormat,
    /// Remember in this file how far the output has come, and go on from there next time
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub cursor_file: Option<PathBuf>,
    /// Write the cursor file at most this often
    #[arg(long, value_name = "TIME", default_value = "1s", requires = "cursor_file")]
    pub cursor_interval: String,
    /// Run this command with 'sh -c' for each event, with the event as a line of JSON on its standard input and in
    /// SAMPAN_EVENT_TYPE, _ACTION, _ID, _SEQ; go on when it ends with status 0
    #[arg(long, value_name = "COMMAND", value_hint = ValueHint::CommandString, conflicts_with_all = ["format", "ack_fd"], requires = "cursor_file")]
    pub exec: Option<String>,
    /// Give the command up to N events at a time, a line each
    #[arg(long, value_name = "N", default_value_t = 1, requires = "exec", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub exec_batch: u32,
    /// Run a command that fails up to N times again, then set its events aside
    #[arg(long, value_name = "N", default_value_t = 5, requires = "exec")]
    pub exec_retries: u32,
    /// Append events that are set aside to this file [default: the cursor file's name and '.failed']
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "exec")]
    pub exec_failed: Option<PathBuf>,
    /// Read from this descriptor up to which number the consumer has finished the events, a line each; only that moves
    /// the cursor
    #[arg(long, value_name = "N", requires = "cursor_file")]
    pub ack_fd: Option<i32>,
    /// Where monitord listens.
    #[command(flatten)]
    pub socket: EventsSocket,
}

/// How an event is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum EventFormat {
    /// TIME TYPE ACTION ID (KEY=VALUE, …)
    #[default]
    Line,
    /// One JSON object a line
    Json,
    /// KEY=VALUE words
    Logfmt,
}

/// Arguments of `emit`.
#[derive(Debug, Args)]
pub(crate) struct Emit {
    /// What sort of thing it happened to, in a word of your own: [a-z0-9][a-z0-9_.-]*
    #[arg(value_name = "TYPE", required_unless_present = "batch")]
    pub kind: Option<String>,
    /// What happened: [a-z0-9][a-z0-9_.-]*, then nothing or ': ' and text
    #[arg(value_name = "ACTION", required_unless_present = "batch")]
    pub action: Option<String>,
    /// What it happened to
    #[arg(value_name = "ID", required_unless_present = "batch")]
    pub id: Option<String>,
    /// Facts
    #[arg(value_name = "KEY=VALUE")]
    pub attributes: Vec<String>,
    /// A word of the owner
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub labels: Vec<String>,
    /// When it happened, in any form that 'events --since' takes [default: now]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, conflicts_with = "batch")]
    pub time: Option<String>,
    /// Read events from standard input for as long as it is open, one JSON object a line, as 'events --format json'
    /// writes them
    #[arg(long, conflicts_with_all = ["kind", "labels"])]
    pub batch: bool,
    /// Give up once monitord has taken nothing for this long [default: 5; with --batch, never]
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u32>,
    /// End at the first line of --batch that is no event, instead of passing over it
    #[arg(long, requires = "batch")]
    pub strict: bool,
    /// Write into this FIFO; root and members of the group sampan-facts may name RUN/monitor.fifo [default: RUN/emit.fifo]
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub fifo: Option<PathBuf>,
}
