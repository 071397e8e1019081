//! Finds the OCI runtime: its program, its version and features, and whether it works on this host.
//!
//! Called when a container is created or started. Caches the result until the program's file changes. A runtime that
//! the request or the configuration names is used without a trial. Otherwise crun and then runc are tried, each with a
//! container whose program does not exist: a runtime that reports any other error does not work on this host. The
//! reason is logged and stored in [`Runtime::passed_over`].

use super::devices;
use super::error::SpecError;
use super::host::{Host, is_program};
use super::names;
use super::settings::{Manager, Settings};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use sampan_ipc::text::excerpt;
use sampan_os::cgroup;
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The runtimes that are tried, in this order.
const CANDIDATES: [&str; 2] = ["crun", "runc"];
/// Variables that systemd sets for the engine. The engine removes them, since a runtime would pass them on to a
/// container. sd_notify(3), sd_listen_fds(3).
const SYSTEMD_VARIABLES: [&str; 4] = ["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"];
/// Directories in which programs are searched, after those of `PATH`.
const EXTRA_DIRS: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Longest run time of a program that [`run_program`] runs.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);
/// Most bytes of output that are read from a program.
const OUTPUT_MAX: u64 = 1 << 20;
/// Path of a program that does not exist. An error message with this text is about the program, since no other path of
/// the trial contains the text.
const MISSING_PROGRAM: &str = "/there-is-no-such-program";

/// An OCI runtime.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Runtime {
    /// Name of the program's file.
    pub name: String,
    /// Path of the program.
    pub path: PathBuf,
    /// The runtime's version.
    pub version: String,
    /// The version of the runtime-spec that the runtime reports.
    pub spec: String,
    /// Whether systemd creates the control groups.
    pub systemd: bool,
    /// Whether the runtime can filter system calls.
    pub seccomp: bool,
    /// Whether the runtime reports that it cannot set AppArmor profiles.
    pub lacks_apparmor: bool,
    /// Whether the runtime reports that it cannot set SELinux labels.
    pub lacks_selinux: bool,
    /// Mount options that the runtime says it supports.
    pub mount_options: Vec<String>,
    /// Runtimes that were tried before this runtime and do not work on this host, with the reasons.
    pub passed_over: Vec<String>,
}

/// The cache, with a slot for each requested runtime. Each slot has a lock of its own, so that a runtime that hangs
/// does not delay requests for another runtime.
static SLOTS: Mutex<BTreeMap<String, Arc<Mutex<Slot>>>> = Mutex::new(BTreeMap::new());
/// Identifies a version of a program's file: device, inode, modification time in seconds and nanoseconds.
type Stamp = (u64, u64, i64, i64);

/// The cached result of finding a runtime.
#[derive(Default)]
struct Slot {
    /// The runtime; valid while its program's file has this stamp.
    found: Option<(Stamp, Arc<Runtime>)>,
    /// When the search for the runtime last failed, and why.
    failed: Option<(Instant, SpecError)>,
}

impl Slot {
    fn known(&self) -> Option<&Arc<Runtime>> {
        let (stamp, runtime) = self.found.as_ref()?;
        (Some(*stamp) == stamp_of(&runtime.path)).then_some(runtime)
    }
}

impl Runtime {
    /// Finds the runtime that is `requested` by name or path; otherwise the configured runtime; otherwise the first
    /// one that works on this host.
    ///
    /// # Errors
    /// [`SpecError::Host`] if there is no such runtime, or if it does not report its version.
    pub fn find(settings: &Settings, requested: Option<&str>) -> Result<Arc<Runtime>, SpecError> {
        let user = nix::unistd::geteuid();
        if !user.is_root() {
            let why = format!("only root can, and this engine runs as uid {user}");
            return Err(SpecError::host(
                "run containers",
                why,
                "root's engine runs them: SAMPAN_RUN_DIR=/run/sampan, for root and the group sampan-admin, whose members \
                 are root in all but name",
            ));
        }
        let asked_at = Instant::now();
        let slot = slot(settings, requested);
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = slot.known() {
            return Ok(runtime.clone());
        }
        // While this thread waited for the lock, another thread ran the runtime. Its failure counts for this thread,
        // too.
        if let Some((at, SpecError::Host { doing, why, hint })) = &slot.failed
            && *at > asked_at
        {
            return Err(SpecError::Host { doing: doing.clone(), why: why.clone(), hint });
        }
        let (host, manager) = (Host::get(), settings.cgroup_manager);
        let found = match requested.or(settings.runtime.as_deref()) {
            None => choose(host, manager),
            Some(named) => find_named(settings, named, host, manager),
        };
        match found.map(Arc::new) {
            Ok(runtime) => {
                slot.found = stamp_of(&runtime.path).map(|stamp| (stamp, runtime.clone()));
                Ok(runtime)
            }
            Err(SpecError::Host { doing, why, hint }) => {
                let kept = SpecError::Host { doing: doing.clone(), why: why.clone(), hint };
                slot.failed = Some((Instant::now(), kept));
                Err(SpecError::Host { doing, why, hint })
            }
            Err(error) => Err(error),
        }
    }

