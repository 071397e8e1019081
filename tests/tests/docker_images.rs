//! Images through the Docker API: the stream of a pull as it is on the wire, its faults, and the commands of docker's
//! command line about images.

use sampan_ipc::engine::{Answer, Job, JobState, Request};
use sampan_oci::digest::Digest;
use sampan_tests::docker_api::http::Reply as Answered;
use sampan_tests::docker_api::{DockerApi, busybox_image};
use sampan_tests::registry::{DockerRegistry, Image, Layer, Packing, Reply, ScriptedRegistry};
use serde_json::Value;
use std::fs;
use std::net::TcpListener;
use std::process::Command;

/// Bytes of a large layer.
const SIZE: usize = 2 << 20;

/// The target of a pull of `name:tag`.
fn create(name: &str, tag: &str) -> String {
    let name = name.replace(':', "%3A").replace('/', "%2F");
    format!("/v1.50/images/create?fromImage={name}&tag={tag}")
}

fn pull(api: &DockerApi, registry: &ScriptedRegistry, name: &str) -> Answered {
    api.http("POST", &create(&format!("{}/{name}", registry.address), "t"))
}

/// The status of a message, with its ID if it has one.
fn word(message: &Value) -> String {
    let status = message["status"].as_str().unwrap_or_default();
    match message["id"].as_str() {
        Some(id) => format!("{id}: {status}"),
        None => status.to_owned(),
    }
}

fn jobs(api: &DockerApi) -> Vec<Job> {
    let answers = api.containers.ok(Request::Jobs);
    answers
        .into_iter()
        .filter_map(|answer| if let Answer::Jobs(jobs) = answer { Some(jobs) } else { None })
        .flatten()
        .collect()
}

/// The blob of the only layer of `layer`'s image, in the registry's paths.
fn blob_path(name: &str, layer: &Layer) -> String {
    format!("{name}/blobs/{}", Digest::of(&layer.blob))
}

/// Publishes an image with one large layer, of whose blob the registry sends half and then nothing more.
fn hanging(registry: &ScriptedRegistry, name: &str) -> Layer {
    let layer = Layer::large("data", SIZE, Packing::Gzip);
    registry.publish(name, &Image::of(std::slice::from_ref(&layer), "amd64"));
    registry.answer(&blob_path(name, &layer), Reply::Hang(layer.blob.clone(), SIZE / 2));
    layer
}

/// Waits until half of the blob is on the disk.
fn await_half(api: &DockerApi, layer: &Layer) {
    let hex = Digest::of(&layer.blob).hex().to_owned();
    let path = api.path("data/store/partial").join(format!("sha256-{hex}"));
    let kept = || fs::metadata(&path).map_or(0, |meta| meta.len());
    api.wait_until("half of the blob", || kept() >= SIZE as u64 / 2);
}

