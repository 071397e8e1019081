use super::*;

const DAY: Duration = Duration::from_secs(86_400);

fn start() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000)
}

fn file(number: u32) -> PreheatRequest {
    PreheatRequest::file(format!("http://h/{number}"), Headers::default())
}

fn image(name: &str) -> PreheatRequest {
    let body = format!(
        r#"{{"type":"image","url":"http://h/v2/{name}/manifests/1","headers":{{"Authorization":"Bearer x"}}}}"#
    );
    PreheatRequest::parse(body.as_bytes()).expect("good")
}

/// The files with these numbers as the blobs of an image, with a token of the supernode's own.
fn blobs(numbers: impl IntoIterator<Item = u32>, token: &str) -> ImageBlobs {
    ImageBlobs {
        urls: numbers.into_iter().map(|number| file(number).url).collect(),
        headers: Headers::new(vec![("Authorization".to_owned(), token.to_owned())]),
        is_own_token: true,
    }
}

fn started(actions: &[Action]) -> Vec<TaskId> {
    let id = |action: &Action| match action {
        Action::StartTask(task) => Some(task.id),
        _ => None,
    };
    actions.iter().filter_map(id).collect()
}

fn ids(numbers: impl IntoIterator<Item = u32>) -> Vec<TaskId> {
    numbers.into_iter().map(|number| file(number).id()).collect()
}

fn denied() -> Result<(), TaskFailure> {
    Err(TaskFailure { why: "denied".to_owned(), is_denied: true })
}

fn failed(why: &str) -> Result<(), TaskFailure> {
    Err(TaskFailure { why: why.to_owned(), is_denied: false })
}

/// Preheats at a fixed time, with short calls.
#[derive(Default)]
struct Host(Preheats);

impl Host {
    fn create(&mut self, request: PreheatRequest) -> Vec<Action> {
        self.0.create(request, start()).expect("begun").1
    }

    /// Begins an image and answers the request to its registry.
    fn image(&mut self, name: &str, resolved: ImageBlobs) -> Vec<Action> {
        let actions = self.create(image(name));
        self.answer(&actions, Ok(resolved))
    }

    fn answer(&mut self, actions: &[Action], result: Result<ImageBlobs, String>) -> Vec<Action> {
        let run = actions.iter().find_map(|action| match action {
            Action::Resolve { run, .. } => Some(*run),
            _ => None,
        });
        self.0.on_resolved(run.expect("a request to a registry"), result, start())
    }

    fn ended(&mut self, number: u32, result: Result<(), TaskFailure>) -> Vec<Action> {
        self.0.on_task_ended(&file(number).id(), result, start())
    }

    fn status(&mut self, request: &PreheatRequest) -> (&'static str, String) {
        let info = self.0.get(&request.id().to_string(), start()).expect("known");
        (info.status, info.error_msg)
    }

    fn is_idle(&self) -> bool {
        self.0.fetching.is_empty()
            && self.0.resolving.is_empty()
            && self.0.files.is_empty()
            && self.0.images.is_empty()
    }
}

#[test]
fn a_file_is_fetched_once_and_again_after_a_failure() {
    let mut host = Host::default();
    let actions = host.create(file(1));
    let id = file(1).id();
    assert_eq!(actions, [Action::StartTask(TaskRequest { id, request: file(1) })]);
    assert_eq!((host.status(&file(1)).0, host.0.is_needed(&id)), ("RUNNING", true));
    assert_eq!(host.create(file(1)), [], "it runs already");
    assert_eq!(host.ended(1, failed("disk full")), []);
    assert_eq!(host.status(&file(1)), ("FAILED", "disk full".to_owned()));
    assert_eq!(started(&host.create(file(1))), [id], "a failed one begins again");
    assert_eq!(host.ended(1, Ok(())), []);
    assert_eq!((host.status(&file(1)), host.0.is_needed(&id)), (("SUCCESS", String::new()), false));
    assert_eq!(host.0.create(file(1), start()).expect_err("done before").status(), 208);
    assert!(host.is_idle());
}

