//! `sampan system df`: how much of the disk images and containers use, and how much of that can be reclaimed.

use crate::cli::args::system::Df;
use crate::cli::engine::engine;
use crate::cli::error::{Failure, USAGE};
use crate::cli::format::{self, ListFormat, ListRow};
use crate::cli::human_units;
use crate::cli::image::list::json_image;
use crate::cli::json;
use crate::cli::output::print;
use crate::cli::table::Table;
use sampan_client::docker::columns;
use sampan_client::docker::columns::image::repository_and_tag;
use sampan_client::docker::columns::usage::{HEADERS, UsageColumns, kind, percent};
use sampan_client::engine::{Answer, ImageUsage, Request, Usage};
use sampan_client::time;
use serde_json::json;

pub(crate) fn run(args: &Df) -> Result<(), Failure> {
    let shape = ListFormat::parse(args.format.as_deref())?;
    if args.verbose && !matches!(shape, ListFormat::Table | ListFormat::Json) {
        return Err(
            Failure::new("--verbose prints more than one list, so that it takes no template").status(USAGE)
        );
    }
    let (mut kinds, mut images) = (Vec::new(), Vec::new());
    for answer in engine(&args.socket).request(Request::Usage, &[])? {
        match answer? {
            Answer::Usage(more) => kinds.extend(more),
            Answer::ImageUsage(more) => images.extend(more),
            _ => {}
        }
    }
    if args.verbose && matches!(shape, ListFormat::Json) {
        let images: Vec<_> = images.iter().map(json_usage).collect();
        return print(&(json::line(&json!({"kinds": kinds, "images": images})) + "\n"));
    }
    let rows: Vec<ListRow> = kinds.iter().map(|usage| ListRow::new(&UsageColumns::new(usage))).collect();
    match shape.text(&rows, &HEADERS)? {
        Some(text) => format::print(&text),
        None if args.verbose => print(&(table(&kinds) + "\n" + &image_table(&images))),
        None => print(&table(&kinds)),
    }
}

fn table(kinds: &[Usage]) -> String {
    let mut table = Table::new(&["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"]);
    for usage in kinds {
        // The unpacked layers are a part of the row of the images.
        let indent = if usage.kind == "layers" { "  " } else { "" };
        table.row(vec![
            format!("{indent}{}", kind(&usage.kind)),
            usage.count.to_string(),
            usage.active.to_string(),
            human_units::bytes(usage.size),
            format!("{} ({}%)", human_units::bytes(usage.reclaimable), percent(usage)),
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
            columns::id(&image.id, false),
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
