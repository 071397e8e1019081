//! Pushes to real registries, and to one that fails on request.

use sampan_oci as oci;
use sampan_oci::digest::Digest;
use sampan_tests::engine_host::EngineHost;
use sampan_tests::memory_registry::{Fault, MemoryRegistry};
use sampan_tests::registry::{DockerRegistry, Image, Layer, Packing};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const LARGE: usize = 3 << 20;

fn image() -> Image {
    let layers = [
        Layer::of(&[("small", b"content")], Packing::Gzip),
        Layer::large("large", LARGE, Packing::Zstd),
        Layer::of(&[("plain", b"more")], Packing::Plain),
    ];
    Image::of(&layers, "amd64")
}

/// The image with docker's media types.
fn schema2(image: &Image) -> Image {
    let text = String::from_utf8(image.manifest.clone()).expect("text");
    let text = text
        .replace(oci::MANIFEST, oci::DOCKER_MANIFEST)
        .replace(oci::CONFIG, oci::DOCKER_CONFIG)
        .replace(&format!("{}\"", oci::LAYER[1]), "application/vnd.docker.image.rootfs.diff.tar.gzip\"");
    Image { manifest: text.into_bytes(), ..image.clone() }
}

/// The digest that skopeo finds.
fn skopeo_digest(reference: &str) -> String {
    let out = Command::new("skopeo")
        .args(["inspect", "--tls-verify=false", "--format", "{{.Digest}}", &format!("docker://{reference}")])
        .output()
        .expect("skopeo of Debian's package skopeo");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

/// An engine that has `image` as `REGISTRY/from:t`.
fn with_image(registry: &MemoryRegistry, image: &Image) -> EngineHost {
    registry.publish("from", "t", oci::MANIFEST, image);
    let host = EngineHost::start();
    host.ok(&["pull", &format!("{}/from:t", registry.address)]);
    host
}

#[test]
fn what_is_pushed_to_a_real_registry_is_what_was_pulled() {
    let host = EngineHost::start();
    let (one, two) = (host.path("one"), host.path("two"));
    [&one, &two].iter().for_each(|dir| std::fs::create_dir(dir).expect("a directory"));
    let (source, sink) = (DockerRegistry::start(&one), DockerRegistry::start(&two));
    let image = image();
    let reference = source.push("a/b:t", std::slice::from_ref(&image));
    host.ok(&["pull", &reference]);
    let target = format!("{}/c:new", sink.address);
    let out = host.ok(&["push", &reference, &target]);
    let last = format!("{}/c@{}\n", sink.address, image.digest());
    assert!(out.ends_with(&last), "{out}");
    assert_eq!(skopeo_digest(&target), image.digest().to_string());
    // A second push has nothing to do, and prints that.
    assert!(host.ok(&["push", &reference, &target]).contains("up to date"));
    let quiet = host.ok(&["push", "--quiet", &reference, &target]);
    assert_eq!(quiet, last);
    let podman = host.path("podman");
    let pulled = Command::new("podman")
        .arg("--root")
        .arg(podman.join("root"))
        .arg("--runroot")
        .arg(podman.join("run"))
        .args(["--storage-driver=vfs", "pull", "--quiet", "--tls-verify=false", &target])
        .output()
        .expect("podman of Debian's package podman");
    assert!(pulled.status.success(), "{}", String::from_utf8_lossy(&pulled.stderr));
}

#[test]
fn a_private_registry_takes_a_push_from_one_who_is_logged_in() {
    let host = EngineHost::start();
    let registry = DockerRegistry::start_for(&host.path(""), "ann", "pw");
    let plain = MemoryRegistry::start();
    plain.publish("from", "t", oci::MANIFEST, &image());
    let source = format!("{}/from:t", plain.address);
    host.ok(&["pull", &source]);
    let target = format!("{}/private:t", registry.address);
    let said = host.fails(1, &["push", &source, &target]);
    assert!(said.contains("denies access") && said.contains("sampan login"), "{said}");
    host.ok(&["login", "-u", "ann", "-p", "pw", &registry.address]);
    host.ok(&["push", &source, &target]);
}

#[test]
fn docker_schema_2_is_pushed_unchanged_without_unpacking() {
    let registry = MemoryRegistry::start();
    let image = schema2(&Image::of(&[Layer::of(&[("f", b"x")], Packing::Gzip)], "amd64"));
    registry.publish("from", "t", oci::DOCKER_MANIFEST, &image);
    let host = EngineHost::start();
    let source = format!("{}/from:t", registry.address);
    host.ok(&["pull", &source]);
    std::fs::remove_dir_all(host.store().join("layers")).expect("removed");
    std::fs::create_dir(host.store().join("layers")).expect("made");
    host.ok(&["push", &source, &format!("{}/to:t", registry.address)]);
    let (kind, bytes) = registry.manifest("to", "t").expect("pushed");
    assert_eq!((kind.as_str(), bytes), (oci::DOCKER_MANIFEST, image.manifest));
}

#[test]
fn what_the_registry_has_is_mounted_or_left_alone() {
    let registry = MemoryRegistry::start();
    let image = image();
    let host = with_image(&registry, &image);
    let source = format!("{}/from:t", registry.address);
    registry.forget();
    host.ok(&["push", &source, &format!("{}/to:t", registry.address)]);
    let posts: Vec<_> = registry.requests().into_iter().filter(|request| request.method == "POST").collect();
    assert_eq!(posts.len(), image.blobs.len());
    assert!(
        posts
            .iter()
            .all(|post| post.query.starts_with("mount=sha256:") && post.query.ends_with("&from=from"))
    );
    assert_eq!((registry.count("PATCH"), registry.count("PUT to/blobs")), (0, 0), "no byte is sent");
    for (digest, bytes) in &image.blobs {
        assert_eq!(registry.blob("to", digest).as_ref(), Some(bytes));
    }
    // For blobs that the registry has by now, the engine only asks whether they exist.
    registry.forget();
    let out = host.ok(&["push", "--progress=json", &source, &format!("{}/to:other", registry.address)]);
    assert!(out.contains(r#""state":"exists""#), "{out}");
    assert_eq!(registry.count("HEAD to/blobs"), image.blobs.len());
    assert_eq!((registry.count("POST"), registry.count("PUT to/manifests/other")), (0, 1));
}

#[test]
fn a_blob_that_cannot_be_mounted_is_sent() {
    let registry = MemoryRegistry::start();
    let image = image();
    let host = with_image(&registry, &image);
    registry.forget();
    for _ in 0..image.blobs.len() {
        registry.fail("POST to/blobs/uploads/?mount=", Fault::Status(403, String::new()));
    }
    host.ok(&["push", &format!("{}/from:t", registry.address), &format!("{}/to:t", registry.address)]);
    assert_eq!(registry.count("POST"), 2 * image.blobs.len());
    assert!(registry.manifest("to", "t").is_some());
}

#[test]
fn a_push_that_breaks_goes_on_where_it_broke() {
    let (from, registry) = (MemoryRegistry::start(), MemoryRegistry::start());
    let image = image();
    let host = with_image(&from, &image);
    let at = 2 << 20;
    registry.fail("PATCH", Fault::Cut(at));
    let target = format!("{}/to:t", registry.address);
    let out = host.ok(&["push", "--progress=plain", &format!("{}/from:t", from.address), &target]);
    assert!(out.contains("retrying in"), "{out}");
    let (digest, bytes) = &image.blobs[1];
    assert_eq!(registry.blob("to", digest).as_ref(), Some(bytes));
    let parts: Vec<_> = registry.requests().into_iter().filter(|request| request.method == "PATCH").collect();
    let sent: usize = parts.iter().map(|part| part.body.len()).sum();
    assert_eq!((parts.len(), sent), (2, bytes.len()), "each byte is sent once");
    assert_eq!(parts[1].header("content-range"), format!("{at}-{}", bytes.len() - 1));
}

#[test]
fn an_upload_that_the_registry_forgot_begins_anew() {
    let (from, registry) = (MemoryRegistry::start(), MemoryRegistry::start());
    let image = image();
    let host = with_image(&from, &image);
    registry.fail("PATCH", Fault::Cut(1 << 20));
    registry.fail("GET to/blobs/uploads/", Fault::Status(404, String::new()));
    host.ok(&["push", &format!("{}/from:t", from.address), &format!("{}/to:t", registry.address)]);
    let (digest, bytes) = &image.blobs[1];
    assert_eq!(registry.blob("to", digest).as_ref(), Some(bytes));
}

#[test]
fn a_registry_that_asks_for_patience_gets_it() {
    let (from, registry) = (MemoryRegistry::start(), MemoryRegistry::start());
    let host = with_image(&from, &image());
    for line in ["HEAD to/blobs", "POST", "PATCH", "PUT to/blobs", "PUT to/manifests"] {
        registry.fail(line, Fault::Status(503, "Retry-After: 0".to_owned()));
    }
    registry.fail("PUT to/manifests", Fault::Status(429, "Retry-After: 1".to_owned()));
    let began = Instant::now();
    host.ok(&["push", &format!("{}/from:t", from.address), &format!("{}/to:t", registry.address)]);
    assert!(began.elapsed() >= Duration::from_secs(1));
    assert!(registry.manifest("to", "t").is_some());
}

#[test]
fn a_registry_that_got_something_else_is_found_out() {
    let (from, registry) = (MemoryRegistry::start(), MemoryRegistry::start());
    let host = with_image(&from, &image());
    registry.lie_about_digests();
    let target = format!("{}/to:t", registry.address);
    let said = host.fails(1, &["push", &format!("{}/from:t", from.address), &target]);
    assert!(said.contains("has digest sha256:"), "{said}");
    assert!(registry.manifest("to", "t").is_none(), "no manifest names what is wrong");
}

#[test]
fn what_cannot_be_pushed_is_refused_before_anything_is_sent() {
    let registry = MemoryRegistry::start();
    let image = image();
    let host = with_image(&registry, &image);
    let source = format!("{}/from:t", registry.address);
    registry.forget();
    let digest = image.digest().to_string();
    assert!(host.fails(1, &["push", "r.example/none:t"]).contains("not in the local store"));
    let other = format!("{}/to@{}", registry.address, Digest::of(b"x"));
    assert!(host.fails(125, &["push", &source, &other]).contains("has digest"));
    assert!(host.fails(125, &["push", &source, "r.example/UPPER"]).contains("reference"));
    assert!(host.fails(125, &["push", "--limit-rate", "fast", &source]).contains("is invalid"));
    host.ok(&["tag", &source, "r.example/second:t"]);
    assert!(host.fails(125, &["push", &digest]).contains("no target is given"));
    let blob = host.store().join("blobs/sha256").join(image.blobs[0].0.hex());
    std::fs::remove_file(blob).expect("there");
    let said = host.fails(1, &["push", &source, &format!("{}/to:t", registry.address)]);
    assert!(said.contains("is not in the local store"), "{said}");
    assert!(registry.requests().is_empty(), "{:?}", registry.requests());
}

#[test]
fn a_push_is_slowed_down_and_cancelled() {
    let (from, registry) = (MemoryRegistry::start(), MemoryRegistry::start());
    let host = with_image(&from, &image());
    let target = format!("{}/to:t", registry.address);
    let source = format!("{}/from:t", from.address);
    let job = host.ok(&["push", "--detach", "--limit-rate=100K", &source, &target]);
    let job = job.trim();
    host.wait_until("bytes to go", || host.ok(&["jobs", "--format=json"]).contains(r#""state":"running""#));
    host.ok(&["cancel", job]);
    host.wait_until("the job to end", || {
        host.ok(&["jobs", "--format=json"]).contains(r#""state":"cancelled""#)
    });
    assert!(host.fails(1, &["watch", job]).contains("cancelled"));
    assert!(registry.manifest("to", "t").is_none());
    let began = Instant::now();
    host.ok(&["push", "--limit-rate=2M", &source, &target]);
    assert!(began.elapsed() > Duration::from_secs(1), "3 MiB at 2 MiB/s");
}

/// Number of open sockets of the engine.
fn sockets(host: &EngineHost) -> usize {
    let fds = std::fs::read_dir(format!("/proc/{}/fd", host.pid())).expect("listed").flatten();
    let targets = fds.filter_map(|fd| std::fs::read_link(fd.path()).ok());
    targets.filter(|to| to.to_string_lossy().starts_with("socket:")).count()
}

#[test]
fn a_push_that_is_done_keeps_no_connection() {
    let (from, registry) = (MemoryRegistry::start(), MemoryRegistry::start());
    let host = with_image(&from, &image());
    // The connection of the pull may still be open: in the end there are at most as many.
    let before = sockets(&host);
    for tag in ["one", "two", "three"] {
        let (source, target) = (format!("{}/from:t", from.address), format!("{}/to:{tag}", registry.address));
        host.ok(&["push", &source, &target]);
    }
    host.wait_until("all to be closed", || sockets(&host) <= before);
}

/// A proxy to `to` that closes the connection once, after the client has sent `at` bytes.
fn cutting_proxy(to: &str, at: u64) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let (to, left) = (to.to_owned(), Arc::new(AtomicU64::new(at)));
    // This thread ends with the test's process.
    std::thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let far = TcpStream::connect(&to).expect("the registry listens");
            let (mut down, mut back) =
                (far.try_clone().expect("a descriptor"), near.try_clone().expect("one"));
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut down, &mut back);
                let _ = back.shutdown(Shutdown::Both);
            });
            let left = Arc::clone(&left);
            std::thread::spawn(move || pass_on(near, far, &left));
        }
    });
    address
}

