//! Interrupted downloads continue: after a kill, after the client has left, by another image; and only if the kept part
//! is valid.

use sampan_ipc::engine::{Answer, Code, Phase, Pull, Request};
use sampan_oci::digest::Digest;
use sampan_tests::engine::Engine;
use sampan_tests::registry::{Image, Layer, Packing, Reply, ScriptedRegistry};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Bytes of the layer in most tests.
const SIZE: usize = 2 << 20;

/// Publishes an image of one layer as `name:t`; requests for its blob are answered by `replies` in turn.
fn publish(
    registry: &ScriptedRegistry,
    name: &str,
    replies: impl Fn(&[u8]) -> Vec<Reply>,
) -> (Layer, String) {
    let layer = Layer::large("data", SIZE, Packing::Gzip);
    registry.publish(name, &Image::of(std::slice::from_ref(&layer), "amd64"));
    registry.answer_in_turn(&path(name, &layer), replies(&layer.blob));
    (layer, registry.reference(name))
}

fn path(name: &str, layer: &Layer) -> String {
    format!("{name}/blobs/{}", Digest::of(&layer.blob))
}

fn pull(reference: &str) -> Request {
    Request::Pull(Pull { reference: reference.to_owned(), ..Pull::default() })
}

/// Path of the file with the kept part of the layer's blob.
fn partial(engine: &Engine, layer: &Layer) -> PathBuf {
    engine.store().join("partial").join(format!("sha256-{}", Digest::of(&layer.blob).hex()))
}

fn kept(engine: &Engine, layer: &Layer) -> u64 {
    fs::metadata(partial(engine, layer)).map_or(0, |meta| meta.len())
}

/// Number of entries in `partial/`.
fn partials(engine: &Engine) -> usize {
    fs::read_dir(engine.store().join("partial")).expect("listed").count()
}

/// Most bytes of manifests and configs that are sent in addition.
const SMALL: u64 = 8192;

/// Starts a pull of which half of the layer arrives, and then nothing more.
fn half(engine: &Engine, registry: &ScriptedRegistry, name: &str) -> (Layer, sampan_tests::engine::Stream) {
    let (layer, reference) = publish(registry, name, |blob| vec![Reply::Hang(blob.to_vec(), SIZE / 2)]);
    let stream = engine.ask(pull(&reference));
    engine.wait_until("half of the blob", || kept(engine, &layer) >= SIZE as u64 / 2);
    (layer, stream)
}

#[test]
fn after_kill_9_only_the_rest_is_fetched() {
    let (engine, registry) = (Engine::start(), ScriptedRegistry::start());
    let (layer, stream) = half(&engine, &registry, "a");
    let engine = engine.killed_and_restarted();
    drop(stream);
    assert_eq!(kept(&engine, &layer), SIZE as u64 / 2);
    let before = registry.sent();
    registry.answer(&path("a", &layer), Reply::Ranged(layer.blob.clone()));
    let pulled = engine.pull(&registry.reference("a")).expect("pulled");
    assert_eq!(pulled.rows[0].phase, Phase::Complete);
    let rest = layer.blob.len() as u64 - SIZE as u64 / 2;
    let sent = registry.sent() - before;
    assert!((rest..rest + SMALL).contains(&sent), "{sent} bytes for a rest of {rest}");
    assert_eq!(partials(&engine), 0);
}

#[test]
fn another_image_continues_the_layer_of_a_client_that_left() {
    let (engine, registry) = (Engine::start(), ScriptedRegistry::start());
    let (layer, stream) = half(&engine, &registry, "a");
    drop(stream);
    engine.wait_until("the pull to end", || engine.jobs().iter().all(|job| job.ended != 0));
    engine.wait_for_no_temporaries();
    let other = Layer::of(&[("other", b"content")], Packing::Gzip);
    registry.publish("b", &Image::of(&[other, layer.clone()], "amd64"));
    registry.answer(&path("b", &layer), Reply::Ranged(layer.blob.clone()));
    let before = registry.sent();
    engine.pull(&registry.reference("b")).expect("pulled");
    let rest = layer.blob.len() as u64 - SIZE as u64 / 2;
    let sent = registry.sent() - before;
    assert!((rest..rest + SMALL).contains(&sent), "{sent} bytes for a rest of {rest}");
}