#[test]
fn a_pull_is_one_chunk_a_message_with_docker_s_words_in_order() {
    let (api, registry) = (DockerApi::new(), ScriptedRegistry::start());
    let small = Layer::of(&[("a", b"a")], Packing::Gzip);
    let layers = [
        Layer::large("b", SIZE, Packing::Gzip),
        small.clone(),
        Layer::of(&[("c", b"c")], Packing::Zstd),
        small,
    ];
    let image = Image::of(&layers, "amd64");
    registry.publish("team/a", &image);
    let answer = pull(&api, &registry, "team/a");
    assert_eq!((answer.status(), answer.header("content-type")), (200, Some("application/json")));
    assert!(answer.is_whole && answer.head.is_chunked());
    for chunk in &answer.chunks {
        let text = String::from_utf8_lossy(chunk);
        assert!(text.ends_with("}\r\n") && text.matches('\n').count() == 1, "{text:?}");
    }
    let messages = answer.messages();
    let words: Vec<String> = messages.iter().map(word).collect();
    let ids: Vec<String> =
        layers[..3].iter().map(|layer| Digest::of(&layer.blob).hex()[..12].to_owned()).collect();
    let mut first = vec!["t: Pulling from team/a".to_owned()];
    first.extend(ids.iter().map(|id| format!("{id}: Pulling fs layer")));
    assert_eq!(words[..4], first);
    let reference = registry.reference("team/a");
    let last =
        [format!("Digest: {}", image.digest()), format!("Status: Downloaded newer image for {reference}")];
    assert_eq!(words[words.len() - 2..], last);
    let completed: Vec<&String> = words.iter().filter(|word| word.ends_with(": Pull complete")).collect();
    let expected: Vec<String> = ids.iter().map(|id| format!("{id}: Pull complete")).collect();
    assert_eq!(completed, expected.iter().collect::<Vec<_>>(), "layers are extracted from the lowest one on");
    for (id, layer) in ids.iter().zip(&layers) {
        let own: Vec<&Value> = messages.iter().filter(|message| message["id"] == id.as_str()).collect();
        for status in ["Downloading", "Extracting"] {
            let last =
                own.iter().rfind(|message| message["status"] == status && message["progress"] != Value::Null);
            let detail = &last.expect("a number")["progressDetail"];
            assert_eq!(
                (detail["current"].as_u64(), detail["total"].as_u64()),
                (Some(layer.blob.len() as u64), Some(layer.blob.len() as u64))
            );
        }
        for status in ["Verifying Checksum", "Download complete"] {
            assert_eq!(own.iter().filter(|message| message["status"] == status).count(), 1, "{id} {status}");
        }
    }
    let again = pull(&api, &registry, "team/a");
    let words: Vec<String> = again.messages().iter().map(word).collect();
    let status = format!("Status: Image is up to date for {reference}");
    assert_eq!(words, ["t: Pulling from team/a", &last[0], &status]);
    let by_digest =
        api.http("POST", &create(&format!("{}/team/a", registry.address), &image.digest().to_string()));
    let words: Vec<String> = by_digest.messages().iter().map(word).collect();
    let name = format!("{}/team/a@{}", registry.address, image.digest());
    assert_eq!(words[0], format!("{name}: Pulling from team/a"));
    assert_eq!(words.last(), Some(&format!("Status: Downloaded newer image for {name}")));
}

#[test]
fn what_fails_before_the_first_message_has_docker_s_status() {
    let (api, registry) = (DockerApi::new(), ScriptedRegistry::start());
    let status = |name: &str| {
        let answer = pull(&api, &registry, name);
        assert!(!answer.message().is_empty() && !answer.head.is_chunked());
        answer.status()
    };
    registry.answer("denied/manifests/t", Reply::Status(401));
    registry.answer("forbidden/manifests/t", Reply::Status(403));
    registry.answer("broken/manifests/t", Reply::Ok("text/plain".to_owned(), b"no manifest".to_vec()));
    assert_eq!(["missing", "denied", "forbidden", "broken"].map(status), [404, 401, 401, 500]);
    assert_eq!(api.http("POST", "/images/create?fromImage=UPPER/case&tag=x%20y").status(), 400);
    assert_eq!(api.http("POST", "/images/create?tag=x").status(), 400);
    let closed = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    registry.answer("busy/manifests/t", Reply::Status(500));
    registry.answer("many/manifests/t", Reply::Status(429));
    // The engine tries these again for some seconds, so they go on side by side.
    let names =
        [format!("{closed}/a"), format!("{}/busy", registry.address), format!("{}/many", registry.address)];
    let connections = names.map(|name| {
        let mut connection = api.connect();
        connection.send("POST", &create(&name, "t"), &[], b"");
        connection
    });
    let statuses = connections.map(|mut connection| connection.reply("POST").status());
    assert_eq!(statuses, [500, 500, 429]);
}

#[test]
fn a_failure_after_the_first_message_is_the_last_message_and_no_clean_end() {
    let (api, registry) = (DockerApi::new(), ScriptedRegistry::start());
    let layer = Layer::large("data", SIZE, Packing::Gzip);
    registry.publish("a", &Image::of(std::slice::from_ref(&layer), "amd64"));
    let wrong = Layer::large("else", SIZE, Packing::Gzip).blob;
    registry.answer(&blob_path("a", &layer), Reply::Ok("application/octet-stream".to_owned(), wrong));
    let answer = pull(&api, &registry, "a");
    assert_eq!((answer.status(), answer.is_whole), (200, false));
    let messages = answer.messages();
    let last = messages.last().expect("messages");
    let message = last["errorDetail"]["message"].as_str().expect("an error");
    assert!(message.contains("digest") && last["error"] == message, "{last}");
    assert_eq!(messages.iter().filter(|message| message["error"] != Value::Null).count(), 1);
    let shown = api.docker_fails(1, &["pull", &registry.reference("a")]);
    assert!(shown.contains("digest"), "{shown}");
}

