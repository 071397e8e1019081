//! The first process of a container, and the processes of executions: arguments, environment, user, privileges, limits.
//!
//! Called by `bundle`. Reads the container's root file system for users and directories; changes nothing.

use super::capabilities;
use super::config_json::{ConsoleSize, INIT, NOTIFY, Process, Rlimit};
use super::error::SpecError;
use super::host::Host;
use super::rootfs_view::{Kind, Root};
use super::security::{self, Labels};
use super::settings::Settings;
use super::{user, validate, words};
use sampan_ipc::container::{Create, Exec, Notify};
use sampan_oci::Run;

/// The default `PATH`, used if neither the image nor the options set the variable.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The data from which a process is made.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The requested options.
    pub create: &'a Create,
    /// The settings of the image's config for running the image.
    pub run: &'a Run,
    /// This host.
    pub host: &'a Host,
    /// The engine's settings for containers.
    pub settings: &'a Settings,
    /// The root file system.
    pub root: &'a Root,
    /// The container's host name.
    pub hostname: &'a str,
    /// The container's SELinux labels.
    pub labels: &'a Labels,
}

/// The program and its arguments: entrypoint and command from the options, or from the image.
///
/// # Errors
/// [`SpecError::Option`] if neither the options nor the image names a program.
pub fn arguments(create: &Create, run: &Run) -> Result<Vec<String>, SpecError> {
    let entrypoint: Vec<String> = match &create.entrypoint {
        // `--entrypoint ""` clears the image's entrypoint.
        Some(words) if words.iter().all(String::is_empty) => Vec::new(),
        Some(words) => words.clone(),
        None => run.entrypoint.clone(),
    };
    let command = match (create.command.is_empty(), &create.entrypoint) {
        (false, _) => create.command.clone(),
        (true, None) => run.cmd.clone(),
        (true, Some(_)) => Vec::new(),
    };
    let words: Vec<String> = entrypoint.into_iter().chain(command).collect();
    match words.first() {
        Some(first) if !first.is_empty() => Ok(words),
        _ => Err(SpecError::option(
            "the command",
            "",
            "neither the options nor the image name a program to run",
        )),
    }
}

/// Makes the container's first process, and warnings about features that it lacks.
///
/// # Errors
/// [`SpecError`] if an option breaks a rule, or if the host does not support an option.
pub fn first_process(of: &Input<'_>) -> Result<(Process, Vec<String>), SpecError> {
    let create = of.create;
    let requested = create.user.as_deref().or(of.run.user.as_deref()).unwrap_or_default();
    let resolved = user::resolve(of.root, requested, &create.group_add)?;
    let (chosen, left_out) = capabilities::possible(capabilities::wanted(create)?, of.host.capabilities);
    let mut warnings = Vec::new();
    if left_out != capabilities::Set(0) {
        let names = left_out.names();
        let them = if names.len() == 1 { "it" } else { "them" };
        let names = names.join(", ");
        warnings.push(format!("the container goes without {names}: the engine itself does not have {them}"));
    }
    let mut args = arguments(create, of.run)?;
    if create.init {
        args.splice(0..0, [INIT.to_owned(), "--".to_owned()]);
    }
    let process = Process {
        terminal: create.tty,
        console_size: None,
        args,
        env: environment(of, &resolved.home),
        cwd: workdir(of.root, create.workdir.as_deref(), of.run)?,
        capabilities: capabilities::sets(chosen, resolved.user.uid),
        user: resolved.user,
        rlimits: rlimits(create, of.host, of.settings)?,
        no_new_privileges: security::no_new_privileges(create)?,
        apparmor_profile: security::apparmor(create, of.host, of.settings)?,
        selinux_label: of.labels.process.clone(),
        // A process without CAP_SYS_RESOURCE cannot go below the lowest score that it had. proc_pid_oom_score_adj(5).
        oom_score_adj: Some(of.host.oom_score_adj.max(0)),
    };
    Ok((process, warnings))
}

