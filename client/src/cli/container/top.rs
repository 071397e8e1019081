//! `sampan top`: runs ps(1) on this host, and prints its lines about the container's processes.

use crate::cli::args::container::Top;
use crate::cli::engine::engine;
use crate::cli::error::Failure;
use crate::cli::output::print;
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
    let text = rows(&String::from_utf8_lossy(&output.stdout), &pids)?;
    print(&text)
}

/// The header of ps(1), and its lines about `pids`.
fn rows(text: &str, pids: &[i32]) -> Result<String, Failure> {
    let mut lines = text.lines();
    let header = lines.next().unwrap_or_default();
    let at = header.split_whitespace().position(|word| word == "PID").ok_or_else(|| {
        Failure::new("cannot find the container's processes: the output of ps has no column PID")
            .hint("add it: -o pid,…")
    })?;
    let is_ours = |line: &&str| {
        let pid = line.split_whitespace().nth(at).and_then(|word| word.parse::<i32>().ok());
        pid.is_some_and(|pid| pids.contains(&pid))
    };
    let mut out = String::new();
    for line in [header].into_iter().chain(lines.filter(is_ours)) {
        escape(&mut out, line);
        out.push('\n');
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_ps_says_the_processes_of_the_container_are_kept() {
        let text = "UID   PID  CMD\nroot    1  init\nroot   17  sh -c \x1b[2J\nroot  117  x 17\n";
        assert_eq!(rows(text, &[17]).expect("a column"), "UID   PID  CMD\nroot   17  sh -c \\u{1b}[2J\n");
        assert!(rows("COMMAND\nsh\n", &[1]).is_err());
        assert!(rows("", &[1]).is_err());
    }
}
