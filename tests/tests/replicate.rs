//! Replication between two docker-registries: what arrives, with how many requests, what the report says, and what
//! commands and signals do to an execution.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sampan_ipc::replication::{ErrorClass, ExecutionRequest, Outcome, State};
use sampan_oci as oci;
use sampan_oci::digest::Digest;
use sampan_tests::host::{Host, need_root};
use sampan_tests::registry::{Image, Layer, Packing, write_layout};
use sampan_tests::replication::corpus;
use sampan_tests::replication::fault::{Fault, Rule};
use sampan_tests::replication::pair::{Pair, login};
use sampan_tests::replication::registry::Settings;
use sampan_tests::replication::replicator::Replicator;
use serde_json::{Value, json};
use std::fs;
use std::time::{Duration, Instant};

/// Size of a chunk of an upload.
const CHUNK: u64 = 8 << 20;
/// Longest time until a stop has taken effect.
const STOP: Duration = Duration::from_secs(5);

fn layer(name: &str, bytes: usize) -> Layer {
    Layer::large(name, bytes, Packing::Plain)
}

fn image(name: &str, bytes: usize) -> Image {
    Image::of(&[layer(name, bytes)], "amd64")
}

fn blob_bytes(image: &Image) -> u64 {
    image.blobs.iter().map(|(_, bytes)| bytes.len() as u64).sum()
}

#[test]
fn an_image_arrives_where_a_login_and_tls_are_required() {
    let layers = [layer("large", 9 << 20), Layer::of(&[("a", b"b")], Packing::Gzip)];
    let image = Image::of(&layers, "amd64");
    for (name, pair) in [("behind a proxy", Pair::start()), ("of its own", Pair::with_own_tls())] {
        pair.source.client().push_image("a/b", "t", &image);
        let replicator = Replicator::start(&pair);
        let text = replicator.ok(&["replicate", &pair.source.url("a/b:t"), &pair.destination.url("c/d:u")]);
        let [source, destination] =
            [(&pair.source, "a/b", "t"), (&pair.destination, "c/d", "u")].map(|(side, repository, tag)| {
                let answer = side.client().manifest(repository, tag);
                assert_eq!(answer.status(), 200, "TLS {name}: {answer:?}");
                answer.body
            });
        assert_eq!(source, destination, "TLS {name}");
        pair.assert_same("a/b", "c/d", &[&image.digest().to_string()]);
        assert!(text.contains(image.digest().short()), "the report has the digest: {text}");
        let report = replicator.report(replicator.newest());
        let artifact = report.artifact("t");
        assert_eq!((artifact.target.as_str(), artifact.outcome), ("u", Outcome::Copied), "{report:#?}");
        assert_eq!(artifact.bytes.done, blob_bytes(&image), "{report:#?}");
        assert_eq!((artifact.attempts, report.state()), (1, State::Finished));
        assert_eq!(pair.destination.registry.sessions(), [""; 0]);
    }
}

#[test]
fn the_corpus_arrives_byte_for_byte() {
    let open = Settings { allows_foreign_layers: true, ..login() };
    let pair = Pair::with(open);
    let stored = corpus::push_all(&pair.source.client(), "corpus");
    let accepted = corpus::push_all(&pair.destination.client(), "pushed-by-hand");
    let accepted: Vec<&str> = accepted.iter().map(|stored| stored.tag.as_str()).collect();
    let expected: Vec<&str> =
        stored.iter().map(|stored| stored.tag.as_str()).filter(|tag| accepted.contains(tag)).collect();
    assert!(expected.len() >= 20, "{expected:?}");
    let replicator = Replicator::start(&pair);
    let (from, to) = (pair.source.url("corpus"), pair.destination.url("corpus"));
    let output = replicator.sampan(&["replicate", "--all-tags", &from, &to]);
    let report = replicator.report(replicator.newest());
    pair.assert_same("corpus", "corpus", &expected);
    for stored in &stored {
        let artifact = report.artifact(&stored.tag);
        let is_expected = expected.contains(&stored.tag.as_str());
        assert_eq!(artifact.state == State::Finished, is_expected, "{artifact:#?}");
        if is_expected {
            assert_eq!(artifact.digest, stored.digest.to_string(), "{artifact:#?}");
        }
    }
    assert_eq!(output.status.success(), expected.len() == stored.len(), "{output:?}");
}

