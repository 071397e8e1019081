//! Starts a container: writes its bundle, starts its shim and sends the shim its setup.
//!
//! Called by the manager, on a thread. Also deletes the OCI runtime's files of a container whose shim was killed. The
//! shim runs the container, and reports whether the start has succeeded.

use super::context::Context;
use super::definition::Definition;
use super::directory::{self, Directories};
use super::outcome::{ShimCommand, StartOptions, StartedShim};
use super::systemd_unit::{self, Unit};
use super::{etc_files, log_driver};
use crate::config::Config;
use crate::context::Shared;
use crate::error;
use sampan_ipc::container::{FOR_EVER, Notify, Streams};
use sampan_ipc::engine::{Code, Failure};
use sampan_ipc::frame;
use sampan_ipc::report::chain;
use sampan_ipc::shim::{self, Action, CLIENTS, Rootfs, Setup, ShimRequest, State, UNIT, VERSION};
use sampan_ipc::socket;
use sampan_os::boot_id;
use sampan_os::cgroup;
use sampan_os::spawn::{Program, Relation};
use sampan_shim::runtime_commands;
use sampan_spec::bundle;
use sampan_spec::runtime::Runtime;
use sampan_spec::settings::Form;
use std::error::Error;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// Exit status of a container that the engine could not start. podman-run(1), "Exit Status".
pub const CANNOT_START: u8 = 125;

/// Deletes a container whose shim was killed from the OCI runtime, and kills the container's processes. A container
/// that the runtime does not know counts as deleted. If the runtime is missing or takes longer than
/// [`sampan_spec::runtime::COMMAND_TIMEOUT`], the engine kills the processes without it.
///
/// # Errors
/// The message of the runtime, if the runtime failed.
pub fn delete_by_force(
    shared: &Shared,
    directories: &Directories,
    definition: &Definition,
) -> Result<(), String> {
    let (root, id) = (runtime_root(&shared.config), &*definition.id);
    let unit = directories.unit_group(id);
    runtime_commands::end_commands(&root, &directories.dir(id), id);
    let runtime = Runtime::find(&shared.config.settings, definition.create.runtime.as_deref());
    let outcome = match &runtime {
        Ok(runtime) => {
            runtime.run_command(&root, &["delete", "--force", id]).map_err(|error| error.to_string())
        }
        Err(error) => Err(chain(error)),
    };
    let outcome = match outcome {
        Ok((Some(0), ..)) => Ok(()),
        // The runtimes have no special exit status for an unknown container, only this message.
        Ok((_, _, words)) if words.contains("does not exist") => Ok(()),
        Ok((_, _, words)) => {
            let name = runtime.as_ref().map(|runtime| runtime.name.as_str()).unwrap_or_default();
            Err(format!("{name} delete: {}", words.trim().chars().take(500).collect::<String>()))
        }
        Err(why) => {
            log::warn!(
                "container {}: its OCI runtime does not delete it, the engine kills its processes itself: {why}",
                definition.name
            );
            Ok(())
        }
    };
    if outcome.is_ok() {
        // If the runtime was killed while it created the container, it does not know the container but has left files.
        runtime_commands::remove_state(&root, id);
    }
    cgroup::remove_groups(id, unit.as_deref());
    unit.as_deref().inspect(|group| cgroup::remove_unit_groups(group));
    outcome
}

/// Returns the runtime's state directory.
fn runtime_root(config: &Config) -> PathBuf {
    config.run_dir.join("runtime")
}

/// Starts the container's shim, or prepares the program that a unit's main process executes to become the shim.
/// Returns the connection to the shim.
///
/// # Errors
/// The bundle cannot be made, or the shim cannot be started. After an error no process is left.
pub fn start(
    shared: &Shared,
    directories: &Directories,
    definition: &Definition,
    state: State,
    options: StartOptions,
) -> Result<StartedShim, Failure> {
    let failed = |error: &dyn Error| {
        let message = format!("cannot start container {:?}: {}", definition.name, chain(error));
        error::new(Code::Failed, message, "")
    };
    let asked = options.unit.as_deref();
    let unit = asked.map(|asked| Unit::of(asked.pid)).transpose().map_err(error::explain)?;
    let adapted =
        asked.map(|asked| systemd_unit::adapt(definition, asked)).transpose().map_err(error::explain)?;
    let definition = adapted.as_ref().unwrap_or(definition);
    let mut context = Context::of(shared, directories, definition)?;
    if unit.is_some() {
        // With its driver for systemd, the OCI runtime would request a unit of its own from systemd instead of using
        // this unit.
        context.runtime = Arc::new(Runtime { systemd: false, ..Runtime::clone(&context.runtime) });
    }
    let run = directories.make_run(&definition.id).map_err(|error| failed(&error))?;
    if let Some(unit) = &unit {
        directories.set_unit_group(&definition.id, &unit.group).map_err(|error| failed(&error))?;
    }
    let (name, label) = (
        bundle::hostname(&context.input()),
        if context.host.selinux { &definition.selinux.mount } else { "" },
    );
    etc_files::write(directories, definition, name, context.network, label)
        .map_err(|error| failed(&error))?;
    let mut bundle = bundle::bundle(&context.input()).map_err(error::explain)?;
    if let (Some(unit), Some(asked)) = (&unit, asked) {
        unit.apply(&mut bundle.spec, &definition.id, &definition.create, asked);
    }
    bundle.make_sources().map_err(error::explain)?;
    for warning in bundle.relabel().map_err(error::explain)? {
        log::warn!("container {}: {warning}", definition.name);
    }
    let path = directories.dir(&definition.id).join("config.json");
    directory::write(&path, bundle.json().as_bytes(), false).map_err(|error| failed(&error))?;
    let (attach, descriptors) = options.attach.map_or((None, Vec::new()), |(streams, d)| (Some(streams), d));
    let clients = options.clients;
    let setup = Setup {
        state: State { boot: boot_id::read().unwrap_or_default(), ..state },
        attach,
        size: options.size,
        is_restart: options.is_restart || options.by_policy,
        ..setup(&context, directories, run)?
    };
    let started = match (&unit, asked) {
        (Some(unit), Some(asked)) => prepare(&setup, &unit.for_shim(&definition.create, asked, &setup.log)),
        _ => spawn(&setup, &descriptors, &clients).map(|stream| StartedShim { stream, shim: None }),
    };
    started.map_err(|error| failed(&error))
}

