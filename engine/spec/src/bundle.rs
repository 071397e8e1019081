//! Makes a container's bundle: `config.json`, the directories to create before the start, and warnings.
//!
//! Called when a container is created, to check that it could start, and again at each start. [`bundle`] reads the
//! root file system's layers and the sources of mounts and devices, and changes nothing. It only lists missing
//! directories ([`Bundle::make`]); the caller creates them.

use super::config_json::{Linux, Namespace, Process, Root as RootOf, Spec};
use super::error::SpecError;
use super::host::{Cgroups, Host};
use super::mounts::{self, Files};
use super::process;
use super::relabel::Relabel;
use super::rootfs_view::Root;
use super::runtime::{self, Runtime};
use super::security::Labels;
use super::settings::Settings;
use super::{capabilities, devices, resources, seccomp, security, validate};
use sampan_ipc::container::{Create, Exec, Network};
use sampan_oci::Run;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Number of digits of a container's ID that make its default host name.
const HOSTNAME_DIGITS: usize = 12;

/// The data from which a bundle is made.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The container's id: 64 hexadecimal digits.
    pub id: &'a str,
    /// The requested options.
    pub create: &'a Create,
    /// The settings of the image's config for running the image.
    pub run: &'a Run,
    /// This host.
    pub host: &'a Host,
    /// The OCI runtime.
    pub runtime: &'a Runtime,
    /// The engine's settings for containers.
    pub settings: &'a Settings,
    /// The container's network: never [`Network::Default`].
    pub network: Network,
    /// The layers of the root file system.
    pub root: &'a Root,
    /// Path at which the root file system is mounted when the runtime runs.
    pub rootfs: &'a Path,
    /// Paths on the host of the container's own files.
    pub files: &'a Files,
    /// The container's SELinux labels, which were chosen when the container was created.
    pub labels: &'a Labels,
}

/// A bundle. None of its files is written yet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bundle {
    /// `config.json`.
    pub spec: Spec,
    /// Directories of the host that [`Bundle::make_sources`] must create before the start.
    pub make: Vec<PathBuf>,
    /// Files of the host that [`Bundle::relabel`] must give another SELinux label before the start.
    pub relabel: Vec<Relabel>,
    /// Features that the container lacks, with the reasons.
    pub warnings: Vec<String>,
}

/// Makes the bundle of a container.
///
/// # Errors
/// [`SpecError`] if an option breaks a rule, or if this host or its runtime does not support an option.
pub fn bundle(input: &Input<'_>) -> Result<Bundle, SpecError> {
    let Input { create, host, .. } = *input;
    validate::check(create)?;
    security::check(create)?;
    resources::check_host(create, host)?;
    let (mut process, mut warnings) = process::first_process(&process_input(input))?;
    check_runtime(input, &mut process, &mut warnings)?;
    let is_label_requested = security::option(create, "label").is_some_and(|label| label != "disable");
    if is_label_requested && labels_of(input).is_empty() {
        let why = if host.selinux { "containers have no labels here" } else { "SELinux is off on this host" };
        warnings.push(format!("--security-opt label is left out: {why}"));
    }
    let init = input.settings.init_path.as_deref().or(host.init.as_deref());
    let mounts = mounts::all(create, host, input.runtime, input.files, init, labels_of(input))?;
    let linux = linux_part(input, mounts.propagation, &mut warnings)?;
    warnings.extend(mounts.warnings);
    let spec = Spec {
        oci_version: input.runtime.spec.clone(),
        process,
        root: RootOf { path: input.rootfs.to_string_lossy().into_owned(), readonly: create.read_only },
        hostname: hostname(input).to_owned(),
        mounts: mounts.lines,
        linux,
        annotations: create.annotations.iter().cloned().collect(),
    };
    Ok(Bundle { spec, make: mounts.make, relabel: mounts.relabel, warnings })
}