#[test]
fn what_the_destination_refuses_is_named_and_the_rest_arrives() {
    // This destination wants every layer, so it refuses manifests with layers that are elsewhere.
    let pair = Pair::plain();
    let stored = corpus::push_all(&pair.source.client(), "corpus");
    let accepted = corpus::push_all(&pair.destination.client(), "pushed-by-hand");
    let is_accepted = |tag: &str| accepted.iter().any(|stored| stored.tag == tag);
    let (expected, refused): (Vec<&str>, Vec<&str>) =
        stored.iter().map(|stored| stored.tag.as_str()).partition(|tag| is_accepted(tag));
    assert!(refused.contains(&"nondistributable"), "{refused:?}");
    let replicator = Replicator::start(&pair);
    let args = ["replicate", "--all-tags", &pair.source.url("corpus"), &pair.destination.url("corpus")];
    let text = replicator.fails(1, &args);
    pair.assert_same("corpus", "corpus", &expected);
    for tag in refused {
        assert!(text.contains(tag), "{tag} is not in {text}");
    }
}

#[test]
fn a_cold_copy_asks_few_questions() {
    let layers: Vec<Layer> = (0..6).map(|nth| layer(&format!("{nth}"), (9 << 20) + nth)).collect();
    let image = Image::of(&layers, "amd64");
    let pair = Pair::with(Settings::default());
    pair.source.client().push_image("a", "t", &image);
    let replicator = Replicator::start(&pair);
    replicator.ok(&["replicate", &pair.source.url("a:t"), &pair.destination.url("a:t")]);
    let patches = pair.destination.recorder.count("^PATCH ");
    let (source, destination) = pair.request_counts();
    let count = source + destination - patches;
    assert!(count <= 34, "{count} requests besides PATCHes\n{}", pair.requests());
    assert_eq!(pair.destination.recorder.uploaded(), blob_bytes(&image));
    assert_eq!(pair.source.recorder.downloaded(), blob_bytes(&image));
}

#[test]
fn an_unchanged_image_takes_three_requests_at_most() {
    let pair = Pair::with(Settings::default());
    pair.source.client().push_image("a", "t", &image("unchanged", 100_000));
    let replicator = Replicator::start(&pair);
    let args = ["replicate", &pair.source.url("a:t"), &pair.destination.url("a:t")];
    replicator.ok(&args);
    pair.forget();
    replicator.ok(&args);
    let (source, destination) = pair.request_counts();
    assert!(source + destination <= 3, "{}", pair.requests());
    let report = replicator.report(replicator.newest());
    assert_eq!(report.artifact("t").outcome, Outcome::Unchanged, "{report:#?}");
}

#[test]
fn ten_unchanged_tags_take_22_requests_at_most() {
    let pair = Pair::with(Settings::default());
    for nth in 0..10 {
        pair.source.client().push_image("a", &format!("v{nth}"), &image(&format!("{nth}"), 10_000));
    }
    let replicator = Replicator::start(&pair);
    let args = ["replicate", "--all-tags", &pair.source.url("a"), &pair.destination.url("a")];
    replicator.ok(&args);
    pair.forget();
    replicator.ok(&args);
    let (source, destination) = pair.request_counts();
    assert!(source + destination <= 22, "{}", pair.requests());
}

#[test]
fn a_copy_into_a_second_repository_sends_no_byte() {
    let pair = Pair::plain();
    let image = image("mounted", 500_000);
    pair.source.client().push_image("a", "t", &image);
    let mut replicator = Replicator::start(&pair);
    replicator.ok(&["replicate", &pair.source.url("a:t"), &pair.destination.url("a:t")]);
    pair.forget();
    replicator.ok(&["replicate", &pair.source.url("a:t"), &pair.destination.url("b/c:t")]);
    let recorder = &pair.destination.recorder;
    assert_eq!(recorder.uploaded(), 0, "{}", pair.requests());
    assert_eq!(pair.source.recorder.count("/blobs/"), 0, "{}", pair.requests());
    let mounts = recorder.matching("^POST .*mount=sha256.*from=a");
    assert_eq!(mounts.len(), image.blobs.len(), "{}", pair.requests());
    assert!(mounts.iter().all(|mount| mount.status == 201), "{}", pair.requests());
    pair.assert_same("a", "b/c", &["t"]);
    let report = replicator.report(replicator.newest());
    assert_eq!(report.artifact("t").bytes.mounted, blob_bytes(&image), "{report:#?}");
    // A later engine remembers what this one has put there.
    replicator.kill9();
    replicator.start_engine();
    pair.forget();
    replicator.ok(&["replicate", &pair.source.url("a:t"), &pair.destination.url("d:t")]);
    assert_eq!(pair.destination.recorder.uploaded(), 0, "{}", pair.requests());
}