fn pass_on(mut near: TcpStream, mut far: TcpStream, left: &AtomicU64) {
    let mut bytes = [0; 16 << 10];
    while let Ok(len @ 1..) = near.read(&mut bytes) {
        let before = left.load(Ordering::SeqCst);
        left.store(before.saturating_sub(len as u64), Ordering::SeqCst);
        if far.write_all(&bytes[..len]).is_err() || (before > 0 && before <= len as u64) {
            break;
        }
    }
    let _ = far.shutdown(Shutdown::Both);
    let _ = near.shutdown(Shutdown::Both);
}

#[test]
fn a_real_registry_gets_all_of_a_blob_that_broke_on_the_way() {
    let from = MemoryRegistry::start();
    let image = image();
    let host = with_image(&from, &image);
    let registry = DockerRegistry::start(&host.path(""));
    let proxy = cutting_proxy(&registry.address, 2 << 20);
    let out =
        host.ok(&["push", "--progress=plain", &format!("{}/from:t", from.address), &format!("{proxy}/to:t")]);
    assert!(out.contains("retrying in"), "{out}");
    assert_eq!(skopeo_digest(&format!("{}/to:t", registry.address)), image.digest().to_string());
}

#[test]
fn a_refused_request_is_repeated_and_reported_to_the_user() {
    let registry = MemoryRegistry::start();
    let host = with_image(&registry, &image());
    let nobody = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
    let said = host.fails(1, &["push", &format!("{}/from:t", registry.address), &format!("{nobody}/to:t")]);
    let note = format!("note: config of {nobody}/to:t: retrying in");
    assert_eq!(said.matches(&note).count(), 4, "{said}");
    assert!(said.contains("cannot send blob") && said.contains("Connection refused"), "{said}");
    assert!(!said.contains("fetch") && !said.contains("io: "), "{said}");
}

