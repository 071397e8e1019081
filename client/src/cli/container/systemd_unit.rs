//! `sampan generate systemd`: writes a systemd unit that runs a container.
//!
//! The unit's main process becomes the container's shim (`become_shim`). systemd therefore sees when the container is
//! ready and how it ends, and the unit's limits apply to the container. See docs/systemd-containers.md in the sources.

use crate::cli::args::container::{ContainerCommand, GenerateSystemd, Options, Run, UnitRestart};
use crate::cli::args::{Cli, Command};
use crate::cli::container::inspect::document;
use crate::cli::error::Failure;
use crate::cli::output::print;
use clap::{Arg, Parser, ValueEnum};
use nix::sys::signal::Signal;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use sampan_ipc::named_file;
use sampan_ipc::shim::DELEGATE_V1;
use serde_json::Value;
use std::fmt::Write as _;

/// Default for the seconds that a stop waits, as in docker.
const STOP_SECONDS: i64 = 10;
/// Seconds that systemd waits in addition to the stop timeout.
const MORE_SECONDS: i64 = 60;
/// The default stop signal.
const STOP_SIGNAL: i32 = Signal::SIGTERM as i32;
/// The first of the real-time signals that the C library leaves to programs. signal(7).
const SIGRTMIN: i32 = 34;
/// Start timeout of a unit that creates a container at each start, since such a start may pull the image.
const START_WITH_PULL: &str = "15min";
/// The mount point of control groups. The type of its file system shows their version.
const GROUPS: &str = "/sys/fs/cgroup";
/// Variables that locate this installation.
const VARIABLES: [&str; 3] = ["SAMPAN_RUN_DIR", "SAMPAN_STATE_DIR", "SAMPAN_DATA_DIR"];

pub(crate) fn run(args: &GenerateSystemd) -> Result<(), Failure> {
    let container = document(&args.socket, &args.container, false)?;
    let text = |path: &str| container.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let name = text("/Name").trim_start_matches('/');
    let program = std::env::current_exe()
        .map_err(|error| Failure::new(format!("cannot get the path of this program: {error}")))?;
    let unit = Unit {
        name,
        program: &program.display().to_string(),
        stop: container.pointer("/Config/StopTimeout").and_then(Value::as_i64).unwrap_or(STOP_SECONDS),
        stop_signal: signal(text("/Config/StopSignal")).unwrap_or(STOP_SIGNAL),
        restart: args.restart_policy,
        reports_ready_itself: text("/Config/SdNotifyMode") == "container",
        is_version_1: !statfs(GROUPS).is_ok_and(|found| found.filesystem_type() == CGROUP2_SUPER_MAGIC),
        variables: VARIABLES.iter().filter_map(|name| Some((*name, std::env::var(name).ok()?))).collect(),
    };
    let unit_text = if args.new {
        let words = container.pointer("/Config/CreateCommand").and_then(Value::as_array);
        let words: Vec<String> =
            words.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
        unit.for_new_container(&new_container_args(&words, name)?)
    } else {
        check_restart_policy(name, text("/HostConfig/RestartPolicy/Name"))?;
        unit.for_existing_container()
    };
    if !args.files {
        return print(&unit_text);
    }
    let path = std::env::current_dir().map(|dir| dir.join(format!("container-{name}.service")));
    let path = path.map_err(|error| Failure::new(format!("cannot get the working directory: {error}")))?;
    let written = named_file::create(&path, unit_text.as_bytes(), 0o666);
    written.map_err(|error| Failure::new(format!("cannot write {}: {error}", path.display())))?;
    print(&format!("{}\n", path.display()))
}

/// Fails if both the container and the unit would have a restart policy.
fn check_restart_policy(name: &str, policy: &str) -> Result<(), Failure> {
    match policy {
        "" | "no" => Ok(()),
        policy => Err(Failure::new(format!(
            "cannot generate a unit for container {name:?}: its restart policy {policy:?} competes with the unit's"
        ))
        .hint("use --new, whose containers have no restart policy; or create the container again without --restart")),
    }
}

