//! The places of `sampan replicate`, in the form that the engine expects.
//!
//! Only completes what the person typed: the engine parses the places and opens them. A path is made absolute here,
//! since the engine has another working directory.

use crate::cli::error::{Failure, USAGE};
use crate::cli::image::transport::{self, Location};
use sampan_client::engine::Container;
use sampan_ipc::replication::{is_pattern, split_name};
use std::path::Path;

/// A source or a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// `docker://…`, `oci:/…` or `store:…`.
    pub text: String,
    /// The reference that tells which credentials the place needs; `None` if it needs none.
    pub reference: Option<String>,
}

impl Place {
    /// Whether this source means all tags: it is a pattern, a registry, a directory or the whole store.
    pub(crate) fn has_many(&self) -> bool {
        if let Some(name) = self.text.strip_prefix("store:") {
            return name.is_empty() || is_pattern(name);
        }
        if let Some(layout) = self.text.strip_prefix("oci:") {
            return layout.split_once(':').is_none_or(|(_, name)| name.is_empty() || is_pattern(name));
        }
        let name = self.text.strip_prefix("docker://").unwrap_or(&self.text);
        split_name(name).2
    }
}

/// Parses a place. A text without a transport is a repository of a registry.
pub(crate) fn parse(text: &str) -> Result<Place, Failure> {
    if text.starts_with("store:") {
        return Ok(Place { text: text.to_owned(), reference: None });
    }
    match transport::parse(text)? {
        Location::Registry(reference) if reference.is_empty() => {
            Err(Failure::new("the name of a repository is empty")
                .status(USAGE)
                .hint("write HOST/REPOSITORY, oci:DIR or store:"))
        }
        Location::Registry(reference) => {
            Ok(Place { text: format!("docker://{reference}"), reference: Some(with_host(reference)) })
        }
        Location::Files { container: Container::OciLayout, path, name } => layout(&path, name.as_deref()),
        Location::Files { .. } => Err(Failure::new(format!("cannot replicate {text:?}: it is an archive"))
            .status(USAGE)
            .hint("'sampan load' and 'sampan save' read and write archives; the store is store:")),
    }
}

fn layout(path: &Path, name: Option<&str>) -> Result<Place, Failure> {
    let cannot = |why: &str| Failure::new(format!("cannot use directory {}: {why}", path.display()));
    let absolute = std::path::absolute(path).map_err(|error| cannot(&error.to_string()))?;
    let absolute = absolute.to_str().ok_or_else(|| cannot("its path is not UTF-8").status(USAGE))?;
    if absolute.contains(':') {
        // The engine takes the text after the first colon for a name in the directory.
        let failure = cannot("its absolute path has a colon").status(USAGE);
        return Err(failure.hint("make a symbolic link to the directory"));
    }
    let name = name.map_or_else(String::new, |name| format!(":{name}"));
    Ok(Place { text: format!("oci:{absolute}{name}"), reference: None })
}

/// Completes a host without a repository, so that only the credentials of this host are sent.
fn with_host(reference: String) -> String {
    let name = reference.split(':').next().unwrap_or_default();
    match !reference.contains('/') && (name.contains('.') || name == "localhost") {
        true => reference + "/",
        false => reference,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry(text: &str) -> (String, String) {
        let place = parse(text).expect(text);
        (place.text, place.reference.expect("a registry"))
    }

    #[test]
    fn a_name_without_a_transport_is_a_repository() {
        for text in ["r.example/team/**", "docker://r.example/team/**"] {
            let expected = ("docker://r.example/team/**".to_owned(), "r.example/team/**".to_owned());
            assert_eq!(registry(text), expected);
        }
        assert_eq!(registry("localhost:5000").1, "localhost:5000/");
        assert_eq!(registry("alpine:3").1, "alpine:3");
        let store = parse("store:alpine").expect("good");
        assert_eq!((store.text.as_str(), store.reference), ("store:alpine", None));
    }

    #[test]
    fn a_path_is_made_absolute_and_keeps_its_name() {
        let dir = std::env::current_dir().expect("a directory");
        let text = parse("oci:usb/images:v1").expect("good").text;
        assert_eq!(text, format!("oci:{}:v1", dir.join("usb/images").display()));
        assert_eq!(parse("oci:/usb").expect("good").text, "oci:/usb");
    }

    #[test]
    fn a_source_without_a_repository_or_with_a_pattern_has_many_tags() {
        for text in
            ["r.example", "r.example/", "r.example/{a,b}", "[::1]:5000", "team/*", "store:", "oci:/usb"]
        {
            assert!(parse(text).expect(text).has_many(), "{text}");
        }
        for text in ["alpine", "alpine/x:3", "r.example/x", "[::1]:5000/x", "store:alpine", "oci:/usb:v1"] {
            assert!(!parse(text).expect(text).has_many(), "{text}");
        }
    }

    #[test]
    fn archives_and_empty_names_are_bad_usage() {
        for text in ["oci-archive:f", "docker-archive:f:x", "dir:x", "oci:", "docker://", ""] {
            assert_eq!(parse(text).expect_err(text).status, USAGE, "{text}");
        }
    }
}
