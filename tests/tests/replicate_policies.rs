//! The policies of replication.d in a running engine: what they copy, what starts them, and what they refuse.

use sampan_ipc::replication::{Operation, Outcome, State, Trigger};
use sampan_tests::registry::{Image, Layer, Packing};
use sampan_tests::replication::fault::{Fault, Rule};
use sampan_tests::replication::pair::Pair;
use sampan_tests::replication::replicator::Replicator;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

fn image(name: &str) -> Image {
    Image::of(&[Layer::large(name, 20_000, Packing::Gzip)], "amd64")
}

/// The first lines of a policy from the pair's source to its destination.
fn from_to(pair: &Pair, source: &str, destination: &str) -> String {
    format!("source = '{}'\ndestination = '{}'\n", pair.source.url(source), pair.destination.url(destination))
}

/// The first lines of a policy from this host's store to the pair's destination, for these events.
fn on_events(pair: &Pair, kinds: &str) -> String {
    let to = pair.destination.url("");
    let to = to.trim_end_matches('/');
    format!("source = 'store:'\ndestination = '{to}/mirror'\ntrigger = 'event'\non = [{kinds}]\n")
}

/// Writes policies and makes the engine read them.
fn install(replicator: &Replicator, policies: &[(&str, &str)]) {
    for (name, text) in policies {
        replicator.write_policy(name, text);
    }
    reload(replicator, |known| policies.iter().all(|(name, _)| known.contains(&(*name).to_owned())));
}

/// Makes the engine read its policies, and waits until their names are as expected.
fn reload(replicator: &Replicator, is_read: impl Fn(&[String]) -> bool) {
    replicator.reload();
    replicator.wait_until("the policies to be read", || {
        let known = replicator.known_policies();
        is_read(&known.into_iter().map(|policy| policy.name).collect::<Vec<_>>())
    });
}

/// The tags of a repository at the destination.
fn tags(pair: &Pair, repository: &str) -> Vec<String> {
    pair.destination.client().tags(repository)
}

/// Waits until an execution of the policy has ended; its number.
fn await_execution(replicator: &Replicator, policy: &str, is_meant: impl Fn(&Trigger) -> bool) -> u64 {
    let mut found = None;
    replicator.wait_until(&format!("an execution of {policy}"), || {
        let all = replicator.executions();
        found = all
            .iter()
            .find(|one| one.policy == policy && is_meant(&one.trigger) && one.state.is_final())
            .map(|one| one.id);
        found.is_some()
    });
    found.expect("just found")
}

#[test]
fn a_policy_copies_what_its_filters_select_under_its_names() {
    let pair = Pair::plain();
    let client = pair.source.client();
    for (name, versions) in [
        ("team/web/app", &["v1.0.0", "v1.2.0", "v1.3.0-rc1", "v2.0.0", "latest"][..]),
        ("team/test-app", &["v1.2.0"]),
        ("other/app", &["v1.2.0"]),
    ] {
        for version in versions {
            client.push_image(name, version, &image(&format!("{name}{version}")));
        }
    }
    let replicator = Replicator::start(&pair);
    let names = "[filter]\nexclude-name = ['**/test-*']\n";
    let versions = "tag = ['v*']\nsemver = '>=1.1, <3'\nexclude-tag = ['*-rc*']\n";
    let target = "[target]\nnamespace = 'copies'\nreplace-components = 1\n";
    install(&replicator, &[("nightly", &(from_to(&pair, "team/**", "backup") + names + versions + target))]);
    replicator.ok(&["replication", "run", "nightly"]);
    assert_eq!(tags(&pair, "backup/copies/web/app"), ["v1.2.0", "v2.0.0"]);
    assert_eq!(tags(&pair, "backup/copies/test-app"), [""; 0]);
    pair.assert_same("team/web/app", "backup/copies/web/app", &["v1.2.0", "v2.0.0"]);
    let report = replicator.report(replicator.newest());
    assert_eq!((report.execution.policy.as_str(), report.tasks.len()), ("nightly", 1), "{report:#?}");
    // Of these, the newest one alone.
    let newest = "[filter]\ntag = ['v*']\nexclude-tag = ['*-rc*']\nnewest = 1\n";
    install(&replicator, &[("newest", &(from_to(&pair, "team/web/app", "newest") + newest))]);
    replicator.ok(&["replication", "run", "newest"]);
    assert_eq!(tags(&pair, "newest/team/web/app"), ["v2.0.0"]);
}

