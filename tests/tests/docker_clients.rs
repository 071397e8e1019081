//! Unmodified clients of docker against the gateway: each is checked for its exit code, its output and its effect.

use sampan_tests::docker_api::DockerApi;

/// The gateway answers requests that it does not know, without its daemons.
#[test]
fn an_unknown_path_answers_404_as_json() {
    let api = DockerApi::new();
    let reply = api.http("GET", "/no/such/path");
    assert_eq!(reply.status(), 404, "{}", reply.text());
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert!(!reply.message().is_empty());
}
