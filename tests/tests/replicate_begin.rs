//! How executions begin: on disk before anybody hears their numbers, one at a time, and in turn.

use sampan_ipc::replication::{ExecutionRequest, State};
use sampan_tests::registry::{Image, Layer, Packing};
use sampan_tests::replication::fault::{Fault, Rule};
use sampan_tests::replication::pair::Pair;
use sampan_tests::replication::replicator::Replicator;
use sampan_tests::rounds;
use std::fs;
use std::net::TcpListener;

/// Executions that run at a time.
const RUNNING_MAX: usize = 32;

fn image(name: &str) -> Image {
    Image::of(&[Layer::large(name, 50_000, Packing::Plain)], "amd64")
}

#[test]
fn an_execution_whose_number_was_printed_survives_a_kill() {
    let pair = Pair::plain();
    pair.source.client().push_image("a", "t", &image("a"));
    let mut replicator = Replicator::start(&pair);
    for round in 0..rounds(60) {
        let id = replicator.detach(&[&pair.source.url("a:t"), &pair.destination.url(&format!("r{round}:t"))]);
        replicator.kill9();
        replicator.start_engine();
        replicator.await_finished(id);
    }
}

#[test]
fn two_resumes_at_once_continue_an_execution_once() {
    let pair = Pair::plain();
    pair.source.client().push_image("a", "t", &image("a"));
    let replicator = Replicator::start(&pair);
    let stall = || pair.source.recorder.inject(Rule::on("^GET .*/blobs/", Fault::StallAnswer(10)));
    stall();
    let id = replicator.detach(&[&pair.source.url("a:t"), &pair.destination.url("a:t")]);
    replicator.wait_until("the source to stall", || pair.source.recorder.faults() == 1);
    replicator.order(id, ExecutionRequest::Stop).expect("it runs");
    replicator.await_end(id);
    stall();
    let resume = || replicator.order(id, ExecutionRequest::Resume);
    let both = std::thread::scope(|scope| {
        let other = scope.spawn(resume);
        [resume(), other.join().expect("no panic")]
    });
    let begun: Vec<u64> = both.iter().filter_map(|number| number.as_ref().ok().copied().flatten()).collect();
    assert_eq!(begun.len(), 1, "{both:?}");
    let refused = both.iter().find_map(|number| number.as_ref().err()).expect("one is refused");
    assert!(refused.message.contains(&format!("execution {}", begun[0])), "{refused:?}");
    pair.source.recorder.heal();
    pair.source.recorder.reset_all();
    replicator.await_finished(begun[0]);
    pair.assert_same("a", "a", &["t"]);
}

#[test]
fn a_refused_repetition_leaves_no_job_and_no_number() {
    let pair = Pair::plain();
    let replicator = Replicator::start(&pair);
    let refused = replicator.fails(1, &["replication", "resume", "--detach", "99"]);
    assert!(refused.contains("there is no execution 99"), "{refused}");
    assert!(replicator.executions().is_empty());
    let jobs = replicator.ok(&["jobs", "--format", "json"]);
    assert!(!jobs.contains("replicate"), "{jobs}");
}

/// The listing of a registry that never answers would last 90 s; the wait for its end is shorter.
#[test]
fn a_stop_ends_a_listing_that_hangs() {
    let pair = Pair::plain();
    let replicator = Replicator::start(&pair);
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("an address");
    let id = replicator.detach(&[&format!("docker://{address}/a/**"), &pair.destination.url("")]);
    let connection = silent.accept().expect("the engine connects");
    replicator.order(id, ExecutionRequest::Stop).expect("it runs");
    assert_eq!(replicator.await_end(id).state(), State::Stopped);
    drop(connection);
}

#[test]
fn more_executions_than_may_run_wait_for_their_turn_also_over_a_restart() {
    let pair = Pair::plain();
    pair.source.client().push_image("a", "t", &image("a"));
    let mut replicator = Replicator::start(&pair);
    pair.source.recorder.inject(Rule::on("^GET .*/manifests/", Fault::StallAnswer(10)).times(1000));
    let ids: Vec<u64> = (0..RUNNING_MAX + 4)
        .map(|nth| replicator.detach(&[&pair.source.url("a:t"), &pair.destination.url(&format!("r{nth}:t"))]))
        .collect();
    let last = *ids.last().expect("several");
    assert_eq!(replicator.report(last).state(), State::Pending);
    // An execution that waits can be stopped, too.
    replicator.order(last, ExecutionRequest::Stop).expect("it waits");
    assert_eq!(replicator.await_end(last).state(), State::Stopped);
    assert!(replicator.term().success(), "no job without a thread holds up the end");
    pair.source.recorder.heal();
    pair.source.recorder.reset_all();
    replicator.start_engine();
    for id in &ids[..ids.len() - 1] {
        replicator.await_finished(*id);
    }
}

#[test]
fn a_mirror_serves_what_has_a_digest_and_the_registry_its_tags() {
    let pair = Pair::plain();
    let mirrored = image("mirrored");
    for side in [&pair.source, &pair.destination] {
        side.client().push_image("a", "t", &mirrored);
    }
    let mut replicator = Replicator::start(&pair);
    // The destination's registry also is the mirror of the source.
    let conf = format!(
        "[[registry]]\nlocation = '{}'\n[[registry.mirror]]\nlocation = '{}'\ninsecure = true\n",
        pair.source.address, pair.destination.address
    );
    fs::write(replicator.host.path("registries.conf"), conf).expect("written");
    replicator.kill9();
    replicator.start_engine();
    pair.forget();
    replicator.ok(&[
        "replicate",
        &pair.source.url("a:t"),
        &format!("oci:{}", replicator.host.path("stick").display()),
    ]);
    assert_eq!(pair.source.recorder.count("^GET .*/blobs/"), 0, "{}", pair.requests());
    assert!(pair.destination.recorder.count("^GET .*/blobs/") > 0, "{}", pair.requests());
    assert!(pair.source.recorder.count("^HEAD .*/manifests/t") > 0, "{}", pair.requests());
}

#[test]
fn a_copy_into_the_store_is_announced_as_a_pull() {
    let pair = Pair::plain();
    pair.source.client().push_image("a", "t", &image("a"));
    let replicator = Replicator::start(&pair);
    replicator.ok(&["replicate", &pair.source.url("a:t"), "store:registry.example/a:t"]);
    replicator.wait_until("the event", || !replicator.events(&["type=image", "event=pull"]).is_empty());
    assert!(replicator.events(&["type=image", "event=push"]).is_empty());
}
