//! Pulls in which layers arrive before the image's config.

use sampan_ipc::engine::{Answer, Code, Phase, Pull, Request};
use sampan_oci::digest::{Algorithm, Digest, Hasher};
use sampan_tests::engine::{Engine, Stream};
use sampan_tests::registry::{Image, Layer, Packing, Reply, ScriptedRegistry};
use std::fs;

/// Bytes of a layer.
const SIZE: usize = 1 << 20;

struct Published {
    /// The lowest layer, the digests of the others, and the lowest layer's path in the registry.
    layer: Layer,
    upper: Vec<Layer>,
    layer_path: String,
    config_path: String,
    config: Vec<u8>,
}

/// Publishes an image of two layers as `name:t`.
fn publish(registry: &ScriptedRegistry, name: &str, diff_id: impl Fn(&[u8]) -> Digest) -> Published {
    publish_with(registry, name, vec![Layer::large("upper", 1000, Packing::Gzip)], diff_id)
}

/// Publishes an image of the lowest layer and these others.
fn publish_with(
    registry: &ScriptedRegistry,
    name: &str,
    upper: Vec<Layer>,
    diff_id: impl Fn(&[u8]) -> Digest,
) -> Published {
    let layer = Layer::large(name, SIZE, Packing::Gzip);
    let layers: Vec<Layer> = [layer.clone()].into_iter().chain(upper.iter().cloned()).collect();
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| diff_id(&layer.tar)).collect();
    let image = Image::with_diff_ids(&layers, "amd64", &diff_ids);
    registry.publish(name, &image);
    let blobs: Vec<Digest> = layers.iter().map(|layer| Digest::of(&layer.blob)).collect();
    let (digest, config) =
        image.blobs.iter().find(|(digest, _)| !blobs.contains(digest)).expect("there").clone();
    let layer_path = format!("{name}/blobs/{}", blobs[0]);
    Published { layer, upper, layer_path, config_path: format!("{name}/blobs/{digest}"), config }
}

fn ask(engine: &Engine, registry: &ScriptedRegistry, name: &str) -> Stream {
    engine.ask(Request::Pull(Pull { reference: registry.reference(name), ..Pull::default() }))
}

fn reply(bytes: &[u8]) -> Reply {
    Reply::Ok("application/octet-stream".to_owned(), bytes.to_vec())
}

#[test]
fn a_layer_arrives_and_is_reported_before_its_config() {
    let (engine, registry) = (Engine::start(), ScriptedRegistry::start());
    comes_before_its_config(&engine, &registry, "a", publish(&registry, "a", Digest::of));
    comes_before_its_config(&engine, &registry, "b", publish_with(&registry, "b", Vec::new(), Digest::of));
}

fn comes_before_its_config(engine: &Engine, registry: &ScriptedRegistry, name: &str, made: Published) {
    let layers = || engine.named().iter().filter(|name| name.starts_with("layers/")).count();
    let before = layers();
    registry.answer(&made.config_path, Reply::Hang(made.config.clone(), 10));
    let mut stream = ask(engine, registry, name);
    loop {
        match stream.next().expect("an answer") {
            Answer::Rows { rows, .. } if rows[0].current == rows[0].total => {
                assert_ne!(rows[0].phase, Phase::Complete, "nobody knows yet whether it is right");
                break;
            }
            Answer::Error(failure) => panic!("{failure:?}"),
            _ => {}
        }
    }
    assert_eq!(layers(), before);
    drop(stream);
    engine.wait_until("the pull to end", || engine.jobs().iter().all(|job| job.ended != 0));
    engine.wait_for_no_temporaries();
    registry.answer(&made.config_path, reply(&made.config));
    engine.pull(&registry.reference(name)).expect("pulled");
    assert_eq!(registry.request_count(&made.layer_path), 1);
}

#[test]
fn a_config_that_cannot_be_fetched_ends_the_pull() {
    let (engine, registry) = (Engine::start(), ScriptedRegistry::start());
    for (nth, bad) in
        [Reply::Status(404), reply(b"{}"), Reply::Ok(String::new(), vec![b' '; 300])].into_iter().enumerate()
    {
        let name = format!("bad{nth}");
        let made = publish(&registry, &name, Digest::of);
        // The download of the layer would never end.
        registry.answer(&made.layer_path, Reply::Hang(made.layer.blob.clone(), SIZE / 4));
        registry.answer(&made.config_path, bad);
        let failure = engine.pull(&registry.reference(&name)).expect_err("refused");
        let digest = made.config_path.rsplit('/').next().expect("a digest");
        assert!(failure.message.contains(digest), "{failure:?}");
        assert_ne!(failure.code, Code::Cancelled);
    }
    engine.wait_for_no_temporaries();
    assert!(engine.images().is_empty());
}

