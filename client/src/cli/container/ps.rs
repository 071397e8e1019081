//! `sampan ps`: lists containers with docker's columns and words.

use crate::cli::args::container::Ps;
use crate::cli::args::display::ListFormat;
use crate::cli::engine::engine;
use crate::cli::error::Failure;
use crate::cli::human_units;
use crate::cli::image::list::shorten;
use crate::cli::json;
use crate::cli::output::print;
use crate::cli::table::Table;
use sampan_client::docker::status;
use sampan_client::engine::{Answer, Request};
use sampan_client::time;
use sampan_ipc::container::{Listing, Summary};
use serde_json::json;

/// Most characters of a command in the table.
const COMMAND: usize = 20;

pub(crate) fn run(args: &Ps) -> Result<(), Failure> {
    let last = if args.latest { 1 } else { args.last.unwrap_or(0) };
    let listing = Listing { all: args.all || last > 0, last, filters: args.filters.clone(), size: args.size };
    let mut containers = Vec::new();
    for answer in engine(&args.socket).request(Request::Containers(listing), &[])? {
        if let Answer::Containers(more) = answer? {
            containers.extend(more);
        }
    }
    let now = time::now();
    print(&match (args.quiet, args.format) {
        (true, _) => {
            containers.iter().map(|container| shorten(&container.id, args.no_trunc) + "\n").collect()
        }
        (false, ListFormat::Json) => {
            json::line(&containers.iter().map(|one| json_container(one, now)).collect::<Vec<_>>()) + "\n"
        }
        (false, ListFormat::Table) => table(&containers, args, now),
    })
}

fn table(containers: &[Summary], args: &Ps, now: i64) -> String {
    let mut header = vec!["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"];
    if args.size {
        header.push("SIZE");
    }
    let mut table = Table::new(&header);
    for container in containers {
        let mut row = vec![
            shorten(&container.id, args.no_trunc),
            container.image.clone(),
            command(&container.command, args.no_trunc),
            format!("{} ago", status::span(now.saturating_sub(container.created))),
            status::container(container, now),
            // The column of ports is empty, since no network has ports yet; scripts count columns.
            String::new(),
            container.name.clone(),
        ];
        if args.size {
            row.push(container.size.map_or_else(|| "-".to_owned(), human_units::bytes));
        }
        table.row(row);
    }
    table.text()
}

/// Shortens and quotes a command as docker does.
fn command(command: &str, whole: bool) -> String {
    if whole || command.chars().count() <= COMMAND {
        return format!("\"{command}\"");
    }
    let start: String = command.chars().take(COMMAND - 1).collect();
    format!("\"{start}…\"")
}

fn json_container(container: &Summary, now: i64) -> serde_json::Value {
    let at = |nanos: i64| (nanos != 0).then(|| time::local(nanos));
    let labels: serde_json::Map<_, _> =
        container.labels.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
    json!({
        "id": container.id, "name": container.name, "image": container.image, "imageId": container.image_id,
        "command": container.command, "created": at(container.created), "state": container.phase.word(),
        "status": status::container(container, now), "pid": container.pid, "exitCode": container.exit_code,
        "started": at(container.started), "finished": at(container.finished), "restarts": container.restarts,
        "labels": labels, "mounts": container.mounts, "network": container.network, "size": container.size,
        "error": container.error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_command_is_cut_between_characters() {
        assert_eq!(command("sh -c ls", false), "\"sh -c ls\"");
        assert_eq!(
            command("\u{e4}\u{e4}\u{e4}456789012345678901", false),
            "\"\u{e4}\u{e4}\u{e4}4567890123456789…\""
        );
        assert_eq!(command("123456789012345678901", true), "\"123456789012345678901\"");
    }
}
