//! `sampan load` and `sampan save`: archives, handed to the engine as open files, never as paths.
//!
//! So a person loads what that person may read and saves where that person may write, whoever the engine runs as.

use crate::cli::args::Load;
use crate::cli::failure::{Failure, USAGE};
use crate::cli::job::{engine, follow_to};
use sampan_client::engine::{self, Container, Done, Request};
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Runs `sampan load`.
///
/// # Errors
/// The archive cannot be read, the engine is not there, or the load failed.
pub fn load(args: &Load) -> Result<(), Failure> {
    let from = match &args.input {
        Some(path) if path != Path::new("-") => open(path)?,
        _ => stdin()?,
    };
    let request = engine::Load {
        source: Container::DockerArchive,
        select: None,
        reference: None,
        platform: args.platform.clone(),
        no_unpack: args.no_unpack,
    };
    follow_to(&engine(&args.socket), Request::Load(request), &[from.as_fd()], &args.progress, Some(loaded))
}

/// What `docker load` prints.
pub fn loaded(done: &Done) -> String {
    let line = |name: &String| match name.starts_with("sha256:") || name.starts_with("sha512:") {
        true => format!("Loaded image ID: {name}\n"),
        false => format!("Loaded image: {name}\n"),
    };
    done.references.iter().map(line).collect()
}

fn stdin() -> Result<OwnedFd, Failure> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        let failure = Failure::new("cannot load an archive from a terminal").status(USAGE);
        return Err(failure.hint("give --input FILE, or redirect standard input"));
    }
    stdin
        .as_fd()
        .try_clone_to_owned()
        .map_err(|error| Failure::new(format!("cannot read standard input: {error}")))
}

/// Opens an archive.
///
/// # Errors
/// It is not there, may not be read, or is a directory.
pub fn open(path: &Path) -> Result<OwnedFd, Failure> {
    let opened = File::open(path).and_then(|file| match file.metadata()?.is_dir() {
        true => Err(io::Error::from(io::ErrorKind::IsADirectory)),
        false => Ok(OwnedFd::from(file)),
    });
    opened.map_err(|error| Failure::new(format!("cannot read archive {}: {error}", path.display())))
}
