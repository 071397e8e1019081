//! Hints for people who know docker and type a command or option that sampan does not have.
//!
//! `main` calls [`explain`] before it prints clap's own message, which would suggest an option that only looks similar.
//! Pure: prints nothing.

use crate::cli::error::{Failure, USAGE};
use clap::Error;
use clap::error::{ContextKind, ContextValue, ErrorKind};

const NETWORKS: &str =
    "the only networks are none and host; with --network host, a container uses the host's ports";
const FILES: &str = "mount a file of your own: -v ./hosts:/etc/hosts:ro, or one over /etc/resolv.conf";
const HEALTH: &str = "there are no health checks yet";
const VOLUMES: &str = "there are no named volumes yet; -v ./data:/data mounts a directory of the host";
const NO_VOLUMES: &str =
    "containers have no anonymous volumes yet; 'rm' removes all data of a container without -v";
const SHAPES: &str = "'inspect' and '--format json' print JSON, which jq(1) can reformat";

const HISTORY: &str = "'sampan inspect IMAGE' prints the layers of an image";
const THERE: &str = "'inspect' exits with status 0 if the object exists, and with 1 if not";
const INPUT: &str = "'load' reads the archive from standard input, or from --input FILE";
const FILTER: &str =
    "'sampan images NAME' lists the images of one name; jq(1) can select from '--format json'";

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

/// Commands of docker, without the word of their group.
const COMMANDS: [(&str, &str); 15] = [
    ("build", "other tools build images, such as buildah(1); 'sampan load' loads their archives"),
    ("commit", "sampan cannot create images from containers yet"),
    ("cp", "'sampan exec NAME cat FILE' prints a file; -v shares a directory"),
    ("diff", "'sampan ps --size' prints how much a container has written"),
    ("export", "'sampan exec NAME tar -cf - /' archives the files of a container"),
    ("exists", THERE),
    ("history", HISTORY),
    ("manifest", "skopeo(1) prints manifests: skopeo inspect --raw docker://NAME"),
    ("network", NETWORKS),
    ("port", NETWORKS),
    ("prune", "'sampan container prune' and 'sampan image prune' remove unused containers and images"),
    ("search", "search on the registry's web page; skopeo(1) lists tags: skopeo list-tags docker://NAME"),
    ("stats", "'sampan top NAME -eo pid,rss,pcpu,cmd' prints the memory and CPU use of processes"),
    ("update", "the limits of a container cannot change: create another container"),
    ("volume", VOLUMES),
];

/// Returns the message to print instead of clap's, if there is one. `words` is the whole command line.
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

/// Returns what to use instead of an option of docker.
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
