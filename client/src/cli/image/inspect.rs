//! `sampan image inspect`: images in full, as JSON.

use crate::cli::args::image::Inspect;
use crate::cli::args::socket::EngineSocket;
use crate::cli::engine::{each, engine};
use crate::cli::error::Failure;
use crate::cli::json;
use crate::cli::output::print;
use sampan_client::engine::{Answer, Request};

/// An image in full.
pub(crate) fn document(socket: &EngineSocket, name: &str) -> Result<serde_json::Value, Failure> {
    let mut document = None;
    for answer in engine(socket).request(Request::Inspect { name: name.to_owned() }, &[])? {
        if let Answer::Json(text) = answer? {
            let read = serde_json::from_str(&text);
            document = Some(read.map_err(|error| {
                Failure::new(format!("cannot read what the engine says of {name:?}: {error}"))
            })?);
        }
    }
    document.ok_or_else(|| Failure::new(format!("the engine said nothing of {name:?}")))
}

pub(crate) fn run(args: &Inspect) -> Result<(), Failure> {
    let mut documents = Vec::new();
    let all = each(&args.images, |name| {
        documents.push(document(&args.socket, name)?);
        Ok(())
    });
    // An array, also of what is there when some are not, as docker-image-inspect(1) does.
    print(&(json::pretty(&documents) + "\n"))?;
    all
}
