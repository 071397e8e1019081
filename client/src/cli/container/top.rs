//! `sampan top`: runs ps(1) on this host, and prints its lines about the container's processes.

use crate::cli::args::container::Top;
use crate::cli::engine::engine;
use crate::cli::error::Failure;
use crate::cli::output::print;
use sampan_client::docker::top::Selection;
use sampan_client::engine::{Answer, Request};
use sampan_ipc::event::escape;
use std::process::Command;

pub(crate) fn run(args: &Top) -> Result<(), Failure> {
    let Some((name, options)) = args.words.split_first() else {
        return Err(Failure::new("no container is given"));
    };
    let mut pids = Vec::new();
    let request = Request::Top { container: name.clone(), columns: Vec::new() };
    for answer in engine(&args.socket).request(request, &[])? {
        if let Answer::Processes(more) = answer? {
            pids.extend(more);
        }
    }
    let default = ["-ef".to_owned()];
    let options = if options.is_empty() { &default[..] } else { options };
    let output = Command::new("ps").args(options).output().map_err(|error| {
        Failure::new(format!("cannot run ps: {error}")).hint("install the package procps")
    })?;
    if !output.status.success() {
        // Keep only the first line: after the reason, ps(1) prints its usage in many lines.
        let said = String::from_utf8_lossy(&output.stderr);
        let why = said.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("it did not say why");
        let why = why.trim_start_matches("error: ");
        return Err(Failure::new(format!("ps {} failed: {why}", options.join(" ")))
            .hint("the words after the container are options of ps(1)"));
    }
    let mut selection = Selection::new(pids);
    let lines = selection.push(&output.stdout).and_then(|()| selection.lines());
    let lines = lines.map_err(|error| Failure::new(error.to_string()).hint("add it: -o pid,…"))?;
    print(&text(&lines))
}

/// The lines with control characters shown.
fn text(lines: &[String]) -> String {
    let mut out = String::new();
    for line in lines {
        escape(&mut out, line);
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_cannot_write_to_the_terminal_by_its_name() {
        let lines = ["PID CMD".to_owned(), "1 sh -c \x1b[2J".to_owned()];
        assert_eq!(text(&lines), "PID CMD\n1 sh -c \\u{1b}[2J\n");
    }
}