#[test]
fn an_image_succeeds_when_its_last_blob_does() {
    let mut host = Host::default();
    let actions = host.create(image("a"));
    assert!(matches!(&actions[..], [Action::Resolve { run: 1, request }] if *request == image("a")));
    let actions = host.answer(&actions, Ok(blobs([1, 2, 2], "t")));
    assert_eq!(started(&actions), ids([1, 2]), "one blob is one task");
    assert!(matches!(&actions[0], Action::StartTask(task) if task.request.headers[0].1 == "t"));
    host.ended(1, Ok(()));
    assert_eq!((host.status(&image("a")).0, host.0.is_needed(&file(1).id())), ("RUNNING", true));
    host.ended(2, Ok(()));
    assert_eq!((host.status(&image("a")).0, host.0.is_needed(&file(1).id())), ("SUCCESS", false));
    let list = host.0.list(start());
    let parent = list.iter().find(|task| task.r#type == "image").expect("listed");
    assert_eq!(parent.children, ids([1, 2]).iter().map(TaskId::to_string).collect::<Vec<_>>());
    assert!(list.iter().filter(|task| task.r#type == "file").all(|task| task.parent_id == parent.id));
    let json = serde_json::to_string(&list).expect("json");
    assert!(json.contains("\"Headers\":null") && !json.contains("Bearer"), "{json}");
    assert!(host.0.entries.values().all(|entry| entry.request.headers.is_empty()));
    assert_eq!(host.0.by_status(), ByStatus { success: 3, ..ByStatus::default() });
}

#[test]
fn an_image_fails_with_its_first_blob_and_the_others_go_on() {
    let mut host = Host::default();
    host.image("a", blobs(1..=8, "t"));
    assert_eq!(started(&host.ended(2, failed("404"))), ids([7]), "others go on");
    assert_eq!(host.status(&image("a")), ("FAILED", "http://h/2 404".to_owned()));
    assert_eq!(host.status(&file(1)).0, "RUNNING");
    host.ended(3, failed("500"));
    assert_eq!(host.status(&image("a")).1, "http://h/2 404", "the first failure is the reason");
    for number in [1, 4, 5, 6, 7, 8] {
        host.ended(number, Ok(()));
    }
    // Only what failed is fetched again.
    assert_eq!(started(&host.image("a", blobs(1..=8, "t"))), ids([2, 3]));
    host.ended(2, Ok(()));
    host.ended(3, Ok(()));
    assert_eq!(host.status(&image("a")), ("SUCCESS", String::new()));
    assert!(host.is_idle());
}

#[test]
fn an_image_whose_registry_fails_can_begin_again() {
    let mut host = Host::default();
    let actions = host.create(image("a"));
    assert_eq!(host.answer(&actions, Err("no route".to_owned())), []);
    assert_eq!(host.status(&image("a")), ("FAILED", "no route".to_owned()));
    assert_eq!(started(&host.image("a", blobs([1], "t"))), ids([1]));
}

#[test]
fn a_bounded_number_of_tasks_and_requests_runs() {
    let mut host = Host::default();
    let actions = host.image("a", blobs(0..20, "t"));
    assert_eq!(started(&actions), ids(0..6));
    for number in 0..20 {
        let next = (number + 6 < 20).then_some(number + 6);
        assert_eq!(started(&host.ended(number, Ok(()))), ids(next));
    }
    let first: Vec<Vec<Action>> = (0..6).map(|n| host.create(image(&format!("i{n}")))).collect();
    assert_eq!(first.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 1, 1, 0, 0]);
    assert_eq!(host.status(&image("i4")).0, "WAITING");
    let actions = host.answer(&first[2], Err("no".to_owned()));
    assert!(matches!(&actions[..], [Action::Resolve { request, .. }] if *request == image("i4")));
}

#[test]
fn images_share_a_blob_and_its_task() {
    let mut host = Host::default();
    assert_eq!(started(&host.image("a", blobs([1, 2], "t"))), ids([1, 2]));
    assert_eq!(started(&host.image("b", blobs([2, 3], "u"))), ids([3]));
    host.ended(1, Ok(()));
    host.ended(2, Ok(()));
    assert_eq!((host.status(&image("a")).0, host.status(&image("b")).0), ("SUCCESS", "RUNNING"));
    host.0.delete(&image("a").id().to_string(), start()).expect("deleted");
    assert_eq!(host.0.entries.len(), 3, "blob 2 belongs to the other image");
    let busy = host.0.delete(&file(2).id().to_string(), start()).expect_err("in use");
    assert_eq!(busy, PreheatError::Busy(file(2).id(), image("b").id()));
    host.ended(3, Ok(()));
    assert_eq!(host.status(&image("b")).0, "SUCCESS");
    // Everything that an image needs is there already.
    assert_eq!(host.image("c", blobs([2, 3], "v")), []);
    assert_eq!(host.status(&image("c")).0, "SUCCESS");
}

#[test]
fn a_deleted_preheat_frees_its_places_and_ignores_late_answers() {
    let mut host = Host::default();
    let first = host.image("a", blobs(1..=9, "t"));
    assert_eq!(started(&first).len(), 6);
    assert_eq!(host.create(file(50)), [], "it waits");
    let actions = host.0.delete(&image("a").id().to_string(), start()).expect("deleted");
    assert_eq!((started(&actions), host.0.entries.len()), (ids([50]), 1));
    assert_eq!(host.ended(1, Ok(())), [], "late");
    host.ended(50, Ok(()));
    let asked = host.create(image("b"));
    let actions = host.0.delete(&image("b").id().to_string(), start()).expect("deleted");
    assert_eq!(actions, [Action::CancelResolve { run: 2 }]);
    let again = host.create(image("b"));
    assert_eq!(host.answer(&asked, Ok(blobs([7], "t"))), [], "the answer to the deleted one");
    assert_eq!(started(&host.answer(&again, Ok(blobs([8], "t")))), ids([8]));
    host.ended(8, Ok(()));
    assert!(host.is_idle());
    let missing = host.0.delete("abc", start()).expect_err("unknown");
    assert_eq!((missing.status(), missing), (404, PreheatError::NotFound("abc".to_owned())));
}

#[test]
fn a_denied_blob_is_fetched_once_more_with_a_new_token() {
    let mut host = Host::default();
    host.image("a", blobs(1..=8, "old"));
    let renewal = host.ended(1, denied());
    assert!(matches!(&renewal[..], [Action::Resolve { .. }, Action::StartTask(_)]), "{renewal:?}");
    assert_eq!((host.status(&image("a")).0, host.status(&file(1)).0), ("RUNNING", "RUNNING"));
    assert_eq!(started(&host.ended(2, denied())), ids([8]), "one new token is for all");
    host.ended(3, Ok(()));
    let actions = host.answer(&renewal, Ok(blobs(1..=8, "new")));
    assert_eq!(started(&actions), ids([1]));
    assert!(matches!(&actions[0], Action::StartTask(task) if task.request.headers[0].1 == "new"));
    for number in [1, 4, 5, 6, 7, 8] {
        host.ended(number, Ok(()));
    }
    assert_eq!(host.status(&image("a")).0, "RUNNING");
    host.ended(2, denied());
    assert_eq!(host.status(&image("a")), ("FAILED", "http://h/2 denied".to_owned()), "twice is final");
    assert!(host.is_idle());
}

#[test]
fn a_blob_does_not_wait_for_a_token_that_never_comes() {
    let mut host = Host::default();
    host.image("a", blobs([1, 2], "t"));
    let renewal = host.ended(1, denied());
    host.answer(&renewal, Err("no".to_owned()));
    assert_eq!(host.status(&image("a")), ("FAILED", "no".to_owned()));
    assert_eq!(host.status(&file(1)), ("FAILED", "denied".to_owned()));
    // The image fails for another reason, and its request is aborted.
    let mut host = Host::default();
    host.image("a", blobs([1, 2], "t"));
    let renewal = host.ended(1, denied());
    assert_eq!(host.ended(2, failed("404")), [Action::CancelResolve { run: 2 }]);
    assert_eq!(host.status(&file(1)).0, "FAILED");
    assert_eq!(host.answer(&renewal, Err("cancelled".to_owned())), []);
    assert!(host.is_idle());
    // A header that the operator gave cannot be renewed.
    let mut host = Host::default();
    host.image("a", ImageBlobs { is_own_token: false, ..blobs([1], "t") });
    assert_eq!(host.ended(1, denied()), []);
    assert_eq!(host.status(&image("a")).0, "FAILED");
}

#[test]
fn a_deleted_file_can_be_preheated_again() {
    let mut host = Host::default();
    host.image("a", blobs([1, 2], "t"));
    host.ended(1, Ok(()));
    host.0.on_file_deleted(&file(1).id(), start());
    assert_eq!(host.status(&image("a")).0, "FAILED", "not complete any more");
    host.ended(2, Ok(()));
    assert_eq!(started(&host.image("a", blobs([1, 2], "t"))), ids([1]));
    host.ended(1, Ok(()));
    assert_eq!(host.status(&image("a")).0, "SUCCESS");
    host.0.on_file_deleted(&file(2).id(), start());
    assert!(host.0.entries.is_empty());
    assert_eq!(host.create(image("a")).len(), 1);
}

#[test]
fn a_preheat_is_forgotten_a_week_after_its_end() {
    let mut host = Host::default();
    host.image("a", blobs([1], "t"));
    host.create(file(2));
    host.ended(1, Ok(()));
    assert_eq!(host.0.list(start() + 6 * DAY).len(), 3);
    let left = host.0.list(start() + 7 * DAY);
    assert_eq!(left.iter().map(|task| task.url.as_str()).collect::<Vec<_>>(), ["http://h/2"]);
}

#[test]
fn the_number_of_preheats_is_bounded() {
    let mut host = Host::default();
    let most = u32::try_from(PREHEATS_MAX).expect("small");
    for number in 0..most {
        host.create(file(number));
    }
    assert_eq!(host.0.create(file(most), start()).expect_err("full").status(), 503);
    host.ended(3, Ok(()));
    host.create(file(most));
    assert_eq!(host.0.entries.len(), PREHEATS_MAX);
    assert!(!host.0.entries.contains_key(&file(3).id()), "the one that has ended makes room");
    // A preheat that is made and deleted again and again leaves nothing behind.
    let waiting = host.0.files.len();
    for _ in 0..10 {
        host.0.delete(&file(most).id().to_string(), start()).expect("deleted");
        host.create(file(most));
    }
    assert_eq!(host.0.files.len(), waiting);
}

#[test]
fn the_number_of_blobs_is_bounded() {
    let mut host = Host::default();
    for number in 0..10 {
        host.image(&format!("i{number}"), blobs(number * 1000..number * 1000 + 1000, "t"));
    }
    assert_eq!(host.0.entries.len(), ENTRIES_MAX);
    let (status, why) = host.status(&image("i9"));
    assert_eq!((status, why.contains("more than 10000 blobs")), ("FAILED", true));
    assert_eq!(host.status(&image("i0")).0, "RUNNING");
}

#[test]
fn random_events_leak_no_place_and_no_preheat() {
    // A linear congruential generator: each seed is one history. Knuth, TAOCP 2, 3.3.4.
    for seed in 0..300_u64 {
        let mut state = seed;
        let mut random = |below: u32| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            u32::try_from(state >> 33).expect("31 bits") % below
        };
        let mut host = Host::default();
        let mut runs: Vec<u64> = Vec::new();
        for _ in 0..200 {
            let name = format!("i{}", random(3));
            let actions = match random(8) {
                0 => host.0.create(image(&name), start()).map(|(_, actions)| actions).unwrap_or_default(),
                1 => host.0.create(file(random(12)), start()).map(|(_, actions)| actions).unwrap_or_default(),
                2 => host.0.delete(&image(&name).id().to_string(), start()).unwrap_or_default(),
                3 => host.0.delete(&file(random(12)).id().to_string(), start()).unwrap_or_default(),
                4 => host.0.on_file_deleted(&file(random(12)).id(), start()),
                5 if !runs.is_empty() => {
                    let run = runs.swap_remove(random(100) as usize % runs.len());
                    let (first, count) = (random(6), random(7));
                    let result = if random(4) == 0 {
                        Err("no".to_owned())
                    } else {
                        Ok(blobs(first..first + count, "t"))
                    };
                    host.0.on_resolved(run, result, start())
                }
                _ => {
                    let result = match random(4) {
                        0 => failed("no"),
                        1 => denied(),
                        _ => Ok(()),
                    };
                    host.ended(random(12), result)
                }
            };
            runs.extend(actions.iter().filter_map(|action| match action {
                Action::Resolve { run, .. } => Some(*run),
                _ => None,
            }));
            check(&host, &runs, seed);
        }
        // Let everything end. Then nothing runs, and nothing waits.
        for _ in 0..200 {
            let ids: Vec<TaskId> = host.0.fetching.iter().copied().collect();
            let actions = match (runs.pop(), ids.first()) {
                (Some(run), _) => host.0.on_resolved(run, Ok(blobs([1, 2], "t")), start()),
                (None, Some(id)) => host.0.on_task_ended(id, Ok(()), start()),
                (None, None) => break,
            };
            runs.extend(actions.iter().filter_map(|action| match action {
                Action::Resolve { run, .. } => Some(*run),
                _ => None,
            }));
            check(&host, &runs, seed);
        }
        assert!(host.is_idle(), "seed {seed}: {:?}", host.0);
        assert!(host.0.entries.values().all(|entry| entry.phase.is_ended()), "seed {seed}: {:?}", host.0);
    }
}

/// What holds after each event.
fn check(host: &Host, runs: &[u64], seed: u64) {
    let Preheats { entries, resolving, fetching, .. } = &host.0;
    let in_phase = |phase: Phase| entries.values().filter(|entry| entry.phase == phase).count();
    assert_eq!(fetching.len(), in_phase(Phase::Fetching), "seed {seed}");
    assert!(fetching.len() <= FETCHES_MAX && resolving.len() <= RESOLVES_MAX, "seed {seed}");
    assert_eq!(resolving.len(), runs.len(), "seed {seed}");
    for (id, entry) in entries {
        assert!(entry.is_asked || !entry.parents.is_empty(), "seed {seed}: nobody needs {id}");
        for parent in &entry.parents {
            assert!(entries[parent].children.contains(id), "seed {seed}: {id} is no child of {parent}");
        }
        for child in &entry.children {
            assert!(entries[child].parents.contains(id), "seed {seed}: {id} is no parent of {child}");
        }
        if entry.phase.is_ended() {
            assert!(entry.request.headers.is_empty() && entry.finished.is_some(), "seed {seed}");
        }
        if entry.phase == Phase::Held {
            let is_renewing = |parent: &TaskId| host.0.is_renewing(parent);
            assert!(entry.parents.iter().any(is_renewing), "seed {seed}: {id} waits for nothing");
        }
        let has_waiting = |child: &TaskId| !entries[child].phase.is_ended();
        if entry.phase == Phase::Children {
            assert!(entry.children.iter().any(has_waiting), "seed {seed}: image {id} never ends");
        }
    }
}