#[test]
fn pushes_are_announced_and_those_that_fail_too() {
    let registry = MemoryRegistry::start();
    let image = image();
    let host = with_image(&registry, &image);
    let mut monitord = host
        .command(&sampan_tests::host::binary("sampan-monitord"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("monitord starts");
    let (source, target) = (format!("{}/from:t", registry.address), format!("{}/to:t", registry.address));
    host.ok(&["push", &source, &target]);
    registry.fail("PUT to/manifests/bad", Fault::Status(400, String::new()));
    host.fails(1, &["push", &source, &format!("{}/to:bad", registry.address)]);
    let events = || {
        let out = host.sampan(&["events", "--no-follow", "--format=json"]).stdout;
        String::from_utf8_lossy(&out).lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    let find = |kind: &str, action: &str, id: &str| {
        let all: Vec<serde_json::Value> = events();
        all.into_iter().find(|e| e["type"] == kind && e["action"] == action && e["id"] == id)
    };
    let bad = format!("{}/to:bad", registry.address);
    host.wait_until("the last event", || find("image", "push-error", &bad).is_some());
    let pushed = find("image", "push", &target).expect("announced");
    assert_eq!(pushed["attributes"]["digest"], image.digest().to_string(), "{pushed}");
    assert_eq!(pushed["labels"]["org.example.made"], "here", "{pushed}");
    let failed = find("image", "push-error", &bad).expect("announced");
    assert!(failed["attributes"]["reason"].as_str().is_some_and(|why| why.contains("400")), "{failed}");
    monitord.kill().expect("it runs");
    monitord.wait().expect("ours");
}