#[test]
fn retries_are_told_and_a_cut_download_goes_on() {
    let (api, registry) = (DockerApi::new(), ScriptedRegistry::start());
    let layer = Layer::large("data", SIZE, Packing::Gzip);
    registry.publish("a", &Image::of(std::slice::from_ref(&layer), "amd64"));
    let blob = layer.blob.clone();
    let replies =
        [Reply::Cut(blob.clone(), SIZE / 2), Reply::Status(503), Reply::Status(503), Reply::Ranged(blob)];
    registry.answer_in_turn(&blob_path("a", &layer), replies);
    let answer = pull(&api, &registry, "a");
    let words: Vec<String> = answer.messages().iter().map(word).collect();
    assert!(words.iter().any(|word| word.contains(": Retrying in 1 second")), "{words:?}");
    assert!(answer.is_whole && words.last().is_some_and(|word| word.starts_with("Status: Downloaded")));
}

#[test]
fn the_last_client_that_leaves_ends_the_pull_and_the_next_pull_continues_it() {
    let (api, registry) = (DockerApi::new(), ScriptedRegistry::start());
    let layer = hanging(&registry, "a");
    let target = create(&format!("{}/a", registry.address), "t");
    let (mut first, mut second) = (api.connect(), api.connect());
    for connection in [&mut first, &mut second] {
        connection.send("POST", &target, &[], b"");
        assert_eq!(connection.head().status, 200);
    }
    await_half(&api, &layer);
    assert_eq!(registry.request_count(&blob_path("a", &layer)), 1, "two clients share one download");
    drop(first);
    api.wait_until("one watcher", || jobs(&api)[0].watchers == 1);
    assert_eq!(jobs(&api)[0].state, JobState::Running);
    drop(second);
    api.wait_until("the end of the pull", || jobs(&api)[0].state == JobState::Cancelled);
    registry.answer(&blob_path("a", &layer), Reply::Ranged(layer.blob.clone()));
    let before = registry.sent();
    assert!(pull(&api, &registry, "a").is_whole);
    assert!(registry.sent() - before < SIZE as u64 * 3 / 4, "only the rest is downloaded");
}

#[test]
fn a_pull_outlives_the_gateway_and_the_next_client_finds_it() {
    let (mut api, registry) = (DockerApi::new(), ScriptedRegistry::start());
    let layer = hanging(&registry, "a");
    let target = create(&format!("{}/a", registry.address), "t");
    let mut client = api.connect();
    client.send("POST", &target, &[], b"");
    assert_eq!(client.head().status, 200);
    await_half(&api, &layer);
    api.kill_gateway();
    while client.chunk().is_ok_and(|chunk| chunk.is_some()) {}
    api.wait_until("no watcher", || jobs(&api)[0].watchers == 0);
    assert_eq!(jobs(&api)[0].state, JobState::Running);
    // systemd would start the next one, with the same socket.
    let _ = fs::remove_file(api.socket());
    api.start_gateway();
    let mut next = api.connect();
    next.send("POST", &target, &[], b"");
    assert_eq!(next.head().status, 200);
    assert_eq!(word(&next.message()), "t: Pulling from a");
    assert_eq!(jobs(&api).len(), 2, "the import of the rig, and one pull");
    assert_eq!(registry.request_count(&blob_path("a", &layer)), 1);
    // That client leaves, and nobody is left who may ask again.
    drop(next);
    api.wait_until("the end of the pull", || jobs(&api)[0].state == JobState::Cancelled);
}

