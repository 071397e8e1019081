//! Pulls from a real registry over a network with faults, and by an engine that is killed repeatedly.

use sampan_ipc::engine::{Pull, Request, Verify};
use sampan_oci::digest::Digest;
use sampan_tests::engine::{Engine, Pulled};
use sampan_tests::faults::{Fault, Proxy};
use sampan_tests::random::Random;
use sampan_tests::registry::{DockerRegistry, Image, Layer, Packing};
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

/// Bytes of manifest, config and headers that arrive in one try.
const SMALL: u64 = 8192;
/// Number of kills of the engine.
const KILLS: usize = 300;
/// Bytes per second of each connection, during the kills.
const RATE: u64 = 8_000_000;
/// Bytes of one connection that may be lost when an engine is killed: bytes that it has not read from its socket
/// (tcp(7), default of tcp_rmem), or has read and not written.
const ON_THE_WAY: u64 = 128 << 10;
/// Most simultaneous connections.
const CONNECTIONS: u64 = 4;

/// A registry, and the proxy that all pulls use.
struct Network {
    _dir: tempfile::TempDir,
    registry: DockerRegistry,
    proxy: Proxy,
}

impl Network {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let registry = DockerRegistry::start(dir.path());
        let proxy = Proxy::before(&registry.address);
        Network { _dir: dir, registry, proxy }
    }

    /// Pushes an image with `layers` layers of about `bytes` bytes; returns its reference by the proxy, and its size.
    fn publish(&self, name: &str, layers: usize, bytes: usize) -> (String, u64) {
        let layers: Vec<Layer> =
            (0..layers).map(|nth| Layer::large("data", bytes + nth, Packing::Gzip)).collect();
        self.registry.push(name, &[Image::of(&layers, "amd64")]);
        let size = layers.iter().map(|layer| layer.blob.len() as u64).sum();
        (format!("{}/{name}", self.proxy.address), size)
    }
}

fn pull(reference: &str) -> Request {
    Request::Pull(Pull { reference: reference.to_owned(), ..Pull::default() })
}

/// Pulls an image of three layers of 700 kB. `faults` apply to the first connections; a single fault applies to all.
/// Returns the result, the image's size, the bytes that were sent, and the number of broken connections.
fn pull_with(faults: &[Fault]) -> (Pulled, u64, u64, usize) {
    let network = Network::new();
    let (reference, size) = network.publish("a:1", 3, 700_000);
    let engine = Engine::configured("stall-seconds = 1\nstall-bytes = 1000");
    match faults {
        [fault] => network.proxy.set(*fault),
        several => network.proxy.next(several.iter().copied()),
    }
    let pulled = engine.pull(&reference).unwrap_or_else(|failure| panic!("{faults:?}: {failure:?}"));
    assert_blobs_are_right(&engine);
    (pulled, size, network.proxy.passed(), network.proxy.faults())
}

/// Asserts that the name of every blob is its digest.
fn assert_blobs_are_right(engine: &Engine) {
    for entry in fs::read_dir(engine.store().join("blobs/sha256")).expect("listed") {
        let path = entry.expect("listed").path();
        let bytes = fs::read(&path).expect("read");
        assert_eq!(Some(Digest::of(&bytes).hex()), path.file_name().and_then(|name| name.to_str()));
    }
}

#[test]
fn a_pull_whose_every_connection_is_cut_goes_on_where_it_stood() {
    let (pulled, size, passed, cuts) = pull_with(&[Fault::Cut(300_000)]);
    assert!(cuts >= 6, "{cuts}: three connections a layer");
    // Bytes before a FIN are read, so none is fetched twice.
    let most = size + (cuts as u64 + CONNECTIONS) * SMALL;
    assert!((size..most).contains(&passed), "{passed} bytes for {size}, {cuts} cuts");
    assert!(pulled.notes.iter().any(|note| note.contains("retrying in")), "{:?}", pulled.notes);
}

#[test]
fn a_pull_whose_connections_are_reset_goes_on_where_it_stood() {
    let (pulled, size, passed, resets) = pull_with(&[Fault::Reset(300_000); 8]);
    assert!(resets >= 4, "{resets}");
    // A reset discards bytes that the engine has not read.
    let most = size + resets as u64 * 300_000;
    assert!((size..most).contains(&passed), "{passed} bytes for {size}, {resets} resets");
    assert!(pulled.notes.iter().any(|note| note.contains("retrying in")), "{:?}", pulled.notes);
}

#[test]
fn a_pull_whose_connections_stall_goes_on_where_it_stood() {
    let (pulled, size, passed, stalls) = pull_with(&[Fault::Stall(300_000); 8]);
    assert!(stalls >= 4, "{stalls}");
    let most = size + (stalls as u64 + CONNECTIONS) * SMALL;
    assert!((size..most).contains(&passed), "{passed} bytes for {size}, {stalls} stalls");
    assert!(pulled.notes.iter().any(|note| note.contains("stalled: no byte in 1 s")), "{:?}", pulled.notes);
}

