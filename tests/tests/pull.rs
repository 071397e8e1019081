//! Pulls by a real engine from real and from hostile registries.

use sampan_ipc::engine::{Answer, Code, Failure, Import, JobState, Phase, Pull, Request, Serve, Verify};
use sampan_oci as oci;
use sampan_oci::digest::Digest;
use sampan_tests::engine::Engine;
use sampan_tests::host::binary;
use sampan_tests::registry::{DockerRegistry, Image, Layer, Packing, Reply, ScriptedRegistry, index_of};
use sampan_tests::tls;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);

fn wait_until(what: &str, done: impl FnMut() -> bool) {
    sampan_tests::host::wait_until(what, String::new, done);
}

fn skopeo_inspect(store: &Path, name: &str) -> serde_json::Value {
    let out = Command::new("skopeo").arg("inspect").arg(format!("oci:{}:{name}", store.display())).output();
    let out = out.expect("skopeo of Debian's package skopeo");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).expect("JSON")
}

#[test]
fn skopeo_reads_pulled_images_of_one_and_of_eight_layers() {
    let dir = tempfile::tempdir().expect("a directory");
    let registry = DockerRegistry::start(dir.path());
    let engine = Engine::start();
    let one = Image::of(&[Layer::of(&[("bin/true", b"#!"), ("etc/motd", b"hello")], Packing::Gzip)], "amd64");
    let packings = [Packing::Gzip, Packing::Zstd, Packing::Plain, Packing::Gzip];
    let layers: Vec<Layer> =
        (0..8).map(|n| Layer::large(&format!("data/{n}"), 200_000 + n * 1000, packings[n % 4])).collect();
    let eight = Image::of(&layers, "amd64");
    for (name, image) in [("one:1", &one), ("team/eight:8", &eight)] {
        let reference = registry.push(name, std::slice::from_ref(image));
        let pulled = engine.pull(&reference).expect("pulled");
        assert_eq!(pulled.done.digest, image.digest().to_string());
        assert_eq!(pulled.done.reference, reference);
        assert!(!pulled.done.unchanged);
        let seen = skopeo_inspect(&engine.store(), &reference);
        assert_eq!(seen["Digest"], image.digest().to_string());
        assert_eq!(seen["Labels"]["org.example.made"], "here");
    }
    let first = Digest::of(&Layer::of(&[("bin/true", b"#!"), ("etc/motd", b"hello")], Packing::Gzip).tar);
    assert_eq!(fs::read(engine.layer_dir(&first).join("etc/motd")).expect("unpacked"), b"hello");
    // Rows are in the order of the manifest with its totals, and all are complete at the end.
    let again = engine.pull(&registry.push("team/eight:9", std::slice::from_ref(&eight))).expect("pulled");
    assert_eq!(again.rows.len(), 8);
    for (nth, (row, layer)) in again.rows.iter().zip(&layers).enumerate() {
        assert_eq!(row.index as usize, nth);
        assert_eq!(row.id, Digest::of(&layer.blob).short());
        assert_eq!((row.current, row.total), (layer.blob.len() as u64, layer.blob.len() as u64));
        assert_eq!(row.phase, Phase::Exists, "nothing is fetched twice");
    }
    assert!(engine.pull(&format!("{}/team/eight:9", registry.address)).expect("pulled").done.unchanged);
    let images = engine.images();
    assert_eq!(images.len(), 2);
    assert_eq!(images[1].references.len(), 2);
    engine.wait_for_no_temporaries();
}

#[test]
fn of_an_index_the_wanted_platform_is_taken() {
    let dir = tempfile::tempdir().expect("a directory");
    let registry = DockerRegistry::start(dir.path());
    let engine = Engine::start();
    let amd = Image::of(&[Layer::of(&[("arch", b"amd64")], Packing::Gzip)], "amd64");
    let arm = Image::of(&[Layer::of(&[("arch", b"arm64")], Packing::Zstd)], "arm64");
    let reference = registry.push("multi:1", &[amd.clone(), arm.clone()]);
    let pulled = engine.pull_for(&reference, Some("linux/arm64")).expect("pulled");
    assert_eq!(pulled.done.digest, arm.digest().to_string());
    let pulled = engine.pull_for(&reference, Some("linux/amd64")).expect("pulled");
    assert_eq!(pulled.done.digest, amd.digest().to_string());
    // By the digest of the index, and by tag and digest together.
    let index = Digest::of(&index_of(&[amd.clone(), arm]));
    for reference in [format!("{}/multi@{index}", registry.address), format!("{reference}@{index}")] {
        let pulled = engine.pull_for(&reference, Some("linux/amd64")).expect("pulled");
        assert_eq!(pulled.done.digest, amd.digest().to_string(), "{reference}");
    }
    let failure = engine.pull_for(&reference, Some("linux/s390x")).expect_err("not there");
    assert!(failure.message.ends_with("there are: linux/amd64, linux/arm64"), "{}", failure.message);
}