#[test]
fn docker_pulls_by_tag_digest_and_platform_and_all_tags() {
    let api = DockerApi::new();
    let image = busybox_image();
    let one = api.registry().push("team/app:one", std::slice::from_ref(&image));
    api.registry().push("team/app:two", &[Image::of(&[Layer::of(&[("f", b"2")], Packing::Gzip)], "arm64")]);
    assert_eq!(api.docker_ok(&["pull", "-q", &one]), one);
    let shown = api.docker_ok(&["pull", &one]);
    assert!(shown.contains(&format!("Status: Image is up to date for {one}")), "{shown}");
    let name = one.trim_end_matches(":one");
    let by_digest = format!("{name}@{}", image.digest());
    assert_eq!(api.docker_ok(&["pull", "-q", &by_digest]), by_digest);
    let shown = api.docker_ok(&["pull", "-a", name]);
    assert!(
        shown.contains("one: Pulling from team/app") && shown.contains("two: Pulling from team/app"),
        "{shown}"
    );
    assert_eq!(shown.matches("Digest: sha256:").count(), 2, "{shown}");
    assert!(shown.contains(&format!("Status: Downloaded newer image for {name}\n")), "{shown}");
    let shown = api.docker_fails(1, &["pull", &format!("{name}:three")]);
    assert!(shown.contains("team/app:three"), "{shown}");
    api.docker_fails(1, &["pull", "--platform", "linux/s390x", &one]);
    api.docker_ok(&["pull", "-q", "--platform", "linux/arm64", &format!("{name}:two")]);
}

#[test]
fn docker_tags_pushes_and_removes() {
    let api = DockerApi::new();
    let target = format!("{}/pushed:1", api.registry().address);
    api.docker_ok(&["tag", "box:1", &target]);
    let id = api.docker_ok(&["images", "-q", "--no-trunc", &target]);
    let shown = api.docker_ok(&["push", &target]);
    assert!(shown.contains(&format!("The push refers to repository [{}/pushed]", api.registry().address)));
    assert!(shown.contains(": Pushed") && shown.contains("1: digest: sha256:"), "{shown}");
    assert!(!shown.contains("size: 0"), "{shown}");
    let again = api.docker_ok(&["push", &target]);
    assert!(again.contains("Layer already exists"), "{again}");
    let removed = api.docker_ok(&["rmi", &target]);
    assert_eq!(removed, format!("Untagged: {target}"));
    api.docker_ok(&["pull", "-q", &target]);
    assert_eq!(api.docker_ok(&["images", "-q", "--no-trunc", &target]), id);
    api.docker_ok(&["create", "--name", "user", "box:1", "true"]);
    api.docker_ok(&["rmi", &target]);
    let shown = api.docker_fails(1, &["rmi", "box:1"]);
    assert!(shown.contains("user"), "{shown}");
    api.docker_ok(&["rm", "user"]);
    let removed = api.docker_ok(&["rmi", "box:1"]);
    assert_eq!(removed, format!("Untagged: box:1\nDeleted: {id}"));
    let shown = api.docker_fails(1, &["rmi", "box:1"]);
    assert!(shown.contains("No such image: box:1"), "{shown}");
    api.docker_ok(&["rmi", "-f", "box:1"]);
    api.docker_fails(1, &["push", &target]);
    api.docker_fails(1, &["tag", "missing", "other"]);
}