#[test]
fn slowness_and_latency_are_no_failures() {
    for fault in [Fault::Slow(1_500_000), Fault::Latency(Duration::from_millis(10))] {
        let (pulled, size, passed, _) = pull_with(&[fault]);
        assert!((size..size + CONNECTIONS * SMALL).contains(&passed), "{passed} bytes for {size}: {fault:?}");
        assert!(pulled.rows.iter().all(|row| row.attempt <= 1), "{fault:?}: {:?}", pulled.rows);
    }
}

#[test]
fn connections_that_are_refused_for_a_while_are_tried_again() {
    let network = Network::new();
    let (reference, size) = network.publish("a:1", 2, 300_000);
    let engine = Engine::start();
    network.proxy.next([Fault::Refuse, Fault::Refuse, Fault::None, Fault::Refuse]);
    engine.pull(&reference).expect("pulled");
    assert!(network.proxy.passed() >= size);
    assert!(network.proxy.faults() >= 2);
}

/// The image that is pulled while the engine is killed.
struct Target {
    reference: String,
    size: u64,
    /// Bytes that the proxy had forwarded before the first request for the image.
    before: u64,
    kills: u64,
}

impl Target {
    fn publish(network: &Network, nth: usize) -> Self {
        // The length determines the content, so the layers of each image differ.
        let (reference, size) = network.publish(&format!("image{nth}:1"), 4, 1_000_000 + nth * 16);
        Target { reference, size, before: network.proxy.passed(), kills: 0 }
    }

    /// Asserts that the proxy forwarded at most the image, and for each kill the bytes in flight.
    fn assert_little_came_twice(&self, passed: u64) {
        let each = CONNECTIONS * (ON_THE_WAY + SMALL);
        let (came, most) = (passed - self.before, self.size + each * (self.kills + 1));
        assert!(came <= most, "{came} bytes for {} and {} kills, expected {most}", self.size, self.kills);
    }
}

/// At any moment, skopeo finds the image in the store, and `copy` can read all of it.
fn skopeo(engine: &Engine, command: &str, reference: &str) {
    let mut skopeo = Command::new("skopeo");
    skopeo.args([command, &format!("oci:{}:{reference}", engine.store().display())]);
    let to = tempfile::tempdir().expect("a directory");
    if command == "copy" {
        skopeo.arg(format!("oci:{}:t", to.path().display()));
    }
    let out = skopeo.stdin(Stdio::null()).output().expect("skopeo of Debian's package skopeo");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

fn has(engine: &Engine, reference: &str) -> bool {
    engine.images().iter().any(|image| image.references.iter().any(|name| name == reference))
}

/// A random seed; it is printed, so that a failure can be repeated.
fn fresh_seed() -> u64 {
    let given = std::env::var("SAMPAN_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let now =
        || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_nanos() as u64;
    let seed = given.unwrap_or_else(now);
    println!("SAMPAN_TEST_SEED={seed}");
    seed
}

#[test]
fn a_killed_engine_keeps_its_store_valid_and_refetches_little() {
    let mut random = Random::new(fresh_seed());
    let network = Network::new();
    network.proxy.set(Fault::Slow(RATE));
    let mut engine = Engine::start();
    let (mut whole, mut made, mut in_pull) = (Vec::new(), 0, 0);
    let mut target = Target::publish(&network, 0);
    let kills = u32::try_from(sampan_tests::rounds(KILLS)).expect("few");
    for kill in 0..kills {
        let stream = engine.ask(pull(&target.reference));
        // The time of the kill is random; this waits for no condition.
        std::thread::sleep(Duration::from_micros(random.below(120_000) as u64));
        engine = engine.killed_and_restarted();
        drop(stream);
        target.kills += 1;
        assert_blobs_are_right(&engine);
        if has(&engine, &target.reference) {
            target.assert_little_came_twice(network.proxy.passed());
            skopeo(&engine, "copy", &target.reference);
            made += 1;
            whole.push(std::mem::replace(&mut target, Target::publish(&network, made)).reference);
        } else {
            in_pull += 1;
            if let Some(reference) = whole.last().filter(|_| kill % 10 == 0) {
                skopeo(&engine, "inspect", reference);
            }
        }
        if let [old, .., _] = whole.as_slice() {
            let remove = Request::Remove { name: old.clone(), force: false };
            engine.ask(remove).all();
            assert!(!has(&engine, old));
            whole.remove(0);
        }
    }
    println!("{in_pull} kills before the end of a pull");
    assert!(in_pull >= kills / 2, "{in_pull} of {kills} kills came before the end of a pull");
    engine.pull(&target.reference).expect("pulled");
    target.assert_little_came_twice(network.proxy.passed());
    skopeo(&engine, "copy", &target.reference);
    engine.ask(Request::Verify(Verify { deep: true })).watch().expect("the store is clean");
    engine.wait_for_no_temporaries();
}
