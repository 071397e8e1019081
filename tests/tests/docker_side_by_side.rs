//! dockerd of Debian and Sampan side by side: docker's command line shows the same image and containers of both.
//!
//! Keys and types of values are compared everywhere, and values, too. [`ALLOWED`] has every difference, and the section
//! "Answers that differ from docker's" of `docs/docker-api.md` argues each of them. Needs root, and Debian's package
//! docker.io.

use sampan_tests::docker_api::{DockerApi, busybox_tar};
use sampan_tests::dockerd::Dockerd;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Keys that may differ in presence, type or value, by document. A key stands for everything below it.
const ALLOWED: [(&str, &[&str]); 7] = [
    (
        "container inspect",
        &[
            "Config.AttachStderr",
            "Config.AttachStdin",
            "Config.AttachStdout",
            "Config.CreateCommand",
            "Config.Env",
            "Config.ExposedPorts",
            "Config.Hostname",
            "Config.SdNotifyMode",
            "Config.StopSignal",
            "Config.StopTimeout",
            "Created",
            "GraphDriver.Data",
            "HostConfig.Annotations",
            "HostConfig.Binds",
            "HostConfig.BlkioDeviceReadBps",
            "HostConfig.BlkioDeviceReadIOps",
            "HostConfig.BlkioDeviceWriteBps",
            "HostConfig.BlkioDeviceWriteIOps",
            "HostConfig.CgroupnsMode",
            "HostConfig.Init",
            "HostConfig.MaskedPaths",
            "HostConfig.MemorySwap",
            "HostConfig.OomKillDisable",
            "HostConfig.Runtime",
            "HostConfig.SecurityOpt",
            "HostConfig.Sysctls",
            "HostConfig.Tmpfs",
            "HostConfig.Ulimits",
            "HostnamePath",
            "HostsPath",
            "Id",
            "ImageDigest",
            "Layers",
            "LogPath",
            "Mounts.Mode",
            "NetworkSettings",
            "ResolvConfPath",
            "SizeRootFs",
            "SizeRw",
            "State.Pid",
            "State.ShimPid",
            "State.StartedAt",
            "State.FinishedAt",
            "State.Unit",
        ],
    ),
    (
        "image inspect",
        &[
            "Container",
            "ContainerConfig",
            "Digest",
            "GraphDriver.Data",
            "IndexDigest",
            "Layers",
            "ManifestSize",
            "MediaType",
            "Metadata.LastTagTime",
            "References",
            "RepoDigests",
            "Size",
            "VirtualSize",
        ],
    ),
    ("ps", &["Command", "CreatedAt", "ID", "RunningFor", "Size", "Status"]),
    ("images", &["Size", "VirtualSize"]),
    ("history", &["Size"]),
    (
        "version",
        &[
            "ApiVersion",
            "BuildTime",
            "Components",
            "GitCommit",
            "GoVersion",
            "MinAPIVersion",
            "Platform.Name",
            "Version",
        ],
    ),
    (
        "info",
        &[
            "BridgeNfIp6tables",
            "BridgeNfIptables",
            "CPUSet",
            "CPUShares",
            "ContainerdCommit",
            "DockerRootDir",
            "DriverStatus",
            "ID",
            "InitBinary",
            "KernelMemory",
            "KernelMemoryTCP",
            "LiveRestoreEnabled",
            "NFd",
            "NGoroutines",
            "OomKillDisable",
            "Plugins",
            "RegistryConfig.AllowNondistributableArtifactsCIDRs",
            "RegistryConfig.AllowNondistributableArtifactsHostnames",
            "RegistryConfig.InsecureRegistryCIDRs",
            "RuncCommit",
            "Runtimes",
            "SecurityOptions",
            "ServerVersion",
            "SystemTime",
            "Warnings",
        ],
    ),
];

/// The documents: the name in [`ALLOWED`], and the command that prints it.
const COMMANDS: [(&str, &[&str]); 9] = [
    ("container inspect", &["container", "inspect", "--size", "one"]),
    ("container inspect", &["container", "inspect", "--size", "two"]),
    ("container inspect", &["container", "inspect", "--size", "three"]),
    ("image inspect", &["image", "inspect", "box:1"]),
    ("ps", &["ps", "--all", "--no-trunc", "--format", "{{json .}}"]),
    ("images", &["images", "--no-trunc", "--format", "{{json .}}"]),
    ("history", &["history", "--no-trunc", "--format", "{{json .}}", "box:1"]),
    ("version", &["version", "--format", "{{json .Server}}"]),
    ("info", &["info", "--format", "{{json .}}"]),
];

/// Runs a command; returns its output.
fn output(mut command: Command) -> String {
    let output = command.output().expect("docker starts");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
    String::from_utf8(output.stdout).expect("text")
}

