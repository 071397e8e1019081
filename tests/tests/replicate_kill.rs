//! The engine is killed at random points of a replication, or is asked to end: the next engine finishes the work by
//! itself, sends hardly anything twice, and leaves no upload session behind.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sampan_ipc::replication::State;
use sampan_tests::random::Random;
use sampan_tests::registry::{Image, Layer, Packing};
use sampan_tests::replication::fault::{Call, Fault, Moment, Rule};
use sampan_tests::replication::pair::{Pair, Side};
use sampan_tests::replication::recorder::Recorder;
use sampan_tests::replication::replicator::Replicator;
use sampan_tests::rounds;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Number of artifacts.
const ARTIFACTS: usize = 10;
/// Blobs of one execution that are copied at a time.
const IN_FLIGHT: u64 = 2;
/// Size of a chunk of an upload.
const CHUNK: u64 = 8 << 20;
/// Size of the largest layer: it has three chunks.
const LARGE: usize = 18_000_000;

/// Ten images: two layers are shared, each image has one of its own, and one of them is large.
fn images() -> Vec<(String, Image)> {
    let layer = |name: &str, bytes| Layer::large(name, bytes, Packing::Plain);
    let shared = [layer("shared-1", 2_000_000), layer("shared-2", 500_000)];
    let image = |nth: usize| {
        let own = layer(&format!("own-{nth}"), if nth == 4 { LARGE } else { 300_000 + nth });
        (format!("v{nth}"), Image::of(&[shared[0].clone(), own, shared[1].clone()], "amd64"))
    };
    (0..ARTIFACTS).map(image).collect()
}

/// Bytes of all blobs, each counted once.
fn unique_bytes(images: &[(String, Image)]) -> u64 {
    let blobs = images.iter().flat_map(|(_, image)| &image.blobs);
    let sizes: BTreeMap<_, _> =
        blobs.map(|(digest, bytes)| (digest.to_string(), bytes.len() as u64)).collect();
    sizes.values().sum()
}

fn push(side: &Side, images: &[(String, Image)]) {
    images.iter().for_each(|(tag, image)| side.client().push_image("a", tag, image));
}

fn seed() -> u64 {
    let given = std::env::var("SAMPAN_SEED").ok().and_then(|seed| seed.parse().ok());
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64);
    given.unwrap_or_else(now)
}

/// Sends `signal` to the engine; the request that calls it goes on if the engine may.
fn signal(replicator: &Replicator, signal: Signal, goes_on: bool) -> Call {
    let pid = Pid::from_raw(replicator.pid().cast_signed());
    Arc::new(move || {
        // The engine may be gone already, because of another connection.
        let _ = kill(pid, signal);
        goes_on
    })
}

/// Checks that everything arrived, and that nothing is left; `resent_max` bytes may have been sent twice.
fn check(pair: &Pair, replicator: &Replicator, id: u64, images: &[(String, Image)], resent_max: u64) {
    let report = replicator.await_finished(id);
    let tags: Vec<&str> = images.iter().map(|(tag, _)| tag.as_str()).collect();
    pair.assert_same("a", "a", &tags);
    for tag in tags {
        assert_eq!(report.artifact(tag).state, State::Finished, "{report:#?}");
    }
    let resent = pair.destination.recorder.uploaded().saturating_sub(unique_bytes(images));
    assert!(resent <= resent_max, "{resent} bytes were sent twice, {resent_max} may\n{}", pair.requests());
    for session in pair.destination.recorder.sessions().iter().filter(|session| !session.is_over) {
        let lives = !pair.destination.registry.living([session.location.as_str()]).is_empty();
        // An engine that is killed between the answer to a POST and its next record never knew the session.
        assert!(!lives || !session.has_bytes, "{session:?} lives on\n{}", pair.requests());
        let is_named = report.execution.lost_sessions.iter().any(|lost| lost.contains(&session.path));
        assert!(is_named || !session.has_bytes, "{session:?} is not named\n{report:#?}\n{}", pair.requests());
    }
}

/// How many requests of each kind a replication without faults sends, so that random points are spread over all.
fn dry_run(images: &[(String, Image)]) -> (usize, usize) {
    let pair = Pair::plain();
    push(&pair.source, images);
    let replicator = Replicator::start(&pair);
    replicator.ok(&["replicate", "--all-tags", &pair.source.url("a"), &pair.destination.url("a")]);
    pair.request_counts()
}

#[test]
fn an_engine_that_is_killed_anywhere_finishes_after_its_start() {
    let seed = seed();
    println!("SAMPAN_SEED={seed}");
    let mut random = Random::new(seed);
    let images = images();
    let (at_source, at_destination) = dry_run(&images);
    let mut pair = Pair::plain();
    push(&pair.source, &images);
    let mut deaths = 0;
    for round in 0..rounds(100) {
        pair.forget();
        let mut replicator = Replicator::start(&pair);
        let (recorder, requests): (&Recorder, usize) = match random.one_in(4) {
            true => (&pair.source.recorder, at_source),
            false => (&pair.destination.recorder, at_destination),
        };
        let moment = match random.below(4) {
            0 => Moment::Head,
            1 => Moment::Answer,
            // Requests without a body pass, so that this is a point in one of the uploads that follow.
            _ => Moment::Body(random.below(400_000) as u64),
        };
        let nth = 1 + random.below(requests);
        let death = Fault::Call(moment, signal(&replicator, Signal::SIGKILL, false));
        recorder.inject(Rule::on("", death).nth(nth));
        println!("round {round}: killed at request {nth} of {requests}, {moment:?}");
        let faults = recorder.faults();
        let args = ["replicate", "--all-tags", &pair.source.url("a"), &pair.destination.url("a")];
        // The client watches until its engine is gone.
        replicator.sampan(&args);
        if recorder.faults() > faults {
            deaths += 1;
            replicator.await_engine_end();
            recorder.heal();
            replicator.start_engine();
        }
        recorder.heal();
        // A kill before the order was recorded leaves no execution; the client was told.
        match replicator.executions().first().map(|execution| execution.id) {
            Some(id) => check(&pair, &replicator, id, &images, IN_FLIGHT * LARGE as u64),
            None => assert!(nth <= 3, "the order was lost at request {nth}\n{}", pair.requests()),
        }
        drop(replicator);
        pair.destination.registry.wipe();
    }
    // A point in a body may lie behind the last body, so that nothing is killed in that round.
    assert!(deaths * 4 > rounds(100), "only {deaths} kills came to pass");
}