#[test]
fn docker_saves_loads_and_imports() {
    let api = DockerApi::new();
    let archive = api.path("box.tar");
    let file = archive.display().to_string();
    api.docker_ok(&["tag", "box:1", "team/copy:2"]);
    let id = api.docker_ok(&["images", "-q", "--no-trunc", "box:1"]);
    api.docker_ok(&["save", "-o", &file, "box:1", "team/copy:2"]);
    let inspected = Command::new("skopeo")
        .args(["inspect", "--config"])
        .arg(format!("docker-archive:{file}:box:1"))
        .output();
    assert!(inspected.expect("skopeo").status.success(), "other programs read the archive");
    api.docker_ok(&["rmi", "box:1", "team/copy:2"]);
    let shown = api.docker_ok(&["load", "-i", &file]);
    assert!(shown.contains("Loaded image: box:1") && shown.contains("Loaded image: team/copy:2"), "{shown}");
    assert_eq!(api.docker_ok(&["images", "-q", "--no-trunc", "box:1"]), id);
    let bytes = fs::read(&archive).expect("saved");
    let cut = api.docker_with_input(&["load"], &bytes[..bytes.len() / 2]);
    assert!(!cut.status.success(), "{cut:?}");
    api.docker_fails(1, &["save", "-o", &api.path("none.tar").display().to_string(), "missing"]);
    assert_eq!(api.http("GET", "/images/get?names=missing").status(), 404);

    let layer = Layer::of(&[("greeting", b"hello")], Packing::Gzip);
    let change = "--change";
    let args = [
        "import",
        change,
        r#"CMD ["cat", "/greeting"]"#,
        change,
        "ENV A=1",
        change,
        "LABEL k=v",
        "-",
        "made:1",
    ];
    let output = api.docker_with_input(&args, &layer.blob);
    assert!(output.status.success(), "{output:?}");
    let id = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert_eq!(api.docker_ok(&["images", "-q", "--no-trunc", "made:1"]), id);
    let format = "{{json .Config.Cmd}} {{json .Config.Env}} {{json .Config.Labels}}";
    let config = api.docker_ok(&["image", "inspect", "-f", format, "made:1"]);
    assert_eq!(config, r#"["cat","/greeting"] ["A=1"] {"k":"v"}"#);
    let refused = api.docker_with_input(&["import", change, "EXPOSE 80", "-", "made:2"], &layer.blob);
    assert!(
        !refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("EXPOSE"),
        "{refused:?}"
    );
}

#[test]
fn docker_prunes_what_is_dangling_or_unused() {
    let api = DockerApi::new();
    for (name, content) in [("first", "1"), ("second", "2"), ("kept", "3")] {
        let layer = Layer::of(&[("f", content.as_bytes())], Packing::Gzip);
        let label = format!("LABEL name={name}");
        let tag = if name == "kept" { "kept:1" } else { "moved:1" };
        let output = api.docker_with_input(&["import", "--change", &label, "-", tag], &layer.blob);
        assert!(output.status.success(), "{output:?}");
    }
    let dangling = api.docker_ok(&["image", "prune", "-f"]);
    assert!(dangling.contains("deleted: sha256:") && !dangling.contains("untagged"), "{dangling}");
    let nothing = api.docker_ok(&["image", "prune", "-f"]);
    assert_eq!(nothing, "Total reclaimed space: 0B");
    let spared =
        api.docker_ok(&["image", "prune", "-af", "--filter", "label!=name=kept", "--filter", "label=name"]);
    assert!(spared.contains("untagged: moved:1") && !spared.contains("kept"), "{spared}");
    api.docker_ok(&["image", "prune", "-af"]);
    assert_eq!(api.docker_ok(&["images", "-q"]), "");
    let unknown = api.http("POST", "/images/prune?filters=%7B%22colour%22%3A%5B%22red%22%5D%7D");
    assert_eq!(unknown.status(), 400);
}

#[test]
fn docker_logs_in_and_its_credential_reaches_the_registry() {
    let api = DockerApi::new();
    let directory = api.path("guarded");
    fs::create_dir(&directory).expect("a directory");
    let registry = DockerRegistry::start_for(&directory, "user", "secret");
    let reference = registry.push_as("app:1", &[busybox_image()], Some("user:secret"));
    let login = |password: &str| {
        let args = ["login", "-u", "user", "--password-stdin", &registry.address];
        api.docker_with_input(&args, password.as_bytes())
    };
    let body = |password: &str| serde_json::json!({"username": "user", "password": password, "serveraddress": registry.address});
    let refused = api.http_json("POST", "/auth", &body("wrong"));
    assert_eq!(refused.status(), 401, "{}", refused.text());
    let accepted = api.http_json("POST", "/auth", &body("secret"));
    assert_eq!(accepted.json(), serde_json::json!({"IdentityToken": "", "Status": "Login Succeeded"}));
    assert!(!login("wrong").status.success());
    api.docker_fails(1, &["pull", &reference]);
    let output = login("secret");
    assert!(
        output.status.success() && String::from_utf8_lossy(&output.stdout).contains("Login Succeeded"),
        "{output:?}"
    );
    assert_eq!(api.docker_ok(&["pull", "-q", &reference]), reference);
}