    /// Whether [`Runtime::find`] would return without running a program. Never waits.
    pub fn is_known(settings: &Settings, requested: Option<&str>) -> bool {
        slot(settings, requested).try_lock().is_ok_and(|slot| slot.known().is_some())
    }

    /// The runtime's program and its global arguments, with `root` as its state directory.
    pub fn command(&self, root: &Path) -> Vec<String> {
        let mut words = vec![
            self.path.to_string_lossy().into_owned(),
            "--root".into(),
            root.to_string_lossy().into_owned(),
        ];
        if self.systemd {
            words.push("--systemd-cgroup".to_owned());
        }
        words
    }

    /// Runs a command of the runtime, with `root` as its state directory. Returns exit code, stdout and stderr. Kills
    /// a command that takes longer than [`COMMAND_TIMEOUT`], with all processes that it has started.
    ///
    /// # Errors
    /// The command cannot be run, or was killed.
    pub fn run_command(&self, root: &Path, args: &[&str]) -> std::io::Result<(Option<i32>, String, String)> {
        let words = self.command(root);
        let global: Vec<&str> = words.iter().skip(1).map(String::as_str).collect();
        run_program(&self.path, &[&global, args].concat())
    }

    /// Whether the runtime says that it supports this mount option.
    pub fn mounts_with(&self, option: &str) -> bool {
        self.mount_options.iter().any(|known| known == option)
    }
}

/// The cache's slot for the `requested` runtime, or for the configured one if `requested` is `None`.
fn slot(settings: &Settings, requested: Option<&str>) -> Arc<Mutex<Slot>> {
    let named = requested.or(settings.runtime.as_deref()).unwrap_or_default();
    // The result depends on the cgroup manager, and in tests one process has several configurations.
    let key = format!("{:?} {named}", settings.cgroup_manager);
    Arc::clone(SLOTS.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default())
}

fn stamp_of(path: &Path) -> Option<Stamp> {
    let found = fs::metadata(path).ok()?;
    Some((found.dev(), found.ino(), found.mtime(), found.mtime_nsec()))
}

/// The hint for a runtime that cannot be used.
const NAMES: &str =
    "--runtime takes crun, runc, or a name of the table [engine.runtimes]; only root may give a path";

/// Checks that a client may request this runtime, which the engine runs with its own privileges. `is_trusted` means
/// that the client is root or the engine's own user, and may run any program with those privileges.
///
/// # Errors
/// [`SpecError::Host`] if the client is not trusted and requests a path that is not in the configuration.
pub fn check_requested(
    settings: &Settings,
    requested: Option<&str>,
    is_trusted: bool,
) -> Result<(), SpecError> {
    let Some(path) = requested.filter(|requested| requested.contains('/') && !is_trusted) else {
        return Ok(());
    };
    let is_configured = settings.runtime.as_deref() == Some(path)
        || settings.runtimes.values().flatten().any(|program| program.as_os_str() == path);
    match is_configured {
        true => Ok(()),
        false => Err(SpecError::host(
            format!("use the OCI runtime {:?}", excerpt(path)),
            "only root may have the engine run a program by its path",
            NAMES,
        )),
    }
}