#[test]
fn a_layer_that_tags_share_is_sent_once() {
    let pair = Pair::plain();
    let shared = layer("shared", 700_000);
    let images: Vec<Image> =
        (0..4).map(|nth| Image::of(&[shared.clone(), layer(&format!("{nth}"), 1000)], "amd64")).collect();
    for (nth, image) in images.iter().enumerate() {
        pair.source.client().push_image("a", &format!("v{nth}"), image);
    }
    let replicator = Replicator::start(&pair);
    replicator.ok(&["replicate", "--all-tags", &pair.source.url("a"), &pair.destination.url("a")]);
    let once = images.iter().map(blob_bytes).sum::<u64>() - 3 * shared.blob.len() as u64;
    // The configs of the images differ only if their layers do; each blob counts once.
    assert_eq!(pair.destination.recorder.uploaded(), once, "{}", pair.requests());
}

#[test]
fn a_dry_run_changes_nothing_and_says_how_much_would_move() {
    let pair = Pair::plain();
    let (shared, own) = (layer("shared", 300_000), layer("own", 50_000));
    let (first, second) =
        (Image::of(std::slice::from_ref(&shared), "amd64"), Image::of(&[shared.clone(), own], "amd64"));
    pair.source.client().push_image("a", "first", &first);
    pair.source.client().push_image("a", "second", &second);
    pair.destination.client().push_image("a", "first", &first);
    let replicator = Replicator::start(&pair);
    let args = ["replicate", "--dry-run", "--all-tags", "--format", "json"];
    let plan = replicator.json(&[&args[..], &[&pair.source.url("a"), &pair.destination.url("a")]].concat());
    let writes = pair.destination.recorder.count("^(POST|PUT|PATCH|DELETE) ");
    assert_eq!(writes, 0, "{}", pair.requests());
    assert_eq!(pair.source.recorder.downloaded(), 0, "{}", pair.requests());
    assert_eq!(pair.destination.client().tags("a"), ["first"]);
    let own = blob_bytes(&second) - shared.blob.len() as u64;
    assert_eq!((&plan["bytes"]["move"], &plan["dryRun"]), (&json!(own), &json!(true)), "{plan:#}");
    let artifacts = plan["tasks"][0]["artifacts"].as_array().expect("artifacts");
    assert_eq!(artifacts.len(), 2, "{plan:#}");
}

#[test]
fn repositories_are_found_by_a_pattern() {
    let pair = Pair::plain();
    for name in ["team/web/app", "team/db", "other/db"] {
        pair.source.client().push_image(name, "t", &image(name, 1000));
    }
    let replicator = Replicator::start(&pair);
    replicator.ok(&["replicate", &pair.source.url("team/**"), &pair.destination.url("backup")]);
    let report = replicator.report(replicator.newest());
    let mut copied: Vec<&str> = report.tasks.iter().map(|(task, _)| task.source.as_str()).collect();
    copied.sort_unstable();
    let expected = ["team/db", "team/web/app"].map(|name| pair.source.reference(name));
    assert!(copied.iter().zip(&expected).all(|(found, name)| name.ends_with(found)), "{copied:?}");
    assert_eq!(copied.len(), 2, "{report:#?}");
    for name in ["web/app", "db"] {
        pair.assert_same(&format!("team/{name}"), &format!("backup/{name}"), &["t"]);
    }
}