/// Asserts that the pull fails, and that none of its files has a final name except valid blobs.
fn refused(engine: &Engine, reference: &str, words: &str) -> Failure {
    let before = engine.named();
    let failure = engine.pull(reference).expect_err("refused");
    assert!(failure.message.contains(words), "{words:?} is not in {:?}", failure.message);
    let kept = engine.named();
    let new: Vec<&String> = kept.iter().filter(|name| !before.contains(name)).collect();
    for name in new {
        let path = engine.store().join(name);
        assert!(path.is_file(), "{name} is an unpacked layer of a refused image");
        let bytes = fs::read(&path).expect("a blob");
        assert!(name.ends_with(Digest::of(&bytes).hex()), "{name} is not what its name says");
    }
    engine.wait_for_no_temporaries();
    assert!(engine.images().iter().all(|image| !image.references.iter().any(|r| r == reference)));
    failure
}

#[test]
fn what_a_registry_gives_wrong_is_refused_and_leaves_nothing() {
    let registry = ScriptedRegistry::start();
    let engine = Engine::start();
    let layer = Layer::large("data", 300_000, Packing::Gzip);
    let image = Image::of(std::slice::from_ref(&layer), "amd64");
    let blob_path = |name: &str| format!("{name}/blobs/{}", Digest::of(&layer.blob));
    let publish = |name: &str, reply: Reply| {
        registry.publish(name, &image);
        registry.answer(&blob_path(name), reply);
        registry.reference(name)
    };
    let octets = |bytes: Vec<u8>| Reply::Ok("application/octet-stream".to_owned(), bytes);

    let mut wrong = layer.blob.clone();
    wrong[1000] ^= 1;
    refused(&engine, &publish("digest", octets(wrong)), "has digest");
    let other = Layer::large("other", 300_000, Packing::Gzip).blob;
    refused(&engine, &publish("other", octets(other[..layer.blob.len().min(other.len())].to_vec())), "");
    refused(&engine, &publish("cut", Reply::Cut(layer.blob.clone(), 1000)), "cannot fetch blob");
    refused(&engine, &publish("short", octets(layer.blob[..1000].to_vec())), "offers 1000 bytes");
    refused(&engine, &publish("gone", Reply::Status(404)), "is not in registry");
    refused(&engine, &publish("broken", Reply::Status(500)), "answers 500");
    refused(&engine, &publish("denied", Reply::Status(403)), "denies access");
    assert_eq!(refused(&engine, &registry.reference("nothing"), "").code, Code::NotFound);

    // The manifest itself is wrong, when it is requested by digest.
    registry.publish("lie", &image);
    let claimed = Digest::of(b"something else");
    registry.answer(
        &format!("lie/manifests/{claimed}"),
        Reply::Ok(oci::MANIFEST.to_owned(), image.manifest.clone()),
    );
    refused(&engine, &format!("{}/lie@{claimed}", registry.address), "has digest");

    // A config with other diff IDs, or more of them.
    let diff = Image::with_diff_ids(std::slice::from_ref(&layer), "amd64", &[Digest::of(b"not this")]);
    registry.publish("diff", &diff);
    refused(&engine, &registry.reference("diff"), "unpacks to diff id");
    let two = Image::with_diff_ids(
        std::slice::from_ref(&layer),
        "amd64",
        &[Digest::of(&layer.tar), Digest::of(b"2")],
    );
    registry.publish("two", &two);
    refused(&engine, &registry.reference("two"), "2 diff ids");

    // Layers that would write outside of their directory, or are no tars.
    for (name, path) in [("up", "../../../escape"), ("abs", "a/../../escape")] {
        let evil = Image::of(&[Layer::of(&[(path, b"x")], Packing::Gzip)], "amd64");
        registry.publish(name, &evil);
        refused(&engine, &registry.reference(name), "leads out of the layer");
    }
    let noise = Image::of(&[Layer::of_tar(vec![b'x'; 5000], Packing::Gzip)], "amd64");
    registry.publish("noise", &noise);
    refused(&engine, &registry.reference("noise"), "it is not a tar");
    assert!(!engine.dir.path().join("escape").exists() && !engine.store().join("escape").exists());

    // A valid image is still accepted.
    registry.publish("good", &image);
    engine.pull(&registry.reference("good")).expect("pulled");
}

