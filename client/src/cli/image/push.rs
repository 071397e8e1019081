//! `sampan push`: asks the engine to push an image with this user's credentials, and shows the progress.

use crate::cli::args::image::Push;
use crate::cli::engine::engine;
use crate::cli::error::{Failure, USAGE};
use crate::cli::human_units::rate;
use crate::cli::image::archives;
use crate::cli::image::credentials;
use crate::cli::image::pull::detached;
use crate::cli::image::transport::{self, Location};
use crate::cli::job::follow::follow;
use sampan_client::engine::{self, Container, Request};
use std::path::Path;

pub(crate) fn run(args: &Push) -> Result<(), Failure> {
    let target = match args.target.as_deref().map(transport::parse).transpose()? {
        Some(Location::Files { container, path, name }) => {
            return save(args, container, &path, name.as_deref());
        }
        Some(Location::Registry(reference)) => Some(reference),
        None => None,
    };
    let registry = target.as_deref().unwrap_or(&args.image);
    let request = Request::Push(engine::Push {
        source: args.image.clone(),
        target: target.clone(),
        detach: args.detach,
        insecure: !args.tls_verify,
        bytes_per_second: args.limit_rate.as_deref().map_or(Ok(0), rate)?,
        credentials: credentials::for_job(&engine(&args.socket), registry, args.authfile.as_deref())?,
    });
    if args.detach {
        return detached(engine(&args.socket).request(request, &[])?);
    }
    follow(&engine(&args.socket), request, &[], &args.progress)
}

/// Saves the image to a file or a directory, which is a push without a registry.
fn save(args: &Push, container: Container, path: &Path, name: Option<&str>) -> Result<(), Failure> {
    if args.detach || args.limit_rate.is_some() {
        let message = format!("cannot push to {} with --detach or --limit-rate", path.display());
        return Err(Failure::new(message).status(USAGE).hint("these options are only for registries"));
    }
    let images = std::slice::from_ref(&args.image);
    archives::save_into(&engine(&args.socket), images, container, path, name, &args.progress)
}