#[test]
fn referrers_and_cosign_tags_come_along_on_request() {
    let pair = Pair::plain();
    let (client, image) = (pair.source.client(), image("signed", 10_000));
    client.push_image("a", "t", &image);
    let digest = image.digest();
    // A referrer, in the index that registries without the referrers API use.
    let sbom = br#"{"spdxVersion":"SPDX-2.3"}"#;
    for bytes in [&b"{}"[..], sbom] {
        assert_eq!(client.push_blob("a", &Digest::of(bytes).to_string(), bytes).status(), 201);
    }
    let referrer = json!({
        "schemaVersion": 2, "mediaType": oci::MANIFEST, "artifactType": "application/spdx+json",
        "config": {"mediaType": corpus::EMPTY_JSON, "digest": Digest::of(b"{}"), "size": 2},
        "layers": [{"mediaType": "application/spdx+json", "digest": Digest::of(sbom), "size": sbom.len()}],
        "subject": {"mediaType": oci::MANIFEST, "digest": digest, "size": image.manifest.len()},
    });
    let referrer = serde_json::to_vec(&referrer).expect("JSON");
    let referrer_digest = Digest::of(&referrer).to_string();
    assert_eq!(client.push_manifest("a", &referrer_digest, oci::MANIFEST, &referrer).status(), 201);
    let index = json!({
        "schemaVersion": 2, "mediaType": oci::INDEX,
        "manifests": [{"mediaType": oci::MANIFEST, "digest": referrer_digest, "size": referrer.len(),
            "artifactType": "application/spdx+json"}],
    });
    let (index, fallback) = (serde_json::to_vec(&index).expect("JSON"), format!("sha256-{}", digest.hex()));
    assert_eq!(client.push_manifest("a", &fallback, oci::INDEX, &index).status(), 201);
    let signature = format!("{fallback}.sig");
    client.push_image("a", &signature, &self::image("signature", 100));
    let replicator = Replicator::start(&pair);
    let from = pair.source.url("a:t");
    replicator.ok(&["replicate", &from, &pair.destination.url("without:t")]);
    assert_eq!(pair.destination.client().tags("without"), ["t"]);
    replicator.ok(&["replicate", "--referrers", &from, &pair.destination.url("with:t")]);
    pair.assert_same("a", "with", &["t", &fallback, &signature, &referrer_digest]);
}

#[test]
fn a_layout_on_a_stick_and_the_store_are_sides_too() {
    let pair = Pair::plain();
    let image = image("carried", 200_000);
    pair.source.client().push_image("a", "t", &image);
    let replicator = Replicator::start(&pair);
    let stick = format!("oci:{}", replicator.host.path("stick").display());
    replicator.ok(&["replicate", &pair.source.url("a:t"), &format!("{stick}:t")]);
    replicator.ok(&["replicate", &format!("{stick}:t"), &pair.destination.url("from-stick:t")]);
    pair.assert_same("a", "from-stick", &["t"]);
    // A layout that another program wrote.
    let other = replicator.host.path("other");
    write_layout(&other, std::slice::from_ref(&image));
    let from = format!("oci:{}:t", other.display());
    replicator.ok(&["replicate", &from, &pair.destination.url("from-other:t")]);
    pair.assert_same("a", "from-other", &["t"]);
    // By way of the store.
    let reference = pair.source.reference("a:t");
    replicator.ok(&["replicate", &pair.source.url("a:t"), &format!("store:{reference}")]);
    assert!(replicator.ok(&["images", "--format", "json"]).contains(image.digest().short()));
    replicator.ok(&["replicate", &format!("store:{reference}"), &pair.destination.url("from-store:t")]);
    pair.assert_same("a", "from-store", &["t"]);
}

#[test]
fn an_existing_tag_is_kept_on_request() {
    let pair = Pair::plain();
    let (old, new) = (image("old", 1000), image("new", 1000));
    pair.source.client().push_image("a", "t", &new);
    pair.source.client().push_image("a", "u", &new);
    pair.destination.client().push_image("a", "t", &old);
    let replicator = Replicator::start(&pair);
    let (from, to) = (pair.source.url("a"), pair.destination.url("a"));
    replicator.ok(&["replicate", "--all-tags", "--keep-existing", &from, &to]);
    let digest = |tag| pair.destination.client().digest("a", tag);
    assert_eq!(digest("t"), Some(old.digest().to_string()));
    assert_eq!(digest("u"), Some(new.digest().to_string()));
    let report = replicator.report(replicator.newest());
    assert_eq!(report.artifact("t").outcome, Outcome::Skipped, "{report:#?}");
    replicator.ok(&["replicate", "--all-tags", &from, &to]);
    assert_eq!(digest("t"), Some(new.digest().to_string()));
}

