//! Checks a request for a container or an execution, without regard to the host or the image.
//!
//! Requests come from any process that may open engine.sock. All counts, lengths and characters are checked here, so
//! that text that is stored, announced or written into `config.json` can be shown on a terminal.

use super::error::SpecError;
use super::names;
use super::words::{WORDS_MAX, absolute, count, pairs, printable, ulimit, variables, words};
use super::{capabilities, devices, mounts, resources, signals};
use sampan_ipc::container::{Create, Exec, Restart};

/// Most bytes of all labels together, since every event of the container contains them.
const LABELS_MAX: usize = 64 << 10;
/// Longest host name. gethostname(2), HOST_NAME_MAX.
const HOSTNAME_MAX: usize = 64;
/// Longest seccomp profile, in bytes.
const PROFILE_MAX: usize = 1 << 20;

/// Checks all options of a container.
///
/// # Errors
/// [`SpecError::Option`] for the first option that breaks a rule.
pub fn check(create: &Create) -> Result<(), SpecError> {
    if let Some(name) = &create.name {
        names::check(name)?;
    }
    texts(create)?;
    words("the command", &create.command)?;
    words("--entrypoint", create.entrypoint.as_deref().unwrap_or_default())?;
    variables("--env", &create.env)?;
    let spent = create.command.iter().chain(&create.env).chain(create.entrypoint.iter().flatten());
    if spent.fold(0, |sum: usize, word| sum.saturating_add(word.len() + 1)) > WORDS_MAX {
        return Err(SpecError::option("the command", "", "with its environment it has more than 2 MiB"));
    }
    pairs("--label", &create.labels, LABELS_MAX)?;
    pairs("--annotation", &create.annotations, LABELS_MAX)?;
    pairs("--log-opt", &create.log_options, LABELS_MAX)?;
    if let Some(workdir) = &create.workdir {
        absolute("--workdir", workdir)?;
    }
    if let Some(hostname) = &create.hostname {
        host_name(hostname)?;
    }
    if let Some(signal) = &create.stop_signal {
        signals::parse(signal)?;
    }
    numbers(create)?;
    capabilities::wanted(create)?;
    mounts::check(&create.mounts)?;
    devices::check(&create.devices)?;
    resources::check_sysctls(create)
}

/// Checks all options of an execution.
///
/// # Errors
/// [`SpecError::Option`] for the first option that breaks a rule.
pub fn check_exec(exec: &Exec) -> Result<(), SpecError> {
    if exec.command.first().is_none_or(String::is_empty) {
        return Err(SpecError::option("the command", "", "it is empty"));
    }
    words("the command", &exec.command)?;
    variables("--env", &exec.env)?;
    if let Some(user) = &exec.user {
        printable("--user", user)?;
    }
    exec.workdir.as_deref().map_or(Ok(()), |workdir| absolute("--workdir", workdir))
}

/// Checks single values and lists of values that people will see.
fn texts(create: &Create) -> Result<(), SpecError> {
    let single = [
        ("--user", &create.user),
        ("--runtime", &create.runtime),
        ("--log-driver", &create.log_driver),
        ("--detach-keys", &create.detach_keys),
        ("--platform", &create.platform),
        ("--sdnotify", &create.notify_socket),
    ];
    for (option, word) in single {
        word.as_deref().map_or(Ok(()), |word| printable(option, word))?;
    }
    if create.image.is_empty() {
        return Err(SpecError::option("the image", "", "no image is named"));
    }
    printable("the image", &create.image)?;
    let lists = [
        ("--cap-add", &create.cap_add),
        ("--cap-drop", &create.cap_drop),
        ("--device", &create.devices),
        ("--group-add", &create.group_add),
    ];
    for (option, list) in lists {
        count(option, list.len())?;
        list.iter().try_for_each(|word| printable(option, word))?;
    }
    count("--security-opt", create.security.len())?;
    for option in &create.security {
        if option.len() > PROFILE_MAX {
            return Err(SpecError::option("--security-opt", option, "it has more than 1 MiB"));
        }
        // A seccomp profile may contain line feeds.
        if !option.starts_with("seccomp=") {
            printable("--security-opt", option)?;
        }
    }
    words("the command line", &create.command_line)
}

