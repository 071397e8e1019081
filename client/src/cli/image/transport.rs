//! Where images come from and go to when it is no registry: the names of containers-transports(5).
//!
//! Parses them, and opens what they name: the engine gets descriptors, never paths. Used by `pull` and `push`.

use crate::cli::error::{Failure, USAGE};
use crate::cli::image::output_file::OutputFile;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use sampan_client::engine::{self, Container};
use sampan_ipc::named_file;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// A place that images are in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Location {
    /// A registry: the reference without `docker://`.
    Registry(String),
    /// `oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]`, `docker-archive:FILE[:REF]`.
    Files {
        /// Which of the three.
        container: Container,
        /// The directory or file.
        path: PathBuf,
        /// The image's name within.
        name: Option<String>,
    },
}

/// Transports that others have, and what to do instead.
const UNSUPPORTED: [(&str, &str); 4] = [
    ("dir:", "copy it to oci: with skopeo first"),
    ("docker-daemon:", "pipe it: docker save IMAGE | sampan load"),
    ("containers-storage:", "pipe it: podman save IMAGE | sampan load"),
    ("tarball:", "'sampan import' makes an image of root file systems"),
];

/// Reads a place; what has no transport is a registry's.
pub(crate) fn parse(text: &str) -> Result<Location, Failure> {
    if let Some(reference) = text.strip_prefix("docker://") {
        return Ok(Location::Registry(reference.to_owned()));
    }
    for (prefix, hint) in UNSUPPORTED {
        if text.starts_with(prefix) {
            let failure =
                Failure::new(format!("cannot use {text:?}: {prefix} is not taken here")).status(USAGE);
            return Err(
                failure.hint(format!("{hint}; an image of that name is docker://docker.io/library/{text}"))
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
                let failure = Failure::new(format!("cannot use {text:?}: a path or a name is empty"));
                return Err(failure.status(USAGE).hint(format!("write {prefix}PATH or {prefix}PATH:NAME")));
            }
            return Ok(Location::Files { container, path: path.into(), name: name.map(str::to_owned) });
        }
    }
    Ok(Location::Registry(text.to_owned()))
}

/// What the engine is asked to load from a file or directory, and its descriptor.
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
    // An archive knows its images' names; a layout has tags, and its directory is the name.
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
    // O_DIRECTORY: a FIFO in its place is no directory, and not waited for.
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(path, flags, Mode::empty()).map_err(|errno| {
        Failure::new(format!("cannot open layout {}: {}", path.display(), std::io::Error::from(errno)))
    })
}

/// `localhost/DIR:TAG`, DIR being the last part of the path; a tag that is a reference by itself is that.
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

/// What the engine is asked to save into a file or directory, and that.
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
