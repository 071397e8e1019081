//! What people who know docker type, and what is not there: said by name, with what helps meanwhile.
//!
//! Called by `main` before clap's own words are printed, which would propose something that only looks alike. Pure.

use crate::cli::failure::{Failure, USAGE};
use clap::Error;
use clap::error::{ContextKind, ContextValue, ErrorKind};

const NETWORKS: &str =
    "there are no networks but none and host yet; with --network host a container has the host's ports";
const FILES: &str = "mount a file of your own: -v ./hosts:/etc/hosts:ro, or over /etc/resolv.conf";
const HEALTH: &str = "there are no health checks yet";
const VOLUMES: &str =
    "there are no volumes with names yet; a directory of the host is shared by -v ./data:/data";
const NO_VOLUMES: &str = "no container has volumes of its own yet: all that it had goes without it";
const SHAPES: &str = "'inspect' and '--format json' print JSON, and jq(1) prints any shape of it";

/// Options of `run` and `create`.
const OPTIONS: [(&[&str], &str); 4] = [
    (&["-p", "--publish", "-P", "--publish-all", "--expose", "--ip", "--link", "--network-alias"], NETWORKS),
    (&["--dns", "--dns-search", "--dns-option", "--add-host"], FILES),
    (
        &["--health-cmd", "--health-interval", "--health-retries", "--health-timeout", "--no-healthcheck"],
        HEALTH,
    ),
    (&["--volumes-from", "--volume-driver"], VOLUMES),
];

/// Commands, behind the word of their group.
const COMMANDS: [(&str, &str); 11] = [
    ("build", "other tools build images, as buildah(1); 'sampan load' takes their archives"),
    ("commit", "containers are not made into images yet"),
    ("cp", "'sampan exec NAME cat FILE' prints a file; -v shares a directory"),
    ("diff", "'sampan ps --size' says how much a container has written"),
    ("export", "'sampan exec NAME tar -cf - /' packs what is in a container"),
    ("network", NETWORKS),
    ("port", NETWORKS),
    ("prune", "'sampan container prune' and 'sampan image prune' remove what is not used"),
    ("stats", "'sampan top NAME -eo pid,rss,pcpu,cmd' says what processes use"),
    ("update", "limits are those that a container was made with: make another one"),
    ("volume", VOLUMES),
];

/// What is to be said instead of clap's words, if it is one of these. `words` are the command line's.
pub fn explain(error: &Error, words: &[String]) -> Option<Failure> {
    let said = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let (what, hint) = match error.kind() {
        ErrorKind::InvalidSubcommand => {
            let word = said(ContextKind::InvalidSubcommand)?;
            let (_, hint) = COMMANDS.iter().find(|(name, _)| *name == word)?;
            (format!("there is no command {word:?}"), *hint)
        }
        ErrorKind::UnknownArgument => {
            let word = said(ContextKind::InvalidArg)?;
            (format!("there is no option {word:?}"), option(word, words)?)
        }
        ErrorKind::InvalidValue if said(ContextKind::InvalidArg)?.starts_with("--format ") => {
            let value = said(ContextKind::InvalidValue).filter(|value| value.contains("{{"))?;
            (format!("--format {value:?}: there are no templates"), SHAPES)
        }
        _ => return None,
    };
    Some(Failure::new(what).hint(hint).status(USAGE))
}

/// What helps in the place of an option.
fn option(word: &str, words: &[String]) -> Option<&'static str> {
    let is_command = |names: &[&str]| words.iter().skip(1).take(2).any(|word| names.contains(&word.as_str()));
    if is_command(&["inspect"]) {
        return ["-f", "--format"].contains(&word).then_some(SHAPES);
    }
    if is_command(&["rm"]) {
        return ["-v", "--volumes"].contains(&word).then_some(NO_VOLUMES);
    }
    let options = OPTIONS.iter().filter(|_| is_command(&["run", "create"]));
    options.clone().find(|(names, _)| names.contains(&word)).map(|(_, hint)| *hint)
}
