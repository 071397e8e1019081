//! docker's own command line against the gateway: Debian's, and a newer one where the machine has it. Each command is
//! checked for its exit code, its output and its effect. Commands on images, containers, attachments and events in depth
//! are in the other `docker_` tests.

use sampan_tests::docker_api::{DockerApi, docker_version, with_each_docker};
use serde_json::Value;
use std::process::Command;

/// Whether the docker of `api` is of at least this major version.
fn is_at_least(api: &DockerApi, major: u32) -> bool {
    let version = docker_version(&api.docker_program);
    version.split('.').next().and_then(|text| text.parse::<u32>().ok()).is_some_and(|own| own >= major)
}

#[test]
fn version_shows_client_and_server() {
    with_each_docker(|api| {
        let own = docker_version(&api.docker_program);
        let shown = api.docker_ok(&[
            "version",
            "--format",
            "{{.Client.Version}} {{.Server.APIVersion}} {{.Server.MinAPIVersion}}",
        ]);
        assert_eq!(shown, format!("{own} 1.50 1.24"));
        let text = api.docker_ok(&["version"]);
        assert!(text.contains("Server:") && text.contains(env!("CARGO_PKG_VERSION")), "{text}");
        // The lower one of both versions is used.
        let used = api.docker_ok(&["version", "--format", "{{.Client.APIVersion}}"]);
        assert_eq!(used, if is_at_least(api, 28) { "1.50" } else { "1.41" });
    });
}

#[test]
fn info_counts_what_is_there() {
    with_each_docker(|api| {
        api.start_sh("up", "sleep 1000");
        api.containers.create_sh("made", "true");
        let counts = "{{.Containers}} {{.ContainersRunning}} {{.ContainersStopped}} {{.Images}} {{.OSType}}";
        assert_eq!(api.docker_ok(&["info", "--format", counts]), "2 1 1 1 linux");
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("mounted");
        let text = api.docker_ok(&["info"]);
        assert!(text.contains(&format!("Kernel Version: {}", kernel.trim())), "{text}");
        assert!(text.contains(&format!("Docker Root Dir: {}", api.path("data").display())), "{text}");
        assert!(text.contains("Swarm: inactive"), "{text}");
        api.docker_ok(&["rm", "-f", "up"]);
    });
}

