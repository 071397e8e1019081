//! The benchmark: measures the cost of monitord and engine, and compares it with a bare program and with peers.
//!
//! ```text
//! bench [TABLE]... [--runs N] [--only SYSTEM]... [--scale N] [--image IMAGE]... [--puller WORD]...
//!       [--registry nginx|sampan|docker-registry] [--layers N] [--size MB]
//! ```
//!
//! TABLE is `fanout`, `latency`, `idle`, `ingest`, `pull`, `run`, `docker`, `replicate` or `supernode`; without one, all
//! are measured.
//! SYSTEM is `bare`, `sampan`, `redis`, `nats` or `mosquitto`. Every figure is the median of N runs [default: 5]; runs of
//! the systems alternate, so that noise of the machine affects all. `--scale N` makes the runs of `fanout` N times
//! longer. The benchmark starts private servers in private directories, on Unix sockets or loopback, and ends them. It
//! reads CPU time from the kernel's clocks and does not infer it from elapsed time.
//!
//! `pull` has four images (S, M, M-zstd, L), of which `--image` selects some. `--puller` selects the pullers whose name
//! contains WORD. They pull from nginx, or with `--registry` from `sampan serve` or docker-registry. In `run`,
//! `--puller` selects the runners by their names, and only the first table is printed. `replicate` copies an image of N
//! layers of MB megabytes [default: 6 of 84].
//!
//! The benchmark runs itself as `bench receive …`, `bench floor …` and `bench measure …`, since a measured part must be
//! a separate process.

mod content;
mod cost;
mod disk;
mod docker;
mod fanout;
mod flash;
mod floor;
mod get;
mod idle;
mod images;
mod ingest;
mod latency;
mod nginx;
mod options;
mod orphans;
mod pull;
mod puller;
mod receive;
mod registries;
mod replicate;
mod run;
mod runner;
mod server;
mod serving;
mod supernode;
mod swarm;
mod system;
mod table;

use options::Options;
use std::io;
use system::System;

/// Measures and prints one or several tables.
type Table = fn(&Options) -> io::Result<()>;

const TABLES: [(&str, Table); 10] = [
    ("fanout", fanout::run),
    ("latency", latency::run),
    ("ingest", ingest::run),
    ("idle", idle::run),
    ("flash", flash::run),
    ("pull", pull::run),
    ("run", run::run),
    ("docker", docker::run),
    ("replicate", replicate::run),
    ("supernode", supernode::run),
];

fn main() -> io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("receive") => return receive::run(&args[1..]),
        Some("floor") => return floor::run(&args[1..]),
        Some("measure") => return cost::run(&args[1..]),
        _ => {}
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
            "{what}\nusage: bench [fanout|latency|ingest|idle|flash|pull|run|docker|replicate|supernode]... [--runs N] \
             [--only bare|sampan|redis|nats|mosquitto]... [--scale N] \
             [--image S|M|M-zstd|L]... [--puller WORD]... [--registry nginx|sampan|docker-registry] \
             [--layers N] [--size MB]"
        ))
    };
    let (mut tables, mut runs, mut only, mut scale) = (Vec::new(), 5, Vec::new(), 1);
    let (mut images, mut pullers, mut registry) = (Vec::new(), Vec::new(), registries::Registry::Nginx);
    let (mut layers, mut layer_bytes) = (6, 84_000_000);
    let positive = |arg: &str, text: &str| {
        text.parse::<u64>().ok().filter(|n| *n > 0).ok_or_else(|| usage(format!("{arg} {text}?")))
    };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| usage(format!("{arg} needs a value")));
        match arg.as_str() {
            "--runs" => runs = positive(arg, value()?)?,
            "--scale" => scale = positive(arg, value()?)?,
            "--layers" => layers = positive(arg, value()?)?,
            "--size" => layer_bytes = positive(arg, value()?)?.saturating_mul(1_000_000),
            "--image" => match value()? {
                name if images::SHAPES.iter().any(|shape| shape.name == name) => images.push(name.clone()),
                name => return Err(usage(format!("--image {name}?"))),
            },
            "--puller" => pullers.push(value()?.clone()),
            "--registry" => {
                let name = value()?;
                registry =
                    registries::Registry::named(name).ok_or_else(|| usage(format!("--registry {name}?")))?;
            }
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
    Ok((tables, Options { runs, systems, scale, images, pullers, registry, layers, layer_bytes }))
}
