//! The rig of the replication tests itself: what the recorder records and breaks, which content a docker-registry
//! accepts, and that a copier that is known to work passes through it. Skopeo stands in for the engine.

use sampan_tests::registry::{Image, Layer, Packing};
use sampan_tests::replication::client::Client;
use sampan_tests::replication::compare::{Repository, differences};
use sampan_tests::replication::corpus;
use sampan_tests::replication::fault::{Fault, Moment, Reply, Rule};
use sampan_tests::replication::pair::{PASSWORD, Pair, USERNAME, login};
use sampan_tests::replication::registry::{Registry, Settings};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

fn image(bytes: usize) -> Image {
    Image::of(
        &[Layer::large("large", bytes, Packing::Gzip), Layer::of(&[("a", b"b")], Packing::Gzip)],
        "amd64",
    )
}

/// Copies with skopeo, all of an index, between the pair's addresses.
fn skopeo(pair: &Pair, from: &str, to: &str) -> Output {
    let mut command = Command::new("skopeo");
    command.args(["--insecure-policy", "copy", "--quiet", "--all", "--preserve-digests"]);
    command.args(["--src-tls-verify=false", "--dest-tls-verify=false"]);
    command.arg(format!("--dest-creds={USERNAME}:{PASSWORD}"));
    command.args([pair.source.url(from), pair.destination.url(to)]);
    // Its cache of locations of blobs would make runs depend on each other.
    command.env("HOME", pair.path("home")).env("XDG_DATA_HOME", pair.path("home"));
    command.output().expect("skopeo of Debian's package skopeo")
}

#[test]
fn both_kinds_of_pairs_record_what_a_copier_does() {
    let image = image(500_000);
    for pair in [Pair::start(), Pair::plain()] {
        pair.source.client().push_image("a/b", "t", &image);
        assert_eq!(pair.request_counts(), (0, 0), "a direct client is not recorded");
        let output = skopeo(&pair, "a/b:t", "c:u");
        assert!(output.status.success(), "{output:?}\n{}", pair.requests());
        let (source, destination) = (pair.source.client(), pair.destination.client());
        let sides =
            (Repository { client: &source, name: "a/b" }, Repository { client: &destination, name: "c" });
        let found = differences(sides.0, sides.1, &[&image.digest().to_string()]);
        assert!(found.is_empty(), "{found:?}");
        let blobs: usize = image.blobs.iter().map(|(_, bytes)| bytes.len()).sum();
        assert_eq!(pair.destination.recorder.uploaded(), blobs as u64, "{}", pair.requests());
        assert_eq!(pair.source.recorder.downloaded(), blobs as u64);
        let count = |pattern| pair.destination.recorder.count(pattern);
        assert_eq!((count("^POST "), count("^PUT .*/uploads/"), count("^PUT .*/manifests/u$")), (3, 3, 1));
        assert_eq!(pair.destination.recorder.by_method()["PATCH"], 3);
        let sessions = pair.destination.recorder.sessions();
        assert_eq!(sessions.len(), 3);
        assert!(sessions.iter().all(|session| session.is_over), "{sessions:?}");
        assert_eq!(pair.destination.registry.sessions(), [""; 0]);
    }
}

#[test]
fn the_comparison_sees_whatever_differs() {
    let pair = Pair::plain();
    let (source, destination) = (pair.source.client(), pair.destination.client());
    let image = image(1000);
    source.push_image("a", "t", &image);
    let compare = || {
        let (source, destination) =
            (Repository { client: &source, name: "a" }, Repository { client: &destination, name: "a" });
        differences(source, destination, &["t"])
    };
    assert!(compare()[0].contains("the destination 404"), "{:?}", compare());
    let mut other = image.clone();
    other.manifest.push(b'\n');
    destination.push_image("a", "t", &other);
    let found = compare();
    assert!(found[0].contains("bytes differ"), "{found:?} {:?}", destination.manifest("a", "t"));
    assert!(found[1].contains("docker-content-digest"), "{found:?}");
    destination.push_image("a", "t", &image);
    assert_eq!(compare(), [""; 0]);
}

#[test]
fn a_docker_registry_accepts_nearly_all_of_the_corpus() {
    let pair = Pair::plain();
    let all: Vec<&str> = corpus::all().iter().map(|artifact| artifact.tag).collect();
    for side in [&pair.source, &pair.destination] {
        let stored = corpus::push_all(&side.client(), "corpus");
        let stored: Vec<&str> = stored.iter().map(|stored| stored.tag.as_str()).collect();
        let refused: Vec<&str> = all.iter().filter(|tag| !stored.contains(tag)).copied().collect();
        let is_source = side.address == pair.source.address;
        let expected: &[&str] = match is_source {
            true => &["index-sparse"],
            false => &["index-sparse", "nondistributable", "nondistributable-present", "docker-foreign"],
        };
        assert_eq!(refused, expected);
        assert_eq!(side.client().tags("corpus").len(), stored.len());
    }
}

/// What curl would get: a client in front of the recorder.
fn through(pair: &Pair) -> Client {
    Client::new(&pair.destination.address).with_login(USERNAME, PASSWORD)
}

#[test]
fn a_reply_of_a_rule_has_status_and_headers_and_comes_once() {
    let pair = Pair::plain();
    let recorder = &pair.destination.recorder;
    recorder.inject(Rule::on("^GET /v2/$", Fault::Answer(Reply::status(429).retry_after(7))).nth(2));
    let answers = [(); 3].map(|()| through(&pair).request("GET", "/v2/", &[], &[]));
    assert_eq!(answers.each_ref().map(|answer| answer.status()), [200, 429, 200]);
    assert_eq!(answers[1].header("Retry-After"), "7");
    assert_eq!((recorder.faults(), recorder.due()), (1, 0));
}