/// Handles a runtime that cannot set an AppArmor profile or an SELinux label. Removes a default profile with a
/// warning; fails for a profile or a label that the container must have.
fn check_runtime(
    input: &Input<'_>,
    process: &mut Process,
    warnings: &mut Vec<String>,
) -> Result<(), SpecError> {
    let Runtime { name, lacks_apparmor, lacks_selinux, .. } = input.runtime;
    if *lacks_selinux && !process.selinux_label.is_empty() {
        return Err(SpecError::host(
            "give the container an SELinux label",
            format!("{name} is built without SELinux"),
            "install a runtime that has it, or set selinux = false in the table [engine]",
        ));
    }
    let Some(profile) = process.apparmor_profile.take_if(|_| *lacks_apparmor) else { return Ok(()) };
    let is_requested =
        security::option(input.create, "apparmor").is_some() || input.settings.apparmor_profile.is_some();
    if is_requested && profile != "unconfined" {
        return Err(SpecError::host(
            format!("give the container the AppArmor profile {profile:?}"),
            format!("{name} is built without AppArmor"),
            "install a runtime that has it, or leave the profile away",
        ));
    }
    if profile != "unconfined" {
        warnings.push(format!(
            "the container goes without AppArmor profile {profile}: {name} is built without AppArmor"
        ));
    }
    Ok(())
}

/// Makes the process of an execution in the container of `input`.
///
/// # Errors
/// [`SpecError`] if an option breaks a rule, or if this host does not support an option.
pub fn exec_process(input: &Input<'_>, exec: &Exec) -> Result<Process, SpecError> {
    process::exec_process(&process_input(input), exec)
}

impl Bundle {
    /// The text of `config.json`.
    #[expect(
        clippy::expect_used,
        reason = "serde_json refuses only maps whose keys are no strings, and ours are"
    )]
    pub fn json(&self) -> String {
        serde_json::to_string(&self.spec).expect("all keys of maps are strings")
    }

    /// Creates missing directories that are to be mounted, with mode 0755 as docker does.
    ///
    /// # Errors
    /// [`SpecError::Option`] if a directory cannot be created. Earlier directories in the list stay.
    pub fn make_sources(&self) -> Result<(), SpecError> {
        for path in &self.make {
            let made = DirBuilder::new().recursive(true).mode(0o755).create(path);
            made.map_err(|error| {
                SpecError::option(
                    "--volume",
                    &path.to_string_lossy(),
                    format!("the directory cannot be made: {error}"),
                )
            })?;
        }
        Ok(())
    }

    /// Sets the container's SELinux label on the host's files that are mounted with `z` or `Z`. Returns warnings.
    ///
    /// # Errors
    /// [`SpecError::Option`] if a label cannot be set. Earlier files in the list keep their new labels.
    pub fn relabel(&self) -> Result<Vec<String>, SpecError> {
        self.relabel.iter().filter_map(|relabel| relabel.run().transpose()).collect()
    }
}

/// The container's host name. With the host's network, the container has the host's name, as in docker.
pub fn hostname<'a>(input: &Input<'a>) -> &'a str {
    match &input.create.hostname {
        Some(name) => name,
        None if input.network == Network::Host => &input.host.hostname,
        None => input.id.get(..HOSTNAME_DIGITS).unwrap_or(input.id),
    }
}

fn process_input<'a>(input: &Input<'a>) -> process::Input<'a> {
    process::Input {
        create: input.create,
        run: input.run,
        host: input.host,
        settings: input.settings,
        root: input.root,
        hostname: hostname(input),
        labels: labels_of(input),
    }
}

/// The container's labels. Returns no labels while SELinux is off, even if SELinux was on when the container was
/// created.
fn labels_of<'a>(input: &Input<'a>) -> &'a Labels {
    static NONE: Labels = Labels { process: String::new(), mount: String::new() };
    if input.host.selinux { input.labels } else { &NONE }
}

fn linux_part(
    input: &Input<'_>,
    propagation: Option<String>,
    warnings: &mut Vec<String>,
) -> Result<Linux, SpecError> {
    let Input { create, host, runtime, .. } = *input;
    let (nodes, rules) = devices::all(create)?;
    let mut resources = resources::limits(create, host, warnings);
    resources.devices = rules;
    let (chosen, _) = capabilities::possible(capabilities::wanted(create)?, host.capabilities);
    let (masked_paths, readonly_paths) = mounts::hidden(create)?;
    Ok(Linux {
        namespaces: namespaces(input),
        devices: nodes,
        cgroups_path: runtime::cgroup(runtime.systemd, input.id),
        resources,
        seccomp: seccomp::filter(create, chosen.all, host, runtime, input.settings, warnings)?,
        masked_paths,
        readonly_paths,
        sysctl: resources::sysctls(create, input.network, host)?,
        rootfs_propagation: propagation,
        mount_label: labels_of(input).mount.clone(),
    })
}