#[test]
fn a_document_whose_size_is_wrong_is_refused() {
    let registry = ScriptedRegistry::start();
    let engine = Engine::start();
    let image = Image::of(&[Layer::of(&[("a", b"1")], Packing::Gzip)], "amd64");
    let lying = |of: &[u8], by: u64| {
        let mut document: serde_json::Value = serde_json::from_slice(of).expect("JSON");
        let is_index = document["config"].is_null();
        let place = if is_index { &mut document["manifests"][0] } else { &mut document["config"] };
        place["size"] = (place["size"].as_u64().expect("a size") + by).into();
        serde_json::to_vec(&document).expect("JSON")
    };
    registry.publish("config", &Image { manifest: lying(&image.manifest, 5), ..image.clone() });
    refused(&engine, &registry.reference("config"), "bytes, expected");
    registry.publish("index", &image);
    let index = lying(&index_of(std::slice::from_ref(&image)), 9);
    registry.answer("index/manifests/t", Reply::Ok(oci::INDEX.to_owned(), index));
    refused(&engine, &registry.reference("index"), "bytes, expected");
    let right = index_of(std::slice::from_ref(&image));
    registry.answer("index/manifests/t", Reply::Ok(oci::INDEX.to_owned(), right));
    engine.pull(&registry.reference("index")).expect("pulled");
    engine.ask(Request::Verify(Verify { deep: true })).watch().expect("the store is right");
}

#[test]
fn a_token_never_follows_a_redirect_to_another_host() {
    let (registry, elsewhere) = (ScriptedRegistry::start(), ScriptedRegistry::start());
    let engine = Engine::start();
    let layer = Layer::large("data", 50_000, Packing::Gzip);
    let image = Image::of(std::slice::from_ref(&layer), "amd64");
    registry.publish("a", &image);
    let blob = format!("a/blobs/{}", Digest::of(&layer.blob));
    registry.answer(&blob, Reply::Redirect(format!("http://{}/v2/cdn", elsewhere.address)));
    elsewhere.answer("cdn", Reply::Ok("application/octet-stream".to_owned(), layer.blob));
    engine.pull(&registry.reference("a")).expect("pulled");
    assert!(elsewhere.requests().iter().all(|(_, authorization)| authorization.is_none()));
    assert!(elsewhere.requests().iter().any(|(path, _)| path == "/v2/cdn"));
}

#[test]
fn two_clients_share_one_download_and_the_last_to_leave_ends_it() {
    let registry = ScriptedRegistry::start();
    let engine = Engine::start();
    let layer = Layer::large("data", 4 << 20, Packing::Gzip);
    let image = Image::of(std::slice::from_ref(&layer), "amd64");
    registry.publish("slow", &image);
    let blob = format!("slow/blobs/{}", Digest::of(&layer.blob));
    registry.answer(&blob, Reply::Slow(layer.blob.clone(), 400_000));
    let pull =
        || engine.ask(Request::Pull(Pull { reference: registry.reference("slow"), ..Pull::default() }));
    let (first, mut second) = (pull(), pull());
    wait_until("bytes to flow", || registry.sent() > 50_000);
    let blobs = registry
        .requests()
        .iter()
        .filter(|(path, _)| path.contains("/blobs/") && path.contains(Digest::of(&layer.blob).hex()))
        .count();
    assert_eq!(blobs, 1);
    drop(first);
    let before = registry.sent();
    wait_until("more bytes for the other client", || registry.sent() > before + 50_000);
    while !matches!(second.next(), Some(Answer::Rows { rows, .. }) if rows.iter().any(|r| r.current > 0)) {}
    drop(second);
    let left = Instant::now();
    wait_until("the job to end", || engine.jobs().iter().all(|job| job.state != JobState::Running));
    assert!(left.elapsed() < Duration::from_secs(1), "took {:?}", left.elapsed());
    assert_eq!(engine.jobs()[0].state, JobState::Cancelled);
    engine.wait_for_no_temporaries();
}