/// Makes the same containers in an engine: one runs, one is only created, one has ended.
fn fill(docker: &dyn Fn(&[&str]) -> String, dir: &Path) {
    let bind = format!("{}:/mnt:ro", dir.display());
    let one = [
        &["run", "--detach", "--name", "one", "--network", "none", "--label", "a=b", "--env", "X=y"][..],
        &["--workdir", "/bin", "--memory", "64m", "--pids-limit", "50", "--volume", &bind],
        &["--restart", "on-failure:3", "--stop-signal", "INT", "box:1", "sleep", "1000"],
    ];
    docker(&one.concat());
    docker(&["create", "--name", "two", "--network", "none", "--interactive", "--tty", "box:1"]);
    docker(&["run", "--detach", "--name", "three", "--network", "none", "box:1", "true"]);
    docker(&["wait", "three"]);
}

/// Parses a document, or one document a line.
fn parse(text: &str) -> Value {
    let lines = || text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    serde_json::from_str(text).unwrap_or_else(|_| Value::Array(lines()))
}

/// Adds the paths of the keys that differ, and how they do.
fn compare(path: &str, docker: Option<&Value>, ours: Option<&Value>, found: &mut Vec<(String, String)>) {
    match (docker, ours) {
        (Some(Value::Object(docker)), Some(Value::Object(ours))) => {
            let keys: BTreeSet<&String> = docker.keys().chain(ours.keys()).collect();
            for key in keys {
                let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                compare(&below, docker.get(key), ours.get(key), found);
            }
        }
        (Some(Value::Array(docker)), Some(Value::Array(ours))) if docker.len() == ours.len() => {
            docker.iter().zip(ours).for_each(|(docker, ours)| compare(path, Some(docker), Some(ours), found));
        }
        (docker, ours) if docker == ours => {}
        (docker, ours) => found.push((path.to_owned(), format!("docker {docker:?}, sampan {ours:?}"))),
    }
}

fn is_below(path: &str, allowed: &str) -> bool {
    path.strip_prefix(allowed).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[test]
fn docker_and_sampan_show_equal_objects_but_for_a_table() {
    let api = DockerApi::new();
    let dir = tempfile::tempdir().expect("a directory");
    let dockerd = Dockerd::start(dir.path()).expect("dockerd of Debian's package docker.io");
    let theirs = |args: &[&str]| {
        let mut command = api.docker_command(args);
        command.env("DOCKER_HOST", dockerd.host());
        output(command)
    };
    let ours = |args: &[&str]| output(api.docker_command(args));
    let (tar, archive) = (dir.path().join("root.tar"), dir.path().join("box.tar"));
    fs::write(&tar, busybox_tar()).expect("written");
    let (tar, archive) = (tar.to_str().expect("text"), archive.to_str().expect("text"));
    theirs(&[
        "import",
        "--change",
        "CMD [\"sh\"]",
        "--change",
        "ENV PATH=/bin",
        "--change",
        "LABEL of=image",
        tar,
        "box:1",
    ]);
    theirs(&["save", "--output", archive, "box:1"]);
    // The rig has an image of this name.
    ours(&["rmi", "box:1"]);
    ours(&["load", "--input", archive]);
    // Not a directory above dockerd's own: dockerd would choose another propagation.
    let bound = tempfile::tempdir().expect("a directory");
    for docker in [&theirs as &dyn Fn(&[&str]) -> String, &ours] {
        fill(docker, bound.path());
    }
    let mut wrong = Vec::new();
    let mut used = BTreeSet::new();
    for (name, args) in COMMANDS {
        let mut found = Vec::new();
        compare("", Some(&parse(&theirs(args))), Some(&parse(&ours(args))), &mut found);
        let (_, allowed) = ALLOWED.iter().find(|(document, _)| *document == name).expect("in the table");
        for (path, how) in found {
            match allowed.iter().find(|allowed| is_below(&path, allowed)) {
                Some(allowed) => drop(used.insert((name, *allowed))),
                None => wrong.push(format!("{name} {args:?}: {path}: {how}")),
            }
        }
    }
    for (name, all) in ALLOWED {
        // Times and states that may happen to be equal are no proof that the table is too long.
        let unused = all.iter().filter(|path| !used.contains(&(name, **path)));
        unused.for_each(|path| println!("{name}: {path} did not differ this time"));
    }
    assert!(wrong.is_empty(), "differences that the table does not have:\n{}", wrong.join("\n"));
}

#[test]
fn each_allowed_difference_is_argued_in_the_documentation() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/docker-api.md");
    let page = fs::read_to_string(page).expect("a page");
    let (_, section) = page.split_once("## Answers that differ from docker's").expect("the section");
    let section = section.split("\n## ").next().expect("a section");
    for (name, allowed) in ALLOWED {
        let rows: Vec<&str> =
            section.lines().filter(|line| line.starts_with(&format!("| {name} |"))).collect();
        for path in allowed {
            let is_argued = rows.iter().any(|row| row.contains(&format!("`{path}`")));
            assert!(is_argued, "docs/docker-api.md does not argue `{path}` of {name}");
        }
    }
}
