//! `sampan import`: passes root file system tars to the engine as open files, never as paths. Therefore the person's
//! permissions apply and not the engine's.

use crate::cli::args::image::Import;
use crate::cli::engine::engine;
use crate::cli::error::{Failure, USAGE};
use crate::cli::job::follow::follow;
use sampan_client::engine::{self, DESCRIPTORS_MAX, Request};
use sampan_ipc::named_file;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

pub(crate) fn run(args: &Import) -> Result<(), Failure> {
    if args.files.len() > DESCRIPTORS_MAX {
        let count = args.files.len();
        return Err(
            Failure::new(format!("{count} layers are too many: at most {DESCRIPTORS_MAX}")).status(USAGE)
        );
    }
    let files = args.files.iter().map(open).collect::<Result<Vec<OwnedFd>, Failure>>();
    let files = files.map_err(|failure| match Path::new(&args.reference).exists() {
        true => failure.hint("the name comes first: sampan import NAME FILE..."),
        false => failure,
    })?;
    let fds: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    let request = Request::Import(engine::Import {
        reference: args.reference.clone(),
        layers: u32::try_from(files.len()).unwrap_or(u32::MAX),
        platform: args.platform.clone(),
        cmd: args.cmd.clone(),
        env: args.env.clone(),
        labels: labels(&args.labels)?,
    });
    follow(&engine(&args.socket), request, &fds, &args.progress)
}

fn open(path: impl AsRef<Path>) -> Result<OwnedFd, Failure> {
    let path = path.as_ref();
    let opened = match path == Path::new("-") {
        true => io::stdin().as_fd().try_clone_to_owned(),
        false => named_file::open(path).map(OwnedFd::from),
    };
    opened.map_err(|error| Failure::new(format!("cannot read layer {}: {error}", path.display())))
}

fn labels(words: &[String]) -> Result<Vec<(String, String)>, Failure> {
    let split = |word: &String| match word.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(Failure::new(format!("label {word:?} is not allowed: write KEY=VALUE")).status(USAGE)),
    };
    words.iter().map(split).collect()
}
