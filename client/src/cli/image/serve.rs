//! `sampan serve`: the engine serves its images as a read-only registry, until Ctrl-C.

use crate::cli::args::image::Serve;
use crate::cli::engine::{catch, engine};
use crate::cli::error::Failure;
use crate::cli::human_units::rate;
use crate::cli::output;
use crate::cli::signals;
use sampan_client::engine::{self, Answer, Request};

pub(crate) fn run(args: &Serve) -> Result<(), Failure> {
    let bytes_per_second = args.rate.as_deref().map_or(Ok(0), rate)?;
    let request = Request::Serve(engine::Serve { listen: args.listen.clone(), bytes_per_second });
    let mut answers = engine(&args.socket).request(request, &[])?;
    let signals = catch(&answers)?;
    while let Some(answer) = answers.next().transpose()? {
        match answer {
            Answer::Serving { address } => {
                output::print(&format!("serving on {address}\n"))?;
            }
            Answer::Note(note) => output::note(&note),
            _ => {}
        }
    }
    if let Some(signal) = signals.caught() {
        drop(answers);
        signals::die_of(signal);
    }
    Ok(())
}
