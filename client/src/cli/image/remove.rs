//! `sampan rmi`: removes references, and images with their last one.

use crate::cli::args::image::Remove;
use crate::cli::engine::{each, engine, finish};
use crate::cli::error::Failure;
use crate::cli::output::print;
use sampan_client::engine::{Done, Request};

pub(crate) fn run(args: &Remove) -> Result<(), Failure> {
    each(&args.images, |name| {
        let request = Request::Remove { name: name.clone(), force: args.force };
        print(&removed(&finish(engine(&args.socket).request(request, &[])?)?))
    })
}

/// A line for each removed reference and digest, in docker's words.
pub(crate) fn removed(done: &Done) -> String {
    // A reference has a host and a '/'; a digest has no '/'.
    let word = |removed: &String| if removed.contains('/') { "Untagged" } else { "Deleted" };
    done.removed.iter().map(|removed| format!("{}: {removed}\n", word(removed))).collect()
}
