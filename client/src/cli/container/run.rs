//! `create`, `run`, `start`, `attach` and `exec`: commands that create or start a container, or attach to one.

use crate::cli::args::container::{Attach, Create, Exec, NotifyWho, Options, PullWhen, Run, Start, Stream};
use crate::cli::args::display::{Progress, ProgressStyle};
use crate::cli::args::socket::EngineSocket;
use crate::cli::container::attach_session::{AttachOptions, Session, SessionEnd, run_failure};
use crate::cli::container::become_shim;
use crate::cli::container::inspect::document;
use crate::cli::container::options;
use crate::cli::engine::{each, engine, finish};
use crate::cli::error::{FAILED, Failure, USAGE};
use crate::cli::image::credentials;
use crate::cli::job::follow::Follow;
use crate::cli::output;
use crate::cli::output::print;
use sampan_client::detach_keys;
use sampan_client::engine::{self, Answer, Code, EngineError, Request};
use sampan_ipc::{container, named_file};
use std::env;
use std::path::Path;

/// The container that this command has created.
struct Made {
    id: String,
}

pub(crate) fn create(args: &Create) -> Result<(), Failure> {
    let made = create_container(&args.options)?;
    print(&format!("{}\n", made.id))
}

/// Runs `sampan run`.
///
/// # Errors
/// Exit status 125: the container could not be created or started. 126 or 127: its command could not be executed. Any
/// other status is the command's own exit code.
pub(crate) fn run(args: &Run) -> Result<(), Failure> {
    let options = &args.options;
    if args.detach && !options.attach.is_empty() {
        return Err(Failure::new("cannot use -a with -d: a detached container is not attached").status(USAGE));
    }
    if args.unit {
        return run_unit(args);
    }
    if options.sdnotify == Some(NotifyWho::Conmon) {
        become_shim::check_notify()?;
    }
    let keys = detach_keys(options.detach_keys.as_deref())?;
    let attach = AttachOptions {
        stdin: options.interactive && attaches(options, Stream::Stdin),
        stdout: attaches(options, Stream::Stdout),
        stderr: attaches(options, Stream::Stderr),
        tty: options.tty,
        proxy: args.sig_proxy,
        keys,
    };
    // Check before the container is created: after a failure nobody would start or remove it.
    if !args.detach {
        attach.check()?;
    }
    let made = create_container(options).map_err(|failure| Failure { status: USAGE, ..failure })?;
    if args.detach {
        let request =
            Request::Start(engine::Start { container: made.id.clone(), ..engine::Start::default() });
        finish_as_run(&options.socket, request)?;
        return print(&format!("{}\n", made.id));
    }
    if !attach.stdout && !attach.stderr && !attach.tty {
        print(&format!("{}\n", made.id))?;
    }
    start_attached(&options.socket, &made.id, attach)
}

/// Creates a container and becomes its shim, so that this process's systemd unit is the container.
fn run_unit(args: &Run) -> Result<(), Failure> {
    let options = &args.options;
    let refuse = |why: &str| Err(Failure::new(format!("cannot use --unit with {why}")).status(USAGE));
    if args.detach {
        return refuse("-d: the container's shim is the unit's main process");
    }
    if options::restart(&options.restart)? != container::Restart::No {
        return refuse("--restart: the unit's Restart= restarts the container");
    }
    become_shim::check()?;
    let made = create_container(options).map_err(|failure| Failure { status: USAGE, ..failure })?;
    let streams = [Stream::Stdout, Stream::Stderr].map(|stream| attaches(options, stream));
    let failure = become_shim::become_shim(&options.socket, &made.id, options.sdnotify.map(notify), streams);
    // Remove the container, so that its name is free when systemd tries again.
    let request = Request::RemoveContainer { container: made.id, force: true };
    let _ = finish_as_run(&options.socket, request);
    Err(failure)
}

/// Whether a stream is attached. Without `--attach` all streams are attached.
fn attaches(options: &Options, stream: Stream) -> bool {
    options.attach.is_empty() || options.attach.contains(&stream)
}

fn detach_keys(text: Option<&str>) -> Result<Vec<u8>, Failure> {
    let text = text.unwrap_or(detach_keys::DEFAULT);
    detach_keys::parse(text).map_err(|_| {
        Failure::new(format!("--detach-keys {text:?} is invalid")).hint(detach_keys::HINT).status(USAGE)
    })
}

/// Waits for the end of a request. A failure gets the exit status of podman-run(1).
fn finish_as_run(socket: &EngineSocket, request: Request) -> Result<engine::Done, Failure> {
    let mut done = None;
    for answer in engine(socket).request(request, &[]).map_err(run_failure)? {
        match answer.map_err(run_failure)? {
            Answer::Done(last) => done = Some(last),
            Answer::Note(note) => output::note(&note),
            _ => {}
        }
    }
    done.ok_or_else(|| Failure::new("the engine gave no answer").status(USAGE))
}