fn numbers(create: &Create) -> Result<(), SpecError> {
    count("--ulimit", create.ulimits.len())?;
    for (name, soft, hard) in &create.ulimits {
        ulimit("--ulimit", name, *soft, *hard)?;
    }
    if let Restart::OnFailure(_) | Restart::Always | Restart::UnlessStopped = create.restart
        && create.auto_remove
    {
        return Err(SpecError::option(
            "--rm",
            "",
            "a container with a restart policy cannot be removed when it ends: see --restart",
        ));
    }
    resources::check(create)
}

fn host_name(name: &str) -> Result<(), SpecError> {
    let bad = |why: &str| Err(SpecError::option("--hostname", name, why));
    let label = |label: &str| {
        let fine = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        !label.is_empty() && label.bytes().all(fine) && !label.starts_with('-') && !label.ends_with('-')
    };
    match name {
        _ if name.len() > HOSTNAME_MAX => bad("a host name has at most 64 characters"),
        _ if !name.trim_end_matches('.').split('.').all(label) => {
            bad("a host name is made of letters, digits, '-', '_', and dots between them")
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> Create {
        Create { image: "busybox".into(), ..Create::default() }
    }

    fn refuses(create: Create, word: &str) {
        let error = check(&create).expect_err(word).to_string();
        assert!(error.contains(word), "{error:?} does not name {word:?}");
    }

    #[test]
    fn text_that_cannot_be_shown_is_refused_with_its_options_name() {
        assert!(check(&plain()).is_ok());
        refuses(Create { name: Some("a\u{1b}[2J".into()), ..plain() }, "--name");
        refuses(Create { labels: vec![("a".into(), "\u{7}".into())], ..plain() }, "--label");
        refuses(Create { labels: vec![("a\nb".into(), String::new())], ..plain() }, "--label");
        refuses(Create { env: vec!["A\u{1}=x".into()], ..plain() }, "--env");
        refuses(Create { env: vec!["=x".into()], ..plain() }, "--env");
        refuses(Create { command: vec!["a\0b".into()], ..plain() }, "the command");
        refuses(Create { workdir: Some("relative".into()), ..plain() }, "--workdir");
        refuses(Create { hostname: Some("-a".into()), ..plain() }, "--hostname");
        refuses(Create { user: Some("a\nb".into()), ..plain() }, "--user");
        assert!(check(&Create { env: vec!["PEM=a\nb".into()], ..plain() }).is_ok(), "values have lines");
    }

    #[test]
    fn options_that_are_too_long_or_too_many_are_refused() {
        refuses(Create { env: vec![format!("A={}", "x".repeat(200 << 10))], ..plain() }, "128 KiB");
        assert!(check(&Create { env: vec![format!("A={}", "x".repeat(100 << 10)); 10], ..plain() }).is_ok());
        refuses(Create { env: vec![format!("A={}", "x".repeat(100 << 10)); 30], ..plain() }, "2 MiB");
        refuses(Create { cap_add: vec!["KILL".into(); 5000], ..plain() }, "4096");
        refuses(Create { labels: vec![("a".into(), "x".repeat(70 << 10))], ..plain() }, "65536");
        refuses(Create { memory: Some(5 << 20), ..plain() }, "--memory");
    }

    #[test]
    fn limits_have_names_and_an_order() {
        let with =
            |name: &str, soft, hard| check(&Create { ulimits: vec![(name.into(), soft, hard)], ..plain() });
        assert!(
            with("nofile", 10, 20).is_ok() && with("core", -1, -1).is_ok() && with("core", 0, -1).is_ok()
        );
        assert!(
            with("files", 1, 1).is_err()
                && with("nofile", 20, 10).is_err()
                && with("nofile", -1, 10).is_err()
        );
        assert!(with("nofile", -2, 10).is_err());
    }

    #[test]
    fn an_execution_runs_something() {
        assert!(check_exec(&Exec::default()).is_err());
        let exec = Exec { command: vec!["sh".into()], ..Exec::default() };
        assert!(check_exec(&exec).is_ok());
        assert!(check_exec(&Exec { workdir: Some("x".into()), ..exec }).is_err());
    }
}