#[test]
fn a_registry_without_ranges_sends_that_blob_alone_again() {
    let (engine, registry) = (Engine::start(), ScriptedRegistry::start());
    let (layer, stream) = half(&engine, &registry, "a");
    drop(stream);
    engine.wait_until("the pull to end", || engine.jobs().iter().all(|job| job.ended != 0));
    let whole = Reply::Ok("application/octet-stream".to_owned(), layer.blob.clone());
    registry.answer(&path("a", &layer), whole);
    let before = registry.sent();
    engine.pull(&registry.reference("a")).expect("pulled");
    let (sent, size) = (registry.sent() - before, layer.blob.len() as u64);
    assert!((size..size + SMALL).contains(&sent), "{sent} bytes for {size}");
}

#[test]
fn what_was_kept_and_is_wrong_is_fetched_again_and_told() {
    let (engine, registry) = (Engine::start(), ScriptedRegistry::start());
    let (layer, stream) = half(&engine, &registry, "a");
    drop(stream);
    engine.wait_until("the pull to end", || engine.jobs().iter().all(|job| job.ended != 0));
    let path_of = partial(&engine, &layer);
    let mut bytes = fs::read(&path_of).expect("kept");
    bytes[SIZE / 4] ^= 1;
    fs::write(&path_of, bytes).expect("written");
    registry.answer(&path("a", &layer), Reply::Ranged(layer.blob.clone()));
    let pulled = engine.pull(&registry.reference("a")).expect("pulled");
    assert_eq!(pulled.rows[0].attempt, 2);
    assert!(engine.log().contains("starting over"));
    assert_eq!(partials(&engine), 0);
}

#[test]
fn a_part_that_was_not_asked_for_is_never_taken_for_the_rest() {
    let (engine, registry) = (Engine::start(), ScriptedRegistry::start());
    for (nth, (head, skipped)) in [
        ("206 Partial Content\r\nContent-Range: bytes 0-9/10", 0),
        ("206 Partial Content\r\nContent-Range: bytes 1-{last}/{size}", 1),
        ("206 Partial Content\r\nContent-Range: bytes {half}-{last}/*", SIZE / 2),
        ("206 Partial Content", SIZE / 2),
        ("206 Partial Content\r\nContent-Type: multipart/byteranges; boundary=x", SIZE / 2),
        ("416 Range Not Satisfiable\r\nContent-Range: bytes */{size}", usize::MAX),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("odd{nth}");
        let layer = Layer::large(&name, SIZE, Packing::Gzip);
        let blob = &layer.blob;
        let head = head.replace("{half}", &(SIZE / 2).to_string());
        let head =
            head.replace("{last}", &(blob.len() - 1).to_string()).replace("{size}", &blob.len().to_string());
        registry.publish(&name, &Image::of(std::slice::from_ref(&layer), "amd64"));
        let part = blob.get(skipped..).unwrap_or_default().to_vec();
        let replies = [Reply::Cut(blob.clone(), SIZE / 2), Reply::Parted(blob.clone(), head.clone(), part)];
        registry.answer_in_turn(&path(&name, &layer), replies);
        engine.pull(&registry.reference(&name)).unwrap_or_else(|failure| panic!("{head}: {failure:?}"));
        let stored = engine.store().join("blobs/sha256").join(Digest::of(blob).hex());
        assert_eq!(&fs::read(stored).expect("stored"), blob, "{head}");
    }
    assert_eq!(partials(&engine), 0);
}