fn start_attached(socket: &EngineSocket, container: &str, attach: AttachOptions) -> Result<(), Failure> {
    let (session, attachment) = Session::open(attach)?;
    let start = engine::Start {
        container: container.to_owned(),
        attach: Some(attachment.streams),
        size: attachment.size,
    };
    let asked = engine(socket).request(Request::Start(start), &attachment.descriptors()).map_err(run_failure);
    status(session.follow(attachment, asked?)?)
}

/// The outcome of this command: its exit status is the container's exit code, without a message.
fn status(end: SessionEnd) -> Result<(), Failure> {
    match end {
        SessionEnd::Exited(0) | SessionEnd::Detached => Ok(()),
        SessionEnd::Exited(code) => Err(Failure { quiet: true, ..Failure::new("") }.status(code)),
    }
}

/// Creates a container. Pulls its image first if `--pull` demands that.
fn create_container(options: &Options) -> Result<Made, Failure> {
    let request = create_request(options)?;
    check_files(options)?;
    if options.pull == PullWhen::Always {
        pull(options, &request.image)?;
    }
    let made = match request_create(options, request.clone()) {
        Err(EngineError::Failed(failure))
            if failure.code == Code::NotFound && options.pull == PullWhen::Missing =>
        {
            pull(options, &request.image)?;
            request_create(options, request)?
        }
        made => made?,
    };
    if let Some(file) = cidfile(options) {
        write_id(file, &made.id)?;
    }
    Ok(made)
}

/// Fails if the file of `--cidfile` or `--pidfile` cannot be written. Called before the container is created.
fn check_files(options: &Options) -> Result<(), Failure> {
    if let Some(path) = cidfile(options) {
        let name = path.display().to_string();
        let failed = |error| Failure::new(format!("cannot write --cidfile {name:?}: {error}")).status(USAGE);
        let target = named_file::resolve(path).map_err(failed)?;
        if target.symlink_metadata().is_ok() {
            let message = format!("--cidfile {name:?}: the file exists already");
            let hint = "another container may use the file; remove the file if not";
            return Err(Failure::new(message).hint(hint).status(USAGE));
        }
        let dir = target.parent().unwrap_or(&target);
        nix::unistd::access(dir, nix::unistd::AccessFlags::W_OK).map_err(|errno| failed(errno.into()))?;
    }
    if let Some(path) = &options.pidfile {
        let target = named_file::resolve(path).and_then(|target| named_file::look(&target));
        let name = path.display().to_string();
        target.map_err(|error| {
            Failure::new(format!("cannot write --pidfile {name:?}: {error}")).status(USAGE)
        })?;
    }
    Ok(())
}

/// The file for the container's ID; `None` for an empty name, as in docker.
fn cidfile(options: &Options) -> Option<&Path> {
    options.cidfile.as_deref().filter(|path| !path.as_os_str().is_empty())
}

fn write_id(file: &Path, id: &str) -> Result<(), Failure> {
    named_file::create(file, id.as_bytes(), 0o666).map_err(|error| {
        Failure::new(format!("cannot write --cidfile {:?}: {error}", file.display().to_string()))
            .hint(format!("the container was created: 'sampan rm {id}' removes it"))
    })
}

fn request_create(options: &Options, create: container::Create) -> Result<Made, EngineError> {
    let mut made = None;
    for answer in engine(&options.socket).request(Request::Create(Box::new(create)), &[])? {
        match answer? {
            Answer::Container { id, warnings, .. } => {
                warnings.iter().for_each(|warning| output::message("warning", warning));
                made = Some(Made { id });
            }
            Answer::Note(note) => output::note(&note),
            _ => {}
        }
    }
    made.ok_or_else(|| {
        let message = "the engine did not name the container that it created".to_owned();
        EngineError::Failed(engine::Failure { message, ..engine::Failure::default() })
    })
}

/// Pulls an image, with the progress on standard error.
fn pull(options: &Options, reference: &str) -> Result<(), Failure> {
    let request = Request::Pull(engine::Pull {
        reference: reference.to_owned(),
        platform: options.platform.clone(),
        credentials: credentials::for_job(&engine(&options.socket), reference, None)?,
        ..engine::Pull::default()
    });
    if !options.quiet {
        output::note(&format!("pulling image {reference:?}"));
    }
    let engine = engine(&options.socket);
    let progress = Progress { progress: ProgressStyle::Auto, quiet: options.quiet };
    let mut start = |_| engine.request(request.clone(), &[]);
    output::redirect_to_stderr();
    let name = reference.to_owned();
    let followed = Follow::new(std::slice::from_ref(&name), &progress, &mut start).and_then(Follow::run);
    output::redirect_to_stdout();
    let outcomes = followed?.finish(None, [])?;
    outcomes.into_iter().try_for_each(|outcome| outcome.map(drop))
}