/// Parses a signal in the form that `inspect` prints: `SIGTERM`, `SIGRTMIN+3`, `99`.
fn signal(word: &str) -> Option<i32> {
    if let Some(rest) = word.strip_prefix("SIGRTMIN") {
        return Some(SIGRTMIN + rest.strip_prefix('+').map_or(Some(0), |rest| rest.parse().ok())?);
    }
    word.parse().ok().or_else(|| word.parse::<Signal>().ok().map(|signal| signal as i32))
}

/// The parts in which units differ.
struct Unit<'a> {
    name: &'a str,
    program: &'a str,
    /// Seconds that a stop waits; a negative number means without limit.
    stop: i64,
    stop_signal: i32,
    restart: UnitRestart,
    /// Whether the container itself reports that it is ready.
    reports_ready_itself: bool,
    /// Whether the host has control groups of version 1.
    is_version_1: bool,
    variables: Vec<(&'static str, String)>,
}

impl Unit<'_> {
    // The unit has Wants= for the engine's socket and not Requires=, since a running container needs no engine.
    fn head(&self) -> String {
        let (name, version) = (self.name, env!("CARGO_PKG_VERSION"));
        let restart =
            self.restart.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
        let stop = match self.stop {
            ..0 => "infinity".to_owned(),
            seconds => seconds.saturating_add(MORE_SECONDS).to_string(),
        };
        let mut text = format!(
            "# container-{name}.service\n# made by 'sampan generate systemd', {version}\n\n[Unit]\n\
             Description=Sampan container {name}\nDocumentation=man:sampan-generate-systemd(1)\n\
             Wants=network-online.target sampan-engine.socket\n\
             After=network-online.target sampan-engine.socket sampan-engine.service sampan-monitord.socket\n\n\
             [Service]\nType=notify\nNotifyAccess={}\n\
             # The container's control group is below this unit's, so that the unit's limits hold for it.\n\
             Delegate={}\n\
             # The main process stops the container with the container's own signal.\n\
             KillMode=mixed\nTimeoutStopSec={stop}\nSuccessExitStatus={}\nRestart={restart}\n\
             # What the kernel kills in the container for memory is the container's matter.\n\
             OOMPolicy=continue\n",
            if self.reports_ready_itself { "all" } else { "main" },
            if self.is_version_1 { DELEGATE_V1 } else { "yes" },
            128 + self.stop_signal,
        );
        for (name, value) in &self.variables {
            let _ = writeln!(text, "Environment={}", quote(&format!("{name}={value}")).replace("$$", "$"));
        }
        text
    }

    /// Makes the unit for an existing container.
    fn for_existing_container(&self) -> String {
        let mut text = self.head();
        let _ = writeln!(text, "ExecStart={} start --unit {}", quote(self.program), quote(self.name));
        text + "\n[Install]\nWantedBy=default.target\n"
    }

    /// Makes the unit that creates a container at each start.
    fn for_new_container(&self, words: &[String]) -> String {
        let program = quote(self.program);
        let words: Vec<String> = words.iter().map(|arg| quote(arg)).collect();
        let mut text = self.head();
        let _ = writeln!(text, "TimeoutStartSec={START_WITH_PULL}");
        let _ = writeln!(text, "ExecStartPre=-{program} rm --force {}", quote(self.name));
        let _ = writeln!(text, "ExecStart={program} {}", words.join(" "));
        text + "\n[Install]\nWantedBy=default.target\n"
    }
}