fn find_named(
    settings: &Settings,
    named: &str,
    host: &Host,
    manager: Option<Manager>,
) -> Result<Runtime, SpecError> {
    let cannot = |why: &str| SpecError::host(format!("use the OCI runtime {:?}", excerpt(named)), why, NAMES);
    let is_found_by_name = CANDIDATES.contains(&named) || settings.runtime.as_deref() == Some(named);
    let path = match settings.runtimes.get(named) {
        Some(programs) => programs.iter().find(|path| is_program(path)).cloned(),
        None if named.starts_with('/') => Some(PathBuf::from(named)).filter(|path| is_program(path)),
        None if named.contains('/') => return Err(cannot("expected a name, or an absolute path")),
        None if !is_found_by_name => return Err(cannot("the configuration has no runtime of that name")),
        None => search(named),
    };
    inspect(&path.ok_or_else(|| cannot("there is no such program"))?, host, manager)
}

fn choose(host: &Host, manager: Option<Manager>) -> Result<Runtime, SpecError> {
    let mut passed_over = Vec::new();
    for name in CANDIDATES {
        let Some(path) = search(name) else { continue };
        match inspect(&path, host, manager)
            .map_err(|error| error.to_string())
            .and_then(|runtime| try_runtime(&runtime).map(|()| runtime))
        {
            Ok(runtime) => return Ok(Runtime { passed_over, ..runtime }),
            Err(why) => {
                log::info!(
                    "the OCI runtime {} does not work on this host and is not used: {why}",
                    path.display()
                );
                passed_over.push(format!("{name}: {why}"));
            }
        }
    }
    let why = match passed_over.is_empty() {
        true => format!("neither {} is installed", CANDIDATES.join(" nor ")),
        false => passed_over.join("; "),
    };
    let hint = match nix::unistd::geteuid().is_root() {
        false if !passed_over.is_empty() => "containers need root: run sampan-engine as root",
        _ => "install crun or runc",
    };
    Err(SpecError::host("find an OCI runtime", why, hint))
}

/// The path of the program `name`, searched in `PATH` and in the usual directories.
pub fn search(name: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let dirs = path.split(':').chain(EXTRA_DIRS.split(':')).filter(|dir| dir.starts_with('/'));
    dirs.map(|dir| Path::new(dir).join(name)).find(|path| is_program(path))
}

/// Runs the runtime's `--version` and `features` commands, and returns what they report.
fn inspect(path: &Path, host: &Host, manager: Option<Manager>) -> Result<Runtime, SpecError> {
    let cannot = |why: String| SpecError::host(format!("ask {} for its version", path.display()), why, "");
    let (code, stdout, stderr) =
        run_program(path, &["--version"]).map_err(|error| cannot(error.to_string()))?;
    if code != Some(0) {
        return Err(cannot(last_line(&stderr)));
    }
    let (version, spec) = versions(&stdout);
    // Older runtimes lack the command `features`.
    let features = run_program(path, &["features"]).ok().filter(|(code, ..)| *code == Some(0));
    let features: Features = features
        .and_then(|(_, stdout, _)| serde_json::from_str(&stdout).ok())
        .unwrap_or_else(|| features_of_version(&stdout));
    let may = features.linux.cgroup.systemd.unwrap_or(false);
    if manager == Some(Manager::Systemd) && !may {
        return Err(SpecError::host(
            "let systemd make control groups",
            format!("{} does not report that it supports systemd", path.display()),
            "set cgroup-manager = \"cgroupfs\" in the table [engine]",
        ));
    }
    Ok(Runtime {
        name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        path: path.to_owned(),
        version,
        spec: Some(features.oci_version_max).filter(|max| !max.is_empty()).unwrap_or(spec),
        systemd: match manager {
            Some(manager) => manager == Manager::Systemd,
            None => host.systemd && may,
        },
        seccomp: features.linux.seccomp.enabled.unwrap_or(false),
        lacks_apparmor: features.linux.apparmor.enabled == Some(false),
        lacks_selinux: features.linux.selinux.enabled == Some(false),
        mount_options: features.mount_options,
        passed_over: Vec::new(),
    })
}

/// The output of `RUNTIME features`. OCI runtime-spec, "Features Structure".
#[derive(Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Features {
    oci_version_max: String,
    mount_options: Vec<String>,
    linux: LinuxFeatures,
}