/// Makes the request from the options.
fn create_request(options: &Options) -> Result<container::Create, Failure> {
    let (image, command) =
        options.words.split_first().ok_or_else(|| Failure::new("the image is missing").status(USAGE))?;
    if image.is_empty() {
        return Err(Failure::new("the name of the image is empty").status(USAGE));
    }
    let pairs = |option: &str, words: &[String], may_lack: bool| {
        words.iter().map(|word| options::pair(option, word, may_lack)).collect::<Result<Vec<_>, Failure>>()
    };
    detach_keys(options.detach_keys.as_deref())?;
    let restart = options::restart(&options.restart)?;
    if options.rm && restart != container::Restart::No {
        let message = format!(
            "cannot use --restart {:?} with --rm: a removed container cannot restart",
            options.restart
        );
        return Err(Failure::new(message).status(USAGE));
    }
    let pidfile = options.pidfile.as_ref().map(std::path::absolute).transpose();
    Ok(container::Create {
        name: non_empty(&options.name),
        image: image.clone(),
        command: command.to_vec(),
        entrypoint: options.entrypoint.as_ref().map(|word| match word.as_str() {
            "" => Vec::new(),
            word => vec![word.to_owned()],
        }),
        env: options::environment(&options.env_file, &options.env)?,
        user: options.user.clone(),
        workdir: non_empty(&options.workdir),
        hostname: non_empty(&options.hostname),
        tty: options.tty,
        open_stdin: options.interactive,
        labels: options::labels(&options.label_file, &options.label)?,
        mounts: mounts(options)?,
        read_only: options.read_only,
        network: options.network.as_deref().map_or(Ok(container::Network::Default), options::network)?,
        restart,
        auto_remove: options.rm,
        init: options.init,
        privileged: options.privileged,
        cap_add: options.cap_add.clone(),
        cap_drop: options.cap_drop.clone(),
        devices: options.device.clone(),
        security: options
            .security_opt
            .iter()
            .map(|word| options::security(word))
            .collect::<Result<_, _>>()?,
        ulimits: options.ulimit.iter().map(|word| options::ulimit(word)).collect::<Result<_, _>>()?,
        memory: options.memory.as_deref().map(|text| options::size("--memory", text)).transpose()?,
        memory_swap: options.memory_swap.as_deref().map(options::swap).transpose()?,
        nano_cpus: options.cpus.as_deref().map(options::cpus).transpose()?,
        pids: options.pids_limit,
        shm_size: options.shm_size.as_deref().map(|text| options::size("--shm-size", text)).transpose()?,
        stop_signal: non_empty(&options.stop_signal),
        stop_timeout: options.stop_timeout.map(options::stop_timeout).transpose()?,
        log_driver: non_empty(&options.log_driver),
        log_options: pairs("--log-opt", &options.log_opt, false)?,
        runtime: options.runtime.clone(),
        pidfile: pidfile.map_err(|error| Failure::new(format!("--pidfile: {error}")).status(USAGE))?,
        sdnotify: options.sdnotify.map(notify).unwrap_or_default(),
        notify_socket: match options.sdnotify {
            None | Some(NotifyWho::Ignore) => None,
            _ => env::var("NOTIFY_SOCKET").ok(),
        },
        platform: options.platform.clone(),
        detach_keys: options.detach_keys.clone(),
        group_add: options.group_add.clone(),
        sysctls: pairs("--sysctl", &options.sysctl, false)?,
        annotations: pairs("--annotation", &options.annotation, true)?,
        command_line: env::args_os().map(|word| word.to_string_lossy().into_owned()).collect(),
    })
}

fn notify(who: NotifyWho) -> container::Notify {
    match who {
        NotifyWho::Ignore => container::Notify::Ignore,
        NotifyWho::Container => container::Notify::Container,
        NotifyWho::Conmon => container::Notify::Conmon,
    }
}

/// The value of an option. An empty value counts as absent, since a script may pass a variable that is not set.
fn non_empty(option: &Option<String>) -> Option<String> {
    option.clone().filter(|word| !word.is_empty())
}

fn mounts(options: &Options) -> Result<Vec<container::Mount>, Failure> {
    let mut mounts = Vec::new();
    for word in &options.volume {
        mounts.push(options::volume(word)?);
    }
    for word in &options.mount {
        mounts.push(options::mount(word)?);
    }
    for word in &options.tmpfs {
        mounts.push(options::tmpfs(word)?);
    }
    Ok(mounts)
}

