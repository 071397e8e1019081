//! Exchanges that were captured between docker's clients and a dockerd, replayed against the gateway: statuses, headers
//! that matter, bodies with the order of their keys, chunks with their boundaries.

use sampan_oci::digest::Digest;
use sampan_tests::docker_api::exchange::replay;
use sampan_tests::docker_api::{DockerApi, busybox_image};
use sampan_tests::registry::{Reply, ScriptedRegistry};

#[test]
fn ping_negotiates_the_version() {
    let api = DockerApi::new();
    replay("ping.txt", &api.socket(), &[]);
}

#[test]
fn run_uses_three_connections_in_dockers_order() {
    let api = DockerApi::new();
    replay("run.txt", &api.socket(), &[]);
    assert!(
        api.containers.summary("r1").is_some_and(|summary| summary.exit_code == 0 && summary.finished > 0)
    );
}

#[test]
fn a_pull_has_dockers_messages_in_dockers_order() {
    let api = DockerApi::new();
    let reference = api.push_busybox("busybox:latest");
    let (registry, _) = reference.split_once('/').expect("a registry");
    let query = registry.replace(':', "%3A");
    replay("pull.txt", &api.socket(), &[("registry", registry), ("registry-query", &query)]);
}

#[test]
fn a_pull_that_fails_ends_with_its_error() {
    let api = DockerApi::new();
    let registry = ScriptedRegistry::start();
    let image = busybox_image();
    registry.publish("wrong", &image);
    let (digest, bytes) = &image.blobs[0];
    let mut wrong = bytes.clone();
    *wrong.last_mut().expect("bytes") ^= 1;
    assert_ne!(Digest::of(&wrong), *digest);
    let path = format!("wrong/blobs/{digest}");
    registry.answer(&path, Reply::Ok("application/octet-stream".to_owned(), wrong));
    let query = registry.address.replace(':', "%3A");
    replay("pull-error.txt", &api.socket(), &[("registry-query", &query)]);
}

#[test]
fn events_have_dockers_keys_in_dockers_order() {
    let api = DockerApi::new();
    let id = api.start_sh("c1", "true");
    let last = api.containers.events(&id, "die").pop().expect("an event");
    let until = (last.time / 1_000_000_000 + 1).to_string();
    replay("events.txt", &api.socket(), &[("container", &id), ("until", &until)]);
}