#[test]
fn pruning_deletes_what_the_source_lacks_within_its_share() {
    let pair = Pair::plain();
    let (source, destination) = (pair.source.client(), pair.destination.client());
    for tag in ["v1", "v2", "v3"] {
        source.push_image("a", tag, &image(tag, 1000));
        destination.push_image("a", tag, &image(tag, 1000));
    }
    destination.push_image("a", "gone", &image("gone", 1000));
    // This tag is not at the source, but its manifest has a tag that is: deleting one would delete both.
    destination.push_image("a", "alias", &image("v1", 1000));
    let replicator = Replicator::start(&pair);
    let (from, to) = (pair.source.url("a"), pair.destination.url("a"));
    let prune = |more: &[&str]| {
        replicator.sampan(&[&["replicate", "--all-tags", "--prune"], more, &[&from, &to]].concat())
    };
    assert!(prune(&["--dry-run", "--prune-max", "50"]).status.success());
    assert_eq!(destination.tags("a"), ["alias", "gone", "v1", "v2", "v3"]);
    assert!(!prune(&["--prune-max", "10"]).status.success(), "two of five tags are more than a tenth");
    assert_eq!(destination.tags("a"), ["alias", "gone", "v1", "v2", "v3"]);
    prune(&["--prune-max", "50"]);
    assert_eq!(destination.digest("a", "gone"), None, "{}", pair.requests());
    for tag in ["v1", "v2", "v3"] {
        assert_eq!(destination.digest("a", tag), Some(image(tag, 1000).digest().to_string()), "{tag}");
    }
    // A source without tags never empties a destination.
    let from = pair.source.url("nothing");
    let output = replicator.sampan(&["replicate", "--all-tags", "--prune", "--prune-max", "100", &from, &to]);
    assert!(!output.status.success(), "{output:?}");
    assert!(destination.digest("a", "v1").is_some());
}

/// The states that the first task of the newest execution has entered, in order, as its events tell them.
fn walk(replicator: &Replicator) -> Vec<String> {
    let id = replicator.newest().to_string();
    let events = replicator.events(&["type=job", "event=progress"]);
    let mine = events.iter().filter(|event| event["id"] == id.as_str() && event["attributes"]["task"] == "0");
    let state = |event: &Value| event["attributes"]["state"].as_str().map(str::to_owned);
    mine.filter_map(state).collect()
}

#[test]
fn a_transfer_and_a_deletion_walk_through_the_states_of_old() {
    let pair = Pair::plain();
    for tag in ["v1", "v2"] {
        pair.source.client().push_image("a", tag, &image(tag, 1000));
    }
    pair.destination.client().push_image("a", "v0", &image("v0", 1000));
    let replicator = Replicator::start(&pair);
    let (from, to) = (pair.source.url("a"), pair.destination.url("a"));
    replicator.ok(&["replicate", "--all-tags", &from, &to]);
    let states = walk(&replicator);
    println!("transfer: {}", states.join(" -> "));
    let copies = ["pull_manifest", "transfer_blob", "push_manifest"];
    let expected =
        [&["running", "initialize", "check"][..], &copies, &copies, &["pull_manifest", "finished"]];
    assert_eq!(states, expected.concat());
    // The deletion is a task of its own, after the transfer, which finds nothing to do.
    replicator.ok(&["replicate", "--all-tags", "--prune", "--prune-max", "100", &from, &to]);
    let id = replicator.newest().to_string();
    let report = replicator.report(replicator.newest());
    let deletion = report
        .tasks
        .iter()
        .find(|(task, _)| task.operation == sampan_ipc::replication::Operation::Delete)
        .unwrap_or_else(|| panic!("no deletion in {report:#?}"));
    let index = deletion.0.index.to_string();
    let states: Vec<String> = replicator
        .events(&["type=job", "event=progress"])
        .iter()
        .filter(|event| event["id"] == id.as_str() && event["attributes"]["task"] == index.as_str())
        .filter_map(|event| event["attributes"]["state"].as_str().map(str::to_owned))
        .collect();
    println!("deletion: {}", states.join(" -> "));
    assert_eq!(states, ["running", "delete", "finished"]);
    assert_eq!(pair.destination.client().tags("a"), ["v1", "v2"]);
}

#[test]
fn monitord_hears_of_the_execution_and_of_each_image() {
    let pair = Pair::plain();
    let image = image("announced", 1000);
    pair.source.client().push_image("a", "t", &image);
    let replicator = Replicator::start(&pair);
    replicator.ok(&["replicate", &pair.source.url("a:t"), &pair.destination.url("b:u")]);
    let id = replicator.newest().to_string();
    let actions = |replicator: &Replicator| -> Vec<String> {
        let events = replicator.events(&["type=job"]);
        let mine = events.iter().filter(|event| event["id"] == id.as_str());
        mine.filter_map(|event| event["action"].as_str().map(str::to_owned)).collect()
    };
    replicator.wait_until("the end to be announced", || actions(&replicator).contains(&"done".to_owned()));
    assert_eq!(actions(&replicator).first().map(String::as_str), Some("start"));
    let pushes = replicator.events(&["type=image", "event=push"]);
    assert_eq!(pushes.len(), 1, "{pushes:?}");
    let attributes = &pushes[0]["attributes"];
    assert_eq!(attributes["digest"], image.digest().to_string(), "{pushes:?}");
    assert!(pushes[0].to_string().contains(&pair.destination.reference("b:u")), "{pushes:?}");
}