/// Makes the process of an execution in the container.
///
/// # Errors
/// [`SpecError`] if an option breaks a rule, or if the host does not support an option.
pub fn exec_process(of: &Input<'_>, exec: &Exec) -> Result<Process, SpecError> {
    validate::check_exec(exec)?;
    let (first, _) = first_process(of)?;
    let mut process = Process { terminal: exec.tty, args: exec.command.clone(), ..first };
    let mut home = None;
    if let Some(requested) = &exec.user {
        let resolved = user::resolve(of.root, requested, &of.create.group_add)?;
        let (chosen, _) = capabilities::possible(capabilities::wanted(of.create)?, of.host.capabilities);
        process.capabilities = capabilities::sets(chosen, resolved.user.uid);
        process.user = resolved.user;
        home = Some(resolved.home);
    }
    if exec.privileged {
        let all = capabilities::Chosen { all: capabilities::Set::ALL, added: capabilities::Set::ALL };
        let (chosen, _) = capabilities::possible(all, of.host.capabilities);
        process.capabilities = capabilities::sets(chosen, process.user.uid);
        process.no_new_privileges = false;
    }
    if let Some(home) = home.filter(|_| !has_home(of)) {
        set(&mut process.env, &format!("HOME={home}"));
    }
    if exec.tty && !process.env.iter().any(|known| known.starts_with("TERM=")) {
        set(&mut process.env, "TERM=xterm");
    }
    exec.env.iter().for_each(|variable| set(&mut process.env, variable));
    if exec.workdir.is_some() {
        process.cwd = workdir(of.root, exec.workdir.as_deref(), of.run)?;
    }
    if exec.tty && exec.size != (0, 0) {
        process.console_size = Some(ConsoleSize { height: exec.size.0, width: exec.size.1 });
    }
    Ok(process)
}

/// Whether the image or the options set `HOME`.
fn has_home(of: &Input<'_>) -> bool {
    of.run.env.iter().chain(&of.create.env).any(|variable| variable.starts_with("HOME="))
}

fn environment(of: &Input<'_>, home: &str) -> Vec<String> {
    let mut env = vec![PATH.to_owned(), format!("HOSTNAME={}", of.hostname)];
    if of.create.tty {
        env.push("TERM=xterm".to_owned());
    }
    env.push(format!("HOME={home}"));
    if of.create.sdnotify == Notify::Container && of.create.notify_socket.is_some() {
        env.push(format!("NOTIFY_SOCKET={NOTIFY}"));
    }
    set_requested(&mut env, of.run, of.create);
    env
}

/// The environment from the image and the options, without the variables that the engine adds.
pub fn own_environment(run: &Run, create: &Create) -> Vec<String> {
    let mut env = Vec::new();
    set_requested(&mut env, run, create);
    env
}

fn set_requested(env: &mut Vec<String>, run: &Run, create: &Create) {
    // Images are not trusted: skip entries that are no variables.
    let usable = |variable: &&String| {
        !variable.contains('\0') && variable.split_once('=').is_some_and(|(key, _)| !key.is_empty())
    };
    run.env.iter().filter(usable).for_each(|variable| set(env, variable));
    create.env.iter().for_each(|variable| set(env, variable));
}

/// Sets a variable from `KEY=value`, and replaces the old value. `KEY` without a value removes the variable.
fn set(env: &mut Vec<String>, variable: &str) {
    let Some((key, _)) = variable.split_once('=') else {
        env.retain(|known| known.split('=').next() != Some(variable));
        return;
    };
    match env.iter_mut().find(|known| known.split('=').next() == Some(key)) {
        Some(known) => variable.clone_into(known),
        None => env.push(variable.to_owned()),
    }
}

fn workdir(root: &Root, requested: Option<&str>, run: &Run) -> Result<String, SpecError> {
    let dir = match requested.or(run.working_dir.as_deref()).unwrap_or("/") {
        "" => "/".to_owned(),
        dir if dir.starts_with('/') => dir.to_owned(),
        // The image's working directory may be relative: it then starts at the root directory, as in docker's builder.
        dir => format!("/{dir}"),
    };
    words::absolute("--workdir", &dir)?;
    match root.kind(&dir)? {
        // A missing directory is fine: the runtime creates it.
        None | Some(Kind::Directory) => Ok(dir),
        Some(Kind::File | Kind::Other) => {
            Err(SpecError::option("--workdir", &dir, "it is not a directory in the container"))
        }
    }
}

