//! `sampan history`: the steps in which an image was built.

use crate::cli::args::image::History;
use crate::cli::engine::engine;
use crate::cli::error::Failure;
use crate::cli::format::{self, ListFormat, ListRow};
use crate::cli::output::print;
use crate::cli::table::Table;
use sampan_client::docker::columns::step::{HEADERS, StepColumns};
use sampan_client::docker::history::history;
use sampan_client::engine::{Answer, Request};
use sampan_client::time;

pub(crate) fn run(args: &History) -> Result<(), Failure> {
    let shape = ListFormat::parse(args.format.as_deref())?;
    let (mut images, mut steps) = (Vec::new(), Vec::new());
    for answer in engine(&args.socket).request(Request::History { name: args.image.clone() }, &[])? {
        match answer? {
            Answer::Images(more) => images.extend(more),
            Answer::History(more) => steps.extend(more),
            _ => {}
        }
    }
    let image = images.first();
    let image =
        image.ok_or_else(|| Failure::new(format!("the engine gave no answer for {:?}", args.image)))?;
    let now = time::now();
    let rows: Vec<StepColumns> = history(image, &steps)
        .iter()
        .map(|row| StepColumns::new(row, args.no_trunc, args.human, now))
        .collect();
    if args.quiet {
        return print(&rows.iter().map(|row| format!("{}\n", row.id)).collect::<String>());
    }
    match shape.text(&rows.iter().map(ListRow::new).collect::<Vec<_>>(), &HEADERS)? {
        Some(text) => format::print(&text),
        None => print(&table(&rows)),
    }
}

fn table(rows: &[StepColumns]) -> String {
    let mut table = Table::new(&["IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"]);
    for row in rows {
        let StepColumns { id, created_since, created_by, size, comment, .. } = row.clone();
        table.row(vec![id, created_since, created_by, size, comment]);
    }
    table.text()
}
