//! The benchmark: tables of what monitord and engine cost, beside a bare program and beside their peers.
//!
//! ```text
//! bench [TABLE]... [--runs N] [--only SYSTEM]... [--scale N]
//! ```
//!
//! TABLE is `fanout`, `latency`, `idle` or `ingest`; all of them without one. SYSTEM is `bare`, `sampan`, `redis`,
//! `nats` or `mosquitto`. Every figure is the median of N runs [default: 5], which alternate between the systems,
//! so that a noisy machine is noisy for all. `--scale` makes the runs of `fanout` so many times longer. Starts
//! private servers in private directories, on Unix sockets or loopback, and ends them. Reads what processes cost
//! from the kernel's clocks, never from the wall alone.
//!
//! Called as `bench receive …` by itself: the subscribers are a process of their own.

mod fanout;
mod idle;
mod ingest;
mod latency;
mod receive;
mod server;
mod system;
mod table;

use std::io;
use system::System;

/// What was asked for.
pub struct Options {
    /// How often each figure is measured.
    pub runs: u64,
    /// Whom to measure.
    pub systems: Vec<System>,
    /// How many times longer the runs of a fan-out are.
    pub scale: u64,
}

/// Measures one table, or several, and prints them.
type Table = fn(&Options) -> io::Result<()>;

const TABLES: [(&str, Table); 4] =
    [("fanout", fanout::run), ("latency", latency::run), ("ingest", ingest::run), ("idle", idle::run)];

fn main() -> io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == "receive") {
        return receive::run(&args[1..]);
    }
    let (tables, options) = parse(&args)?;
    receive::raise_descriptor_limit()?;
    table::machine();
    for (name, run) in TABLES {
        if tables.is_empty() || tables.iter().any(|table| table == name) {
            run(&options)?;
        }
    }
    Ok(())
}

fn parse(args: &[String]) -> io::Result<(Vec<String>, Options)> {
    let usage = |what: String| {
        io::Error::other(format!(
            "{what}\nusage: bench [fanout|latency|ingest|idle]... [--runs N] \
             [--only bare|sampan|redis|nats|mosquitto]... [--scale N]"
        ))
    };
    let (mut tables, mut runs, mut only, mut scale) = (Vec::new(), 5, Vec::new(), 1);
    let positive = |arg: &str, text: &str| {
        text.parse::<u64>().ok().filter(|n| *n > 0).ok_or_else(|| usage(format!("{arg} {text}?")))
    };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| usage(format!("{arg} needs a value")));
        match arg.as_str() {
            "--runs" => runs = positive(arg, value()?)?,
            "--scale" => scale = positive(arg, value()?)?,
            "--only" => {
                let name = value()?;
                only.push(System::named(name).ok_or_else(|| usage(format!("--only {name}?")))?);
            }
            table if TABLES.iter().any(|(name, _)| *name == table) => tables.push(table.to_owned()),
            other => return Err(usage(format!("{other}?"))),
        }
    }
    let wanted = |system: &System| only.is_empty() || only.contains(system);
    let systems = System::ALL.into_iter().filter(wanted).filter(System::is_installed).collect();
    Ok((tables, Options { runs, systems, scale }))
}
