//! `sampan push`: asks the engine to send an image, as this user, and shows how it gets on.

use crate::cli::args::Push;
use crate::cli::credentials;
use crate::cli::failure::Failure;
use crate::cli::job::{engine, follow};
use crate::cli::pull::{detached, rate};
use sampan_client::engine::{self, Request};

/// Runs the command.
///
/// # Errors
/// The engine is not there, or the push failed.
pub fn run(args: &Push) -> Result<(), Failure> {
    let target = args.target.as_deref().unwrap_or(&args.image);
    let request = Request::Push(engine::Push {
        source: args.image.clone(),
        target: args.target.clone(),
        detach: args.detach,
        insecure: !args.tls_verify,
        bytes_per_second: args.limit_rate.as_deref().map_or(Ok(0), rate)?,
        credentials: credentials::for_job(target, args.authfile.as_deref())?,
    });
    if args.detach {
        return detached(engine(&args.socket).request(request, &[])?);
    }
    follow(&engine(&args.socket), request, &[], &args.progress)
}
