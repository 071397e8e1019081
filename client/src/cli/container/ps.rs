//! `sampan ps`: lists containers with docker's columns and words.

use crate::cli::args::container::Ps;
use crate::cli::engine::engine;
use crate::cli::error::Failure;
use crate::cli::format::{self, ListFormat, ListRow};
use crate::cli::human_units;
use crate::cli::output::print;
use crate::cli::table::Table;
use sampan_client::docker::columns;
use sampan_client::docker::columns::container::{ContainerColumns, HEADERS, command};
use sampan_client::docker::container_row::ContainerRow;
use sampan_client::docker::status;
use sampan_client::engine::{Answer, Request};
use sampan_client::time;
use sampan_ipc::container::Listing;
use sampan_ipc::details::ContainerDetail;

pub(crate) fn run(args: &Ps) -> Result<(), Failure> {
    let shape = ListFormat::parse(args.format.as_deref())?;
    let last = if args.latest { 1 } else { args.last.unwrap_or(0) };
    // Sizes take time, so the engine counts them only for an output that shows them.
    let size = args.size || ListFormat::shows(args.format.as_deref(), "Size");
    let listing = Listing { all: args.all || last > 0, last, filters: args.filters.clone(), size };
    let mut containers = Vec::new();
    for answer in engine(&args.socket).request(Request::ContainerDetails(listing), &[])? {
        if let Answer::ContainerDetails(more) = answer? {
            containers.extend(more);
        }
    }
    let now = time::now();
    if args.quiet {
        let ids = containers.iter().map(|one| columns::id(&one.summary.id, args.no_trunc) + "\n");
        return print(&ids.collect::<String>());
    }
    let rows = containers.iter().map(|container| {
        let row = ContainerRow::new(container, now);
        ListRow::new(&ContainerColumns::new(&row, args.no_trunc, now)).with_labels(&row.labels)
    });
    match shape.text(&rows.collect::<Vec<_>>(), &HEADERS)? {
        Some(text) => format::print(&text),
        None => print(&table(&containers, args, now)),
    }
}

fn table(containers: &[ContainerDetail], args: &Ps, now: i64) -> String {
    let mut header = vec!["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"];
    if args.size {
        header.push("SIZE");
    }
    let mut table = Table::new(&header);
    for ContainerDetail { summary: container, .. } in containers {
        let mut row = vec![
            columns::id(&container.id, args.no_trunc),
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
