//! Names of images in the form that docker's clients show and expect.
//!
//! Used by the engine for the documents of `inspect`, and by the gateway and the command line for everything else.

/// Shortens a full reference to docker's familiar form: `docker.io/library/alpine:latest` becomes `alpine:latest`,
/// `docker.io/me/app:1` becomes `me/app:1`. References to other registries stay as they are.
pub fn familiar(reference: &str) -> &str {
    let Some(path) = reference.strip_prefix("docker.io/") else { return reference };
    match path.strip_prefix("library/") {
        // `library/a/b` is no official image, and would be another image without `library/`.
        Some(name) if !name.is_empty() && !name.contains('/') => name,
        _ => path,
    }
}

/// The repository of a full reference, in familiar form: `alpine` for `docker.io/library/alpine:latest`.
pub fn repository(reference: &str) -> &str {
    let name = familiar(reference);
    let name = name.split_once('@').map_or(name, |(name, _)| name);
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_hub_and_its_library_are_left_out() {
        for (full, short) in [
            ("docker.io/library/alpine:latest", "alpine:latest"),
            ("docker.io/me/app:1", "me/app:1"),
            ("docker.io/library/a/b:1", "library/a/b:1"),
            ("localhost:5000/library/alpine:latest", "localhost:5000/library/alpine:latest"),
            ("quay.io/a/b@sha256:00", "quay.io/a/b@sha256:00"),
            ("alpine", "alpine"),
            ("docker.io/library/", "library/"),
            ("", ""),
        ] {
            assert_eq!(familiar(full), short);
        }
    }

    #[test]
    fn a_repository_has_neither_tag_nor_digest() {
        for (full, name) in [
            ("docker.io/library/alpine:latest", "alpine"),
            ("localhost:5000/a/b", "localhost:5000/a/b"),
            ("localhost:5000/a/b:1", "localhost:5000/a/b"),
            ("localhost:5000/a/b:1@sha256:00", "localhost:5000/a/b"),
            ("", ""),
        ] {
            assert_eq!(repository(full), name);
        }
    }
}
