//! `sampan system df`: how much of the disk images and containers use, and how much of that can be reclaimed.

use crate::cli::args::display::ListFormat;
use crate::cli::args::system::Df;
use crate::cli::engine::engine;
use crate::cli::error::Failure;
use crate::cli::human_units;
use crate::cli::image::list::{json_image, repository_and_tag, shorten};
use crate::cli::json;
use crate::cli::output::print;
use crate::cli::table::Table;
use sampan_client::engine::{Answer, ImageUsage, Request, Usage};
use sampan_client::time;
use serde_json::json;

pub(crate) fn run(args: &Df) -> Result<(), Failure> {
    let (mut kinds, mut images) = (Vec::new(), Vec::new());
    for answer in engine(&args.socket).request(Request::Usage, &[])? {
        match answer? {
            Answer::Usage(more) => kinds.extend(more),
            Answer::ImageUsage(more) => images.extend(more),
            _ => {}
        }
    }
    print(&match (args.format, args.verbose) {
        (ListFormat::Json, true) => {
            let images: Vec<_> = images.iter().map(json_usage).collect();
            json::line(&json!({"kinds": kinds, "images": images})) + "\n"
        }
        (ListFormat::Json, false) => json::line(&kinds) + "\n",
        (ListFormat::Table, true) => table(&kinds) + "\n" + &image_table(&images),
        (ListFormat::Table, false) => table(&kinds),
    })
}

fn table(kinds: &[Usage]) -> String {
    let mut table = Table::new(&["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"]);
    for Usage { kind, count, active, size, reclaimable } in kinds {
        let name = match kind.as_str() {
            "images" => "Images",
            // This row is a part of the row of the images.
            "layers" => "  Unpacked layers",
            "partials" => "Partial downloads",
            "containers" => "Containers",
            other => other,
        };
        let percent = reclaimable.saturating_mul(100).checked_div(*size).unwrap_or(0);
        table.row(vec![
            name.to_owned(),
            count.to_string(),
            active.to_string(),
            human_units::bytes(*size),
            format!("{} ({percent}%)", human_units::bytes(*reclaimable)),
        ]);
    }
    table.text()
}

fn image_table(images: &[ImageUsage]) -> String {
    let header = ["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE", "SHARED SIZE", "UNIQUE SIZE", "IN USE"];
    let mut table = Table::new(&header);
    for usage in images {
        let image = &usage.image;
        let (repository, tag) = repository_and_tag(image.references.first().map_or("", String::as_str));
        let created = image.created.map(|at| human_units::age(time::now().saturating_sub(at)));
        table.row(vec![
            repository,
            tag,
            shorten(&image.id, false),
            created.unwrap_or_else(|| "-".to_owned()),
            human_units::bytes(usage.size),
            human_units::bytes(usage.size.saturating_sub(usage.unique)),
            human_units::bytes(usage.unique),
            if usage.in_use { "yes" } else { "no" }.to_owned(),
        ]);
    }
    table.text()
}

fn json_usage(usage: &ImageUsage) -> serde_json::Value {
    let mut value = json_image(&usage.image);
    if let Some(image) = value.as_object_mut() {
        image.insert("uniqueSize".to_owned(), usage.unique.into());
        image.insert("sharedSize".to_owned(), usage.size.saturating_sub(usage.unique).into());
        image.insert("inUse".to_owned(), usage.in_use.into());
    }
    value
}
