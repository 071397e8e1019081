//! A replication through a bad network and bad registries: each fault of the table is survived or ends the artifact,
//! and nothing that the destination has acknowledged is sent again.

use sampan_ipc::replication::{ErrorClass, State};
use sampan_tests::registry::{Image, Layer, Packing};
use sampan_tests::replication::fault::{Fault, Moment, Reply, Rule};
use sampan_tests::replication::faults::{self, Case, LAYERS};
use sampan_tests::replication::pair::Pair;
use sampan_tests::replication::replicator::Replicator;
use std::sync::Arc;
use std::time::Duration;

/// A stall is noticed soon, so that the tests need not wait for a minute.
const TABLE: &str = "stall-seconds = 1";

/// Runs each case with one engine and an image of its own; panics with all cases that failed.
fn run(cases: Vec<Case>) {
    let pair = Pair::plain();
    let replicator = Replicator::with_table(&pair, TABLE);
    let mut failures = Vec::new();
    for (nth, case) in cases.iter().enumerate() {
        pair.forget();
        if let Err(why) = run_one(case, nth, &pair, &replicator) {
            let report = replicator.report(replicator.newest());
            failures.push(format!("{}: {why}\n{report:#?}\n{}", case.name, pair.requests()));
        }
        case.recorder(&pair).heal();
    }
    let count = failures.len();
    assert!(failures.is_empty(), "{count} of {} cases failed:\n\n{}", cases.len(), failures.join("\n\n"));
}

fn run_one(case: &Case, nth: usize, pair: &Pair, replicator: &Replicator) -> Result<(), String> {
    let (name, image) = (format!("case-{nth}"), case.image(nth));
    pair.source.client().push_image(&name, "t", &image);
    let faults = case.recorder(pair).faults();
    case.inject(pair);
    let (from, to) = (pair.source.url(&format!("{name}:t")), pair.destination.url(&format!("{name}:t")));
    let output = replicator.sampan(&["replicate", "--quiet", &from, &to]);
    let report = replicator.report(replicator.newest());
    let check = |holds: bool, why: String| if holds { Ok(()) } else { Err(why) };
    check(case.recorder(pair).faults() > faults, "the fault did not happen".to_owned())?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let Some(class) = case.error else {
        check(output.status.success() && report.state() == State::Finished, said)?;
        let differences = pair.differences(&name, &name, &["t"]);
        check(differences.is_empty(), differences.join("\n"))?;
        let blobs: usize = image.blobs.iter().map(|(_, bytes)| bytes.len()).sum();
        let resent = pair.destination.recorder.uploaded().saturating_sub(blobs as u64);
        let most = case.resent_layers_max * image.blobs[0].1.len() as u64;
        check(resent <= most, format!("{resent} bytes were sent again, of at most {most}"))?;
        let left = pair.sessions_left(&report.execution);
        return check(left.is_empty(), format!("sessions are left: {left:#?}"));
    };
    check(
        output.status.code() == Some(1) && report.state() == State::Error,
        format!("it did not fail: {said}"),
    )?;
    let error = &report.artifact("t").error;
    check(error.class == class && !error.message.is_empty(), format!("{error:?} is not {class:?}"))?;
    check(pair.destination.client().digest(&name, "t").is_none(), "the tag is at the destination".to_owned())
}

/// One test for each kind of request, so that they run side by side.
macro_rules! survives {
    ($($name:ident: $nth:expr,)*) => {
        $(
            #[test]
            fn $name() {
                run(faults::survived_at($nth));
            }
        )*

        #[test]
        fn every_kind_of_request_has_its_test() {
            assert_eq!([$($nth),*].len(), faults::REQUESTS.len());
        }
    };
}

survives! {
    a_failing_head_of_the_sources_manifest_is_survived: 0,
    a_failing_get_of_the_sources_manifest_is_survived: 1,
    a_failing_get_of_a_blob_is_survived: 2,
    a_failing_head_of_the_destinations_manifest_is_survived: 3,
    a_failing_head_of_a_blob_is_survived: 4,
    a_failing_post_is_survived: 5,
    a_failing_patch_is_survived: 6,
    a_failing_put_of_a_whole_blob_is_survived: 7,
    a_failing_closing_put_is_survived: 8,
    a_failing_put_of_the_manifest_is_survived: 9,
}

#[test]
fn bodies_that_break_and_sessions_that_are_lost_are_survived() {
    run(faults::survived_in_bodies());
}

#[test]
fn a_single_refusal_of_good_credentials_is_survived() {
    run(faults::survived_unauthorized());
}