/// A pair whose source has an image of one layer of three chunks, and stalls near the end of the second one. The first
/// chunk is acknowledged when this returns, since the sockets hold less than a chunk, and an execution waits for the
/// source.
fn stalled() -> (Pair, Replicator, u64, Image) {
    let pair = Pair::plain();
    let image = image("stalled", 20_000_000);
    pair.source.client().push_image("a", "t", &image);
    let replicator = Replicator::start(&pair);
    let stall = Fault::StallAnswer(2 * CHUNK - 1000);
    pair.source.recorder.inject(Rule::on("^GET .*/blobs/", stall));
    let id = replicator.detach(&[&pair.source.url("a:t"), &pair.destination.url("a:t")]);
    replicator.wait_until("the source to stall", || pair.source.recorder.faults() == 1);
    (pair, replicator, id, image)
}

#[test]
fn a_stalled_transfer_stops_soon_and_resumes_at_its_byte() {
    let (pair, replicator, id, image) = stalled();
    let began = Instant::now();
    replicator.ok(&["replication", "stop", &id.to_string()]);
    let report = replicator.await_end(id);
    assert!(began.elapsed() < STOP, "{:?}", began.elapsed());
    assert_eq!(report.state(), State::Stopped, "{report:#?}");
    assert_eq!(pair.destination.living_sessions().len(), 1, "the session is kept\n{}", pair.requests());
    replicator.ok(&["replication", "resume", &id.to_string()]);
    pair.assert_same("a", "a", &["t"]);
    assert_eq!(pair.destination.recorder.uploaded(), blob_bytes(&image), "{}", pair.requests());
    // A final status never changes; the new execution has one of its own.
    assert_eq!(replicator.report(id).state(), State::Stopped);
    let newest = replicator.newest();
    assert!(newest > id);
    assert_eq!(replicator.report(newest).state(), State::Finished);
    pair.assert_sessions_ended(&replicator.report(newest).execution);
}

#[test]
fn a_cancelled_execution_leaves_no_session() {
    let (pair, replicator, id, _) = stalled();
    let began = Instant::now();
    replicator.ok(&["replication", "stop", "--cancel", &id.to_string()]);
    let report = replicator.await_end(id);
    assert!(began.elapsed() < STOP, "{:?}", began.elapsed());
    assert_eq!(report.state(), State::Canceled, "{report:#?}");
    assert_eq!(pair.destination.registry.sessions(), [""; 0], "{}", pair.requests());
}

#[test]
fn a_stop_takes_effect_in_a_stalled_upload_too() {
    let pair = Pair::plain();
    pair.source.client().push_image("a", "t", &image("upload", 20_000_000));
    pair.destination.recorder.inject(Rule::on("^PATCH ", Fault::StallRequest(1_000_000)));
    let replicator = Replicator::start(&pair);
    let id = replicator.detach(&[&pair.source.url("a:t"), &pair.destination.url("a:t")]);
    replicator.wait_until("the upload to stall", || pair.destination.recorder.faults() == 1);
    let began = Instant::now();
    assert!(replicator.order(id, ExecutionRequest::Stop).is_ok());
    assert!(began.elapsed() < Duration::from_secs(1), "acknowledged after {:?}", began.elapsed());
    assert_eq!(replicator.await_end(id).state(), State::Stopped);
    assert!(began.elapsed() < STOP, "{:?}", began.elapsed());
    replicator.ok(&["replication", "resume", &id.to_string()]);
    pair.assert_same("a", "a", &["t"]);
    let newest = replicator.newest();
    pair.assert_sessions_ended(&replicator.report(newest).execution);
}

