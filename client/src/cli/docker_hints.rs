//! Hints for people who know docker and type a command or option that sampan does not have.
//!
//! `main` calls [`explain`] before it prints clap's message, which would suggest an option that only looks similar.
//! This module prints nothing.

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

const BUILD: &str = "other tools build images, such as buildah(1); 'sampan load' loads their archives";
const THERE: &str = "'inspect' exits with status 0 if the object exists, and with 1 if not";
const INPUT: &str = "'load' reads the archive from standard input, or from --input FILE";
const FILTER: &str =
    "'sampan images NAME' lists the images of one name; jq(1) can select from '--format json'";

const CPUS: &str = "--cpus limits the CPU time of a container";
const MEMORY: &str = "--memory and --memory-swap limit the memory of a container";
const DISKS: &str = "sampan cannot limit the rate at which a container uses disks";
const DEVICES: &str = "--device gives a container a device of the host: --device /dev/dri/card0";
const NAMESPACES: &str = "of a container's namespaces, only the network can be chosen: --network host";
const CGROUPS: &str =
    "the engine chooses the control group; a container with a systemd unit is in the unit's";
const STORAGE: &str = "all containers use overlayfs; --tmpfs /tmp:size=64M makes a file system with a limit";
const TRUST: &str =
    "the engine's setting [[engine.policy]] says which images need a signature; see sampan-engine(8)";
const CHECKPOINTS: &str = "sampan cannot save the memory of a container; 'sampan pause' stops its processes";

const CLUSTER: &str =
    "sampan runs containers on this host only; 'sampan generate systemd NAME' makes one a service";
const COMPOSE: &str =
    "'sampan generate systemd NAME' makes a container a service, and units can depend on each other";
const SECRET: &str = "mount a file of the host: -v ./secret.txt:/run/secret.txt:ro";
const HOST: &str = "sampan uses the engine of this host only; --socket after the command chooses its socket";
const LOGS: &str =
    "journalctl(1) prints the logs of the daemons; SAMPAN_LOG=debug in their environment adds details";
const LOGIN: &str = "--authfile of 'pull', 'push' and 'login' chooses the file of the credentials";

/// Docker's options before the command.
const GLOBAL_OPTIONS: [(&[&str], &str); 4] = [
    (
        &["-H", "--host", "-c", "--context", "--tls", "--tlscacert", "--tlscert", "--tlskey", "--tlsverify"],
        HOST,
    ),
    (&["-D", "--debug", "-l", "--log-level"], LOGS),
    (&["--config"], LOGIN),
    (&["-v"], "'sampan version' prints versions"),
];

/// Docker's options of `run` and `create`.
const OPTIONS: [(&[&str], &str); 15] = [
    (
        &[
            "-p",
            "--publish",
            "-P",
            "--publish-all",
            "--expose",
            "--ip",
            "--ip6",
            "--link",
            "--link-local-ip",
            "--mac-address",
            "--network-alias",
            "--net-alias",
        ],
        NETWORKS,
    ),
    (&["--dns", "--dns-search", "--dns-option", "--dns-opt", "--add-host"], FILES),
    (
        &[
            "--health-cmd",
            "--health-interval",
            "--health-retries",
            "--health-timeout",
            "--health-start-period",
            "--health-start-interval",
            "--no-healthcheck",
        ],
        HEALTH,
    ),
    (&["--volumes-from", "--volume-driver"], VOLUMES),
    (
        &[
            "-c",
            "--cpu-shares",
            "--cpu-quota",
            "--cpu-period",
            "--cpu-rt-period",
            "--cpu-rt-runtime",
            "--cpu-count",
            "--cpu-percent",
            "--cpuset-cpus",
            "--cpuset-mems",
        ],
        CPUS,
    ),
    (
        &[
            "--memory-reservation",
            "--memory-swappiness",
            "--kernel-memory",
            "--oom-kill-disable",
            "--oom-score-adj",
        ],
        MEMORY,
    ),
    (
        &[
            "--blkio-weight",
            "--blkio-weight-device",
            "--device-read-bps",
            "--device-read-iops",
            "--device-write-bps",
            "--device-write-iops",
            "--io-maxbandwidth",
            "--io-maxiops",
        ],
        DISKS,
    ),
    (&["--gpus", "--device-cgroup-rule"], DEVICES),
    (&["--pid", "--ipc", "--uts", "--userns", "--cgroupns"], NAMESPACES),
    (&["--cgroup-parent"], CGROUPS),
    (&["--storage-opt"], STORAGE),
    (&["--disable-content-trust"], TRUST),
    (&["--domainname"], "--hostname takes a whole name: --hostname web.example.org"),
    (&["--isolation"], "containers are for Linux only, where this option changes nothing"),
    (
        &["--use-api-socket"],
        "mount the engine's socket: -v /run/sampan:/run/sampan makes the container root on the host",
    ),
];