/// Runs `sampan start`.
///
/// # Errors
/// A container could not be started. With `-a`, the exit status is the exit code of the container's command.
pub(crate) fn start(args: &Start) -> Result<(), Failure> {
    if args.unit {
        return start_unit(args);
    }
    if !args.attach && !args.interactive {
        return each(&args.containers, |name| {
            let start = engine::Start { container: name.clone(), ..engine::Start::default() };
            finish(engine(&args.socket).request(Request::Start(start), &[])?)?;
            print(&format!("{name}\n"))
        });
    }
    let [name] = args.containers.as_slice() else {
        return Err(Failure::new("cannot attach to several containers").status(USAGE));
    };
    let config = config(&args.socket, name)?;
    let attach = AttachOptions {
        stdin: args.interactive && config.open_stdin,
        stdout: true,
        stderr: true,
        tty: config.tty,
        proxy: args.sig_proxy,
        keys: detach_keys(args.detach_keys.as_deref().or(config.detach_keys.as_deref()))?,
    };
    start_attached(&args.socket, name, attach)
}

/// Becomes the shim of an existing container.
fn start_unit(args: &Start) -> Result<(), Failure> {
    let refuse = |why: &str| Err(Failure::new(format!("cannot use --unit with {why}")).status(USAGE));
    if args.attach || args.interactive {
        return refuse("-a or -i");
    }
    let [name] = args.containers.as_slice() else {
        return refuse("several containers");
    };
    become_shim::check()?;
    Err(become_shim::become_shim(&args.socket, name, None, [true; 2]))
}

/// The settings of a container that a session needs.
struct Config {
    tty: bool,
    open_stdin: bool,
    detach_keys: Option<String>,
}

fn config(socket: &EngineSocket, name: &str) -> Result<Config, Failure> {
    let document = document(socket, name, false)?;
    let of = |key: &str| document.pointer(&format!("/Config/{key}"));
    Ok(Config {
        tty: of("Tty").and_then(serde_json::Value::as_bool).unwrap_or(false),
        open_stdin: of("OpenStdin").and_then(serde_json::Value::as_bool).unwrap_or(false),
        detach_keys: of("DetachKeys")
            .and_then(|keys| keys.as_str())
            .filter(|keys| !keys.is_empty())
            .map(str::to_owned),
    })
}

/// Runs `sampan attach`.
///
/// # Errors
/// The container does not run. Otherwise the exit status is the exit code of the container's command.
pub(crate) fn attach(args: &Attach) -> Result<(), Failure> {
    let config = config(&args.socket, &args.container)?;
    let attach = AttachOptions {
        stdin: !args.no_stdin && config.open_stdin,
        stdout: true,
        stderr: true,
        tty: config.tty,
        proxy: args.sig_proxy && !config.tty,
        keys: detach_keys(args.detach_keys.as_deref().or(config.detach_keys.as_deref()))?,
    };
    let (session, attachment) = Session::open(attach)?;
    let request = Request::Attach {
        container: args.container.clone(),
        streams: attachment.streams,
        size: attachment.size,
    };
    let asked = engine(&args.socket).request(request, &attachment.descriptors());
    let end = session.follow(attachment, asked?);
    // This command has started nothing, so its failures have status 1 and not one of podman-run(1).
    status(end.map_err(|failure| match failure.status {
        USAGE => failure.status(FAILED),
        _ => failure,
    })?)
}

pub(crate) fn exec(args: &Exec) -> Result<(), Failure> {
    let (name, command) = match args.words.split_first() {
        Some((name, command)) if !command.is_empty() => (name, command),
        _ => {
            return Err(Failure::new("the command is missing")
                .hint("sampan exec CONTAINER COMMAND [ARG]")
                .status(USAGE));
        }
    };
    let mut exec = container::Exec {
        container: name.clone(),
        command: command.to_vec(),
        env: options::environment(&args.env_file, &args.env)?,
        user: args.user.clone(),
        workdir: non_empty(&args.workdir),
        tty: args.tty,
        privileged: args.privileged,
        detach: args.detach,
        detach_keys: args.detach_keys.clone(),
        ..container::Exec::default()
    };
    let keys = detach_keys(args.detach_keys.as_deref())?;
    if args.detach {
        return finish_as_run(&args.socket, Request::Exec(Box::new(exec))).map(drop);
    }
    let attach = AttachOptions {
        stdin: args.interactive,
        stdout: true,
        stderr: true,
        tty: args.tty,
        proxy: false,
        keys,
    };
    let (session, attachment) = Session::open(attach)?;
    (exec.streams, exec.size) = (attachment.streams, attachment.size);
    let asked = engine(&args.socket).request(Request::Exec(Box::new(exec)), &attachment.descriptors());
    status(session.follow(attachment, asked.map_err(run_failure)?)?)
}