/// Returns the arguments of `sampan` with which a unit creates such a container, and removes it when it ends.
fn new_container_args(words: &[String], name: &str) -> Result<Vec<String>, Failure> {
    let unknown = || {
        Failure::new(
            "cannot generate a unit with --new: 'sampan run' or 'sampan create' did not create the container",
        )
        .hint("leave out --new")
    };
    let cli = Cli::try_parse_from(words).map_err(|_| unknown())?;
    let made: &Options = match &cli.command {
        Command::Run(args) => &args.options,
        Command::Create(args) => &args.options,
        Command::Container(group) => match &group.command {
            ContainerCommand::Run(args) => &args.options,
            ContainerCommand::Create(args) => &args.options,
            _ => return Err(unknown()),
        },
        _ => return Err(unknown()),
    };
    let at = words.len().checked_sub(made.words.len()).ok_or_else(unknown)?;
    let given = words.get(1..at).unwrap_or_default();
    let options = given.iter().position(|word| word == "run" || word == "create").map_or(0, |at| at + 1);
    let mut all = vec!["run".to_owned(), "--unit".to_owned(), "--rm".to_owned()];
    all.extend(kept_options(given.get(options..).unwrap_or_default()));
    // Add the name: the container may have been created without a name, or renamed.
    all.push(format!("--name={name}"));
    all.extend(words.get(at..).unwrap_or_default().iter().cloned());
    Ok(all)
}

/// Options that a unit does not copy, because it sets them itself or cannot have them. A unit has no terminal and is
/// not detached, systemd restarts it, and the file of `--cidfile` would exist after the first start.
const LEFT_OUT: [&str; 8] = ["name", "unit", "rm", "detach", "interactive", "tty", "restart", "cidfile"];

/// Returns the typed options of `run` or `create`, without the ones in [`LEFT_OUT`].
fn kept_options(given: &[String]) -> Vec<String> {
    let known = <Run as clap::Args>::augment_args(clap::Command::new("run"));
    let is_left_out = |arg: &Arg| arg.get_long().is_some_and(|long| LEFT_OUT.contains(&long));
    let takes_next = |arg: &Arg| arg.get_action().takes_values() && !arg.is_require_equals_set();
    let mut kept = Vec::new();
    let mut rest = given.iter();
    while let Some(word) = rest.next() {
        if let Some(long) = word.strip_prefix("--") {
            let (long, value) =
                long.split_once('=').map_or((long, None), |(long, value)| (long, Some(value)));
            let arg = known.get_arguments().find(|arg| {
                arg.get_long() == Some(long) || arg.get_all_aliases().is_some_and(|all| all.contains(&long))
            });
            let value = if value.is_none() && arg.is_some_and(takes_next) { rest.next() } else { None };
            // Drop '--', which ends the options. It is not needed, since no image's name begins with '-'.
            if !long.is_empty() && !arg.is_some_and(is_left_out) {
                kept.push(word.clone());
                kept.extend(value.cloned());
            }
            continue;
        }
        // Several short options may share a word: -dit, -eKEY=VALUE, -i=false.
        let mut left = String::new();
        let mut chars = word.strip_prefix('-').unwrap_or_default().chars();
        while let Some(short) = chars.next() {
            let arg = known.get_arguments().find(|arg| arg.get_short() == Some(short));
            let has_value = chars.as_str().starts_with('=') || arg.is_some_and(takes_next);
            let value = if has_value { std::mem::replace(&mut chars, "".chars()).as_str() } else { "" };
            let next = if has_value && value.is_empty() { rest.next() } else { None };
            if !arg.is_some_and(is_left_out) {
                left.extend([short.to_string().as_str(), value]);
                if let Some(next) = next {
                    kept.extend([format!("-{left}"), next.clone()]);
                    left.clear();
                }
            }
        }
        if !left.is_empty() {
            kept.push(format!("-{left}"));
        }
    }
    kept
}

