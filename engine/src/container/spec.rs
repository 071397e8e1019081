//! From what was asked for to the bundle: `config.json`, what has to be there first, and what was left out.
//!
//! Called when a container is made, to see whether it could start, and again at each start. Looks at the root file
//! system's layers and at sources of mounts and devices; changes nothing. Directories that are missing are only
//! named ([`Bundle::make`]).

use super::document::{Linux, Namespace, Process, Root as RootOf, Spec};
use super::host::{Cgroups, Host};
use super::lookup::Root;
use super::mounts::{self, Files};
use super::problem::SpecError;
use super::process::{self, Of};
use super::runtime::{self, Runtime};
use super::settings::Settings;
use super::{capabilities, devices, options, resources, seccomp};
use crate::oci::Run;
use sampan_ipc::container::{Create, Exec, Network};
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Digits of an id that are a host name.
const HOSTNAME_DIGITS: usize = 12;

/// All that a bundle depends on.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// 64 hexadecimal digits.
    pub id: &'a str,
    /// What was asked for.
    pub create: &'a Create,
    /// How containers of the image run.
    pub run: &'a Run,
    /// This host.
    pub host: &'a Host,
    /// The OCI runtime.
    pub runtime: &'a Runtime,
    /// The configuration.
    pub settings: &'a Settings,
    /// Its network: never [`Network::Default`].
    pub network: Network,
    /// What the root file system is made of.
    pub root: &'a Root,
    /// Where it is mounted when the runtime looks.
    pub rootfs: &'a Path,
    /// The container's own files.
    pub files: &'a Files,
}

/// What a start needs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bundle {
    /// `config.json`.
    pub spec: Spec,
    /// Directories of the host that have to be made first: [`Bundle::make_sources`].
    pub make: Vec<PathBuf>,
    /// What was left out, and which setting of the host that is.
    pub warnings: Vec<String>,
}

/// Makes the bundle of a container.
///
/// # Errors
/// [`SpecError`]: an option makes no sense, or cannot be had on this host.
pub fn bundle(input: &Input<'_>) -> Result<Bundle, SpecError> {
    let Input { create, host, .. } = *input;
    options::check(create)?;
    process::check_security(create)?;
    resources::check_host(create, host)?;
    let (process, mut warnings) = process::first(&of(input))?;
    if process::security(create, "label").is_some_and(|label| label != "disable") && !host.selinux {
        warnings.push("--security-opt label is left out: SELinux is off on this host".to_owned());
    }
    let init = input.settings.init_path.as_deref().or(host.init.as_deref());
    let mounts = mounts::all(create, host, input.runtime, input.files, init)?;
    let linux = linux(input, mounts.propagation, &mut warnings)?;
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
    Ok(Bundle { spec, make: mounts.make, warnings })
}

/// The process of an execution in the container of `input`.
///
/// # Errors
/// As [`bundle`].
pub fn exec_process(input: &Input<'_>, exec: &Exec) -> Result<Process, SpecError> {
    process::more(&of(input), exec)
}

impl Bundle {
    /// The text of `config.json`.
    pub fn json(&self) -> String {
        serde_json::to_string(&self.spec).expect("a bundle has no shape that JSON cannot hold")
    }

    /// Makes the directories that are mounted and not there yet, for everybody to read, as docker does.
    ///
    /// # Errors
    /// [`SpecError::Option`] with the first that cannot be made.
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
}

/// The container's host name: the host's with the host's network, as in docker.
pub fn hostname<'a>(input: &Input<'a>) -> &'a str {
    match &input.create.hostname {
        Some(name) => name,
        None if input.network == Network::Host => &input.host.hostname,
        None => input.id.get(..HOSTNAME_DIGITS).unwrap_or(input.id),
    }
}

fn of<'a>(input: &Input<'a>) -> Of<'a> {
    Of {
        create: input.create,
        run: input.run,
        host: input.host,
        settings: input.settings,
        root: input.root,
        hostname: hostname(input),
    }
}

fn linux(
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
    })
}

fn namespaces(input: &Input<'_>) -> Vec<Namespace> {
    let mut kinds = vec!["pid", "ipc", "uts", "mount"];
    if input.network != Network::Host {
        kinds.push("network");
    }
    // With version 1 a container would see its group under another path than the runtime mounts it.
    if input.host.cgroup_namespaces && input.host.cgroups == Cgroups::V2 {
        kinds.push("cgroup");
    }
    kinds.into_iter().map(|kind| Namespace { kind }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input<'a>(parts: &'a (Create, Run, Host, Runtime, Settings, Root, Files)) -> Input<'a> {
        let (create, run, host, runtime, settings, root, files) = parts;
        let (id, network) = ("0123456789abcdef", Network::None);
        Input { id, create, run, host, runtime, settings, network, root, rootfs: Path::new("/r"), files }
    }

    fn plain(create: Create) -> (Create, Run, Host, Runtime, Settings, Root, Files) {
        let create = Create { image: "i".into(), command: vec!["true".into()], ..create };
        let runtime = Runtime { spec: "1.0.2".into(), seccomp: true, ..Runtime::default() };
        let host = Host {
            seccomp: true,
            hostname: "the-host".into(),
            capabilities: capabilities::Set::ALL,
            ..Host::default()
        };
        (create, Run::default(), host, runtime, Settings::default(), Root::default(), Files::default())
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
    fn a_privileged_container_is_free_of_masks_filters_and_rules() {
        let parts = plain(Create { privileged: true, ..Create::default() });
        let linux = bundle(&input(&parts)).expect("a bundle").spec.linux;
        assert!(linux.seccomp.is_none() && linux.masked_paths.is_empty() && linux.readonly_paths.is_empty());
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
    fn an_execution_takes_over_what_it_does_not_say() {
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
