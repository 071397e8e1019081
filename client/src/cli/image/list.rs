//! `sampan images`: lists the images of the store.

use crate::cli::args::image::Images;
use crate::cli::engine::engine;
use crate::cli::error::Failure;
use crate::cli::format::{self, ListFormat, ListRow};
use crate::cli::human_units;
use crate::cli::output::print;
use crate::cli::table::Table;
use sampan_client::docker::columns;
use sampan_client::docker::columns::image::{HEADERS, ImageColumns, repository_and_tag};
use sampan_client::engine::{Answer, Image, Request};
use sampan_client::time;
use sampan_ipc::details::ImageDetail;
use serde_json::json;

pub(crate) fn run(args: &Images) -> Result<(), Failure> {
    let shape = ListFormat::parse(args.format.as_deref())?;
    let mut images = Vec::new();
    for answer in engine(&args.socket).request(Request::ImageDetails, &[])? {
        if let Answer::ImageDetails(more) = answer? {
            images.extend(more);
        }
    }
    if let Some(name) = &args.name {
        keep_named(&mut images, name);
    }
    if args.quiet {
        return print(&quiet(&images, args.no_trunc));
    }
    let now = time::now();
    let rows = images.iter().flat_map(|image| {
        let rows = ImageColumns::rows(image, args.no_trunc, now);
        rows.into_iter().map(|columns| {
            ListRow::new(&columns).with_labels(image.labels.iter().map(|(key, value)| (key, value)))
        })
    });
    match shape.text(&rows.collect::<Vec<_>>(), &HEADERS)? {
        Some(text) => format::print(&text),
        None => print(&table(&images, args)),
    }
}

/// Keeps only the references that `name` selects, and only images with such a reference.
fn keep_named(images: &mut Vec<ImageDetail>, name: &str) {
    for ImageDetail { image, .. } in &mut *images {
        image.references.retain(|reference| is_meant(reference, name));
    }
    images.retain(|detail| !detail.image.references.is_empty());
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
fn quiet(images: &[ImageDetail], whole: bool) -> String {
    let mut ids: Vec<&str> = Vec::with_capacity(images.len());
    for ImageDetail { image, .. } in images {
        if !ids.contains(&image.id.as_str()) {
            ids.push(&image.id);
        }
    }
    ids.iter().map(|id| columns::id(id, whole) + "\n").collect()
}

fn table(images: &[ImageDetail], args: &Images) -> String {
    let mut header = vec!["REPOSITORY", "TAG", "IMAGE ID", "PLATFORM", "CREATED", "SIZE"];
    if args.digests {
        header.insert(2, "DIGEST");
    }
    let mut table = Table::new(&header);
    for ImageDetail { image, .. } in images {
        let none = [String::new()];
        let references = if image.references.is_empty() { &none[..] } else { &image.references[..] };
        for reference in references {
            let (repository, tag) = repository_and_tag(reference);
            let created = image.created.map(|at| human_units::age(time::now().saturating_sub(at)));
            let mut row = vec![
                repository,
                tag,
                columns::id(&image.id, args.no_trunc),
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
    fn an_id_is_printed_once_and_short() {
        let image = |id: &str| {
            let image = Image { id: id.into(), ..Image::default() };
            ImageDetail { image, ..ImageDetail::default() }
        };
        let images = [image("sha256:0123456789abcdef"), image("sha256:0123456789abcdef")];
        assert_eq!(quiet(&images, false), "0123456789ab\n");
        assert_eq!(quiet(&images, true), "sha256:0123456789abcdef\n");
    }
}