/// Docker's options of other commands.
const OTHER_OPTIONS: [(&str, &[&str], &str); 11] = [
    ("rm", &["-v", "--volumes"], NO_VOLUMES),
    ("rm", &["-l", "--link"], NETWORKS),
    ("images", &["-f", "--filter"], FILTER),
    ("images", &["--tree"], "'sampan images' has a column PLATFORM"),
    ("rmi", &["--no-prune"], "'rmi' removes an image with its last reference"),
    ("pull", &["--disable-content-trust"], TRUST),
    ("push", &["--disable-content-trust"], TRUST),
    ("push", &["-a", "--all-tags"], "push each tag: sampan push NAME:TAG"),
    ("import", &["-c", "--change"], "--cmd, --env and --label set the configuration of the image"),
    ("import", &["-m", "--message"], "--label sets a label of the image"),
    ("start", &["--checkpoint", "--checkpoint-dir"], CHECKPOINTS),
];

/// Docker's commands, without the name of their group.
const COMMANDS: [(&str, &str); 30] = [
    ("build", BUILD),
    ("builder", BUILD),
    ("buildx", BUILD),
    ("checkpoint", CHECKPOINTS),
    ("commit", "sampan cannot create images from containers yet"),
    ("compose", COMPOSE),
    ("config", SECRET),
    ("context", HOST),
    ("cp", "'sampan exec NAME cat FILE' prints a file; -v shares a directory"),
    ("diff", "'sampan ps --size' prints how much a container has written"),
    ("events", "'sampan events' prints events"),
    ("exists", THERE),
    ("export", "'sampan exec NAME tar -cf - /' archives the files of a container"),
    ("info", "'sampan info' shows version, paths and state of the engine"),
    ("manifest", "skopeo(1) prints manifests: skopeo inspect --raw docker://NAME"),
    ("network", NETWORKS),
    ("node", CLUSTER),
    ("plugin", "sampan has no plugins; sampan-engine(8) lists what can be configured"),
    ("port", NETWORKS),
    ("prune", "'sampan container prune' and 'sampan image prune' remove unused containers and images"),
    ("scout", "skopeo(1) and scanners read an archive: 'sampan save' writes it"),
    ("search", "search on the registry's web page; skopeo(1) lists tags: skopeo list-tags docker://NAME"),
    ("secret", SECRET),
    ("service", CLUSTER),
    ("stack", CLUSTER),
    ("stats", "'sampan top NAME -eo pid,rss,pcpu,cmd' prints the memory and CPU use of processes"),
    ("swarm", CLUSTER),
    ("trust", TRUST),
    ("update", "the limits of a container cannot change: create another container"),
    ("volume", VOLUMES),
];

/// Returns the message to print instead of clap's message, if there is one. `words` is the whole command line.
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
        _ => return None,
    };
    Some(Failure::new(what).hint(hint).status(USAGE))
}

/// Returns the replacement for an option of docker.
fn option(word: &str, words: &[String]) -> Option<&'static str> {
    let find = |table: &[(&[&str], &'static str)]| {
        table.iter().find(|(names, _)| names.contains(&word)).map(|(_, hint)| *hint)
    };
    if words.get(1).is_some_and(|first| first.starts_with('-')) {
        return find(&GLOBAL_OPTIONS);
    }
    // The second word may be the command of a group, as in `container rm`.
    let is_command = |name: &str| words.iter().skip(1).take(2).any(|word| word == name);
    if is_command("run") || is_command("create") {
        return find(&OPTIONS);
    }
    if is_command("load") {
        return (!word.starts_with('-')).then_some(INPUT);
    }
    let is_other = |command: &str, names: &[&str]| is_command(command) && names.contains(&word);
    OTHER_OPTIONS.iter().find(|(command, names, _)| is_other(command, names)).map(|(_, _, hint)| *hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::Cli;
    use clap::Parser;

    /// Returns whether a command line gets a hint.
    fn has_hint(line: &str) -> bool {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let error = Cli::try_parse_from(&words).expect_err("docker's word is not sampan's");
        explain(&error, &words).is_some_and(|failure| !failure.hint.is_empty())
    }

    #[test]
    fn every_command_of_the_table_gets_a_hint() {
        for (command, _) in COMMANDS {
            let line = match command {
                "info" | "events" => format!("sampan system {command}"),
                _ => format!("sampan {command} x"),
            };
            assert!(has_hint(&line), "{line}");
        }
    }

    #[test]
    fn every_option_of_the_tables_gets_a_hint() {
        let global = GLOBAL_OPTIONS.iter().flat_map(|(names, _)| names.iter());
        let mut lines: Vec<String> = global.map(|name| format!("sampan {name} x ps")).collect();
        for name in OPTIONS.iter().flat_map(|(names, _)| names.iter()) {
            lines.push(format!("sampan run {name} x bb:1"));
            lines.push(format!("sampan container create {name} x bb:1"));
        }
        for (command, names, _) in OTHER_OPTIONS {
            lines.extend(names.iter().map(|name| format!("sampan {command} {name} x")));
        }
        for line in lines {
            assert!(has_hint(&line), "{line}");
        }
    }

    #[test]
    fn a_word_that_docker_does_not_have_gets_no_hint() {
        for line in ["sampan bogus", "sampan --bogus ps", "sampan run --bogus bb:1", "sampan ps -H"] {
            assert!(!has_hint(line), "{line}");
        }
    }
}