fn namespaces(input: &Input<'_>) -> Vec<Namespace> {
    let mut kinds = vec!["pid", "ipc", "uts", "mount"];
    if input.network != Network::Host {
        kinds.push("network");
    }
    // With version 1, /proc/self/cgroup in the container would name another path than the runtime's mount.
    if input.host.cgroup_namespaces && input.host.cgroups == Cgroups::V2 {
        kinds.push("cgroup");
    }
    kinds.into_iter().map(|kind| Namespace { kind }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    type Parts = (Create, Run, Host, Runtime, Settings, Root, Files, Labels);

    fn input(parts: &Parts) -> Input<'_> {
        let (create, run, host, runtime, settings, root, files, labels) = parts;
        let (id, network, rootfs) = ("0123456789abcdef", Network::None, Path::new("/r"));
        Input { id, create, run, host, runtime, settings, network, root, rootfs, files, labels }
    }

    fn plain(create: Create) -> Parts {
        let create = Create { image: "i".into(), command: vec!["true".into()], ..create };
        let runtime = Runtime { spec: "1.0.2".into(), seccomp: true, ..Runtime::default() };
        let host = Host {
            seccomp: true,
            hostname: "the-host".into(),
            capabilities: capabilities::Set::ALL,
            ..Host::default()
        };
        let labels = Labels::default();
        (
            create,
            Run::default(),
            host,
            runtime,
            Settings::default(),
            Root::default(),
            Files::default(),
            labels,
        )
    }

    #[test]
    fn defaults_are_those_of_docker() {
        let parts = plain(Create::default());
        let bundle = bundle(&input(&parts)).expect("a bundle");
        let spec = &bundle.spec;
        assert_eq!(
            (spec.oci_version.as_str(), spec.hostname.as_str(), spec.process.cwd.as_str()),
            ("1.0.2", "0123456789ab", "/")
        );
        assert_eq!((spec.process.capabilities.bounding.len(), spec.process.rlimits.len()), (14, 0));
        assert!(spec.linux.seccomp.is_some() && spec.linux.namespaces.iter().any(|ns| ns.kind == "network"));
        assert!(spec.linux.masked_paths.iter().any(|path| path == "/proc/kcore"));
        assert_eq!(bundle.warnings, Vec::<String>::new());
        let json: serde_json::Value = serde_json::from_str(&bundle.json()).expect("JSON");
        assert_eq!(json["process"]["args"][0], "true");
        assert!(json["process"].get("rlimits").is_none());
    }

    #[test]
    fn a_privileged_container_has_no_masks_and_no_filter() {
        let parts = plain(Create { privileged: true, ..Create::default() });
        let linux = bundle(&input(&parts)).expect("a bundle").spec.linux;
        assert!(linux.seccomp.is_none() && linux.masked_paths.is_empty() && linux.readonly_paths.is_empty());
    }

    #[test]
    fn labels_and_a_profile_are_in_the_document_only_if_the_host_has_them() {
        let mount = |source: &str, option: &str| sampan_ipc::container::Mount {
            source: source.into(),
            target: source.into(),
            options: vec![option.into()],
            ..Default::default()
        };
        let create = Create {
            mounts: vec![mount("/tmp", "z"), mount("/var", "Z"), mount("/home", "ro")],
            ..Create::default()
        };
        let mut parts = plain(create);
        let label = |kind: &str| format!("system_u:{kind}:s0:c1,c2");
        (parts.7.process, parts.7.mount) =
            (label("system_r:container_t"), label("object_r:container_file_t"));
        parts.2.profiles = Some(crate::lsm::loaded("docker-default (enforce)\n"));
        let off = bundle(&input(&parts)).expect("a bundle");
        assert_eq!((off.spec.process.apparmor_profile.as_deref(), off.relabel.len()), (None, 0));
        for word in ["selinuxLabel", "mountLabel", "apparmorProfile"] {
            assert!(!off.json().contains(word), "{word}");
        }
        assert_eq!(off.warnings.len(), 2, "{:?}", off.warnings);

        (parts.2.selinux, parts.2.apparmor) = (true, true);
        let on = bundle(&input(&parts)).expect("a bundle");
        let json: serde_json::Value = serde_json::from_str(&on.json()).expect("JSON");
        assert_eq!(json["process"]["selinuxLabel"], label("system_r:container_t"));
        assert_eq!(json["process"]["apparmorProfile"], "docker-default");
        assert_eq!(json["linux"]["mountLabel"], label("object_r:container_file_t"));
        assert_eq!(on.warnings, Vec::<String>::new());
        let relabel: Vec<(&str, &str)> =
            on.relabel.iter().map(|r| (r.source.to_str().expect("text"), r.label.as_str())).collect();
        let shared = "system_u:object_r:container_file_t:s0";
        assert_eq!(relabel, [("/tmp", shared), ("/var", label("object_r:container_file_t").as_str())]);
        let exec = Exec { command: vec!["sh".into()], privileged: true, ..Exec::default() };
        let process = exec_process(&input(&parts), &exec).expect("a process");
        assert_eq!(process.selinux_label, label("system_r:container_t"));
        assert_eq!(process.apparmor_profile.as_deref(), Some("docker-default"));

        // A container that was created while SELinux was off has no label for the mounted files.
        parts.7 = Labels::default();
        let bare = bundle(&input(&parts)).expect("a bundle");
        assert!(bare.relabel.is_empty() && bare.warnings.len() == 2, "{:?}", bare.warnings);
        assert!(!bare.json().contains("selinuxLabel") && !bare.json().contains("mountLabel"));
    }

    #[test]
    fn a_runtime_without_apparmor_leaves_the_default_profile_out_and_refuses_one_that_was_asked_for() {
        let mut parts = plain(Create::default());
        (parts.2.apparmor, parts.3.lacks_apparmor) = (true, true);
        parts.2.profiles = Some(crate::lsm::loaded("docker-default (enforce)\nmine (enforce)\n"));
        let made = bundle(&input(&parts)).expect("a bundle");
        assert_eq!(made.spec.process.apparmor_profile, None);
        assert!(
            made.warnings.len() == 1 && made.warnings[0].contains("docker-default"),
            "{:?}",
            made.warnings
        );
        parts.0.security = vec!["apparmor=mine".into()];
        let error = bundle(&input(&parts)).expect_err("requested").to_string();
        assert!(error.contains("mine") && error.contains("built without AppArmor"), "{error}");
        parts.0.security = vec!["apparmor=unconfined".into()];
        assert!(bundle(&input(&parts)).expect("a bundle").warnings.is_empty());
        // SELinux labels separate containers from each other, so a runtime that cannot set them is an error and not a
        // warning.
        (parts.2.selinux, parts.3.lacks_selinux) = (true, true);
        parts.7.process = "system_u:system_r:container_t:s0:c1,c2".into();
        assert!(bundle(&input(&parts)).expect_err("no label").to_string().contains("built without SELinux"));
    }

    #[test]
    fn the_hosts_network_is_shared_with_its_name() {
        let parts = plain(Create::default());
        let input = Input { network: Network::Host, ..input(&parts) };
        let spec = bundle(&input).expect("a bundle").spec;
        assert_eq!(spec.hostname, "the-host");
        assert!(spec.linux.sysctl.is_empty() && spec.linux.namespaces.iter().all(|ns| ns.kind != "network"));
    }

    #[test]
    fn an_execution_inherits_what_it_does_not_set() {
        let parts =
            plain(Create { env: vec!["A=1".into()], workdir: Some("/w".into()), ..Create::default() });
        let exec = Exec {
            command: vec!["sh".into()],
            env: vec!["B=2".into()],
            user: Some("5".into()),
            ..Exec::default()
        };
        let process = exec_process(&input(&parts), &exec).expect("a process");
        assert_eq!((process.cwd.as_str(), process.user.uid, process.args.len()), ("/w", 5, 1));
        assert!(process.env.contains(&"A=1".to_owned()) && process.env.contains(&"B=2".to_owned()));
        assert!(process.capabilities.effective.is_empty() && process.capabilities.bounding.len() == 14);
        let all = exec_process(&input(&parts), &Exec { privileged: true, ..exec }).expect("a process");
        assert_eq!(all.capabilities.effective.len(), 41);
    }
}