#[test]
fn images_and_history_show_the_engines_images() {
    with_each_docker(|api| {
        api.docker_ok(&["tag", "box:1", "team/copy:2"]);
        let rows = api.docker_ok(&["images", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"]);
        let id = api.docker_ok(&["images", "-q", "box:1"]);
        let mut rows: Vec<&str> = rows.lines().collect();
        rows.sort_unstable();
        assert_eq!(rows, [format!("box:1 {id}"), format!("team/copy:2 {id}")]);
        assert_eq!(api.docker_ok(&["images", "-q", "missing"]), "");
        let long = api.docker_ok(&["images", "-q", "--no-trunc", "box"]);
        assert!(long.starts_with("sha256:") && long.len() == 71 && long[7..].starts_with(&id), "{long}");
        let history = api.docker_ok(&["history", "--no-trunc", "--format", "{{.ID}}", "box:1"]);
        assert_eq!(history.lines().next(), Some(long.as_str()));
        if is_at_least(api, 28) {
            let tree = api.docker_ok(&["images", "--tree"]);
            assert!(tree.contains("box:1") && tree.contains("team/copy:2"), "{tree}");
        }
        api.docker_fails(1, &["history", "missing"]);
    });
}

#[test]
fn inspect_finds_any_object_and_refuses_a_missing_one() {
    with_each_docker(|api| {
        let id = api.containers.create_sh("one", "true");
        let parse = |text: String| serde_json::from_str::<Value>(&text).expect("JSON");
        let container = parse(api.docker_ok(&["inspect", "one"]));
        assert_eq!(container[0]["Id"], id.as_str());
        let image = parse(api.docker_ok(&["inspect", "box:1"]));
        assert_eq!(image[0]["RepoTags"][0], "box:1");
        let sized = parse(api.docker_ok(&["inspect", "-s", "one"]));
        assert!(sized[0]["SizeRootFs"].as_u64().is_some_and(|size| size > 0), "{sized}");
        assert!(container[0].get("SizeRootFs").is_none(), "{container}");
        let error = api.docker_fails(1, &["inspect", "missing"]);
        assert!(error.to_lowercase().contains("no such object: missing"), "{error}");
        // A prefix of the ID is enough, and a type excludes others.
        assert_eq!(api.docker_ok(&["inspect", "--format", "{{.Name}}", &id[..12]]), "/one");
        api.docker_fails(1, &["inspect", "--type", "image", "one"]);
        api.docker_fails(1, &["inspect", "--type", "volume", "one"]);
        api.docker_fails(1, &["network", "inspect", "missing"]);
    });
}

#[test]
fn ps_lists_sizes_and_filters() {
    with_each_docker(|api| {
        api.start_sh("up", "sleep 1000");
        let made = api.containers.create_sh("made", "true");
        assert_eq!(api.docker_ok(&["ps", "--format", "{{.Names}} {{.State}}"]), "up running");
        let all = api.docker_ok(&["ps", "-a", "--format", "{{.Names}} {{.Status}} {{.Image}} {{.Command}}"]);
        let lines: Vec<&str> = all.lines().collect();
        // The newest one comes first.
        assert_eq!(lines[0], r#"made Created box:1 "sh -c true""#, "{all}");
        assert!(lines[1].starts_with("up Up "), "{all}");
        let sizes = api.docker_ok(&["ps", "-a", "-s", "--format", "{{.Size}}"]);
        assert!(sizes.lines().all(|line| line.contains("(virtual ")), "{sizes}");
        let filtered = |filter: &str| api.docker_ok(&["ps", "-a", "-f", filter, "--format", "{{.Names}}"]);
        assert_eq!(filtered("status=created"), "made");
        assert_eq!(filtered("name=u"), "up");
        assert_eq!(filtered(&format!("id={}", &made[..8])), "made");
        assert_eq!(filtered("ancestor=box:1"), "made\nup");
        assert_eq!(filtered("label=of=image"), "made\nup");
        assert_eq!(filtered("before=made"), "up");
        assert_eq!(api.docker_ok(&["ps", "-n", "1", "-q", "--no-trunc"]), made);
        let error = api.docker_fails(1, &["ps", "-f", "colour=red"]);
        assert!(error.contains("colour"), "{error}");
        api.docker_ok(&["rm", "-f", "up", "made"]);
        assert_eq!(api.docker_ok(&["ps", "-aq"]), "");
    });
}

#[test]
fn system_df_sums_images_and_containers() {
    with_each_docker(|api| {
        api.start_sh("up", "echo data >/tmp/file; sleep 1000");
        let rows = api.docker_ok(&["system", "df", "--format", "{{.Type}} {{.TotalCount}} {{.Active}}"]);
        assert_eq!(rows, "Images 1 1\nContainers 1 1\nLocal Volumes 0 0\nBuild Cache 0 0");
        let text = api.docker_ok(&["system", "df", "-v"]);
        assert!(
            text.contains("Images space usage:") && text.contains("box") && text.contains("up"),
            "{text}"
        );
        api.docker_ok(&["rm", "-f", "up"]);
    });
}

#[test]
fn prune_removes_what_nothing_uses() {
    with_each_docker(|api| {
        for name in ["old", "older"] {
            api.containers.create_sh(name, "true");
        }
        let text = api.docker_ok(&["container", "prune", "-f"]);
        assert!(text.contains("Deleted Containers:") && text.contains("Total reclaimed space:"), "{text}");
        assert_eq!(api.docker_ok(&["ps", "-aq"]), "");
        assert_eq!(api.docker_ok(&["image", "prune", "-f"]), "Total reclaimed space: 0B");
        assert_ne!(api.docker_ok(&["images", "-q"]), "");
        api.containers.create_sh("rest", "true");
        // The networks, volumes and the build cache that docker asks about as well are empty.
        let text = api.docker_ok(&["system", "prune", "-f", "--volumes"]);
        assert!(text.contains("Deleted Containers:"), "{text}");
        let text = api.docker_ok(&["image", "prune", "-a", "-f"]);
        assert!(text.contains("box:1"), "{text}");
        assert_eq!(api.docker_ok(&["images", "-q"]), "");
    });
}

#[test]
fn lists_of_networks_and_volumes_are_there_and_changes_are_refused() {
    with_each_docker(|api| {
        assert_eq!(api.docker_ok(&["volume", "ls", "-q"]), "");
        assert_eq!(api.docker(&["network", "ls"]).status.code(), Some(0));
        for words in [
            &["volume", "create", "data"][..],
            &["network", "create", "net"],
            &["create", "-p", "8080:80", "box:1"],
            &["create", "-v", "data:/data", "box:1"],
        ] {
            let error = api.docker_fails(1, words);
            assert!(error.contains("daemon") && error.trim().len() > 40, "{words:?}: {error}");
        }
        let id = api.containers.create_sh("one", "true");
        for words in [
            &["commit", "one", "made:1"][..],
            &["export", "one"],
            &["diff", "one"],
            &["update", "--memory", "64m", "one"],
            &["cp", "one:/etc/passwd", "-"],
        ] {
            let output = api.docker(words);
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_ne!(output.status.code(), Some(0), "{words:?}");
            assert!(stderr.contains("Error"), "{words:?}: {stderr}");
        }
        assert_eq!(api.docker_ok(&["ps", "-aq", "--no-trunc"]), id);
    });
}

#[test]
fn a_context_names_the_socket_once_and_for_all() {
    with_each_docker(|api| {
        let host = format!("host={}", api.docker_host());
        let run = |args: &[&str]| {
            let mut command: Command = api.docker_command(args);
            command.env_remove("DOCKER_HOST");
            let output = command.output().expect("docker starts");
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{args:?}: {stderr}\n{}", api.log());
            String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
        };
        run(&["context", "create", "sampan", "--docker", &host]);
        assert_eq!(run(&["--context", "sampan", "images", "--format", "{{.Repository}}:{{.Tag}}"]), "box:1");
        run(&["context", "use", "sampan"]);
        assert_eq!(run(&["run", "--rm", "box:1", "echo", "through", "a", "context"]), "through a context");
        assert_eq!(run(&["ps", "-aq"]), "");
    });
}