#[test]
fn a_bad_file_is_told_with_line_and_key_and_the_others_run() {
    let pair = Pair::plain();
    pair.source.client().push_image("a", "t", &image("a"));
    let replicator = Replicator::start(&pair);
    let good = from_to(&pair, "a", "good");
    let bad = format!("{good}trigger = 'manual'\nsped = '1MiB'\n");
    install(&replicator, &[("good", &good), ("bad", &bad)]);
    let known = replicator.known_policies();
    let error = &known.iter().find(|policy| policy.name == "bad").expect("listed").error;
    for word in ["bad.toml", "line 4", "sped"] {
        assert!(error.contains(word), "{word:?} is not in {error:?}");
    }
    let printed = replicator.ok(&["replication", "policies"]);
    assert!(printed.contains("good"), "{printed}");
    replicator.wait_until("the log to name it", || replicator.log().contains("bad.toml"));
    replicator.ok(&["replication", "run", "good"]);
    let refused = replicator.fails(1, &["replication", "run", "bad"]);
    assert!(refused.contains("bad"), "{refused}");
    assert_eq!(tags(&pair, "good/a"), ["t"]);
}

#[test]
fn policies_are_read_again_on_sighup_and_can_rest() {
    let pair = Pair::plain();
    let replicator = Replicator::start(&pair);
    let text = from_to(&pair, "a", "b") + "trigger = 'cron'\ncron = '* * * * *'\ntime-zone = 'UTC'\n";
    install(&replicator, &[("p", &text)]);
    let known = |name: &str| replicator.known_policies().into_iter().find(|policy| policy.name == name);
    let policy = known("p").expect("read");
    let now = sampan_ipc::time::now();
    let wait = Duration::from_nanos(u64::try_from(policy.next - now).unwrap_or(0));
    assert!(policy.enabled && wait <= Duration::from_secs(60), "{policy:?}");
    replicator.write_policy("p", &format!("enabled = false\n{text}"));
    replicator.reload();
    replicator.wait_until("the policy to rest", || known("p").is_some_and(|policy| !policy.enabled));
    assert_eq!(known("p").expect("listed").next, 0);
    fs::remove_file(replicator.policies().join("p.toml")).expect("there");
    reload(&replicator, |known| known.is_empty());
}

#[test]
fn a_pull_a_push_and_a_load_on_this_host_start_a_policy() {
    let pair = Pair::plain();
    let client = pair.source.client();
    for name in ["pulled", "pushed", "loaded"] {
        client.push_image(name, "t", &image(name));
    }
    let replicator = Replicator::start(&pair);
    let policies = ["pull", "push", "load"].map(|kind| (kind, on_events(&pair, &format!("'{kind}'"))));
    let policies: Vec<(&str, &str)> = policies.iter().map(|(kind, text)| (*kind, text.as_str())).collect();
    let [pulled, pushed, loaded] =
        ["pulled", "pushed", "loaded"].map(|name| pair.source.reference(&format!("{name}:t")));
    for reference in [&pushed, &loaded] {
        replicator.ok(&["pull", "--quiet", reference]);
    }
    let archive = replicator.host.path("archive.tar").display().to_string();
    replicator.ok(&["save", "--format", "oci-archive", "-o", &archive, &loaded]);
    replicator.ok(&["rmi", &loaded]);
    install(&replicator, &policies);
    let event = |trigger: &Trigger| matches!(trigger, Trigger::Event(seq) if *seq > 0);
    for (kind, args) in [
        ("pull", vec!["pull", "--quiet", pulled.as_str()]),
        ("push", vec!["push", "--quiet", pushed.as_str()]),
        ("load", vec!["load", "-i", archive.as_str()]),
    ] {
        replicator.ok(&args);
        let id = await_execution(&replicator, kind, event);
        let report = replicator.report(id);
        assert_eq!(report.state(), State::Finished, "{report:#?}");
        assert_eq!(report.artifacts().len(), 1, "{kind} copies only its own image: {report:#?}");
        let to = report.tasks[0].0.destination.trim_start_matches(&pair.destination.address);
        let digest = pair.destination.client().digest(to.trim_start_matches('/'), "t");
        assert_eq!(digest, Some(image(&format!("{kind}ed")).digest().to_string()), "{report:#?}");
    }
    assert_eq!(replicator.executions().len(), 3, "{:#?}", replicator.executions());
}