#[test]
fn a_client_that_dies_changes_nothing() {
    let pair = Pair::plain();
    let image = image("unwatched", 4_000_000);
    pair.source.client().push_image("a", "t", &image);
    pair.source.recorder.inject(Rule::on("^GET .*/blobs/", Fault::Slow(4_000_000)).times(usize::MAX));
    let replicator = Replicator::start(&pair);
    let mut client = replicator.spawn(&["replicate", &pair.source.url("a:t"), &pair.destination.url("a:t")]);
    replicator.wait_until("the transfer to begin", || pair.source.recorder.downloaded() > 0);
    client.kill().expect("it runs");
    client.wait().expect("ours");
    let id = replicator.newest();
    replicator.await_finished(id);
    pair.assert_same("a", "a", &["t"]);
}

#[test]
fn ctrl_c_stops_the_execution() {
    let pair = Pair::plain();
    pair.source.client().push_image("a", "t", &image("interrupted", 4_000_000));
    pair.source.recorder.inject(Rule::on("^GET .*/blobs/", Fault::StallAnswer(1000)).times(2));
    let replicator = Replicator::start(&pair);
    let mut client = replicator.spawn(&["replicate", &pair.source.url("a:t"), &pair.destination.url("a:t")]);
    replicator.wait_until("the transfer to stall", || pair.source.recorder.faults() > 0);
    kill(Pid::from_raw(client.id().cast_signed()), Signal::SIGINT).expect("it runs");
    client.wait().expect("ours");
    let report = replicator.await_end(replicator.newest());
    assert_eq!(report.state(), State::Stopped, "{report:#?}");
}

#[test]
fn a_second_engine_on_the_same_journal_is_refused() {
    // Another engine with other directories, but with the journals of the first one.
    let pair = Pair::plain();
    pair.source.client().push_image("a", "t", &image("locked", 1000));
    let first =
        Replicator::with_table(&pair, &format!("replication = '{}'", pair.path("journals").display()));
    first.ok(&["replicate", &pair.source.url("a:t"), &pair.destination.url("b:t")]);
    let mut command = first.host.command("sampan-engine");
    for (name, dir) in [("RUN", "run-2"), ("STATE", "state-2"), ("DATA", "data-2")] {
        command.env(format!("SAMPAN_{name}_DIR"), first.host.path(dir));
    }
    let output = command.arg("--config").arg(first.host.path("sampan.toml")).output().expect("it starts");
    assert!(!output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("journals") || text.contains("in use"), "{text}");
}

#[test]
fn numbers_go_on_after_a_restart_and_history_stays() {
    let pair = Pair::plain();
    pair.source.client().push_image("a", "t", &image("numbered", 1000));
    let mut replicator = Replicator::start(&pair);
    let args = ["replicate", &pair.source.url("a:t"), &pair.destination.url("a:t")];
    replicator.ok(&args);
    let first = replicator.newest();
    for restart in [Replicator::kill9 as fn(&mut Replicator), |replicator| {
        replicator.term();
    }] {
        restart(&mut replicator);
        replicator.start_engine();
        replicator.ok(&args);
    }
    let numbers: Vec<u64> = replicator.executions().iter().map(|execution| execution.id).collect();
    assert_eq!(numbers.len(), 3, "{numbers:?}");
    assert!(numbers.is_sorted_by(|newer, older| newer > older) && numbers[2] == first, "{numbers:?}");
    assert_eq!(replicator.report(first).artifact("t").state, State::Finished);
    let listed = replicator.json(&["replication", "ls", "--limit", "2", "--format", "json"]);
    assert_eq!(listed.as_array().map(Vec::len), Some(2), "{listed:#}");
}

#[test]
fn a_full_disk_under_the_journal_is_waited_out() {
    need_root();
    let pair = Pair::plain();
    pair.source.client().push_image("a", "t", &image("full", 100_000));
    let mut host = Host::new();
    let disk = host.mount_tmpfs("journals", 1 << 20);
    host.start_monitord(&[]);
    let table = format!("replication = '{}'", disk.join("r").display());
    let replicator = Replicator::on(host, &[&pair.source, &pair.destination], &table);
    let args = ["replicate", &pair.source.url("a:t"), &pair.destination.url("a:t")];
    replicator.ok(&args);
    let filler = disk.join("filler");
    let mut bytes = vec![0; 4 << 20];
    // Fills the disk to its last page.
    while fs::write(&filler, &bytes).is_err() && bytes.len() > 4096 {
        bytes.truncate(bytes.len() - 4096);
    }
    let to = pair.destination.url("b:t");
    let mut client = replicator.spawn(&["replicate", &pair.source.url("a:t"), &to]);
    // Refused at once, or waiting: in no case is it lost or pushed without a record.
    replicator.wait_until("the engine to notice", || {
        client.try_wait().expect("ours").is_some() || replicator.log().contains("journal")
    });
    fs::remove_file(&filler).expect("there");
    client.wait().expect("ours");
    replicator.ok(&["replicate", &pair.source.url("a:t"), &to]);
    pair.assert_same("a", "b", &["t"]);
}