#[test]
fn a_note_that_somebody_has_spoilt_keeps_no_blob_from_coming() {
    let (engine, registry) = (Engine::start(), ScriptedRegistry::start());
    let (layer, stream) = half(&engine, &registry, "a");
    drop(stream);
    engine.wait_until("the pull to end", || engine.jobs().iter().all(|job| job.ended != 0));
    let note = partial(&engine, &layer).with_extension("note");
    fs::write(note, r#"{"etag":"\"1\"\r\nHost: elsewhere","synced":18446744073709551615}"#).expect("written");
    registry.answer(&path("a", &layer), Reply::Ranged(layer.blob.clone()));
    let before = registry.sent();
    engine.pull(&registry.reference("a")).expect("pulled");
    let rest = layer.blob.len() as u64 - SIZE as u64 / 2;
    assert!(registry.sent() - before < rest + SMALL, "the bytes are as good as before");
}

#[test]
fn other_images_come_and_go_during_a_slow_layer() {
    let (engine, registry) = (Engine::start(), ScriptedRegistry::start());
    let (_, stream) = half(&engine, &registry, "slow");
    let other = Layer::of(&[("one", b"1")], Packing::Gzip);
    registry.publish("other", &Image::of(std::slice::from_ref(&other), "amd64"));
    let reference = registry.reference("other");
    engine.pull(&reference).expect("pulled meanwhile");
    engine.ask(Request::Tag { source: reference.clone(), target: "mine:1".to_owned() }).all();
    for name in [reference.as_str(), "mine:1"] {
        engine.ask(Request::Remove { name: name.to_owned(), force: false }).all();
    }
    assert!(engine.images().is_empty(), "{:?}", engine.images());
    assert!(!engine.layer_dir(&Digest::of(&other.tar)).exists());
    assert!(engine.jobs().iter().any(|job| job.ended == 0), "the first one still goes on");
    drop(stream);
}

#[test]
fn bytes_that_are_wrong_from_the_beginning_are_not_kept() {
    let (engine, registry) = (Engine::start(), ScriptedRegistry::start());
    let (layer, reference) = publish(&registry, "a", |blob| {
        let mut wrong = blob.to_vec();
        wrong[SIZE / 2] ^= 1;
        vec![Reply::Ranged(wrong)]
    });
    let failure = engine.pull(&reference).expect_err("wrong");
    assert!(failure.message.contains("has digest"), "{failure:?}");
    assert_eq!(
        registry.request_count(&path("a", &layer)),
        1,
        "nothing was kept before: it is not tried again"
    );
    engine.wait_for_no_temporaries();
    assert_eq!(partials(&engine), 0);
}

#[test]
fn partials_that_nobody_goes_on_with_are_collected() {
    let (engine, registry) = (Engine::configured("partial-days = 1"), ScriptedRegistry::start());
    let (layer, stream) = half(&engine, &registry, "a");
    drop(stream);
    engine.wait_until("the pull to end", || engine.jobs().iter().all(|job| job.ended != 0));
    let file = fs::File::options().write(true).open(partial(&engine, &layer)).expect("kept");
    file.set_modified(std::time::SystemTime::now() - Duration::from_secs(2 * 86_400)).expect("set");
    let engine = engine.killed_and_restarted();
    assert_eq!(partials(&engine), 0);
}

#[test]
fn a_trickle_is_a_stall_and_is_tried_again() {
    let engine = Engine::configured("stall-seconds = 1\nstall-bytes = 5000");
    let registry = ScriptedRegistry::start();
    let (_, reference) =
        publish(&registry, "a", |blob| vec![Reply::Slow(blob.to_vec(), 500), Reply::Ranged(blob.to_vec())]);
    let pulled = engine.pull(&reference).expect("pulled");
    assert!(pulled.notes.iter().any(|note| note.contains("stalled: ")), "{:?}", pulled.notes);
}

#[test]
fn a_pull_keeps_its_own_rate_and_the_engine_keeps_one_for_all() {
    let registry = ScriptedRegistry::start();
    let (_, reference) = publish(&registry, "a", |blob| vec![Reply::Ranged(blob.to_vec())]);
    let rate = SIZE as u64 / 2;
    for (engine, bytes_per_second) in
        [(Engine::start(), rate), (Engine::configured(&format!("limit-rate = {rate}")), 0)]
    {
        let began = Instant::now();
        let pull = Pull { reference: reference.clone(), bytes_per_second, ..Pull::default() };
        engine.ask(Request::Pull(pull)).watch().expect("pulled");
        // The bytes take two seconds, minus the first burst.
        assert!(began.elapsed() > Duration::from_millis(1500), "{:?}", began.elapsed());
    }
}

#[test]
fn a_later_pull_unpacks_stored_blobs_without_the_network() {
    let (engine, registry) = (Engine::start(), ScriptedRegistry::start());
    let (layer, reference) = publish(&registry, "a", |blob| vec![Reply::Ranged(blob.to_vec())]);
    let request = Pull { reference: reference.clone(), no_unpack: true, ..Pull::default() };
    engine.ask(Request::Pull(request)).watch().expect("pulled");
    assert!(engine.named().iter().all(|name| name.starts_with("blobs/")), "{:?}", engine.named());
    let pulled = engine.pull(&reference).expect("pulled");
    assert_eq!(registry.request_count(&path("a", &layer)), 1);
    assert_eq!(pulled.rows[0].phase, Phase::Complete);
    assert_eq!(
        fs::metadata(engine.layer_dir(&Digest::of(&layer.tar)).join("data")).expect("there").len(),
        SIZE as u64
    );
}

#[test]
fn a_zstd_window_over_the_limit_is_refused_with_the_limit() {
    let (engine, registry) = (Engine::configured("zstd-window-mib = 1"), ScriptedRegistry::start());
    let plain = Layer::large("data", 3 << 20, Packing::Plain);
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).expect("to memory");
    encoder.window_log(21).expect("allowed");
    std::io::Write::write_all(&mut encoder, &plain.tar).expect("to memory");
    let layer = Layer { blob: encoder.finish().expect("to memory"), packing: Packing::Zstd, ..plain };
    registry.publish("a", &Image::of(&[layer], "amd64"));
    let failure = engine.pull(&registry.reference("a")).expect_err("refused");
    assert!(failure.message.contains("larger than 1 MiB, the limit of this engine"), "{failure:?}");
}

