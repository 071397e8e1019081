//! `sampan image prune`: asks for confirmation, then removes images that nothing needs.

use crate::cli::args::image::Prune;
use crate::cli::engine::{engine, finish};
use crate::cli::error::{Failure, USAGE};
use crate::cli::human_units;
use crate::cli::image::remove::removed;
use crate::cli::output::print;
use crate::cli::prompt;
use sampan_client::engine::{self, Request};
use sampan_client::time;
use std::io::{self, IsTerminal};

pub(crate) fn run(args: &Prune) -> Result<(), Failure> {
    let request = Request::Prune(filtered(args)?);
    let what = if args.all { "all images that nothing uses" } else { "all images that have no name" };
    let question = format!("This removes {what}, and content that no image needs. Continue? [y/N] ");
    if !args.force && io::stdin().is_terminal() && !prompt::confirm(&question)? {
        return Ok(());
    }
    let done = finish(engine(&args.socket).request(request, &[])?)?;
    print(&format!("{}Total reclaimed space: {}\n", removed(&done), human_units::bytes(done.freed)))
}

fn filtered(args: &Prune) -> Result<engine::Prune, Failure> {
    let mut prune = engine::Prune { all: args.all, ..engine::Prune::default() };
    for filter in &args.filters {
        match filter.split_once('=') {
            Some(("until", text)) => {
                let until = time::parse(text, time::now()).map_err(Failure::usage)?;
                // An image must be older than all given times.
                prune.until = Some(prune.until.map_or(until, |other| other.min(until)));
            }
            Some(("label", label)) if !label.is_empty() && !label.starts_with('=') => {
                prune.labels.push(label.to_owned());
            }
            _ => {
                return Err(Failure::new(format!("unknown filter {filter:?}"))
                    .hint("the filters are until=TIME and label=KEY[=VALUE]")
                    .status(USAGE));
            }
        }
    }
    Ok(prune)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::socket::EngineSocket;

    #[test]
    fn several_filters_are_all_kept_and_the_earliest_time_wins() {
        let of = |filters: &[&str]| {
            let filters = filters.iter().map(|f| (*f).to_owned()).collect();
            filtered(&Prune { all: false, force: true, filters, socket: EngineSocket { socket: None } })
        };
        let both = of(&["until=2020-01-01T00:00:00Z", "until=2019-01-01T00:00:00Z", "label=a=b", "label=c"]);
        let both = both.expect("good");
        assert_eq!(both.until, Some(1_546_300_800_000_000_000));
        assert_eq!(both.labels, ["a=b", "c"]);
        for bad in ["until=never", "label=", "label==x", "dangling=true", "until"] {
            assert_eq!(of(&[bad]).expect_err("refused").status, USAGE, "{bad}");
        }
    }
}