fn setup(context: &Context<'_>, directories: &Directories, run: PathBuf) -> Result<Setup, Failure> {
    let Context { shared, definition, .. } = *context;
    let (create, dir) = (&definition.create, directories.dir(&definition.id));
    let lower = context.layers.iter().rev().cloned();
    let timeout = create.stop_timeout.unwrap_or(shared.config.settings.stop_timeout);
    Ok(Setup {
        version: VERSION,
        identity: definition.identity(),
        run,
        fifo: shared.config.fifo.clone(),
        runtime: context.runtime.command(&runtime_root(&shared.config)),
        bundle: dir.clone(),
        rootfs: match definition.rootfs {
            Form::Copy => Rootfs::Ready,
            Form::Overlay => {
                let overlay = Rootfs::Overlay {
                    lower: lower.collect(),
                    upper: dir.join("upper"),
                    work: dir.join("work"),
                    target: context.rootfs.clone(),
                };
                overlay.labelled(if context.host.selinux { &definition.selinux.mount } else { "" })
            }
        },
        tty: create.tty,
        open_stdin: create.open_stdin,
        log: log_driver::log(&shared.config, directories, definition)?,
        restart: create.restart,
        auto_remove: create.auto_remove,
        stop_signal: definition.stop_signal,
        stop_timeout_ms: if timeout == FOR_EVER { -1 } else { i64::from(timeout) * 1000 },
        pidfile: create.pidfile.clone(),
        notify: match create.sdnotify {
            Notify::Conmon => create.notify_socket.as_ref().map(PathBuf::from),
            Notify::Ignore | Notify::Container => None,
        },
        dir,
        ..Setup::default()
    })
}

fn spawn(
    setup: &Setup,
    descriptors: &[OwnedFd],
    clients: &[(Streams, Vec<OwnedFd>)],
) -> std::io::Result<UnixStream> {
    let bytes = frame::encode(setup).map_err(std::io::Error::other)?;
    let (ours, theirs) = UnixStream::pair()?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    let count = clients.len().to_string();
    // The shim ignores the directory. It shows in ps(1) which container the shim belongs to.
    let mut words = vec![program().as_os_str(), setup.dir.as_os_str()];
    if !clients.is_empty() {
        words.extend([OsStr::new(CLIENTS), OsStr::new(&count)]);
    }
    let words = words.into_iter().map(|word| CString::new(word.as_bytes())).collect::<Result<Vec<_>, _>>()?;
    let path = words.first().ok_or(std::io::ErrorKind::InvalidInput)?;
    let standard = [theirs.as_fd(), null.as_fd(), null.as_fd()];
    sampan_os::spawn::spawn(&Program {
        path,
        args: &words,
        environment: &[],
        standard,
        inherited: &[],
        relation: Relation::Orphan,
    })
    .map_err(|error| {
        std::io::Error::new(error.kind(), format!("cannot run {}: {error}", program().display()))
    })?;
    // The shim has its own copy of this descriptor. If the engine kept its copy, it would not see the end of the
    // connection.
    drop(theirs);
    let sent = socket::send_all(&ours, &bytes, descriptors).and_then(|()| send_clients(&ours, clients));
    match sent {
        // The shim was killed already. The caller gets the end of the connection, as for a shim that is killed later.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(ours),
    }
}

/// Sends the clients that the shim attaches before it starts the container.
fn send_clients(shim: &UnixStream, clients: &[(Streams, Vec<OwnedFd>)]) -> std::io::Result<()> {
    for (streams, descriptors) in clients {
        // The shim replies to none of these requests, so they need no number of their own.
        let request = ShimRequest { number: 0, action: Action::Attach(*streams) };
        socket::send_all(shim, &frame::encode(&request).map_err(std::io::Error::other)?, descriptors)?;
    }
    Ok(())
}

/// Prepares the program that a unit's main process executes to become the shim.
fn prepare(setup: &Setup, unit: &shim::Unit) -> std::io::Result<StartedShim> {
    let mut bytes = frame::encode(setup).map_err(std::io::Error::other)?;
    bytes.extend(frame::encode(unit).map_err(std::io::Error::other)?);
    let (stream, theirs) = UnixStream::pair()?;
    let words = [program().as_os_str(), setup.dir.as_os_str(), UNIT.as_ref()];
    let words = words.map(|word| word.to_string_lossy().into_owned()).to_vec();
    Ok(StartedShim { stream, shim: Some(ShimCommand { words, stdin: theirs.into(), setup: bytes }) })
}

/// Returns the path of the shim's program: in the directory of the engine's own program, found when the engine
/// started.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let engine = std::env::current_exe().unwrap_or_default();
        engine.with_file_name("sampan-shim")
    })
}

/// Stores the path of the shim's program. Must be called when the engine starts, before its program can be replaced.
pub fn find_shim() {
    program();
}
