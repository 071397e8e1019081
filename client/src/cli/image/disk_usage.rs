//! What the store takes on the disk, and what of it goes: `system df`, `image prune`.

use crate::cli::args::display::ListFormat;
use crate::cli::args::image::{Prune, Verify};
use crate::cli::args::system::Df;
use crate::cli::error::{Failure, USAGE};
use crate::cli::event::format;
use crate::cli::human_units;
use crate::cli::image::list::{json_image, print, removed, repository_and_tag, shorten};
use crate::cli::job::commands::{engine, finish, follow};
use crate::cli::table::Table;
use sampan_client::engine::{self, Answer, ImageUsage, Request, Usage};
use sampan_client::time;
use serde_json::json;
use std::io::{self, BufRead, IsTerminal, Write};

/// Runs `sampan system df`.
///
/// # Errors
/// The engine is not there, or cannot read its store.
pub fn usage(args: &Df) -> Result<(), Failure> {
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
            format::json(&json!({"kinds": kinds, "images": images})) + "\n"
        }
        (ListFormat::Json, false) => format::json(&kinds) + "\n",
        (ListFormat::Table, true) => table(&kinds) + "\n" + &image_table(&images),
        (ListFormat::Table, false) => table(&kinds),
    })
}

fn table(kinds: &[Usage]) -> String {
    let mut table = Table::new(&["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"]);
    for Usage { kind, count, active, size, reclaimable } in kinds {
        let name = match kind.as_str() {
            "images" => "Images",
            "layers" => "Unpacked layers",
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
    value["diskSize"] = usage.size.into();
    value["uniqueSize"] = usage.unique.into();
    value["sharedSize"] = usage.size.saturating_sub(usage.unique).into();
    value["inUse"] = usage.in_use.into();
    value
}

/// Runs `sampan image prune`.
///
/// # Errors
/// A filter makes no sense, the engine is not there, or an image cannot be read.
pub fn prune(args: &Prune) -> Result<(), Failure> {
    let request = Request::Prune(filtered(args)?);
    if !args.force && io::stdin().is_terminal() && !confirmed(args.all)? {
        return Ok(());
    }
    let done = finish(engine(&args.socket).request(request, &[])?)?;
    print(&format!("{}Total reclaimed space: {}\n", removed(&done), human_units::bytes(done.freed)))
}

fn filtered(args: &Prune) -> Result<engine::Prune, Failure> {
    let mut prune = engine::Prune { all: args.all, ..engine::Prune::default() };
    for filter in &args.filters {
        match filter.split_once('=') {
            Some(("until", text)) => {
                let until = time::parse(text, time::now()).map_err(Failure::usage)?;
                // Before all of them.
                prune.until = Some(prune.until.map_or(until, |other| other.min(until)));
            }
            Some(("label", label)) if !label.is_empty() && !label.starts_with('=') => {
                prune.labels.push(label.to_owned());
            }
            _ => {
                return Err(Failure::new(format!("filter {filter:?} is not known"))
                    .hint("until=TIME and label=KEY[=VALUE] are")
                    .status(USAGE));
            }
        }
    }
    Ok(prune)
}

fn confirmed(all: bool) -> Result<bool, Failure> {
    let what = if all { "all images that nothing uses" } else { "all images that have no name" };
    let prompt = format!("This removes {what}, and content that no image needs. Go on? [y/N] ");
    let mut stderr = io::stderr();
    let asked = stderr.write_all(prompt.as_bytes()).and_then(|()| stderr.flush());
    asked.map_err(|error| Failure::new(format!("cannot ask: {error}")).hint("--force does not ask"))?;
    let mut line = String::new();
    let read = io::stdin().lock().read_line(&mut line);
    read.map_err(|error| {
        Failure::new(format!("cannot read an answer: {error}")).hint("--force does not ask")
    })?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes" | "Yes"))
}

/// Runs `sampan image verify`.
///
/// # Errors
/// Something in the store is broken, or the engine is not there.
pub fn verify(args: &Verify) -> Result<(), Failure> {
    follow(&engine(&args.socket), Request::Verify(engine::Verify { deep: args.deep }), &[], &args.progress)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::socket::EngineSocket;

    #[test]
    fn several_filters_are_all_kept_and_the_earliest_time_wins() {
        let of = |filters: &[&str]| {
            let filters = filters.iter().map(|f| (*f).to_owned()).collect();
            filtered(&Prune { all: false, force: true, filters, socket: EngineSocket { socket: None } })
        };
        let both = of(&["until=2020-01-01T00:00:00Z", "until=2019-01-01T00:00:00Z", "label=a=b", "label=c"]);
        let both = both.expect("good");
        assert_eq!(both.until, Some(1_546_300_800_000_000_000));
        assert_eq!(both.labels, ["a=b", "c"]);
        for bad in ["until=never", "label=", "label==x", "dangling=true", "until"] {
            assert_eq!(of(&[bad]).expect_err("refused").status, USAGE, "{bad}");
        }
    }
}