#[test]
fn an_event_that_came_while_the_engine_was_away_is_caught_up() {
    let pair = Pair::plain();
    pair.source.client().push_image("a", "t", &image("a"));
    let mut replicator = Replicator::start(&pair);
    let reference = pair.source.reference("a:t");
    replicator.ok(&["pull", "--quiet", &reference]);
    install(&replicator, &[("caught", &on_events(&pair, "'pull'"))]);
    // One event first, so that the cursor exists.
    replicator.ok(&["pull", "--quiet", &reference]);
    let first = await_execution(&replicator, "caught", |_| true);
    replicator.kill9();
    // The engine's own sender writes the same event, if the engine dies right after it.
    let event = sampan_ipc::Event::new("image", "pull", reference.as_str()).with("name", &reference);
    let sender = replicator.host.sender();
    sender.send(event).expect("sent");
    assert!(sender.flush(Duration::from_secs(10)), "monitord takes it");
    replicator.start_engine();
    replicator.wait_until("the event to be caught up", || {
        replicator.executions().iter().any(|one| one.id > first && one.state == State::Finished)
    });
    // Nothing is caught up twice.
    replicator.kill9();
    replicator.start_engine();
    replicator.ok(&["pull", "--quiet", &reference]);
    replicator.wait_until("the third execution", || {
        replicator.executions().iter().filter(|one| one.state.is_final()).count() >= 3
    });
    assert_eq!(replicator.executions().len(), 3, "{:#?}", replicator.executions());
}

#[test]
fn an_event_that_any_program_can_emit_starts_nothing() {
    let pair = Pair::plain();
    for name in ["a", "b"] {
        pair.source.client().push_image(name, "t", &image(name));
    }
    let replicator = Replicator::start(&pair);
    let (a, b) = (pair.source.reference("a:t"), pair.source.reference("b:t"));
    replicator.ok(&["pull", "--quiet", &a]);
    install(&replicator, &[("wary", &on_events(&pair, "'pull'"))]);
    // monitord refuses such an event of the emit FIFO, and takes the next one.
    let event = sampan_ipc::Event::new("image", "pull", a.as_str()).with("name", &a);
    let emitter = replicator.host.emitter();
    emitter.send(event).expect("sent");
    emitter.send(sampan_ipc::Event::new("test", "tick", a.as_str()).with("name", &a)).expect("sent");
    replicator.wait_until("the second event to arrive", || !replicator.events(&["type=test"]).is_empty());
    // A fact that comes later does start it, and events are taken in order.
    replicator.ok(&["pull", "--quiet", &b]);
    let id = await_execution(&replicator, "wary", |_| true);
    let report = replicator.report(id);
    assert!(report.tasks[0].0.source.ends_with("/b"), "{report:#?}");
    assert_eq!(replicator.executions().len(), 1);
}

#[test]
fn a_tag_that_may_not_be_replaced_is_left_alone() {
    let pair = Pair::plain();
    pair.source.client().push_image("a", "t", &image("new"));
    pair.source.client().push_image("a", "u", &image("more"));
    pair.destination.client().push_image("b/a", "t", &image("old"));
    let replicator = Replicator::start(&pair);
    install(&replicator, &[("keep", &(from_to(&pair, "a", "b") + "override = false\n"))]);
    replicator.ok(&["replication", "run", "keep"]);
    let digest = |tag| pair.destination.client().digest("b/a", tag);
    assert_eq!(digest("t"), Some(image("old").digest().to_string()));
    assert_eq!(digest("u"), Some(image("more").digest().to_string()));
    let report = replicator.report(replicator.newest());
    assert_eq!(report.artifact("t").outcome, Outcome::Skipped, "{report:#?}");
}

#[test]
fn a_policy_deletes_within_its_share_and_never_all() {
    let pair = Pair::plain();
    for tag in ["v1", "v2", "v3"] {
        pair.source.client().push_image("a", tag, &image(tag));
        pair.destination.client().push_image("b/a", tag, &image(tag));
    }
    pair.destination.client().push_image("b/a", "gone", &image("gone"));
    let replicator = Replicator::start(&pair);
    let text = |share: &str| from_to(&pair, "a", "b") + "delete = true\n" + share;
    install(
        &replicator,
        &[
            ("rehearsed", &text("dry-run = true\n")),
            ("careful", &text("delete-share-max = 0.1\n")),
            ("usual", &text("")),
        ],
    );
    replicator.ok(&["replication", "run", "rehearsed"]);
    let report = replicator.report(replicator.newest());
    let deletions = |tasks: &[(sampan_ipc::replication::Task, Vec<_>)]| {
        tasks
            .iter()
            .filter(|(task, _)| task.operation == Operation::Delete)
            .map(|(_, all)| all.len())
            .sum::<usize>()
    };
    assert!(report.execution.dry_run && deletions(&report.tasks) == 1, "{report:#?}");
    assert_eq!(tags(&pair, "b/a").len(), 4, "a rehearsal deletes nothing");
    let refused = replicator.fails(1, &["replication", "run", "careful"]);
    assert_eq!(tags(&pair, "b/a").len(), 4, "{refused}");
    replicator.ok(&["replication", "run", "usual"]);
    assert_eq!(pair.destination.client().digest("b/a", "gone"), None);
    assert_eq!(pair.destination.client().digest("b/a", "v1"), Some(image("v1").digest().to_string()));
    for tag in ["v1", "v2", "v3"] {
        let digest = pair.source.client().digest("a", tag).expect("there");
        assert_eq!(pair.source.client().delete_manifest("a", &digest), 202);
    }
    replicator.sampan(&["replication", "run", "usual"]);
    assert!(pair.destination.client().digest("b/a", "v1").is_some(), "an empty source deletes nothing");
}

