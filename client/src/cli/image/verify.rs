//! `sampan image verify`: the engine reads the whole store and reports what is damaged.

use crate::cli::args::image::Verify;
use crate::cli::engine::engine;
use crate::cli::error::Failure;
use crate::cli::job::follow::follow;
use sampan_client::engine::{self, Request};

pub(crate) fn run(args: &Verify) -> Result<(), Failure> {
    follow(&engine(&args.socket), Request::Verify(engine::Verify { deep: args.deep }), &[], &args.progress)
}
