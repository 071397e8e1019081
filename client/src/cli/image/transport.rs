//! The transports of containers-transports(5): names of registries, and of files and directories with images.
//!
//! Parses names, and opens the files and directories: the engine gets descriptors, never paths. Used by `pull`,
//! `push`, `load` and `save`.

use crate::cli::error::{Failure, USAGE};
use crate::cli::image::output_file::OutputFile;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use sampan_client::engine::{self, Container};
use sampan_ipc::named_file;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// The location of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Location {
    /// A registry: the reference without `docker://`.
    Registry(String),
    /// A file or directory: `oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]` or `docker-archive:FILE[:REF]`.
    Files {
        container: Container,
        path: PathBuf,
        /// The tag or reference in the directory or file.
        name: Option<String>,
    },
}

/// Transports of other tools, with their replacements.
const UNSUPPORTED: [(&str, &str); 4] = [
    ("dir:", "copy the image to oci: with skopeo first"),
    ("docker-daemon:", "use a pipe: docker save IMAGE | sampan load"),
    ("containers-storage:", "use a pipe: podman save IMAGE | sampan load"),
    ("tarball:", "'sampan import' creates an image from root file system tars"),
];

/// Parses a location. A text without a transport is the reference of an image in a registry.
pub(crate) fn parse(text: &str) -> Result<Location, Failure> {
    if let Some(reference) = text.strip_prefix("docker://") {
        return Ok(Location::Registry(reference.to_owned()));
    }
    for (prefix, hint) in UNSUPPORTED {
        if text.starts_with(prefix) {
            let failure =
                Failure::new(format!("cannot use {text:?}: {prefix} is not supported")).status(USAGE);
            return Err(
                failure.hint(format!("{hint}; an image with that name is docker://docker.io/library/{text}"))
            );
        }
    }
    let kinds = [
        ("oci:", Container::OciLayout),
        ("oci-archive:", Container::OciArchive),
        ("docker-archive:", Container::DockerArchive),
    ];
    for (prefix, container) in kinds {
        if let Some(rest) = text.strip_prefix(prefix) {
            let (path, name) = rest.split_once(':').map_or((rest, None), |(path, name)| (path, Some(name)));
            if path.is_empty() || name.is_some_and(str::is_empty) {
                let failure = Failure::new(format!("cannot use {text:?}: the path or the name is empty"));
                return Err(failure.status(USAGE).hint(format!("write {prefix}PATH or {prefix}PATH:NAME")));
            }
            return Ok(Location::Files { container, path: path.into(), name: name.map(str::to_owned) });
        }
    }
    Ok(Location::Registry(text.to_owned()))
}

/// Opens a file or directory, and makes the request to load from it.
pub(crate) fn load(
    container: Container,
    path: &Path,
    name: Option<&str>,
    platform: Option<String>,
    no_unpack: bool,
) -> Result<(engine::Load, OwnedFd), Failure> {
    let from = match container {
        Container::OciLayout => directory(path)?,
        _ => open_archive(path)?,
    };
    // An archive contains the names of its images. A layout contains only tags, so its directory gives the name.
    let reference = match container {
        Container::OciLayout => Some(local_name(path, name)),
        _ => None,
    };
    let select = name.map(str::to_owned);
    Ok((engine::Load { source: container, select, reference, platform, no_unpack }, from))
}

/// Opens an archive.
pub(crate) fn open_archive(path: &Path) -> Result<OwnedFd, Failure> {
    let opened = named_file::open(path).map(OwnedFd::from);
    opened.map_err(|error| Failure::new(format!("cannot read archive {}: {error}", path.display())))
}

fn directory(path: &Path) -> Result<OwnedFd, Failure> {
    // O_DIRECTORY, so that a FIFO at the path is an error and does not block.
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(path, flags, Mode::empty()).map_err(|errno| {
        Failure::new(format!("cannot open layout {}: {}", path.display(), std::io::Error::from(errno)))
    })
}

/// Returns `localhost/DIR:TAG`, where DIR is the last part of the path. If the tag is a complete reference, returns
/// the tag.
fn local_name(path: &Path, tag: Option<&str>) -> String {
    if let Some(reference) = tag.filter(|tag| tag.contains('/')) {
        return reference.to_owned();
    }
    let full = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let last = full.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    let kept: String =
        last.chars().map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' }).collect();
    let words: Vec<&str> = kept.split('-').filter(|word| !word.is_empty()).collect();
    let name = if words.is_empty() { "layout".to_owned() } else { words.join("-") };
    format!("localhost/{name}:{}", tag.unwrap_or("latest"))
}

/// Opens a file or directory, and makes the request to save to it.
pub(crate) fn save(
    images: &[String],
    container: Container,
    path: &Path,
    name: Option<&str>,
) -> Result<(engine::Save, OutputFile), Failure> {
    let to = match container {
        Container::OciLayout => OutputFile::directory(path),
        _ => OutputFile::file(path),
    };
    let to = to.map_err(|error| Failure::new(format!("cannot write {}: {error}", path.display())))?;
    let rename = name.map(str::to_owned);
    Ok((engine::Save { names: images.to_vec(), target: container, rename }, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(text: &str) -> (Container, String, Option<String>) {
        match parse(text) {
            Ok(Location::Files { container, path, name }) => (container, path.display().to_string(), name),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn transports_are_told_from_references_and_split_at_the_first_colon() {
        assert_eq!(files("oci:/a/b"), (Container::OciLayout, "/a/b".to_owned(), None));
        assert_eq!(files("oci:d:v1"), (Container::OciLayout, "d".to_owned(), Some("v1".to_owned())));
        let tagged = (Container::DockerArchive, "f".to_owned(), Some("host:5000/a:1".to_owned()));
        assert_eq!(files("docker-archive:f:host:5000/a:1"), tagged);
        for reference in ["alpine", "host:5000/a:1", "ocid:1"] {
            assert_eq!(parse(reference).expect("good"), Location::Registry(reference.to_owned()));
        }
        assert_eq!(parse("docker://oci:1").expect("good"), Location::Registry("oci:1".to_owned()));
        for bad in ["oci:", "oci-archive::x", "docker-archive:f:", "dir:x", "docker-daemon:x:1"] {
            assert_eq!(parse(bad).expect_err(bad).status, USAGE);
        }
    }

    #[test]
    fn an_image_of_a_layout_is_called_after_its_directory_and_tag() {
        assert_eq!(local_name(Path::new("/srv/My_App.d/"), Some("v1")), "localhost/my-app-d:v1");
        assert_eq!(local_name(Path::new("/"), None), "localhost/layout:latest");
        assert_eq!(local_name(Path::new("x"), Some("quay.io/a/b:1")), "quay.io/a/b:1");
    }
}