#[test]
fn a_mount_without_its_query_is_an_upload_that_begins() {
    let pair = Pair::plain();
    let client = through(&pair);
    client.push_image("a", "t", &image(1000));
    let (digest, _) = &image(1000).blobs[0];
    let target = format!("/v2/b/blobs/uploads/?mount={digest}&from=a");
    pair.destination.recorder.inject(Rule::on("^POST .*mount=", Fault::StripQuery));
    let statuses = [(); 2].map(|()| client.request("POST", &target, &[], &[]).status());
    assert_eq!(statuses, [202, 201]);
    let living = pair.destination.living_sessions();
    assert_eq!(living.len(), 1, "{living:?}");
    assert_eq!(pair.destination.registry.sessions(), [living[0].path.as_str()]);
}

#[test]
fn a_call_comes_in_the_middle_of_a_body() {
    let pair = Pair::plain();
    let client = through(&pair);
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&calls);
    let call = Fault::Call(
        Moment::Body(700),
        Arc::new(move || {
            counter.fetch_add(1, Ordering::SeqCst);
            true
        }),
    );
    pair.destination.recorder.inject(Rule::on("^PUT .*/uploads/", call));
    // The first bodies are too short.
    for bytes in [0, 10, 700, 5000, 6000] {
        let layer = vec![7; bytes];
        let digest = sampan_oci::digest::Digest::of(&layer).to_string();
        assert_eq!(client.push_blob("a", &digest, &layer).status(), 201, "{bytes}");
        assert_eq!(calls.load(Ordering::SeqCst), usize::from(bytes >= 5000), "{bytes}");
    }
}

#[test]
fn cut_stalled_and_wrong_bodies_are_what_their_names_say() {
    let pair = Pair::plain();
    let image = image(300_000);
    pair.source.client().push_image("a", "t", &image);
    let (digest, bytes) = &image.blobs[0];
    let recorder = &pair.source.recorder;
    let client = Client::new(&pair.source.address);
    recorder.inject(Rule::on("^GET .*/blobs/", Fault::Corrupt(1234)));
    let got = client.blob("a", &digest.to_string()).expect("there");
    let wrong: Vec<usize> = (0..bytes.len()).filter(|at| got[*at] != bytes[*at]).collect();
    assert_eq!(wrong, [1234]);
    recorder.inject(Rule::on("^GET .*/blobs/", Fault::CutAnswer(100_000)));
    let (reader, name) = (client.clone(), digest.to_string());
    let cut = std::thread::spawn(move || reader.blob("a", &name)).join();
    assert!(cut.is_err(), "the body is cut");
    let cut = recorder.requests().pop().expect("recorded");
    assert_eq!((cut.answer_bytes, cut.is_faulty, cut.status), (100_000, true, 200));
    recorder.inject(Rule::on("^GET .*/blobs/", Fault::StripHeader("range")));
    let range = [("Range", "bytes=100-199")];
    let target = format!("/v2/a/blobs/{digest}");
    let answers = [(); 2].map(|()| client.request("GET", &target, &range, &[]));
    assert_eq!(answers.each_ref().map(|answer| answer.status()), [200, 206]);
    assert_eq!(answers[1].body, bytes[100..200]);
}

#[test]
fn a_copier_survives_the_faults_that_it_can_survive() {
    let pair = Pair::plain();
    pair.source.client().push_image("a", "t", &image(12_000_000));
    pair.source
        .recorder
        .inject(Rule::on("^GET .*/manifests/", Fault::Answer(Reply::status(429).retry_after(1))));
    let output = skopeo(&pair, "a:t", "a:t");
    assert!(output.status.success(), "{output:?}\n{}", pair.requests());
    assert_eq!(pair.source.recorder.faults(), 1);
    pair.destination.recorder.inject(Rule::on("^PATCH ", Fault::CutRequest(5_000_000)));
    // Another image, since skopeo would mount the layers that it has copied before.
    pair.source.client().push_image("b", "t", &image(12_345_678));
    let output = skopeo(&pair, "b:t", "b:t");
    assert!(!output.status.success(), "skopeo does not try a cut upload again");
    let cut: Vec<_> =
        pair.destination.recorder.requests().into_iter().filter(|request| request.is_faulty).collect();
    assert_eq!((cut.len(), cut[0].body_bytes, cut[0].status), (1, 5_000_000, 0), "{cut:?}");
    assert_eq!(pair.destination.registry.sessions().len(), 1, "its session stays on the disk");
    assert!(pair.destination.living_sessions().is_empty(), "but the registry has forgotten it");
}

#[test]
fn a_registry_keeps_content_and_address_over_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let tls = sampan_tests::tls::self_signed(dir.path(), "server");
    let settings = Settings { tls: Some(tls), has_relative_urls: true, ..login() };
    let mut registry = Registry::start(dir.path(), settings);
    let client = registry.client();
    let image = image(1000);
    client.push_image("a", "t", &image);
    registry.restart();
    assert_eq!(client.digest("a", "t"), Some(image.digest().to_string()));
    assert!(registry.blob_bytes() > 1000);
    let (method, target, status) = registry.requests_since(0).pop().expect("logged");
    assert_eq!((method.as_str(), target.as_str(), status), ("HEAD", "/v2/a/manifests/t", 200));
    assert_eq!(client.delete_manifest("a", &image.digest().to_string()), 202);
    assert_eq!(client.digest("a", "t"), None);
    registry.wipe();
    assert_eq!(registry.blob_bytes(), 0);
}