#[test]
fn what_no_retry_can_cure_ends_the_artifact_with_its_class() {
    run(faults::fatal());
}

fn image(name: &str, bytes: usize) -> Image {
    Image::of(&[Layer::large(name, bytes, Packing::Plain)], "amd64")
}

#[test]
fn one_artifact_that_fails_does_not_fail_the_others() {
    let pair = Pair::plain();
    let client = pair.source.client();
    for tag in ["one", "two", "three"] {
        client.push_image("a", tag, &image(tag, 10_000));
    }
    let (digest, _) = &image("two", 10_000).blobs[0];
    let answer = Fault::Answer(Reply::status(404).code("BLOB_UNKNOWN"));
    pair.source.recorder.inject(Rule::on(&format!("^GET .*/blobs/{digest}"), answer).times(usize::MAX));
    let replicator = Replicator::start(&pair);
    let text =
        replicator.fails(1, &["replicate", "--all-tags", &pair.source.url("a"), &pair.destination.url("b")]);
    assert!(text.contains("two"), "the report names the tag that failed: {text}");
    pair.assert_same("a", "b", &["one", "three"]);
    assert_eq!(pair.destination.client().tags("b"), ["one", "three"]);
    let id = replicator.newest();
    let report = replicator.report(id);
    let states = ["one", "two", "three"].map(|tag| report.artifact(tag).state);
    assert_eq!(states, [State::Finished, State::Error, State::Finished], "{report:#?}");
    assert_eq!((report.execution.artifacts.total, report.execution.artifacts.failed), (3, 1));
    // Once the source is whole again, a retry copies the artifact that failed, and requests no other artifact.
    pair.source.recorder.heal();
    pair.forget();
    replicator.ok(&["replication", "retry", &id.to_string()]);
    pair.assert_same("a", "b", &["one", "two", "three"]);
    assert_eq!(pair.source.recorder.count("/manifests/(one|three)"), 0, "{}", pair.requests());
    let again = replicator.report(replicator.newest());
    assert_eq!(again.artifacts().len(), 1, "{again:#?}");
}

#[test]
fn a_registry_that_demands_a_pause_gets_it_from_every_execution() {
    const PAUSE: u32 = 3;
    let pair = Pair::plain();
    for name in ["a", "b"] {
        pair.source.client().push_image(name, "t", &image(name, 10_000));
    }
    let replicator = Replicator::start(&pair);
    let recorder = &pair.source.recorder;
    let later = Fault::Answer(Reply::status(429).retry_after(PAUSE));
    recorder.inject(Rule::on("^(GET|HEAD) .*/manifests/", later));
    let first = replicator.detach(&[&pair.source.url("a:t"), &pair.destination.url("a:t")]);
    replicator.wait_until("the registry to demand a pause", || recorder.faults() == 1);
    let second = replicator.detach(&[&pair.source.url("b:t"), &pair.destination.url("b:t")]);
    for id in [first, second] {
        let report = replicator.await_finished(id);
        assert_eq!(report.artifact("t").attempts, 1, "a demanded pause is no attempt: {report:#?}");
    }
    let requests = recorder.requests();
    let at = requests.iter().position(|request| request.is_faulty).expect("recorded");
    let resumed = requests[at + 1].at - requests[at].at;
    assert!(resumed >= Duration::from_secs(PAUSE.into()), "{resumed:?}\n{}", pair.requests());
}

#[test]
fn a_mount_that_begins_an_upload_goes_on_with_that_upload() {
    let pair = Pair::plain();
    let image = image("mounted", 10_000);
    pair.source.client().push_image("a", "t", &image);
    let replicator = Replicator::start(&pair);
    replicator.ok(&["replicate", &pair.source.url("a:t"), &pair.destination.url("a:t")]);
    pair.forget();
    let recorder = &pair.destination.recorder;
    recorder.inject(Rule::on("^POST .*mount=", Fault::StripQuery).times(usize::MAX));
    replicator.ok(&["replicate", &pair.source.url("a:t"), &pair.destination.url("b:t")]);
    pair.assert_same("a", "b", &["t"]);
    assert!(recorder.faults() >= image.blobs.len(), "each blob was to be mounted\n{}", pair.requests());
    let posts = recorder.count("^POST ");
    assert_eq!(posts, image.blobs.len(), "no second session is opened\n{}", pair.requests());
    pair.assert_sessions_ended(&replicator.report(replicator.newest()).execution);
}

