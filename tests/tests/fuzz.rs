//! Runs each fuzz target for two seconds, or `FUZZ_SECONDS`; `make fuzz` takes a minute for each.

use sampan_tests::fuzz;
use sampan_tests::random::Random;
use sampan_tests::targets::{TARGETS, target};
use std::time::Duration;

fn fuzz(name: &str) {
    fuzz::save_inputs_on_panic();
    let seconds = std::env::var("FUZZ_SECONDS").map_or(2, |text| text.parse().expect("a number of seconds"));
    let seed = std::env::var("FUZZ_SEED").map_or(1, |text| text.parse().expect("a number"));
    let report = fuzz::run(target(name).expect("a target"), Duration::from_secs(seconds), seed);
    println!("{name}: {report:?}");
    assert!(report.accepted > 0, "no mutation of a seed was any good: the target is not reached");
}

macro_rules! targets {
    ($($test:ident $name:literal)*) => {$(
        #[test]
        fn $test() {
            fuzz($name);
        }
    )*
        const TESTED: &[&str] = &[$($name),*];
    };
}

targets! {
    any_bytes_in_the_fifo_are_records_or_garbage "record"
    any_bytes_on_a_socket_are_frames_or_an_error "frame"
    any_text_is_a_filter_or_an_error "filter"
    any_text_is_a_time_or_an_error "time"
    any_text_is_a_reference_or_an_error "reference"
    any_bytes_are_a_manifest_or_an_error "manifest"
    any_bytes_are_a_config_or_an_error "config"
    any_header_is_a_list_of_challenges "challenge"
    any_text_is_registries_or_an_error "registries"
    any_place_to_go_on_at_is_within_the_blob "resume"
    any_bytes_of_a_client_are_requests_or_refused "http"
    any_text_is_a_template_or_an_error "template"
    any_url_and_headers_are_a_request_or_refused "origin"
    any_request_of_docker_is_answered_or_refused "docker"
    any_request_for_events_is_read_or_refused "events_request"
    any_event_is_an_object_of_docker "events_object"
    any_bytes_are_a_tar_or_an_error "tar"
    any_bytes_are_an_archive_of_images_or_an_error "archive"
}

#[test]
fn every_target_is_tested_and_every_seed_is_good() {
    for target in &TARGETS {
        assert!(TESTED.contains(&target.name), "{} is not tested", target.name);
        for (nth, seed) in fuzz::seeds(target.name).into_iter().enumerate() {
            let good = fuzz::try_input(target, seed, &mut Random::new(1));
            assert!(good, "seed {nth} of {} is good for nothing", target.name);
        }
    }
}