#[test]
fn a_detached_pull_can_be_watched_and_cancelled() {
    let registry = ScriptedRegistry::start();
    let engine = Engine::start();
    let layer = Layer::large("data", 2 << 20, Packing::Gzip);
    let image = Image::of(std::slice::from_ref(&layer), "amd64");
    registry.publish("slow", &image);
    let blob = format!("slow/blobs/{}", Digest::of(&layer.blob));
    registry.answer(&blob, Reply::Slow(layer.blob.clone(), 200_000));
    let reference = registry.reference("slow");
    let answers = engine.ask(Request::Pull(Pull { reference, detach: true, ..Pull::default() })).all();
    let [Answer::Job(job), Answer::Done(_)] = answers.as_slice() else { panic!("{answers:?}") };
    wait_until("bytes to flow", || registry.sent() > 50_000);
    let watcher = engine.ask(Request::Watch { job: job.id });
    engine.ask(Request::Cancel { job: job.id }).all();
    assert_eq!(watcher.watch().expect_err("cancelled").code, Code::Cancelled);
    assert_eq!(engine.ask(Request::Watch { job: job.id }).watch().expect_err("ended").code, Code::Cancelled);
    assert_eq!(engine.ask(Request::Watch { job: 99 }).watch().expect_err("none").code, Code::NotFound);
}

#[test]
fn a_store_is_whole_after_kill_9_in_the_middle_of_pulls() {
    let dir = tempfile::tempdir().expect("a directory");
    let registry = DockerRegistry::start(dir.path());
    let layers: Vec<Layer> = (0..4).map(|n| Layer::large(&format!("{n}"), 2 << 20, Packing::Gzip)).collect();
    let reference = registry.push("big:1", &[Image::of(&layers, "amd64")]);
    let mut engine = Engine::start();
    for nth in 0..6u32 {
        let mut stream = engine.ask(Request::Pull(Pull { reference: reference.clone(), ..Pull::default() }));
        // Interrupted at another place each time.
        for _ in 0..nth {
            if stream.next().is_none() {
                break;
            }
        }
        engine = engine.killed_and_restarted();
        engine.wait_for_no_temporaries();
        for name in engine.named().iter().filter(|name| name.starts_with("blobs")) {
            let bytes = fs::read(engine.store().join(name)).expect("a blob");
            assert!(name.ends_with(Digest::of(&bytes).hex()), "{name} is not what its name says");
        }
        engine.images();
    }
    engine.pull(&reference).expect("pulled");
    skopeo_inspect(&engine.store(), &reference);
}

#[test]
fn an_imported_image_is_served_and_pulled_by_another_engine() {
    let (here, there) = (Engine::start(), Engine::start());
    let mut files = Vec::new();
    for (nth, packing) in [Packing::Plain, Packing::Gzip, Packing::Zstd].into_iter().enumerate() {
        let path = here.dir.path().join(format!("{nth}.tar"));
        fs::write(&path, Layer::large(&format!("f{nth}"), 100_000, packing).blob).expect("written");
        files.push(fs::File::open(path).expect("open"));
    }
    let fds: Vec<RawFd> = files.iter().map(AsRawFd::as_raw_fd).collect();
    let import = Import {
        reference: "home/made:1".to_owned(),
        layers: 3,
        cmd: vec!["/f0".to_owned()],
        labels: vec![("a".to_owned(), "b".to_owned())],
        ..Import::default()
    };
    let made = here.ask_with(Request::Import(import), &fds).watch().expect("imported");
    assert_eq!(made.done.reference, "docker.io/home/made:1");
    assert!(
        made.rows.iter().all(|row| row.phase == Phase::Complete && row.current == row.total && row.total > 0)
    );
    assert_eq!(skopeo_inspect(&here.store(), "docker.io/home/made:1")["Labels"]["a"], "b");

    let mut serving =
        here.ask(Request::Serve(Serve { listen: "127.0.0.1:0".to_owned(), bytes_per_second: 0 }));
    let Some(Answer::Serving { address }) = serving.next() else { panic!("an address") };
    for path in ["home/made:1", "docker.io/home/made:1"] {
        let pulled = there.pull(&format!("{address}/{path}")).expect("pulled");
        assert_eq!(pulled.done.digest, made.done.digest);
    }
    let out = Command::new("skopeo")
        .args(["inspect", "--tls-verify=false", &format!("docker://{address}/home/made:1")])
        .output()
        .expect("skopeo");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    drop(serving);
    wait_until("the registry to end", || std::net::TcpStream::connect(&address).is_err());
}

#[test]
fn the_rate_of_a_served_registry_is_kept() {
    let (here, there) = (Engine::start(), Engine::start());
    let path = here.dir.path().join("layer.tar");
    fs::write(&path, Layer::large("f", 1 << 20, Packing::Plain).blob).expect("written");
    let file = fs::File::open(path).expect("open");
    let import = Import { reference: "made".to_owned(), layers: 1, ..Import::default() };
    here.ask_with(Request::Import(import), &[file.as_raw_fd()]).watch().expect("imported");
    let mut serving =
        here.ask(Request::Serve(Serve { listen: "127.0.0.1:0".to_owned(), bytes_per_second: 500_000 }));
    let Some(Answer::Serving { address }) = serving.next() else { panic!("an address") };
    let began = Instant::now();
    let pulled = there.pull(&format!("{address}/library/made")).expect("pulled");
    let took = began.elapsed();
    assert!(took > Duration::from_millis(1500) && took < Duration::from_secs(5), "took {took:?}");
    assert!(pulled.frames >= 8, "progress is seen while it goes: {} frames", pulled.frames);
}

