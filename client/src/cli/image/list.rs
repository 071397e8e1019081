//! `sampan images`: lists the images of the store.

use crate::cli::args::display::ListFormat;
use crate::cli::args::image::Images;
use crate::cli::engine::engine;
use crate::cli::error::Failure;
use crate::cli::human_units;
use crate::cli::json;
use crate::cli::output::print;
use crate::cli::table::Table;
use sampan_client::engine::{Answer, Image, Request};
use sampan_client::time;
use serde_json::json;

/// Number of digits of a shortened digest, as in docker and podman.
const SHORT: usize = 12;

pub(crate) fn run(args: &Images) -> Result<(), Failure> {
    let mut images = Vec::new();
    for answer in engine(&args.socket).request(Request::Images, &[])? {
        if let Answer::Images(more) = answer? {
            images.extend(more);
        }
    }
    if let Some(name) = &args.name {
        keep_named(&mut images, name);
    }
    let text = match (args.quiet, args.format) {
        (true, _) => quiet(&images, args.no_trunc),
        (false, ListFormat::Json) => json::line(&images.iter().map(json_image).collect::<Vec<_>>()) + "\n",
        (false, ListFormat::Table) => table(&images, args),
    };
    print(&text)
}

/// Keeps only the references that `name` selects, and only images with such a reference.
fn keep_named(images: &mut Vec<Image>, name: &str) {
    for image in &mut *images {
        image.references.retain(|reference| is_meant(reference, name));
    }
    images.retain(|image| !image.references.is_empty());
}

/// Whether `name` is the reference or its repository, with or without the `docker.io/library/` that docker omits.
fn is_meant(reference: &str, name: &str) -> bool {
    let (repository, _) = repository_and_tag(reference);
    [reference, &repository].into_iter().any(|whole| {
        let short = ["", "docker.io/", "docker.io/library/"];
        short.iter().any(|before| whole.strip_prefix(before) == Some(name))
    })
}

/// Prints only IDs. Each ID occurs once.
fn quiet(images: &[Image], whole: bool) -> String {
    let mut ids: Vec<&str> = Vec::with_capacity(images.len());
    for image in images {
        if !ids.contains(&image.id.as_str()) {
            ids.push(&image.id);
        }
    }
    ids.iter().map(|id| shorten(id, whole) + "\n").collect()
}

fn table(images: &[Image], args: &Images) -> String {
    let mut header = vec!["REPOSITORY", "TAG", "IMAGE ID", "PLATFORM", "CREATED", "SIZE"];
    if args.digests {
        header.insert(2, "DIGEST");
    }
    let mut table = Table::new(&header);
    for image in images {
        let none = [String::new()];
        let references = if image.references.is_empty() { &none[..] } else { &image.references[..] };
        for reference in references {
            let (repository, tag) = repository_and_tag(reference);
            let created = image.created.map(|at| human_units::age(time::now().saturating_sub(at)));
            let mut row = vec![
                repository,
                tag,
                shorten(&image.id, args.no_trunc),
                image.platform.clone(),
                created.unwrap_or_else(|| "-".to_owned()),
                human_units::bytes(image.size),
            ];
            if args.digests {
                row.insert(2, image.digest.clone());
            }
            table.row(row);
        }
    }
    table.text()
}

/// Splits a reference into the columns repository and tag. A reference with a digest shows no tag.
pub(crate) fn repository_and_tag(reference: &str) -> (String, String) {
    let none = || "<none>".to_owned();
    let (name, has_digest) = reference.split_once('@').map_or((reference, false), |(name, _)| (name, true));
    match name.rsplit_once(':') {
        _ if name.is_empty() => (none(), none()),
        Some((repository, tag)) if !tag.contains('/') => {
            (repository.to_owned(), if has_digest { none() } else { tag.to_owned() })
        }
        _ => (name.to_owned(), none()),
    }
}

/// Shortens a digest to its first digits, unless `whole` is true.
pub(crate) fn shorten(digest: &str, whole: bool) -> String {
    if whole {
        return digest.to_owned();
    }
    let digits = digest.split_once(':').map_or(digest, |(_, digits)| digits);
    digits.chars().take(SHORT).collect()
}

pub(crate) fn json_image(image: &Image) -> serde_json::Value {
    json!({
        "references": image.references, "digest": image.digest, "id": image.id, "platform": image.platform,
        "size": image.size, "layers": image.layers, "created": image.created.map(time::local),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_split_behind_its_port() {
        let split = |reference| {
            let (repository, tag) = repository_and_tag(reference);
            format!("{repository} {tag}")
        };
        assert_eq!(split("host:5000/a/b:1"), "host:5000/a/b 1");
        assert_eq!(split("host:5000/a/b"), "host:5000/a/b <none>");
        assert_eq!(split("docker.io/library/alpine@sha256:00"), "docker.io/library/alpine <none>");
        assert_eq!(split("host:5000/a/b:1@sha256:00"), "host:5000/a/b <none>");
        assert_eq!(split(""), "<none> <none>");
    }

    #[test]
    fn an_id_is_printed_once_and_short() {
        let image = |id: &str| Image { id: id.into(), ..Image::default() };
        let images = [image("sha256:0123456789abcdef"), image("sha256:0123456789abcdef")];
        assert_eq!(quiet(&images, false), "0123456789ab\n");
        assert_eq!(quiet(&images, true), "sha256:0123456789abcdef\n");
    }
}
