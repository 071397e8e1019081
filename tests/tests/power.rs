//! Power loss during and shortly after pulls: a real file system that is shut down under a real engine.
//!
//! The file system's own ioctl (`xfs_io -x -c shutdown`) drops what is only in memory; mounting the device again shows
//! what a host would find. If the file system writes its log first, names may be on the device although contents are
//! not. Needs root, for mount(2).

use sampan_ipc::engine::{Answer, Request, Verify};
use sampan_tests::disk::Disk;
use sampan_tests::engine::Engine;
use sampan_tests::host::need_root;
use sampan_tests::random::Random;
use sampan_tests::registry::{Image, Layer, Packing, ScriptedRegistry};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// Number of power failures on each file system.
const ROUNDS: usize = 80;
/// Most images that are pulled before a failure.
const IMAGES_MAX: usize = 4;

fn await_settled(engine: &Engine, store: &Path) {
    engine.wait_until("all to be on the disk", || !store.join("index.settled.json").exists());
}

/// Sleeps for `time`: a power failure waits for no condition.
fn live_on(time: Duration) {
    let until = Instant::now() + time;
    while Instant::now() < until {
        std::thread::yield_now();
    }
}

fn survive(mkfs: &str, options: &'static str) {
    need_root();
    let (mut disk, registry, mut random) =
        (Disk::new(mkfs, options), ScriptedRegistry::start(), Random::new(7));
    let store = disk.target.join("store");
    let mut engine = Engine::configured(&format!("store = '{}'", store.display()));
    let layer = |name: &str| Layer::large(name, 200_000, Packing::Gzip);
    registry.publish("safe", &Image::of(&[layer("safe")], "amd64"));
    let safe = registry.reference("safe");
    engine.pull(&safe).expect("pulled");
    await_settled(&engine, &store);
    for round in 0..sampan_tests::rounds(ROUNDS) {
        let names: Vec<String> =
            (0..=random.below(IMAGES_MAX)).map(|nth| format!("r{round}i{nth}")).collect();
        for name in &names {
            registry.publish(name, &Image::of(&[layer(name), layer("shared")], "amd64"));
            engine.pull(&registry.reference(name)).expect("pulled");
        }
        // Usually before the engine syncs, sometimes during or after that.
        live_on(Duration::from_millis(random.below(160) as u64));
        disk.lose_power(random.one_in(2));
        engine = engine.killed_and_restarted_after(|| {
            disk.come_back();
            fs::write(store.join("boot"), "another").expect("written");
        });
        let images = engine.images();
        let has = |name: &String| images.iter().any(|image| image.references.contains(name));
        assert!(has(&safe), "round {round}: {images:?}\n{}", engine.log());
        let verified = engine.ask(Request::Verify(Verify { deep: true })).all();
        assert!(
            matches!(verified.last(), Some(Answer::Done(_))),
            "round {round}: {verified:?}\n{}",
            engine.log()
        );
        for name in &names {
            engine.pull(&registry.reference(name)).expect("pulled again");
        }
        await_settled(&engine, &store);
    }
}

#[test]
fn power_loss_leaves_a_store_that_is_whole_on_ext4() {
    survive("mkfs.ext4", "defaults");
}

#[test]
fn power_loss_leaves_a_store_that_is_whole_on_xfs() {
    survive("mkfs.xfs", "nouuid");
}
