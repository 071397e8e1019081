//! `sampan load` and `sampan save`: passes archives to the engine as open files, never as paths. Therefore the
//! person's permissions apply and not the engine's.

use crate::cli::args::display::{Progress, ProgressStyle};
use crate::cli::args::image::{Load, Save, SaveFormat};
use crate::cli::engine::engine;
use crate::cli::error::{Failure, USAGE};
use crate::cli::image::output_file::OutputFile;
use crate::cli::image::transport;
use crate::cli::job::follow::{follow, follow_to};
use crate::cli::output;
use crate::cli::signals;
use sampan_client::Engine;
use sampan_client::engine::{self, Container, Done, Request};
use signal_hook::consts::SIGPIPE;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

pub(crate) fn load(args: &Load) -> Result<(), Failure> {
    let from = match &args.input {
        Some(path) if path != Path::new("-") => transport::open_archive(path)?,
        _ => stdin()?,
    };
    let request = engine::Load {
        source: Container::DockerArchive,
        select: None,
        reference: args.name.clone(),
        platform: args.platform.clone(),
        no_unpack: args.no_unpack,
    };
    follow_to(&engine(&args.socket), Request::Load(request), &[from.as_fd()], &args.progress, Some(loaded))
}

pub(crate) fn save(args: &Save) -> Result<(), Failure> {
    let target = match args.format {
        SaveFormat::DockerArchive => Container::DockerArchive,
        SaveFormat::OciArchive => Container::OciArchive,
        SaveFormat::OciDir => Container::OciLayout,
    };
    let engine = engine(&args.socket);
    let Some(path) = args.output.as_deref().filter(|path| *path != Path::new("-")) else {
        let save = engine::Save { names: args.images.clone(), target, rename: None };
        return save_alone(&engine, save, &stdout(target)?);
    };
    save_into(&engine, &args.images, target, path, None, &args.progress)
}

/// Saves to standard output, and prints nothing else there.
fn save_alone(engine: &Engine, save: engine::Save, to: &OutputFile) -> Result<(), Failure> {
    let progress = Progress { quiet: true, progress: ProgressStyle::None };
    let saved = follow_to(engine, Request::Save(save), &[to.fd()], &progress, Some(|_| String::new()));
    if saved.is_err() && output::has_reader_left(&io::stdout()) {
        // The engine got the EPIPE, so no SIGPIPE came here: die of it, so that `save x | head` ends like other commands.
        signals::die_of(SIGPIPE);
    }
    saved
}

/// Saves to a file or directory. If that fails, the old file stays as it was.
pub(crate) fn save_into(
    engine: &Engine,
    images: &[String],
    target: Container,
    path: &Path,
    name: Option<&str>,
    progress: &Progress,
) -> Result<(), Failure> {
    let (save, to) = transport::save(images, target, path, name)?;
    if to.is_stdout() {
        return save_alone(engine, save, &stdout(target)?);
    }
    follow(engine, Request::Save(save), &[to.fd()], progress)?;
    to.finish().map_err(|error| Failure::new(format!("cannot write {}: {error}", path.display())))
}

fn stdout(target: Container) -> Result<OutputFile, Failure> {
    let stdout = io::stdout();
    let refuse = |message: &str, hint: &str| Err(Failure::new(message).status(USAGE).hint(hint));
    if target == Container::OciLayout {
        return refuse("cannot save a directory to standard output", "give --output DIR");
    }
    if stdout.is_terminal() {
        let hint = "give --output FILE, or redirect standard output";
        return refuse("cannot save an archive to a terminal", hint);
    }
    let fd = stdout.as_fd().try_clone_to_owned();
    fd.map(OutputFile::plain).map_err(|error| Failure::output(&error))
}

/// The result in the words of `docker load`.
pub(crate) fn loaded(done: &Done) -> String {
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