#[test]
fn an_engine_that_is_killed_again_and_again_finishes_too() {
    let images = images();
    let pair = Pair::plain();
    push(&pair.source, &images);
    let mut replicator = Replicator::start(&pair);
    let id = {
        let first = Fault::Call(Moment::Body(100_000), signal(&replicator, Signal::SIGKILL, false));
        pair.destination.recorder.inject(Rule::on("^(PUT|PATCH) .*/uploads/", first));
        let args = [&pair.source.url("a"), &pair.destination.url("a")];
        replicator.detach(&["--all-tags", args[0], args[1]])
    };
    const KILLS: u64 = 5;
    for kill in 1..=KILLS {
        replicator.await_engine_end();
        if kill < KILLS {
            // The next engine dies a few uploads later.
            replicator.spawn_engine();
            pair.destination.recorder.heal();
            let death = Fault::Call(Moment::Body(200_000), signal(&replicator, Signal::SIGKILL, false));
            pair.destination.recorder.inject(Rule::on("^(PUT|PATCH) .*/uploads/", death).nth(2));
        }
    }
    pair.destination.recorder.heal();
    replicator.start_engine();
    check(&pair, &replicator, id, &images, KILLS * IN_FLIGHT * LARGE as u64);
    assert_eq!(replicator.executions().len(), 1, "it is the same execution");
}

#[test]
fn a_kill_between_two_chunks_loses_no_byte() {
    let image = Image::of(&[Layer::large("chunks", LARGE, Packing::Plain)], "amd64");
    let pair = Pair::plain();
    pair.source.client().push_image("a", "t", &image);
    let mut replicator = Replicator::start(&pair);
    // The source stalls near the end of the second chunk: more than the sockets hold is after the first one, so the
    // engine has recorded the first one and reads the second one. No request to the destination is under way.
    pair.source.recorder.inject(Rule::on("^GET .*/blobs/", Fault::StallAnswer(2 * CHUNK - 1000)));
    let id = replicator.detach(&[&pair.source.url("a:t"), &pair.destination.url("a:t")]);
    replicator.wait_until("the source to stall", || pair.source.recorder.faults() == 1);
    replicator.kill9();
    replicator.start_engine();
    check(&pair, &replicator, id, &[("t".to_owned(), image)], 0);
    assert_eq!(
        pair.destination.recorder.count("^POST .*/uploads/"),
        2,
        "one for the layer, one for the config"
    );
}

#[test]
fn an_engine_that_is_asked_to_end_finishes_its_chunks() {
    let seed = seed();
    println!("SAMPAN_SEED={seed}");
    let mut random = Random::new(seed);
    let images = images();
    let mut pair = Pair::plain();
    push(&pair.source, &images);
    for round in 0..rounds(20) {
        pair.forget();
        let mut replicator = Replicator::start(&pair);
        let nth = 1 + random.below(12);
        println!("round {round}: SIGTERM in upload {nth}");
        let end = Fault::Call(Moment::Body(50_000), signal(&replicator, Signal::SIGTERM, true));
        pair.destination.recorder.inject(Rule::on("^(PUT|PATCH) .*/uploads/", end).nth(nth));
        let (from, to) = (pair.source.url("a"), pair.destination.url("a"));
        let id = replicator.detach(&["--all-tags", &from, &to]);
        let status = replicator.await_engine_end();
        assert!(status.success(), "{status:?}\n{}", replicator.log());
        pair.destination.recorder.heal();
        replicator.start_engine();
        check(&pair, &replicator, id, &images, IN_FLIGHT * CHUNK);
        drop(replicator);
        pair.destination.registry.wipe();
    }
}

#[test]
fn an_engine_ends_soon_although_a_transfer_stalls() {
    let images = images();
    let pair = Pair::plain();
    push(&pair.source, &images);
    let mut replicator = Replicator::start(&pair);
    pair.destination.recorder.inject(Rule::on("^(PUT|PATCH) .*/uploads/", Fault::StallRequest(1000)));
    let (from, to) = (pair.source.url("a"), pair.destination.url("a"));
    let id = replicator.detach(&["--all-tags", &from, &to]);
    replicator.wait_until("an upload to stall", || pair.destination.recorder.faults() == 1);
    let status = replicator.term();
    assert!(status.success(), "{status:?}\n{}", replicator.log());
    replicator.start_engine();
    check(&pair, &replicator, id, &images, IN_FLIGHT * CHUNK);
}
