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
use sampan_client::engine::{Answer, Request};
use sampan_client::time;
use sampan_ipc::container::{Listing, Phase, Summary};
use serde_json::json;

/// Most characters of a command in the table.
const COMMAND: usize = 20;
/// Nanoseconds in a second.
const SECOND: i64 = 1_000_000_000;

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
            format!("{} ago", span(now.saturating_sub(container.created))),
            status(container, now),
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

/// The status in docker's words: `Up 5 minutes`, `Exited (0) 3 seconds ago`.
fn status(container: &Summary, now: i64) -> String {
    let since = |at: i64| span(now.saturating_sub(at));
    match container.phase {
        Phase::Created => "Created".to_owned(),
        Phase::Running => format!("Up {}", since(container.started)),
        Phase::Paused => format!("Up {} (Paused)", since(container.started)),
        Phase::Restarting => {
            format!("Restarting ({}) {} ago", container.exit_code, since(container.finished))
        }
        Phase::Exited => format!("Exited ({}) {} ago", container.exit_code, since(container.finished)),
        Phase::Removing => "Removal In Progress".to_owned(),
        Phase::Dead => "Dead".to_owned(),
    }
}

/// A duration in docker's words: `Less than a second`, `About a minute`, `3 hours`.
fn span(nanos: i64) -> String {
    let seconds = nanos.max(0) / SECOND;
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match (seconds, minutes, hours) {
        (0, ..) => "Less than a second".to_owned(),
        (1, ..) => "1 second".to_owned(),
        (2..60, ..) => format!("{seconds} seconds"),
        (_, 1, _) => "About a minute".to_owned(),
        (_, 2..60, _) => format!("{minutes} minutes"),
        (.., 1) => "About an hour".to_owned(),
        (.., 2..48) => format!("{hours} hours"),
        (.., 48..336) => format!("{} days", hours / 24),
        (.., 336..1440) => format!("{} weeks", hours / 24 / 7),
        (.., 1440..17_520) => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

fn json_container(container: &Summary, now: i64) -> serde_json::Value {
    let at = |nanos: i64| (nanos != 0).then(|| time::local(nanos));
    let labels: serde_json::Map<_, _> =
        container.labels.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
    json!({
        "id": container.id, "name": container.name, "image": container.image, "imageId": container.image_id,
        "command": container.command, "created": at(container.created), "state": container.phase.word(),
        "status": status(container, now), "pid": container.pid, "exitCode": container.exit_code,
        "started": at(container.started), "finished": at(container.finished), "restarts": container.restarts,
        "labels": labels, "mounts": container.mounts, "network": container.network, "size": container.size,
        "error": container.error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_of_time_have_dockers_words() {
        let cases = [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (3599, "59 minutes"),
            (3600, "About an hour"),
            (7200, "2 hours"),
            (172_800, "2 days"),
            (1_209_600, "2 weeks"),
            (5_184_000, "2 months"),
            (63_072_000, "2 years"),
        ];
        for (seconds, words) in cases {
            assert_eq!(span(seconds * SECOND), words, "{seconds}");
        }
        assert_eq!(span(-5), "Less than a second");
    }

    #[test]
    fn the_status_is_told_in_dockers_words() {
        let of = |phase| Summary { phase, started: 1, finished: SECOND, exit_code: 3, ..Summary::default() };
        let told = |phase| status(&of(phase), 4 * SECOND);
        assert_eq!(told(Phase::Created), "Created");
        assert_eq!(told(Phase::Running), "Up 3 seconds");
        assert_eq!(told(Phase::Paused), "Up 3 seconds (Paused)");
        assert_eq!(told(Phase::Exited), "Exited (3) 3 seconds ago");
        assert_eq!(told(Phase::Restarting), "Restarting (3) 3 seconds ago");
    }

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