#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct LinuxFeatures {
    cgroup: CgroupFeatures,
    seccomp: Enabled,
    apparmor: Enabled,
    selinux: Enabled,
}

#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct CgroupFeatures {
    systemd: Option<bool>,
}

#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct Enabled {
    enabled: Option<bool>,
}

/// The version of the runtime and of the runtime-spec, from lines such as `runc version 1.1.5` and `spec: 1.0.2-dev`.
fn versions(stdout: &str) -> (String, String) {
    let first = stdout.lines().next().unwrap_or_default();
    let version = first.rsplit(' ').next().unwrap_or_default();
    let spec = stdout.lines().find_map(|line| line.strip_prefix("spec:")).unwrap_or("1.0.0");
    let clean = |word: &str| excerpt(&word.trim().replace(char::is_control, ""));
    (clean(version), clean(spec))
}

/// The features that an older runtime lists in its version: crun's `+SYSTEMD +SECCOMP`, runc's `libseccomp: 2.5.4`.
fn features_of_version(stdout: &str) -> Features {
    let has = |word: &str| Some(stdout.split_whitespace().any(|known| known == word));
    let mut features = Features::default();
    features.linux.cgroup.systemd = has("+SYSTEMD");
    features.linux.seccomp.enabled = Some(has("+SECCOMP") == Some(true) || stdout.contains("libseccomp:"));
    features
}

/// Tries the runtime with a container whose program does not exist; fails unless that is the error that it reports.
fn try_runtime(runtime: &Runtime) -> Result<(), String> {
    let id = format!("trial-{}", names::id().map_err(|error| error.to_string())?);
    let dir = std::env::temp_dir().join(format!("sampan-{id}"));
    let made = fs::DirBuilder::new().mode(0o700).create(&dir);
    made.map_err(|error| format!("cannot make {}: {error}", dir.display()))?;
    let outcome = try_in(runtime, &dir, &id);
    // If crun failed for another reason, its `delete` does not remove the control group.
    cgroup::remove_groups(&id, None);
    if let Err(error) = sampan_os::remove_tree::remove(&dir) {
        log::warn!("cannot remove {} after trying an OCI runtime: {error}; remove it by hand", dir.display());
    }
    outcome
}

fn try_in(runtime: &Runtime, dir: &Path, id: &str) -> Result<(), String> {
    let config = serde_json::json!({
        "ociVersion": runtime.spec,
        "process": {"user": {"uid": 0, "gid": 0}, "args": [MISSING_PROGRAM], "cwd": "/", "env": ["PATH=/"]},
        "root": {"path": "rootfs", "readonly": false},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "mount"}],
            "cgroupsPath": cgroup(runtime.systemd, id),
            // With version 2 of control groups the runtime loads these rules as a BPF program, which this host may
            // forbid.
            "resources": {"devices": devices::default_rules()},
        },
    });
    let failed = |error: std::io::Error| format!("cannot try the runtime in {}: {error}", dir.display());
    // crun opens /dev before it searches for the program, and does not create the directory.
    fs::create_dir_all(dir.join("rootfs/dev")).map_err(failed)?;
    fs::write(dir.join("config.json"), config.to_string()).map_err(failed)?;
    let bundle = dir.to_string_lossy();
    let call = |more: &[&str]| runtime.run_command(&dir.join("state"), more);
    let (code, _, stderr) = call(&["run", "--bundle", &bundle, id]).map_err(failed)?;
    // Deletes the files that a failed runtime may have left; usually there are none.
    let _ = call(&["delete", "--force", id]);
    match code {
        Some(0) => Ok(()),
        _ if stderr.contains(MISSING_PROGRAM) => Ok(()),
        _ => Err(last_line(&stderr)),
    }
}

/// The container's control group, in the form for systemd or for cgroupfs.
pub fn cgroup(systemd: bool, id: &str) -> String {
    if systemd { format!("system.slice:sampan:{id}") } else { format!("/sampan/{id}") }
}

fn last_line(text: &str) -> String {
    let line = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it failed without a message");
    excerpt(&line.trim().replace(char::is_control, " "))
}