fn http(address: &str, request: &str) -> (String, Vec<u8>) {
    let mut stream = std::net::TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("an answer");
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").expect("a head") + 4;
    (String::from_utf8_lossy(&bytes[..end]).to_lowercase(), bytes[end..].to_vec())
}

#[test]
fn a_served_registry_follows_the_specification() {
    let here = Engine::start();
    let path = here.dir.path().join("layer.tar");
    let layer = Layer::large("f", 100_000, Packing::Gzip);
    fs::write(&path, &layer.blob).expect("written");
    let file = fs::File::open(path).expect("open");
    let import = Import { reference: "made:x".to_owned(), layers: 1, ..Import::default() };
    here.ask_with(Request::Import(import), &[file.as_raw_fd()]).watch().expect("imported");
    let mut serving =
        here.ask(Request::Serve(Serve { listen: "127.0.0.1:0".to_owned(), bytes_per_second: 0 }));
    let Some(Answer::Serving { address }) = serving.next() else { panic!("an address") };
    let get = |path: &str, more: &str| {
        http(&address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{more}\r\n"))
    };
    let blob = format!("/v2/library/made/blobs/{}", Digest::of(&layer.blob));
    assert!(get("/v2/", "").0.starts_with("http/1.1 200"));
    assert_eq!(get(&blob, "").1, layer.blob);
    let (head, body) = get(&blob, "Range: bytes=10-19\r\n");
    assert!(
        head.starts_with("http/1.1 206")
            && head.contains(&format!("content-range: bytes 10-19/{}", layer.blob.len()))
    );
    assert_eq!(body, layer.blob[10..20]);
    assert_eq!(get(&blob, "Range: bytes=-5\r\n").1, layer.blob[layer.blob.len() - 5..]);
    assert_eq!(get(&blob, "Range: bytes=99000-\r\n").1, layer.blob[99_000..]);
    assert!(get(&blob, "Range: bytes=9999999-\r\n").0.starts_with("http/1.1 416"));
    assert_eq!(get("/v2/library/made/tags/list", "").1, br#"{"name":"library/made","tags":["x"]}"#);
    assert!(String::from_utf8_lossy(&get("/v2/_catalog", "").1).contains("library/made"));
    for missing in [
        "/v2/no/manifests/x",
        "/v2/library/made/manifests/y",
        "/v2/library/made/blobs/sha256:00",
        "/etc/passwd",
        "/v2/../../etc/passwd",
    ] {
        assert!(get(missing, "").0.starts_with("http/1.1 404"), "{missing}");
    }
    let (head, body) =
        http(&address, &format!("HEAD {blob} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
    assert!(head.contains(&format!("content-length: {}", layer.blob.len())) && body.is_empty());
    let (head, _) = http(&address, "DELETE /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert!(head.starts_with("http/1.1 405"), "{head}");
    let (head, _) = http(&address, "nonsense\r\n\r\n");
    assert!(head.starts_with("http/1.1 400"), "{head}");
    let (head, _) = http(&address, &format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(100_000)));
    assert!(head.starts_with("http/1.1 431"), "{head}");
}

#[test]
fn tags_and_removals_are_as_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let registry = DockerRegistry::start(dir.path());
    let engine = Engine::start();
    let shared = Layer::of(&[("shared", b"s")], Packing::Gzip);
    let one = Image::of(&[shared.clone(), Layer::of(&[("one", b"1")], Packing::Gzip)], "amd64");
    let two = Image::of(&[shared.clone(), Layer::of(&[("two", b"2")], Packing::Gzip)], "amd64");
    let one = engine.pull(&registry.push("one:1", &[one])).expect("pulled").done;
    let two = engine.pull(&registry.push("two:1", &[two])).expect("pulled").done;
    let done = |request| match engine.ask(request).all().pop() {
        Some(Answer::Done(done)) => Ok(done),
        Some(Answer::Error(failure)) => Err(failure),
        other => panic!("{other:?}"),
    };
    let tag = Request::Tag { source: one.reference.clone(), target: "mine:2".to_owned() };
    assert_eq!(done(tag).expect("tagged").reference, "docker.io/library/mine:2");
    let remove = |name: &str, force| Request::Remove { name: name.to_owned(), force };
    assert_eq!(done(remove(&one.digest, false)).expect_err("two references").code, Code::Conflict);
    assert_eq!(done(remove("mine:2", false)).expect("removed").removed, ["docker.io/library/mine:2"]);
    let gone = done(remove(&one.reference, false)).expect("removed");
    assert_eq!(gone.removed, [one.reference.clone(), one.digest.clone()]);
    assert_eq!(done(remove(&one.reference, false)).expect_err("gone").code, Code::NotFound);
    // The files of the other image remain, and no other: manifest, config, two blobs, two layers.
    assert_eq!(engine.named().len(), 6);
    assert!(engine.layer_dir(&Digest::of(&shared.tar)).join("shared").exists());
    let [Answer::Json(json), Answer::Done(_)] = &engine.ask(Request::Inspect { name: two.digest }).all()[..]
    else {
        panic!("a document")
    };
    assert!(json.contains("org.example.made"));
}

#[test]
fn sigterm_ends_jobs_and_a_second_engine_is_refused() {
    let mut engine = Engine::start();
    let other = engine.dir.path().join("other");
    for (socket, store) in
        [(engine.socket(), other.clone()), (engine.dir.path().join("run/other.sock"), engine.store())]
    {
        let refused = Command::new(binary("sampan-engine"))
            .args(["--socket".as_ref(), socket.as_os_str(), "--store".as_ref(), store.as_os_str()])
            .envs(["RUN", "STATE", "DATA"].map(|root| (format!("SAMPAN_{root}_DIR"), &other)))
            .stderr(Stdio::null())
            .status()
            .expect("ran");
        assert_eq!(refused.code(), Some(100));
    }
    let registry = ScriptedRegistry::start();
    let layer = Layer::large("data", 2 << 20, Packing::Gzip);
    registry.publish("slow", &Image::of(std::slice::from_ref(&layer), "amd64"));
    registry
        .answer(&format!("slow/blobs/{}", Digest::of(&layer.blob)), Reply::Slow(layer.blob.clone(), 100_000));
    let stream = engine.ask(Request::Pull(Pull { reference: registry.reference("slow"), ..Pull::default() }));
    wait_until("bytes to flow", || registry.sent() > 10_000);
    engine.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(stream.watch().expect_err("cancelled").code, Code::Cancelled);
    assert!(engine.child.wait().expect("reaped").success());
    assert!(!engine.socket().exists());
    engine.wait_for_no_temporaries();
}

/// Events that the engine has written to its FIFO so far.
fn events(fifo: &mut fs::File, seen: &mut Vec<u8>) -> Vec<(String, String, BTreeMap<String, String>, usize)> {
    let mut bytes = [0; 65536];
    while let Ok(len @ 1..) = fifo.read(&mut bytes) {
        seen.extend_from_slice(&bytes[..len]);
    }
    let mut scanner = sampan_ipc::record::Scanner::new(seen);
    let mut events = Vec::new();
    while let Some(sampan_ipc::record::Step::Record(record)) = scanner.next() {
        let facts = record.event.attributes.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        let what = format!("{} {}", record.event.kind, record.event.action);
        events.push((what, record.event.id.to_owned(), facts, record.event.labels().len()));
    }
    events
}

#[test]
fn every_operation_and_every_failure_writes_its_event() {
    use std::os::unix::fs::OpenOptionsExt;
    let registry = ScriptedRegistry::start();
    let engine = Engine::start();
    let flags = nix::libc::O_NONBLOCK;
    let fifo = engine.dir.path().join("run/monitor.fifo");
    let mut fifo = fs::File::options().read(true).custom_flags(flags).open(fifo).expect("the engine made it");
    let layer = Layer::large("data", 300_000, Packing::Gzip);
    let image = Image::of(std::slice::from_ref(&layer), "amd64");
    registry.publish("good", &image);
    let reference = registry.reference("good");
    engine.pull(&reference).expect("pulled");
    engine.pull(&registry.reference("none")).expect_err("refused");
    engine.ask(Request::Tag { source: reference.clone(), target: "mine:1".to_owned() }).all();
    for name in [&reference, "mine:1", "mine:1"] {
        engine.ask(Request::Remove { name: name.to_owned(), force: false }).all();
    }
    engine.signal(nix::sys::signal::Signal::SIGTERM);
    let mut seen = Vec::new();
    wait_until("the last event", || {
        events(&mut fifo, &mut seen).last().is_some_and(|(what, ..)| what == "daemon stop")
    });
    let events = events(&mut fifo, &mut seen);
    let words: Vec<&str> =
        events.iter().map(|(what, ..)| what.as_str()).filter(|w| *w != "job progress").collect();
    assert_eq!(
        words,
        [
            "daemon start",
            "job start",
            "image pull",
            "job done",
            "job start",
            "image pull-error",
            "job failed",
            "image tag",
            "image untag",
            "image untag",
            "image delete",
            "image delete-error",
            "daemon stop",
        ]
    );
    let find = |wanted: &str| events.iter().find(|(what, ..)| what == wanted).expect("there");
    let (_, id, facts, labels) = find("image pull");
    assert_eq!((id, labels), (&reference, &1));
    assert_eq!(facts["digest"], image.digest().to_string());
    assert!(find("image pull-error").2["reason"].contains("is not in registry"));
    let milestones = events
        .iter()
        .filter(|(what, ..)| what == "job progress")
        .map(|(_, _, facts, _)| facts["percent"].clone());
    let milestones: Vec<String> = milestones.collect();
    assert!(!milestones.is_empty() && milestones.is_sorted(), "{milestones:?}");
}

#[test]
fn a_registry_with_tls_is_trusted_through_the_bundle_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let (cert, key) = tls::self_signed(dir.path(), "server");
    let registry = DockerRegistry::start_tls(dir.path(), Some((&cert, &key)));
    let image = Image::of(&[Layer::large("data", 300_000, Packing::Gzip)], "amd64");
    let reference = registry.push("secure:1", std::slice::from_ref(&image));
    let trusting =
        Engine::start_with(tempfile::tempdir().expect("a directory"), &[("SSL_CERT_FILE", cert.as_os_str())]);
    assert_eq!(trusting.pull(&reference).expect("pulled").done.digest, image.digest().to_string());
    let other = Engine::start();
    let failure = other.pull(&reference).expect_err("nobody vouches for it");
    assert!(failure.message.contains("certificate"), "{}", failure.message);
    let insecure = Pull { reference, insecure: true, ..Pull::default() };
    other.ask(Request::Pull(insecure)).watch().expect("the person said that it will do");
}

/// Publishes `name`, whose one layer is answered by `replies` in turn; returns the layer's path and its size.
fn flaky(registry: &ScriptedRegistry, name: &str, replies: impl Fn(&[u8]) -> Vec<Reply>) -> (String, u64) {
    let layer = Layer::large(name, 600_000, Packing::Gzip);
    registry.publish(name, &Image::of(std::slice::from_ref(&layer), "amd64"));
    let path = format!("{name}/blobs/{}", Digest::of(&layer.blob));
    registry.answer_in_turn(&path, replies(&layer.blob));
    (path, layer.blob.len() as u64)
}

#[test]
fn a_cut_body_goes_on_where_it_broke_and_the_retry_is_told() {
    let (engine, registry) = (Engine::start(), ScriptedRegistry::start());
    let (path, size) = flaky(&registry, "cut", |blob| {
        vec![Reply::Cut(blob.to_vec(), blob.len() / 2), Reply::Ranged(blob.to_vec())]
    });
    let pulled = engine.pull(&registry.reference("cut")).expect("pulled");
    assert!(pulled.notes.iter().any(|note| note.starts_with("retrying in 1 s: ")), "{:?}", pulled.notes);
    assert_eq!(pulled.rows[0].attempt, 2);
    assert_eq!(registry.request_count(&path), 2);
    // The config and the manifest are small, and the layer was sent once.
    assert!((size..size + 5000).contains(&registry.sent()), "{} bytes for {size}", registry.sent());
}

#[test]
fn a_registry_that_ignores_ranges_sends_the_blob_again() {
    let (engine, registry) = (Engine::start(), ScriptedRegistry::start());
    let (path, _) = flaky(&registry, "whole", |blob| {
        let whole = Reply::Ok("application/octet-stream".to_owned(), blob.to_vec());
        vec![Reply::Cut(blob.to_vec(), blob.len() / 2), whole]
    });
    engine.pull(&registry.reference("whole")).expect("pulled");
    assert_eq!(registry.request_count(&path), 2);
}

#[test]
fn only_a_registry_that_sends_retry_after_gets_a_second_try() {
    let (engine, registry) = (Engine::start(), ScriptedRegistry::start());
    for status in [503, 429] {
        let name = format!("later{status}");
        let (path, _) = flaky(&registry, &name, |blob| {
            vec![Reply::Later(status, "1".to_owned()), Reply::Ranged(blob.to_vec())]
        });
        let began = Instant::now();
        engine.pull(&registry.reference(&name)).expect("pulled");
        assert!(began.elapsed() >= Duration::from_secs(1));
        assert_eq!(registry.request_count(&path), 2);
    }
    let (path, _) = flaky(&registry, "gone", |_| vec![Reply::Status(404)]);
    engine.pull(&registry.reference("gone")).expect_err("not there");
    assert_eq!(registry.request_count(&path), 1);
}

#[test]
fn a_wait_for_the_next_try_ends_with_the_pull() {
    let (engine, registry) = (Engine::start(), ScriptedRegistry::start());
    let (path, _) = flaky(&registry, "long", |_| vec![Reply::Later(503, "100".to_owned())]);
    let request = Pull { reference: registry.reference("long"), ..Pull::default() };
    let stream = engine.ask(Request::Pull(request));
    wait_until("the first try", || registry.request_count(&path) == 1);
    drop(stream);
    wait_until("the job to end", || engine.jobs().iter().all(|job| job.state != JobState::Running));
}

#[test]
fn a_client_that_waits_for_a_descriptor_is_served_later() {
    let engine = Engine::start();
    assert!(engine.images().is_empty(), "it has begun");
    let pid = engine.child.id().to_string();
    let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("listed").flatten();
    let highest = open.filter_map(|fd| fd.file_name().to_str()?.parse::<u32>().ok()).max().expect("some");
    let limit = format!("--nofile={}:", highest + 2);
    let set = Command::new("prlimit").args(["--pid", &pid, &limit]).status();
    assert!(set.expect("prlimit of Debian's package util-linux").success());
    let mut others = Vec::new();
    engine.wait_until("nobody more to be accepted", || {
        others.push(UnixStream::connect(engine.socket()).expect("connected"));
        engine.log().contains("cannot accept a client")
    });
    // A request that needs no descriptor except its connection.
    let second = engine.ask(Request::Jobs);
    drop(others);
    let answers = second.all();
    assert!(matches!(answers.as_slice(), [Answer::Jobs(jobs), ..] if jobs.is_empty()), "{answers:?}");
}

#[test]
fn endless_strings_in_a_document_break_no_store_and_no_list() {
    let registry = ScriptedRegistry::start();
    let engine = Engine::start();
    let layer = Layer::of(&[("a", b"a")], Packing::Gzip);
    let words = "long".repeat(400_000);
    registry.publish("config", &Image::of(std::slice::from_ref(&layer), &words));
    let failure = engine.pull(&registry.reference("config")).expect_err("refused");
    assert!(failure.message.contains("variant of more than 64 bytes"), "{}", failure.message);
    let kind = format!(r#"{{"schemaVersion":2,"mediaType":"{words}"}}"#);
    registry.answer("kind/manifests/t", Reply::Ok(oci::MANIFEST.to_owned(), kind.into_bytes()));
    let failure = engine.pull(&registry.reference("kind")).expect_err("refused");
    assert!(failure.message.contains("of media type") && failure.message.len() < 5000);
    assert!(engine.jobs().iter().all(|job| job.state == JobState::Failed && job.error.len() < 5000));
    assert!(engine.images().is_empty());
}

/// Number of open sockets of process `pid`.
fn sockets(pid: u32) -> usize {
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).expect("listed").flatten();
    fds.filter(|fd| fs::read_link(fd.path()).is_ok_and(|to| to.starts_with("socket:"))).count()
}

#[test]
fn a_client_that_does_not_read_its_answer_is_hung_up_on() {
    let engine = Engine::configured("client-timeout = 1");
    let layer = Layer::of(&[("f", b"x")], Packing::Plain);
    let file = engine.dir.path().join("layer");
    fs::write(&file, &layer.tar).expect("written");
    let labels = (0..9).map(|nth| (format!("l{nth}"), "x".repeat(90_000))).collect();
    let import = Import { reference: "big:1".to_owned(), layers: 1, labels, ..Import::default() };
    let fd = fs::File::open(&file).expect("opened");
    engine.ask_with(Request::Import(import), &[fd.as_raw_fd()]).watch().expect("imported");
    let before = sockets(engine.child.id());
    // Longer than a socket holds without a reader.
    let inspect = || engine.ask(Request::Inspect { name: "big:1".to_owned() });
    let (mut reader, mut deaf) = (inspect(), inspect());
    assert!(matches!(reader.next(), Some(Answer::Json(_))));
    engine.wait_until("the one that reads nothing to be hung up on", || {
        engine.log().contains("does not read its answer") && sockets(engine.child.id()) <= before + 1
    });
    assert!(matches!(reader.next(), Some(Answer::Done(_))));
    assert!(deaf.next().is_none(), "there is no whole answer");
}