#[test]
fn two_images_with_a_common_layer_download_it_once() {
    let (engine, registry) = (Engine::start(), ScriptedRegistry::start());
    let (layer, first) = half(&engine, &registry, "a");
    registry.publish("b", &Image::of(std::slice::from_ref(&layer), "amd64"));
    registry.answer(&path("b", &layer), Reply::Ranged(layer.blob.clone()));
    let mut second = engine.ask(pull(&registry.reference("b")));
    let told = loop {
        match second.next().expect("an answer") {
            Answer::Rows { rows, .. } if rows[0].current > 0 => break rows[0].clone(),
            Answer::Error(failure) => panic!("{failure:?}"),
            _ => {}
        }
    };
    assert_eq!((told.current, told.note.as_str()), (SIZE as u64 / 2, "another job fetches it"));
    assert_eq!(registry.request_count(&path("b", &layer)), 0);
    // The first client leaves; the second pull continues at the same byte.
    drop(first);
    let pulled = second.watch_from(told).expect("pulled");
    assert_eq!(pulled.rows[0].phase, Phase::Complete);
    assert!(registry.sent() < layer.blob.len() as u64 + 2 * SMALL, "{}", registry.sent());
}

#[test]
fn a_download_that_waits_for_a_retry_delays_no_other() {
    let (engine, registry) = (Engine::configured("max-downloads = 1"), ScriptedRegistry::start());
    // The wait holds all requests to its host, and no slot.
    let other = ScriptedRegistry::start();
    let slow = Layer::large("slow", SIZE, Packing::Gzip);
    let fast = Layer::large("fast", SIZE / 2, Packing::Gzip);
    registry.publish("slow", &Image::of(std::slice::from_ref(&slow), "amd64"));
    registry.answer(&path("slow", &slow), Reply::Later(503, "60".to_owned()));
    other.publish("fast", &Image::of(std::slice::from_ref(&fast), "amd64"));
    let mut waiting = engine.ask(pull(&registry.reference("slow")));
    loop {
        match waiting.next().expect("an answer") {
            Answer::Rows { rows, .. } if rows[0].note.starts_with("retrying in 60 s") => break,
            Answer::Error(failure) => panic!("{failure:?}"),
            _ => {}
        }
    }
    engine.pull(&other.reference("fast")).expect("pulled meanwhile");
    let job = engine.jobs().iter().find(|job| job.ended == 0).expect("the first one").id;
    engine.ask(Request::Cancel { job }).all();
    assert_eq!(waiting.watch().expect_err("cancelled").code, Code::Cancelled);
}

/// Path of the list of images that survive a power loss.
fn settled(engine: &Engine) -> PathBuf {
    engine.store().join("index.settled.json")
}

#[test]
fn an_image_that_was_not_durable_is_removed_after_power_loss() {
    let (engine, registry) = (Engine::start(), ScriptedRegistry::start());
    let (_, reference) = publish(&registry, "a", |blob| vec![Reply::Ranged(blob.to_vec())]);
    engine.pull(&reference).expect("pulled");
    engine.wait_until("the image to be on the disk", || !settled(&engine).exists());
    // As if power was lost before the image was durable: the list lacks the image, and the boot ID is another one.
    fs::write(settled(&engine), r#"{"schemaVersion":2,"manifests":[]}"#).expect("written");
    fs::write(engine.store().join("boot"), "another").expect("written");
    let engine = engine.killed_and_restarted();
    assert_eq!((engine.images().len(), engine.named().len()), (0, 0));
    assert!(engine.log().contains("power failed before all of it was on the disk"), "{}", engine.log());
    engine.pull(&reference).expect("pulled again");
    assert_eq!(engine.images().len(), 1);
}

#[test]
fn with_sync_before_nothing_is_left_to_sync() {
    let (engine, registry) = (Engine::configured("sync = \"before\""), ScriptedRegistry::start());
    let (_, reference) = publish(&registry, "a", |blob| vec![Reply::Ranged(blob.to_vec())]);
    engine.pull(&reference).expect("pulled");
    assert!(!settled(&engine).exists());
}