#[test]
fn the_graph_is_the_one_of_the_documentation() {
    let replicator = Replicator::start(&Pair::plain());
    let graph = replicator.ok(&["replication", "graph"]);
    let page = include_str!("../../docs/replication.md");
    assert!(page.contains(graph.trim()), "{graph}");
}

#[test]
fn a_rate_limit_holds() {
    let pair = Pair::plain();
    let image = image("limited", 600_000);
    pair.source.client().push_image("a", "t", &image);
    let replicator = Replicator::start(&pair);
    let began = Instant::now();
    let args = ["replicate", "--limit-rate", "200K", &pair.source.url("a:t"), &pair.destination.url("a:t")];
    replicator.ok(&args);
    // The bytes take three seconds, minus the first burst.
    assert!(began.elapsed() > Duration::from_millis(1500), "{:?}", began.elapsed());
}

#[test]
fn an_image_of_another_platform_is_not_copied() {
    let pair = Pair::plain();
    let source = pair.source.client();
    for (tag, architecture) in [("amd", "amd64"), ("arm", "arm64")] {
        source.push_image("a", tag, &Image::of(&[layer(tag, 1000)], architecture));
    }
    // An artifact that is no image is for all platforms.
    let chart = Image::of(&[layer("chart", 1000)], "amd64");
    source.push_image("a", "chart", &chart);
    let manifest = String::from_utf8(chart.manifest).expect("text");
    let manifest = manifest.replace(oci::CONFIG, "application/vnd.example.config.v1+json");
    assert_eq!(source.push_manifest("a", "chart", oci::MANIFEST, manifest.as_bytes()).status(), 201);
    let replicator = Replicator::start(&pair);
    let arm = ["replicate", "--platform", "linux/arm64"];
    let to = pair.destination.url("a");
    let named = replicator.sampan(&[&arm[..], &[&pair.source.url("a:amd"), &to]].concat());
    let said = String::from_utf8_lossy(&named.stderr).into_owned();
    assert!(!named.status.success() && said.contains("the image is for linux/amd64"), "{said}");
    let report = replicator.report(replicator.newest());
    assert_eq!(report.artifact("amd").error.class, ErrorClass::NotFound, "{report:#?}");
    replicator.ok(&[&arm[..], &["--all-tags", &pair.source.url("a"), &to]].concat());
    let report = replicator.report(replicator.newest());
    let amd = report.artifact("amd");
    assert_eq!((amd.outcome, amd.note.as_str()), (Outcome::Skipped, "the image is for linux/amd64"));
    let mut tags = pair.destination.client().tags("a");
    tags.sort();
    assert_eq!(tags, ["arm", "chart"]);
}

#[test]
fn tags_that_go_with_one_manifest_are_all_deleted() {
    let pair = Pair::plain();
    let (source, destination) = (pair.source.client(), pair.destination.client());
    source.push_image("a", "v1", &image("v1", 1000));
    destination.push_image("a", "v1", &image("v1", 1000));
    for tag in ["o2", "o3", "o4"] {
        destination.push_image("a", tag, &image("old", 1000));
    }
    let replicator = Replicator::start(&pair);
    let (from, to) = (pair.source.url("a"), pair.destination.url("a"));
    let text = replicator.ok(&["replicate", "--all-tags", "--prune", "--prune-max", "100", &from, &to]);
    assert_eq!(destination.tags("a"), ["v1"], "{}", pair.requests());
    assert!(text.contains("4 artifacts: 1 unchanged, 3 deleted"), "{text}");
    let report = replicator.report(replicator.newest());
    for tag in ["o2", "o3", "o4"] {
        assert_eq!(report.artifact(tag).outcome, Outcome::Deleted, "{report:#?}");
        // It never was at the source.
        let row = text.lines().find(|line| line.contains(&format!("/a:{tag} "))).expect("a row");
        assert!(row.starts_with("  ") && row.matches(&format!("a:{tag}")).count() == 1, "{text}");
    }
}
