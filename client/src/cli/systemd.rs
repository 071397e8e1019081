//! `sampan generate systemd`: a unit that runs a container as a service.
//!
//! The unit's process is an attached `sampan`: the service ends with the container, with its exit code, and what it
//! writes goes to the journal too.

use crate::cli::args::containers::{GenerateSystemd, UnitRestart};
use crate::cli::args::{Cli, Command, containers::ContainerCommand};
use crate::cli::failure::Failure;
use crate::cli::images::print;
use crate::cli::run::document;
use clap::{Parser, ValueEnum};
use sampan_ipc::named_file;
use serde_json::Value;
use std::fmt::Write as _;

/// What `stop` waits if the container does not say: docker's ten seconds.
const STOP_SECONDS: u64 = 10;
/// What the service manager waits longer than `stop` does.
const MORE_SECONDS: u64 = 60;

/// Runs the command.
///
/// # Errors
/// There is no such container, or the file is there already.
pub fn run(args: &GenerateSystemd) -> Result<(), Failure> {
    let container = document(&args.socket, &args.container, false)?;
    let text = |path: &str| container.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let name = text("/Name").trim_start_matches('/');
    let program = std::env::current_exe()
        .map_err(|error| Failure::new(format!("cannot tell where this program is: {error}")))?;
    let stop = container.pointer("/Config/StopTimeout").and_then(Value::as_u64).unwrap_or(STOP_SECONDS);
    let unit = Unit { name, program: &program.display().to_string(), stop, restart: args.restart_policy };
    let unit_text = if args.new {
        let words = container.pointer("/Config/CreateCommand").and_then(Value::as_array);
        let words: Vec<String> =
            words.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
        unit.anew(&anew(&words, name)?)
    } else {
        unit.existing()
    };
    if !args.files {
        return print(&unit_text);
    }
    let path = std::env::current_dir().map(|dir| dir.join(format!("container-{name}.service")));
    let path = path.map_err(|error| Failure::new(format!("cannot tell where we are: {error}")))?;
    let written = named_file::create(&path, unit_text.as_bytes(), 0o666);
    written.map_err(|error| Failure::new(format!("cannot write {}: {error}", path.display())))?;
    print(&format!("{}\n", path.display()))
}

/// What a unit is made of.
struct Unit<'a> {
    name: &'a str,
    program: &'a str,
    stop: u64,
    restart: UnitRestart,
}

impl Unit<'_> {
    // The engine is wanted, not required: to restart it would end the service, and the container needs none to go on.
    fn head(&self) -> String {
        let (name, version) = (self.name, env!("CARGO_PKG_VERSION"));
        let restart =
            self.restart.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
        format!(
            "# container-{name}.service\n# made by 'sampan generate systemd', {version}\n\n[Unit]\n\
             Description=Sampan container {name}\nDocumentation=man:sampan-generate-systemd(1)\n\
             Wants=network-online.target sampan-engine.service\n\
             After=network-online.target sampan-engine.service\n\n[Service]\nType=exec\nRestart={restart}\n\
             TimeoutStopSec={}\n",
            self.stop.saturating_add(MORE_SECONDS)
        )
    }

    /// For the container that is there.
    fn existing(&self) -> String {
        let (program, name) = (word(self.program), word(self.name));
        let mut text = self.head();
        let _ = writeln!(text, "ExecStart={program} start --attach {name}");
        let _ = writeln!(text, "ExecStop={program} stop --timeout {} {name}", self.stop);
        text + "\n[Install]\nWantedBy=default.target\n"
    }

    /// For one that is made each time.
    fn anew(&self, words: &[String]) -> String {
        let (program, id) = (word(self.program), "%t/%N.ctr-id");
        let words: Vec<String> = words.iter().map(|arg| word(arg)).collect();
        let mut text = self.head();
        let _ = writeln!(text, "ExecStartPre=-{program} rm --force {}", word(self.name));
        let _ = writeln!(text, "ExecStartPre=/bin/rm -f {id}");
        let _ = writeln!(text, "ExecStart={program} {}", words.join(" ").replace(CIDFILE, id));
        let _ = writeln!(text, "ExecStop={program} stop --timeout {} {}", self.stop, word(self.name));
        let _ = writeln!(text, "ExecStopPost=/bin/rm -f {id}");
        text + "\n[Install]\nWantedBy=default.target\n"
    }
}

