//! `--format`: docker's columns, keys and templates, on containers and images of a real engine.

use sampan_tests::containers::Containers;
use serde_json::Value;

/// The directory of the host that the container `web` has as a mount.
fn source_of(containers: &Containers) -> String {
    containers.host.path("source").display().to_string()
}

/// A container that runs, with a label and a mount, and one that has ended.
fn two_containers() -> Containers {
    let containers = Containers::new();
    let source = source_of(&containers);
    std::fs::create_dir(&source).expect("new");
    let volume = format!("{source}:/data:ro");
    let run =
        ["run", "-d", "--name", "web", "-l", "tier=front", "-l", "com.x-y=1", "-e", "A=1", "-v", &volume];
    containers.stdout_of(&[&run[..], &["box:1", "sleep", "1000"]].concat());
    containers.sampan(&["run", "--name", "job", "box:1", "sh", "-c", "exit 3"]);
    containers
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("an object on a line")).collect()
}

fn keys(object: &Value) -> Vec<&str> {
    object.as_object().expect("an object").keys().map(String::as_str).collect()
}

/// Exit status and standard error of a command that fails.
fn failure(containers: &Containers, args: &[&str]) -> (Option<i32>, String) {
    let output = containers.sampan(args);
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn ps_prints_templates_tables_and_docker_s_keys() {
    let containers = two_containers();
    let text = containers.stdout_of(&["ps", "--format", r"{{.Names}}\t{{.State}}\t{{.Label `com.x-y`}}"]);
    assert_eq!(text, "web\trunning\t1");
    let all = containers.stdout_of(&["ps", "-a", "--format", "{{.Names}} {{.Status}} {{.Command}}"]);
    let lines: Vec<&str> = all.lines().collect();
    assert!(lines[0].starts_with("job Exited (3) ") && lines[0].contains(" ago \"sh -c "), "{all}");
    assert!(lines[1].starts_with("web Up ") && lines[1].ends_with("\"sleep 1000\""), "{all}");
    let table =
        containers.stdout_of(&["ps", "--format", r#"table {{.ID}}\t{{upper .Names}}\t{{.Label "tier"}}"#]);
    let id = containers.summary("web").expect("it runs").id;
    let words: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split("  ").map(str::trim).filter(|word| !word.is_empty()).collect())
        .collect();
    assert_eq!(words, [vec!["CONTAINER ID", "NAMES", "tier"], vec![&id[..12], "WEB", "front"]]);
    let rows = json_lines(&containers.stdout_of(&["ps", "-a", "--no-trunc", "--format", "json"]));
    assert_eq!(rows.len(), 2);
    let docker = "Command CreatedAt ID Image Labels LocalVolumes Mounts Names Networks Ports RunningFor Size State Status";
    assert_eq!(keys(&rows[1]).join(" "), docker);
    assert_eq!((&rows[1]["ID"], &rows[1]["Labels"]), (&id.into(), &"com.x-y=1,of=image,tier=front".into()));
    assert_eq!(rows[1]["Mounts"], source_of(&containers));
    // The template for the whole row is the same as the word json, and only a list that shows sizes has them.
    let by_template = containers.stdout_of(&["ps", "-a", "--no-trunc", "--format", "{{json .}}"]);
    assert_eq!(json_lines(&by_template)[1]["Names"], rows[1]["Names"]);
    assert!(containers.stdout_of(&["ps", "--format", "{{.Size}}"]).contains("B"));
}

#[test]
fn inspect_prints_parts_of_containers_and_images() {
    let containers = two_containers();
    let inspect = |template: &str| containers.stdout_of(&["inspect", "-f", template, "web"]);
    assert_eq!(inspect("{{.Name}} {{.State.Status}} {{.State.Running}}"), "/web running true");
    let source = source_of(&containers);
    let mounts = "{{range .Mounts}}{{.Type}} {{.Source}} -> {{.Destination}} {{.RW}}{{end}}";
    assert_eq!(inspect(mounts), format!("bind {source} -> /data false"));
    assert_eq!(inspect("{{(index .Mounts 0).Destination}}"), "/data");
    assert_eq!(inspect("{{.Config.Labels}}"), "map[com.x-y:1 of:image tier:front]");
    assert_eq!(inspect("{{index .Config.Labels `tier`}}[{{index .Config.Labels `no`}}]"), "front[]");
    assert_eq!(inspect("{{.Config.Labels.no}}"), "<no value>");
    assert_eq!(inspect("{{if .State.Running}}up{{else}}down{{end}}"), "up");
    let state: Value = serde_json::from_str(&inspect("{{json .State}}")).expect("JSON");
    let pid = containers.summary("web").expect("it runs").pid;
    assert_eq!((&state["Pid"], inspect("{{.State.Pid}}")), (&pid.into(), pid.to_string()));
    assert!(inspect("{{range .Config.Env}}{{println .}}{{end}}").lines().any(|line| line == "A=1"));
    let both = containers.stdout_of(&["inspect", "-f", "{{.Name}} {{.State.ExitCode}}", "web", "job"]);
    assert_eq!(both, "/web 0\n/job 3");
    let whole: Value =
        serde_json::from_str(&containers.stdout_of(&["inspect", "-f", "json", "web"])).expect("JSON");
    assert_eq!((whole[0]["Name"].as_str(), whole.as_array().map(Vec::len)), (Some("/web"), Some(1)));
    let group = containers.stdout_of(&["container", "inspect", "--format", "{{.ID}}", "web"]);
    assert_eq!(group, containers.summary("web").expect("it runs").id);
    let image = containers.stdout_of(&["image", "inspect", "-f", "{{.Os}}/{{.Architecture}}", "box:1"]);
    assert!(image.starts_with("linux/"), "{image}");
}

#[test]
fn a_wrong_template_says_where_and_what() {
    let containers = Containers::new();
    let (code, said) = failure(&containers, &["ps", "--format", "{{.ID"]);
    assert_eq!(code, Some(64), "{said}");
    assert!(said.contains("line 1, column 6: unclosed action"), "{said}");
    for args in [
        &["images", "--format", "{{foo .}}"][..],
        &["inspect", "-f", "{{if .ID}}", "box:1"],
        &["events", "--no-follow", "--format", "{{end}}"],
        &["info", "-f", "{{"],
        &["version", "-f", "{{.}"],
        &["system", "df", "--format", "table {{.Type"],
        &["jobs", "--format", "{{$x}}"],
        &["history", "--format", "{{1x}}", "box:1"],
    ] {
        let (code, said) = failure(&containers, args);
        assert!(
            code == Some(64) && said.contains("cannot parse the template: line 1"),
            "{args:?}: {code:?} {said}"
        );
    }
    let (code, said) = failure(&containers, &["images", "--format", "{{.Foo}}"]);
    assert_eq!(code, Some(1));
    assert!(
        said.contains("at <.Foo>: can't evaluate field Foo; the fields are Containers, CreatedAt"),
        "{said}"
    );
    let (code, said) = failure(&containers, &["ps", "--format", "yaml"]);
    assert!(
        code == Some(125) && said.contains("there is no format \"yaml\"") && said.contains("hint: "),
        "{said}"
    );
}

#[test]
fn images_history_and_disk_usage_have_docker_s_columns() {
    let containers = Containers::new();
    let row = &json_lines(&containers.stdout_of(&["images", "--no-trunc", "--format", "json"]))[0];
    let docker =
        "Containers CreatedAt CreatedSince Digest ID Repository SharedSize Size Tag UniqueSize VirtualSize";
    assert!(docker.split(' ').all(|key| row.get(key).is_some()), "{row}");
    let names = containers.stdout_of(&["images", "--format", "{{.Repository}}:{{.Tag}}"]);
    assert_eq!(names, "box:1");
    let id = containers.stdout_of(&["images", "-q", "--no-trunc"]);
    assert_eq!(row["ID"], id);
    let history = json_lines(&containers.stdout_of(&["history", "--no-trunc", "--format", "json", "box:1"]));
    assert_eq!(keys(&history[0]).join(" "), "Comment CreatedAt CreatedBy CreatedSince ID Size");
    assert_eq!(history[0]["ID"], id);
    assert!(containers.stdout_of(&["history", "box:1"]).starts_with("IMAGE "));
    let usage = json_lines(&containers.stdout_of(&["system", "df", "--format", "json"]));
    assert_eq!(keys(&usage[0]).join(" "), "Active Reclaimable Size TotalCount Type");
    let types = containers.stdout_of(&["system", "df", "--format", "{{.Type}} {{.TotalCount}}"]);
    assert!(types.lines().any(|line| line == "Images 1"), "{types}");
}

#[test]
fn info_and_version_are_the_objects_of_the_api() {
    let containers = two_containers();
    let counts = "{{.Containers}} {{.ContainersRunning}} {{.ContainersStopped}} {{.Images}} {{.OSType}}";
    assert_eq!(containers.stdout_of(&["info", "--format", counts]), "2 1 1 1 linux");
    let info = &json_lines(&containers.stdout_of(&["info", "-f", "json"]))[0];
    assert_eq!((&info["Containers"], &info["Swarm"]["LocalNodeState"]), (&2.into(), &"inactive".into()));
    let version = containers.stdout_of(&[
        "version",
        "--format",
        "{{.Server.Version}} {{.Server.APIVersion}} {{.Client.Version}}",
    ]);
    let own = env!("CARGO_PKG_VERSION");
    assert_eq!(version, format!("{own} 1.50 {own}"));
}

#[test]
fn events_are_docker_s_for_templates_and_sampan_s_for_json() {
    let containers = two_containers();
    let events = |format: &str| {
        let filters = ["--filter", "container=web", "--filter", "event=start"];
        containers.stdout_of(&[&["events", "--no-follow", "--format", format][..], &filters].concat())
    };
    let id = containers.summary("web").expect("it runs").id;
    let text = events("{{.Type}} {{.Action}} {{.Status}} {{.Actor.ID}} {{.Actor.Attributes.name}} {{.From}}");
    assert_eq!(text, format!("container start start {id} web box:1"));
    let docker: Value = serde_json::from_str(&events("{{json .}}")).expect("an object");
    let own: Value = serde_json::from_str(&events("json")).expect("an object");
    assert_eq!((&docker["seq"], &docker["timeNano"]), (&own["seq"], &own["timeNano"]));
    assert_eq!((&docker["Type"], &own["type"]), (&"container".into(), &"container".into()));
    assert_eq!(docker["Actor"]["Attributes"]["tier"], own["labels"]["tier"]);
    assert_eq!(docker["journal"].as_str().map(str::len), Some(16), "{docker}");
    // An image's event has no field `from`, which a template takes for empty text.
    let images = ["events", "--no-follow", "--filter", "type=image", "--format", "[{{.From}}]{{.Type}}"];
    assert!(containers.stdout_of(&images).lines().all(|line| line == "[]image"));
}

#[test]
fn a_job_is_a_line_of_json_or_of_a_template() {
    let containers = Containers::new();
    containers.stdout_of(&["image", "verify", "--progress", "none"]);
    let jobs = json_lines(&containers.stdout_of(&["jobs", "--format", "json"]));
    let verify = jobs.iter().find(|job| job["kind"] == "verify").expect("listed");
    let text = containers.stdout_of(&["jobs", "--format", "{{.ID}} {{.Kind}} {{.State}}"]);
    assert!(text.lines().any(|line| line == format!("{} verify done", verify["id"])), "{text}");
}