fn rlimits(create: &Create, host: &Host, settings: &Settings) -> Result<Vec<Rlimit>, SpecError> {
    let mut limits: std::collections::BTreeMap<&str, (&'static str, i64, i64)> = settings
        .default_ulimits
        .iter()
        .map(|(name, limit)| (name.as_str(), ("default-ulimits", limit.both().0, limit.both().1)))
        .collect();
    for (name, soft, hard) in &create.ulimits {
        words::ulimit("--ulimit", name, *soft, *hard)?;
        limits.insert(name, ("--ulimit", *soft, *hard));
    }
    let can_raise = host.capabilities.has("CAP_SYS_RESOURCE");
    let mut requested = Vec::new();
    for (name, (option, soft, hard)) in limits {
        let of = |limit| if limit == -1 { u64::MAX } else { u64::try_from(limit).unwrap_or(0) };
        let most = host.limits.get(name).map_or(u64::MAX, |(_, hard)| *hard);
        if of(hard) > most && !can_raise {
            return Err(SpecError::host(
                format!("give the container the limit {option} {name}={soft}:{hard}"),
                format!("the engine's own hard limit is {most}, and it does not have CAP_SYS_RESOURCE"),
                "raise the limit of the engine's service (LimitNOFILE=, LimitNPROC=, … of systemd.exec(5))",
            ));
        }
        requested.push(Rlimit {
            kind: format!("RLIMIT_{}", name.to_ascii_uppercase()),
            soft: of(soft),
            hard: of(hard),
        });
    }
    Ok(requested)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(words: &[&str]) -> Vec<String> {
        words.iter().map(ToString::to_string).collect()
    }

    fn run(entrypoint: &[&str], cmd: &[&str]) -> Run {
        Run { entrypoint: list(entrypoint), cmd: list(cmd), ..Run::default() }
    }

    #[test]
    fn arguments_come_from_the_options_or_else_from_the_image() {
        let ask = |entrypoint: Option<&[&str]>, command: &[&str]| {
            let create =
                Create { entrypoint: entrypoint.map(list), command: list(command), ..Create::default() };
            arguments(&create, &run(&["/e"], &["c"])).map(|words| words.join(" ")).ok()
        };
        assert_eq!(ask(None, &[]).as_deref(), Some("/e c"));
        assert_eq!(ask(None, &["x", "y"]).as_deref(), Some("/e x y"));
        assert_eq!(ask(Some(&["/o"]), &[]).as_deref(), Some("/o"));
        assert_eq!(ask(Some(&[]), &["x"]).as_deref(), Some("x"));
        assert_eq!(ask(Some(&[""]), &["x"]).as_deref(), Some("x"));
        assert_eq!(ask(Some(&[]), &[]), None);
        assert!(arguments(&Create::default(), &run(&[], &[])).is_err());
    }

    #[test]
    fn later_variables_win_and_a_bare_key_takes_one_away() {
        let mut env = list(&["PATH=/bin", "A=1"]);
        for variable in ["A=2", "B=x=y", "PATH", "C"] {
            set(&mut env, variable);
        }
        assert_eq!(env, ["A=2", "B=x=y"]);
    }

    #[test]
    fn a_limit_that_the_host_forbids_says_which_setting() {
        let mut host = Host { capabilities: capabilities::Set(0), ..Host::default() };
        host.limits.insert("nofile".into(), (10, 100));
        let ask = |hard| {
            let create = Create { ulimits: vec![("nofile".into(), 5, hard)], ..Create::default() };
            rlimits(&create, &host, &Settings::default())
        };
        assert_eq!(ask(100).expect("allowed").len(), 1);
        let error = ask(101).expect_err("forbidden");
        assert!(error.to_string().contains("nofile") && error.hint().contains("LimitNOFILE"), "{error}");
    }
}