/// Stands for the unit's own file, which has `%` in it that no quoting may touch.
const CIDFILE: &str = "\u{1}cidfile\u{1}";

/// The words behind `sampan` that make the same container again, attached, to be removed when it ends.
fn anew(words: &[String], name: &str) -> Result<Vec<String>, Failure> {
    let unknown = || {
        Failure::new(
            "cannot make a unit with --new: the container was not made by 'sampan run' or 'sampan create'",
        )
        .hint("leave out --new")
    };
    let cli = Cli::try_parse_from(words).map_err(|_| unknown())?;
    let behind = match &cli.command {
        Command::Run(args) => args.options.words.len(),
        Command::Create(args) => args.options.words.len(),
        Command::Container(group) => match &group.command {
            ContainerCommand::Run(args) => args.options.words.len(),
            ContainerCommand::Create(args) => args.options.words.len(),
            _ => return Err(unknown()),
        },
        _ => return Err(unknown()),
    };
    let at = words.len().checked_sub(behind).ok_or_else(unknown)?;
    let mut all = vec!["run".to_owned()];
    let given = words.get(1..at).unwrap_or_default();
    let options = given.iter().position(|word| word == "run" || word == "create").map_or(0, |at| at + 1);
    all.extend(given.get(options..).unwrap_or_default().iter().cloned());
    // '--' ends the options, and is not needed where the image's name begins with no '-'.
    if all.last().is_some_and(|word| word == "--") {
        all.pop();
    }
    // The last one counts: a service has no terminal, and is not detached.
    for word in ["--detach=false", "--rm=true", "--interactive=false", "--tty=false"] {
        all.push(word.to_owned());
    }
    // It may have been made without one, or renamed.
    all.push(format!("--name={name}"));
    all.push(format!("--cidfile={CIDFILE}"));
    all.extend(words.get(at..).unwrap_or_default().iter().cloned());
    Ok(all)
}

/// A word of a command line of systemd. systemd.service(5), "COMMAND LINES".
fn word(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    let escaped = escaped.replace('\n', "\\n").replace('\t', "\\t").replace('\r', "\\r");
    let is_plain = |c: char| c.is_alphanumeric() || "-_./:=,@+%$\u{1}".contains(c);
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
    fn a_unit_with_new_makes_the_same_container_in_the_foreground() {
        let made =
            anew(&words("sampan container run -dit --name web -v /a:/b busybox run -d"), "w2").expect("good");
        let made = made.join(" ").replace(CIDFILE, "ID");
        let switches = "--detach=false --rm=true --interactive=false --tty=false --name=w2 --cidfile=ID";
        assert_eq!(made, format!("run -dit --name web -v /a:/b {switches} busybox run -d"));
        assert!(Cli::try_parse_from(["sampan"].into_iter().chain(made.split(' '))).is_ok(), "{made}");
        assert!(anew(&words("sampan ps"), "x").is_err());
        assert!(anew(&[], "x").is_err());
    }

    #[test]
    fn words_are_quoted_for_systemd() {
        assert_eq!(word("/a/b-c"), "/a/b-c");
        assert_eq!(word("a b\"$HOME%n\n"), "\"a b\\\"$$HOME%%n\\n\"");
        assert_eq!(word(""), "\"\"");
        let unit =
            Unit { name: "web", program: "/usr/bin/sampan", stop: 10, restart: UnitRestart::OnFailure };
        let text = unit.existing();
        assert!(text.contains("ExecStart=/usr/bin/sampan start --attach web\n"), "{text}");
        assert!(text.contains("Restart=on-failure\nTimeoutStopSec=70\n"), "{text}");
        let text = unit.anew(&[format!("--cidfile={CIDFILE}"), "x;y".into()]);
        assert!(text.contains("ExecStart=/usr/bin/sampan --cidfile=%t/%N.ctr-id \"x;y\"\n"), "{text}");
    }
}