/// Quotes a word for a command line of systemd. systemd.service(5), "COMMAND LINES".
fn quote(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    let escaped = escaped.replace('\n', "\\n").replace('\t', "\\t").replace('\r', "\\r");
    let is_plain = |c: char| c.is_alphanumeric() || "-_./:=,@+%$".contains(c);
    match !text.is_empty() && text.chars().all(is_plain) {
        true => escaped,
        false => format!("\"{escaped}\""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn a_unit_with_new_makes_the_same_container_as_its_own_main_process() {
        for (typed, expected) in [
            (
                "sampan container run -dit --name web -v /a:/b busybox run -d",
                "run --unit --rm -v /a:/b --name=w busybox run -d",
            ),
            (
                "sampan create --restart always --cidfile /run/id -m 1g busybox",
                "run --unit --rm -m 1g --name=w busybox",
            ),
            ("sampan run --unit --rm=true --name=web busybox", "run --unit --rm --name=w busybox"),
            // Options that share a word with options in the list, and values that look like options.
            (
                "sampan run -diu 1:1 -tw/srv --memory-swap -1 -i=true x",
                "run --unit --rm -u 1:1 -w/srv --memory-swap -1 --name=w x",
            ),
            (
                "sampan run -d --net host --label=name=x --env rm -- x",
                "run --unit --rm --net host --label=name=x --env rm --name=w x",
            ),
        ] {
            let made = new_container_args(&words(typed), "w").expect(typed);
            assert_eq!(made.join(" "), expected);
            let parsed = Cli::try_parse_from(["sampan".to_owned()].into_iter().chain(made.clone()));
            let Ok(Command::Run(run)) = parsed.map(|cli| cli.command) else { panic!("{made:?}") };
            assert!(run.unit && run.options.rm && !run.detach, "{made:?}");
            assert!(!run.options.tty && !run.options.interactive && run.options.restart == "no", "{made:?}");
        }
        assert!(new_container_args(&words("sampan ps"), "x").is_err());
        assert!(new_container_args(&[], "x").is_err());
    }

    fn unit() -> Unit<'static> {
        Unit {
            name: "web",
            program: "/usr/bin/sampan",
            stop: 10,
            stop_signal: 15,
            restart: UnitRestart::OnFailure,
            reports_ready_itself: false,
            is_version_1: false,
            variables: Vec::new(),
        }
    }

    #[test]
    fn words_are_quoted_for_systemd() {
        assert_eq!(quote("/a/b-c"), "/a/b-c");
        assert_eq!(quote("a b\"$HOME%n\n"), "\"a b\\\"$$HOME%%n\\n\"");
        assert_eq!(quote(""), "\"\"");
        let text = unit().for_new_container(&["run".into(), "x;y".into()]);
        assert!(text.contains("ExecStartPre=-/usr/bin/sampan rm --force web\n"), "{text}");
        assert!(text.contains("ExecStart=/usr/bin/sampan run \"x;y\"\n"), "{text}");
        let variables = vec![("SAMPAN_RUN_DIR", "/a b/$x%".to_owned())];
        let text = Unit { variables, ..unit() }.for_existing_container();
        assert!(text.contains("Environment=\"SAMPAN_RUN_DIR=/a b/$x%%\"\n"), "{text}");
    }

    #[test]
    fn a_unit_says_how_its_container_stops() {
        let text = unit().for_existing_container();
        assert!(text.contains("ExecStart=/usr/bin/sampan start --unit web\n"), "{text}");
        for line in
            ["Type=notify", "NotifyAccess=main", "Delegate=yes", "KillMode=mixed", "TimeoutStopSec=70"]
        {
            assert!(text.contains(&format!("{line}\n")), "{line}: {text}");
        }
        assert!(text.contains("SuccessExitStatus=143\nRestart=on-failure\n"), "{text}");
        let other = Unit {
            stop: -1,
            stop_signal: signal("SIGRTMIN+3").expect("a signal"),
            reports_ready_itself: true,
            is_version_1: true,
            ..unit()
        };
        let text = other.for_existing_container();
        assert!(text.contains("NotifyAccess=all\n") && text.contains("TimeoutStopSec=infinity\n"), "{text}");
        assert!(text.contains("SuccessExitStatus=165\n"), "{text}");
        assert!(text.contains("Delegate=cpu cpuacct cpuset io blkio memory devices pids\n"), "{text}");
        assert_eq!((signal("SIGQUIT"), signal("99"), signal("x")), (Some(3), Some(99), None));
        assert!(check_restart_policy("web", "always").is_err() && check_restart_policy("web", "no").is_ok());
    }
}