/// Runs a program. Returns its exit code, stdout and stderr.
///
/// # Errors
/// The program cannot be run, takes longer than [`COMMAND_TIMEOUT`], or writes more than 1 MiB. In the last two cases
/// it is killed.
pub fn run_program(path: &Path, args: &[&str]) -> std::io::Result<(Option<i32>, String, String)> {
    let mut command = Command::new(path);
    command.args(args).current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for name in SYSTEMD_VARIABLES {
        command.env_remove(name);
    }
    // The program gets its own process group, so that a kill also ends the processes that it has started.
    let mut child = command.process_group(0).spawn()?;
    let deadline = Instant::now() + COMMAND_TIMEOUT;
    let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let read = read_output(&mut out, &mut err, &mut stdout, &mut stderr, deadline);
    if read.is_err() {
        let group = Pid::from_raw(i32::try_from(child.id()).unwrap_or_default());
        let _ = killpg(group, Signal::SIGKILL);
    }
    let status = child.wait()?;
    read?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok((status.code(), text(stdout), text(stderr)))
}

fn read_output(
    out: &mut Option<impl Read + AsFd>,
    err: &mut Option<impl Read + AsFd>,
    stdout: &mut Vec<u8>,
    stderr: &mut Vec<u8>,
    deadline: Instant,
) -> std::io::Result<()> {
    while out.is_some() || err.is_some() {
        let mut fds = Vec::new();
        fds.extend(out.as_ref().map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
        fds.extend(err.as_ref().map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
        let left = deadline.saturating_duration_since(Instant::now());
        let count = poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX))?;
        if count == 0 || (stdout.len() + stderr.len()) as u64 > OUTPUT_MAX {
            return Err(std::io::Error::new(
                std::io::ErrorKind::TimedOut,
                format!("it did not finish in {} s and was killed", COMMAND_TIMEOUT.as_secs()),
            ));
        }
        let mut ready = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect::<Vec<bool>>().into_iter();
        let out_ready = out.is_some() && ready.next().unwrap_or(false);
        let err_ready = err.is_some() && ready.next().unwrap_or(false);
        take(out, stdout, out_ready)?;
        take(err, stderr, err_ready)?;
    }
    Ok(())
}

