//! What people who know docker type, and what is not there: said by name, with what helps meanwhile.
//!
//! Called by `main` before clap's own words are printed, which would propose something that only looks alike. Pure.

use crate::cli::error::{Failure, USAGE};
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

const HISTORY: &str = "'sampan inspect IMAGE' prints what an image is made of";
const THERE: &str = "'inspect' ends with 0 if it is there, and with 1 if not";
const INPUT: &str = "an archive is read from standard input, or from --input FILE";
const FILTER: &str =
    "'sampan images NAME' lists those of one name; jq(1) picks others out of '--format json'";

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
const COMMANDS: [(&str, &str); 15] = [
    ("build", "other tools build images, as buildah(1); 'sampan load' takes their archives"),
    ("commit", "containers are not made into images yet"),
    ("cp", "'sampan exec NAME cat FILE' prints a file; -v shares a directory"),
    ("diff", "'sampan ps --size' says how much a container has written"),
    ("export", "'sampan exec NAME tar -cf - /' packs what is in a container"),
    ("exists", THERE),
    ("history", HISTORY),
    ("manifest", "skopeo(1) prints manifests: skopeo inspect --raw docker://NAME"),
    ("network", NETWORKS),
    ("port", NETWORKS),
    ("prune", "'sampan container prune' and 'sampan image prune' remove what is not used"),
    ("search", "registries have pages to search them; skopeo(1) lists tags: skopeo list-tags docker://NAME"),
    ("stats", "'sampan top NAME -eo pid,rss,pcpu,cmd' says what processes use"),
    ("update", "limits are those that a container was made with: make another one"),
    ("volume", VOLUMES),
];

/// What is to be said instead of clap's words, if it is one of these. `words` are the command line's.
pub(crate) fn explain(error: &Error, words: &[String]) -> Option<Failure> {
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
            let what = if word.starts_with('-') { "option" } else { "argument" };
            (format!("there is no {what} {word:?}"), option(word, words)?)
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
    if is_command(&["images"]) {
        return ["-f", "--filter"].contains(&word).then_some(FILTER);
    }
    if is_command(&["load"]) {
        return (!word.starts_with('-')).then_some(INPUT);
    }
    let options = OPTIONS.iter().filter(|_| is_command(&["run", "create"]));
    options.clone().find(|(names, _)| names.contains(&word)).map(|(_, hint)| *hint)
}
