//! `sampan container prune`: asks for confirmation, then removes containers that do not run.

use crate::cli::args::container::PruneContainers;
use crate::cli::engine::{engine, finish};
use crate::cli::error::Failure;
use crate::cli::human_units;
use crate::cli::output::print;
use crate::cli::prompt;
use sampan_client::engine::Request;
use sampan_ipc::time;
use std::io::{self, IsTerminal};

pub(crate) fn run(args: &PruneContainers) -> Result<(), Failure> {
    let question = "This removes all containers that do not run. Continue? [y/N] ";
    if !args.force && io::stdin().is_terminal() && !prompt::confirm(question)? {
        return Ok(());
    }
    let filters = args.filters.iter().map(|filter| self::filter(filter)).collect::<Result<_, Failure>>()?;
    let request = Request::PruneContainers { filters };
    let done = finish(engine(&args.socket).request(request, &[])?)?;
    let mut text = String::new();
    if !done.removed.is_empty() {
        text = format!("Deleted Containers:\n{}\n\n", done.removed.join("\n"));
    }
    print(&format!("{text}Total reclaimed space: {}\n", human_units::bytes(done.freed)))
}

/// Converts a filter to the engine's form, in which a time is in nanoseconds since the epoch.
fn filter(text: &str) -> Result<String, Failure> {
    match text.strip_prefix("until=") {
        Some(until) => Ok(format!("until={}", time::parse(until, time::now()).map_err(Failure::usage)?)),
        None => Ok(text.to_owned()),
    }
}