/// Reads from a pipe that is ready, and closes the pipe at its end.
fn take(pipe: &mut Option<impl Read>, to: &mut Vec<u8>, is_ready: bool) -> std::io::Result<()> {
    let Some(from) = pipe.as_mut().filter(|_| is_ready) else { return Ok(()) };
    let mut buffer = [0; 4096];
    match from.read(&mut buffer)? {
        0 => *pipe = None,
        count => to.extend_from_slice(buffer.get(..count).unwrap_or_default()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes the script by another process. If this process had the file open for writing while another test forks,
    /// the child would keep it open, and execve(2) of the script would fail with ETXTBSY.
    fn script(dir: &Path, name: &str, text: &str) -> PathBuf {
        let path = dir.join(name);
        let status = Command::new("sh")
            .args(["-c", "printf '#!/bin/sh\n%s\n' \"$2\" >\"$1\" && chmod 755 \"$1\"", "sh"])
            .args([path.as_os_str(), text.as_ref()])
            .status();
        assert!(status.is_ok_and(|status| status.success()));
        path
    }

    #[test]
    fn a_runtime_says_what_it_is() {
        let dir = tempfile::tempdir().expect("a directory");
        let old = script(
            dir.path(),
            "old",
            "[ $1 = --version ] || exit 1; printf 'crun version 1.8.1\\nspec: 1.0.0\\n+SYSTEMD +SECCOMP\\n'",
        );
        let runtime = inspect(&old, &Host::default(), None).expect("it answers");
        assert_eq!(
            (runtime.version.as_str(), runtime.spec.as_str(), runtime.seccomp),
            ("1.8.1", "1.0.0", true)
        );
        assert!(!runtime.systemd && !runtime.mounts_with("rro"));
        let new = script(
            dir.path(),
            "new",
            "[ $1 = features ] && echo '{\"ociVersionMax\":\"1.2.0\",\"mountOptions\":[\"rro\"],\"linux\":{\"cgroup\":{\"systemd\":true}}}' || echo 'x version 2'",
        );
        let host = Host { systemd: true, ..Host::default() };
        let runtime = inspect(&new, &host, None).expect("it answers");
        assert!(
            runtime.systemd
                && runtime.mounts_with("rro")
                && runtime.spec == "1.2.0"
                && runtime.version == "2"
        );
        assert_eq!(runtime.command(Path::new("/r")).last().map(String::as_str), Some("--systemd-cgroup"));
        assert!(inspect(&script(dir.path(), "bad", "echo no >&2; exit 3"), &host, None).is_err());
        let none = script(dir.path(), "plain", "echo x version 1");
        assert!(inspect(&none, &host, Some(Manager::Systemd)).is_err());
    }

    #[test]
    fn a_runtime_that_does_not_work_here_is_told_from_one_that_does() {
        let dir = tempfile::tempdir().expect("a directory");
        let with = |text: &str| Runtime { path: script(dir.path(), "r", text), ..Runtime::default() };
        let no = try_runtime(&with("echo cgroups in hybrid mode not supported >&2; exit 1"));
        assert_eq!(no, Err("cgroups in hybrid mode not supported".to_owned()));
        let not_there = format!("echo 'executable file {MISSING_PROGRAM} not found' >&2; exit 1");
        assert_eq!(try_runtime(&with(&not_there)), Ok(()));
        assert!(try_runtime(&with("exit 1")).is_err());
    }

    #[test]
    fn a_runtime_is_tried_with_all_that_it_needs_and_its_bundle_is_no_program() {
        let dir = tempfile::tempdir().expect("a directory");
        // The checks are in the order in which crun makes them; `$5` is the bundle.
        let crun = format!(
            "[ \"$3\" = run ] || exit 0; \
             [ -d \"$5/rootfs/dev\" ] || {{ echo \"open /dev directory in $5/rootfs\" >&2; exit 1; }}; \
             grep -q \"devices\" \"$5/config.json\" && [ -n \"$(cat {0}/may 2>&1 | grep yes)\" ] || \
                {{ echo \"setrlimit (RLIM_MEMLOCK) for $5\" >&2; exit 1; }}; \
             echo \"executable file {MISSING_PROGRAM} not found\" >&2; exit 1",
            dir.path().display()
        );
        let runtime = Runtime { path: script(dir.path(), "crun", &crun), ..Runtime::default() };
        let why = try_runtime(&runtime).expect_err("it may not filter devices");
        assert!(why.starts_with("setrlimit (RLIM_MEMLOCK) for /"), "{why}");
        fs::write(dir.path().join("may"), "yes").expect("written");
        assert_eq!(try_runtime(&runtime), Ok(()));
    }

    #[test]
    fn a_name_that_is_not_a_runtime_is_refused() {
        // `sh` is a program in PATH, but no configured runtime.
        for name in ["no-such-runtime", "/no/such", "relative/path", "/etc/passwd", "sh"] {
            assert!(find_named(&Settings::default(), name, &Host::default(), None).is_err(), "{name}");
        }
    }

    #[test]
    fn a_path_outside_the_configuration_is_for_trusted_clients() {
        let dir = tempfile::tempdir().expect("a directory");
        let mine = script(dir.path(), "mine", "echo x version 1");
        let runtimes = [("mine".to_owned(), vec![PathBuf::from("/no/such"), mine.clone()])];
        let settings =
            Settings { runtime: Some("/opt/own".into()), runtimes: runtimes.into(), ..Settings::default() };
        let found = find_named(&settings, "mine", &Host::default(), None).expect("the second one is there");
        assert_eq!(found.path, mine);
        let mine = mine.to_str().expect("text");
        for (requested, is_trusted, may) in [
            (None, false, true),
            (Some("runc"), false, true),
            (Some(mine), false, true),
            (Some("/opt/own"), false, true),
            (Some("/bin/sh"), false, false),
            (Some("../bin/sh"), false, false),
            (Some("/bin/sh"), true, true),
        ] {
            assert_eq!(
                check_requested(&settings, requested, is_trusted).is_ok(),
                may,
                "{requested:?} {is_trusted}"
            );
        }
    }
}