#[test]
fn an_overlapping_execution_waits_or_is_skipped_and_is_no_error() {
    let pair = Pair::plain();
    pair.source.client().push_image("a", "t", &image("a"));
    let replicator = Replicator::start(&pair);
    let text = |overlap: &str| from_to(&pair, "a", overlap) + &format!("overlap = '{overlap}'\n");
    install(&replicator, &[("queue", &text("queue")), ("skip", &text("skip"))]);
    for policy in ["queue", "skip"] {
        let faults = pair.source.recorder.faults();
        pair.source.recorder.inject(Rule::on("^GET .*/manifests/", Fault::StallAnswer(10)));
        let start = || {
            let printed = replicator.ok(&["replication", "run", "--detach", policy]);
            printed.trim().parse::<u64>().expect("the number of the execution")
        };
        let first = start();
        replicator.wait_until("the first to stall", || pair.source.recorder.faults() > faults);
        let second = start();
        match policy {
            "skip" => assert_eq!(replicator.await_end(second).state(), State::Skipped),
            _ => assert_eq!(replicator.report(second).state(), State::Pending),
        }
        pair.source.recorder.reset_all();
        replicator.await_finished(first);
        if policy == "queue" {
            let report = replicator.await_finished(second);
            assert_eq!(report.artifact("t").outcome, Outcome::Unchanged, "{report:#?}");
        }
    }
}

#[test]
fn the_report_is_given_to_a_command() {
    let pair = Pair::plain();
    let copied = image("a");
    pair.source.client().push_image("a", "t", &copied);
    let replicator = Replicator::start(&pair);
    let (script, file) = (replicator.host.path("report.sh"), replicator.host.path("report.json"));
    // The file appears at once, so that the test never reads half of it.
    fs::write(&script, "#!/bin/sh\ncat >\"$1.new\" && mv \"$1.new\" \"$1\"\n").expect("written");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("set");
    let on_done = format!("on-done = ['{}', '{}']\n", script.display(), file.display());
    install(&replicator, &[("told", &(from_to(&pair, "a", "b") + &on_done))]);
    replicator.ok(&["replication", "run", "told"]);
    replicator.wait_until("the command's file", || Path::new(&file).exists());
    let report: Value = serde_json::from_slice(&fs::read(&file).expect("there")).expect("JSON");
    assert_eq!((&report["policy"], &report["state"]), (&"told".into(), &"finished".into()), "{report:#}");
    assert!(report.to_string().contains(&copied.digest().to_string()), "{report:#}");
}

#[test]
fn the_limits_of_a_policy_hold() {
    let pair = Pair::plain();
    let large = Image::of(&[Layer::large("large", 600_000, Packing::Plain)], "amd64");
    pair.source.client().push_image("a", "t", &large);
    let replicator = Replicator::start(&pair);
    let text = |name: &str, limit: &str| from_to(&pair, "a", name) + limit;
    install(
        &replicator,
        &[("speed", &text("speed", "speed = '200KiB'\n")), ("rate", &text("rate", "request-rate = 4\n"))],
    );
    let began = Instant::now();
    replicator.ok(&["replication", "run", "speed"]);
    // The bytes take three seconds, minus the first burst.
    assert!(began.elapsed() > Duration::from_millis(1500), "{:?}", began.elapsed());
    pair.forget();
    let began = Instant::now();
    replicator.ok(&["replication", "run", "rate"]);
    let (source, destination) = pair.request_counts();
    // Four requests a second, after a first burst of as many.
    let least = source.max(destination).saturating_sub(4) as f64 / 4.0;
    assert!(began.elapsed().as_secs_f64() >= least * 0.9, "{:?}\n{}", began.elapsed(), pair.requests());
}

#[test]
fn a_policy_that_would_copy_its_own_copies_is_refused() {
    let pair = Pair::plain();
    pair.source.client().push_image("a/x", "t", &image("x"));
    let replicator = Replicator::start(&pair);
    let text =
        format!("source = '{}'\ndestination = '{}'\n", pair.source.url("**"), pair.source.url("copies"));
    install(&replicator, &[("loop", &text)]);
    let said = replicator.fails(1, &["replication", "run", "loop"]);
    assert!(said.contains("copies"), "{said}");
    assert_eq!(pair.source.recorder.count("^(PUT|POST|PATCH) "), 0, "{}", pair.requests());
}
