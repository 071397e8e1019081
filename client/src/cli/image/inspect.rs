//! `sampan image inspect`: images in full, as JSON.

use crate::cli::args::image::Inspect;
use crate::cli::args::socket::EngineSocket;
use crate::cli::engine::engine;
use crate::cli::error::Failure;
use crate::cli::inspection::show;
use sampan_client::engine::{Answer, Request};

/// The JSON of an image.
pub(crate) fn document(socket: &EngineSocket, name: &str) -> Result<serde_json::Value, Failure> {
    let mut document = None;
    for answer in engine(socket).request(Request::Inspect { name: name.to_owned() }, &[])? {
        if let Answer::Json(text) = answer? {
            let read = serde_json::from_str(&text);
            document = Some(read.map_err(|error| {
                Failure::new(format!("cannot parse the engine's JSON for {name:?}: {error}"))
            })?);
        }
    }
    document.ok_or_else(|| Failure::new(format!("the engine gave no answer for {name:?}")))
}

pub(crate) fn run(args: &Inspect) -> Result<(), Failure> {
    show(&args.images, args.format.as_deref(), |name| document(&args.socket, name))
}