#[test]
fn a_late_diff_id_other_than_sha_256_is_compared() {
    let (engine, registry) = (Engine::start(), ScriptedRegistry::start());
    let long = |bytes: &[u8]| {
        let mut hasher = Hasher::new(Algorithm::Sha512);
        hasher.update(bytes);
        hasher.finish()
    };
    let made = publish(&registry, "long", long);
    let (half, all) = (made.config.len() / 2, made.config.clone());
    registry.answer(&made.config_path, Reply::Slow(all, half));
    engine.pull(&registry.reference("long")).expect("pulled");
    assert!(engine.layer_dir(&long(&made.layer.tar)).join("long").exists());
    assert_eq!(registry.request_count(&made.layer_path), 1);
    let wrong = publish(&registry, "wrong", |_| long(b"other bytes"));
    registry.answer(&wrong.config_path, Reply::Slow(wrong.config.clone(), half));
    let failure = engine.pull(&registry.reference("wrong")).expect_err("refused");
    assert!(failure.message.contains("unpacks to diff id sha512:"), "{failure:?}");
    assert_eq!(fs::read_dir(engine.store().join("partial")).expect("listed").count(), 0);
}

#[test]
fn a_config_needs_no_slot_that_layers_hold() {
    let (engine, registry) = (Engine::configured("max-downloads = 1"), ScriptedRegistry::start());
    let (holds, waits) = (publish(&registry, "holds", Digest::of), publish(&registry, "waits", Digest::of));
    registry.answer(&holds.layer_path, Reply::Hang(holds.layer.blob.clone(), SIZE / 4));
    let first = ask(&engine, &registry, "holds");
    engine.wait_until("the first to hold the slot", || registry.request_count(&holds.layer_path) == 1);
    let second = ask(&engine, &registry, "waits");
    engine.wait_until("the second's config to come", || registry.request_count(&waits.config_path) == 1);
    assert_eq!(registry.request_count(&waits.layer_path), 0);
    drop(first);
    second.watch().expect("pulled");
}

#[test]
fn a_pull_that_waits_for_its_config_shares_its_layers() {
    let (engine, registry) = (Engine::start(), ScriptedRegistry::start());
    let made = publish(&registry, "waits", Digest::of);
    registry.answer(&made.config_path, Reply::Hang(made.config.clone(), 10));
    let layers = [made.layer.clone(), made.upper[0].clone()];
    registry.publish("goes", &Image::of(&layers, "arm64"));
    let stream = ask(&engine, &registry, "waits");
    let blobs = layers.map(|layer| engine.store().join("blobs/sha256").join(Digest::of(&layer.blob).hex()));
    engine.wait_until("the layers to come", || blobs.iter().all(|blob| blob.exists()));
    engine.pull(&registry.reference("goes")).expect("pulled meanwhile");
    assert_eq!(
        registry.request_count(&made.layer_path.replace("waits", "goes")),
        0,
        "nothing is fetched twice"
    );
    // A pull that has one of these layers, lacks others, and waits for its config delays no other pull either.
    let [third, fourth] = ["third", "fourth"].map(|name| Layer::large(name, 1000, Packing::Gzip));
    let more = Image::of(&[made.layer.clone(), third, fourth], "amd64");
    registry.publish("more", &more);
    let config = more.blobs.iter().find(|(_, bytes)| bytes.starts_with(b"{")).expect("a config").clone();
    registry.answer(&format!("more/blobs/{}", config.0), Reply::Hang(config.1, 10));
    let waits = ask(&engine, &registry, "more");
    engine.wait_until("it to be asked for", || {
        registry.request_count(&format!("more/blobs/{}", config.0)) == 1
    });
    assert!(engine.pull(&registry.reference("goes")).expect("pulled meanwhile").done.unchanged);
    drop((stream, waits));
}
