//! `sampan tag`: adds references to an image.

use crate::cli::args::image::Tag;
use crate::cli::engine::{each, engine, finish};
use crate::cli::error::Failure;
use sampan_client::engine::Request;

pub(crate) fn run(args: &Tag) -> Result<(), Failure> {
    each(&args.targets, |target| {
        let request = Request::Tag { source: args.source.clone(), target: target.clone() };
        finish(engine(&args.socket).request(request, &[])?).map(drop)
    })
}