#[test]
fn blobs_that_the_destination_has_lost_are_sent_again() {
    let mut pair = Pair::plain();
    pair.source.client().push_image("a", "t", &image("kept", 100_000));
    let replicator = Replicator::start(&pair);
    let (from, to) = (pair.source.url("a:t"), pair.destination.url("a:t"));
    replicator.ok(&["replicate", &from, &to]);
    // The engine remembers that the registry has the blobs, but it has them no longer.
    pair.destination.registry.wipe();
    replicator.ok(&["replicate", &from, &to]);
    pair.assert_same("a", "a", &["t"]);
    pair.destination.registry.wipe();
    replicator.ok(&["replicate", &from, &pair.destination.url("other:t")]);
    pair.assert_same("a", "other", &["t"]);
}

#[test]
fn a_manifest_that_names_an_unknown_blob_is_sent_again_once() {
    let pair = Pair::plain();
    let image = image("unknown", 100_000);
    pair.source.client().push_image("a", "t", &image);
    let replicator = Replicator::start(&pair);
    let recorder = &pair.destination.recorder;
    let unknown = Fault::Answer(Reply::status(400).code("MANIFEST_BLOB_UNKNOWN"));
    recorder.inject(Rule::on("^PUT .*/manifests/", unknown.clone()));
    let (from, to) = (pair.source.url("a:t"), pair.destination.url("a:t"));
    replicator.ok(&["replicate", &from, &to]);
    assert_eq!(recorder.faults(), 1);
    pair.assert_same("a", "a", &["t"]);
    // A registry that says so each time is not asked for ever.
    recorder.inject(Rule::on("^PUT .*/manifests/", unknown).times(usize::MAX));
    replicator.fails(1, &["replicate", &from, &pair.destination.url("b:t")]);
    let report = replicator.report(replicator.newest());
    assert_eq!(report.artifact("t").error.class, ErrorClass::Refused, "{report:#?}");
    let puts = recorder.count("^PUT .*/v2/b/manifests/");
    assert!((2..=3).contains(&puts), "{puts} PUTs\n{}", pair.requests());
}

#[test]
fn a_registry_that_goes_away_and_returns_is_waited_for() {
    let mut pair = Pair::plain();
    let image = Image::of(
        &(0..LAYERS).map(|nth| Layer::large(&format!("{nth}"), 500_000, Packing::Plain)).collect::<Vec<_>>(),
        "amd64",
    );
    pair.source.client().push_image("a", "t", &image);
    let replicator = Replicator::start(&pair);
    pair.destination.recorder.inject(Rule::on("^PUT .*/uploads/", Fault::StallRequest(100_000)));
    let id = replicator.detach(&[&pair.source.url("a:t"), &pair.destination.url("a:t")]);
    replicator.wait_until("an upload", || pair.destination.recorder.faults() == 1);
    pair.destination.registry.stop();
    pair.destination.recorder.reset_all();
    replicator.wait_until("an attempt in vain", || {
        let report = replicator.report(id);
        assert_ne!(report.state(), State::Error, "it is retrying, not final: {report:#?}");
        report.tasks.iter().any(|(task, artifacts)| {
            let blobs = artifacts.iter().flat_map(|artifact| &artifact.blobs);
            task.state == State::Retrying || blobs.into_iter().any(|blob| !blob.error.message.is_empty())
        })
    });
    pair.destination.registry.restart();
    replicator.await_finished(id);
    pair.assert_same("a", "a", &["t"]);
}

#[test]
fn a_source_tag_that_moves_meanwhile_is_told() {
    let pair = Pair::plain();
    let (before, after) = (image("before", 50_000), image("after", 50_000));
    pair.source.client().push_image("a", "other", &after);
    pair.source.client().push_image("a", "t", &before);
    let client = pair.source.client();
    let moved = after.manifest.clone();
    let moves =
        Arc::new(move || client.push_manifest("a", "t", sampan_oci::MANIFEST, &moved).status() == 201);
    // The tag moves when the first blob is there.
    pair.destination.recorder.inject(Rule::on("^PUT .*/uploads/", Fault::Call(Moment::Answer, moves)));
    let replicator = Replicator::start(&pair);
    replicator.sampan(&["replicate", &pair.source.url("a:t"), &pair.destination.url("a:t")]);
    let report = replicator.report(replicator.newest());
    let artifact = report.artifact("t");
    let digest = pair.destination.client().digest("a", "t");
    assert_eq!(digest.as_deref(), Some(artifact.digest.as_str()), "{report:#?}");
    // Either the new image is copied too, or the report says that the tag moved.
    let is_new = artifact.digest == after.digest().to_string();
    assert!(is_new || artifact.note.contains("moved"), "{report:#?}");
}
