//! `sampan container inspect` and `sampan inspect`: containers as JSON; the latter command also prints images.

use crate::cli::args::container::InspectContainers;
use crate::cli::args::socket::EngineSocket;
use crate::cli::args::{InspectAny, InspectKind};
use crate::cli::engine::engine;
use crate::cli::error::Failure;
use crate::cli::image;
use crate::cli::inspection::show;
use sampan_client::engine::{Answer, Code, EngineError, Request};
use serde_json::Value;

pub(crate) fn run(args: &InspectContainers) -> Result<(), Failure> {
    show(&args.containers, args.format.as_deref(), |name| document(&args.socket, name, args.size))
}

/// Runs `sampan inspect`: for each name, searches for a container first, then for an image.
pub(crate) fn run_any(args: &InspectAny) -> Result<(), Failure> {
    show(&args.names, args.format.as_deref(), |name| match args.kind {
        Some(InspectKind::Container) => document(&args.socket, name, args.size),
        Some(InspectKind::Image) => image::inspect::document(&args.socket, name),
        None => match document_if_any(&args.socket, name, args.size)? {
            Some(document) => Ok(document),
            None => image::inspect::document(&args.socket, name).map_err(|failure| {
                match failure.message.is_empty() {
                    true => failure,
                    false => failure.hint("there is no container with this name either"),
                }
            }),
        },
    })
}

/// The JSON of a container, or `None` if there is no such container.
fn document_if_any(socket: &EngineSocket, name: &str, size: bool) -> Result<Option<Value>, Failure> {
    let request = Request::InspectContainer { container: name.to_owned(), size };
    match engine(socket).request(request, &[])?.next() {
        Some(Err(EngineError::Failed(failure))) if failure.code == Code::NotFound => Ok(None),
        _ => document(socket, name, size).map(Some),
    }
}

/// The JSON of a container.
pub(crate) fn document(socket: &EngineSocket, name: &str, size: bool) -> Result<Value, Failure> {
    let request = Request::InspectContainer { container: name.to_owned(), size };
    let mut document = None;
    for answer in engine(socket).request(request, &[])? {
        if let Answer::Json(text) = answer? {
            let read = serde_json::from_str(&text);
            document = Some(read.map_err(|error| {
                Failure::new(format!("cannot parse the engine's JSON for {name:?}: {error}"))
            })?);
        }
    }
    match document.ok_or_else(|| Failure::new(format!("the engine gave no answer for {name:?}")))? {
        // The engine answers with an array of one container, as docker prints it.
        Value::Array(mut all) if all.len() == 1 => Ok(all.remove(0)),
        one => Ok(one),
    }
}
