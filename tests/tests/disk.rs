//! What the store takes on the disk, and who takes it away: real engine, real command line, real events.

use sampan_engine::digest::Digest;
use sampan_tests::host::{Host, PATIENCE, binary};
use sampan_tests::registry::{Image, Layer, LyingRegistry, Packing};
use serde_json::Value;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

/// An installation with monitord, engine and a registry.
struct Bed {
    engine: Option<Child>,
    host: Host,
    registry: LyingRegistry,
}

impl Bed {
    fn new() -> Self {
        Bed::with_config("")
    }

    /// With an `[engine]` table.
    fn with_config(table: &str) -> Self {
        Bed::on(Host::with_monitord(&[]), table)
    }

    fn on(host: Host, table: &str) -> Self {
        let mut bed = Bed { engine: None, host, registry: LyingRegistry::start() };
        bed.start_engine(table);
        bed
    }

    fn start_engine(&mut self, table: &str) {
        let config = self.host.path("sampan.toml");
        fs::write(&config, format!("[engine]\n{table}")).expect("written");
        let log = File::options().create(true).append(true).open(self.host.path("engine.log"));
        let mut command = self.host.command("sampan-engine");
        command.arg("--config").arg(config).stdout(Stdio::null()).stderr(log.expect("a log"));
        self.engine = Some(command.spawn().expect("sampan-engine starts"));
        let deadline = Instant::now() + PATIENCE;
        while !self.sampan(&["info"]).status.success() {
            assert!(Instant::now() < deadline, "the engine does not come up\n{}", self.log());
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.host.path("engine.log")).unwrap_or_default()
    }

    fn sampan(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("it runs")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.host.command_of(&binary("sampan"));
        command.args(args);
        command
    }

    /// Runs a command that must succeed; gives its standard output.
    fn ok(&self, args: &[&str]) -> String {
        let output = self.sampan(args);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{args:?}: {stderr}\n{}", self.log());
        String::from_utf8(output.stdout).expect("text")
    }

    /// Runs a command that must fail with this status; gives both of its outputs.
    fn fails(&self, args: &[&str], status: i32) -> String {
        let output = self.sampan(args);
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        assert_eq!(output.status.code(), Some(status), "{args:?}: {text}\n{}", self.log());
        text
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(args)).expect("JSON")
    }

    /// Publishes an image as `name:t` and pulls it; gives its reference.
    fn pull(&self, name: &str, layers: &[Layer]) -> String {
        let image = Image::of(layers, arch());
        self.registry.publish(name, &image);
        let reference = self.registry.reference(name);
        self.ok(&["pull", "--quiet", &reference]);
        reference
    }

    fn store(&self) -> PathBuf {
        self.host.path("data/store")
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.store().join("blobs/sha256").join(digest.hex())
    }

    fn layer(&self, chain_id: &Digest) -> PathBuf {
        self.store().join("layers").join(chain_id.hex())
    }

    /// Events so far that name `word` as their action, as JSON.
    fn events(&self, action: &str) -> Vec<Value> {
        let filter = format!("event={action}");
        let text = self.ok(&["events", "--no-follow", "--format", "json", "--filter", &filter]);
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// Waits until there are so many events of `action`.
    fn await_events(&self, action: &str, count: usize) -> Vec<Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let events = self.events(action);
            if events.len() >= count {
                return events;
            }
            assert!(Instant::now() < deadline, "{events:?} and no more of {action}\n{}", self.log());
        }
    }

    /// What `system df` says of `kind`.
    fn usage(&self, kind: &str) -> Usage {
        let kinds = self.json(&["system", "df", "--format", "json"]);
        let of = kinds.as_array().expect("an array").iter().find(|k| k["kind"] == kind).expect("it").clone();
        let number = |key: &str| of[key].as_u64().expect("a number");
        Usage {
            count: number("count"),
            active: number("active"),
            size: number("size"),
            reclaimable: number("reclaimable"),
        }
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if let Some(engine) = &mut self.engine {
            let _ = engine.kill();
            let _ = engine.wait();
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Usage {
    count: u64,
    active: u64,
    size: u64,
    reclaimable: u64,
}

fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// What du says: blocks, each file once.
fn du(path: &Path) -> u64 {
    let output = Command::new("du").args(["-s", "-B1"]).arg(path).output().expect("du of coreutils");
    let text = String::from_utf8(output.stdout).expect("text");
    text.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number")
}

fn du_of_children(dir: &Path) -> u64 {
    fs::read_dir(dir).expect("listed").map(|entry| du(&entry.expect("listed").path())).sum()
}

#[test]
fn df_says_what_du_says_and_what_a_prune_would_free() {
    let bed = Bed::new();
    let shared = Layer::large("shared", 300_000, Packing::Gzip);
    let one = bed.pull("one", &[shared.clone(), Layer::large("one", 100_000, Packing::Zstd)]);
    bed.pull("two", &[shared.clone(), Layer::large("two", 50_000, Packing::Plain)]);
    let images = bed.usage("images");
    let layers = bed.usage("layers");
    assert_eq!((images.count, images.active, images.reclaimable), (2, 2, 0));
    assert_eq!((layers.count, layers.active, layers.reclaimable), (3, 3, 0));
    assert_eq!(images.size, du_of_children(&bed.store().join("blobs/sha256")));
    assert_eq!(layers.size, du_of_children(&bed.store().join("layers")));
    assert_eq!(bed.usage("partials"), Usage { count: 0, active: 0, size: 0, reclaimable: 0 });

    // The name moves: what only the old image has could go, what it shares could not.
    bed.registry.publish("one", &Image::of(&[shared], arch()));
    bed.ok(&["pull", "--quiet", &one]);
    let (images, layers) = (bed.usage("images"), bed.usage("layers"));
    assert_eq!((images.count, images.active), (3, 2));
    assert_eq!((layers.count, layers.active), (3, 2));
    let verbose = bed.json(&["system", "df", "-v", "--format", "json"]);
    let listed = verbose["images"].as_array().expect("an array");
    let old = listed.iter().find(|image| image["references"] == Value::Array(Vec::new())).expect("nameless");
    assert!(old["sharedSize"].as_u64() > Some(600_000), "{verbose}");
    let unique = old["uniqueSize"].as_u64().expect("a number");
    assert_eq!(unique, images.reclaimable + layers.reclaimable);
    let table = bed.ok(&["system", "df", "-v"]);
    assert!(table.contains("Unpacked layers") && table.contains("UNIQUE SIZE") && table.contains("<none>"));

    let pruned = bed.ok(&["image", "prune", "--force"]);
    assert!(pruned.contains("Deleted: sha256:") && pruned.contains("Total reclaimed space: "), "{pruned}");
    let event = bed.await_events("prune", 1).remove(0);
    assert_eq!(event["attributes"]["reclaimed"], unique.to_string(), "{event}");
    assert_eq!((bed.usage("images").count, bed.usage("layers").count), (2, 2));
    assert_eq!((bed.usage("images").reclaimable, bed.usage("layers").reclaimable), (0, 0));
}

#[test]
fn prune_takes_what_its_filters_name_and_tells_of_each() {
    let bed = Bed::new();
    let reference = bed.pull("kept", &[Layer::large("kept", 10_000, Packing::Gzip)]);
    for (name, label) in [("one:1", "team=a"), ("two:2", "team=b")] {
        let tar = bed.host.path("layer.tar");
        fs::write(&tar, Layer::of(&[("file", name.as_bytes())], Packing::Plain).tar).expect("written");
        bed.ok(&["import", "--quiet", name, tar.to_str().expect("text"), "--label", label]);
    }
    // The registry's image says nothing of when it was made, so it was made before nothing.
    bed.ok(&["image", "prune", "--all", "--filter", "until=24h"]);
    assert_eq!(bed.usage("images").count, 3);
    bed.ok(&["image", "prune", "--filter", "until=now"]);
    assert_eq!(bed.usage("images").count, 3, "all have names");
    bed.ok(&["image", "prune", "--all", "--filter", "label=team=c", "--filter", "until=now"]);
    assert_eq!(bed.usage("images").count, 3);
    let out = bed.ok(&["image", "prune", "-a", "-f", "--filter", "label=team", "--filter", "label=team=b"]);
    assert!(out.starts_with("Untagged: docker.io/library/two:2\nDeleted: sha256:"), "{out}");
    let deleted = bed.await_events("delete", 1).remove(0);
    assert_eq!(deleted["labels"]["team"], "b", "{deleted}");
    assert_eq!(bed.await_events("untag", 1)[0]["attributes"]["by"], "prune");
    bed.ok(&["image", "prune", "--all", "--filter", "until=now"]);
    let left = bed.json(&["image", "ls", "--format", "json"]);
    assert_eq!(left.as_array().map(Vec::len), Some(1));
    assert_eq!(left[0]["references"][0], reference);
    assert!(bed.fails(&["image", "prune", "--filter", "color=red"], 125).contains("until=TIME and label="));
    bed.ok(&["image", "prune", "--all"]);
    assert_eq!((bed.usage("images").size, bed.usage("layers").size), (0, 0));
}

#[test]
fn the_image_group_does_what_the_short_commands_do() {
    let bed = Bed::new();
    let image = Image::of(&[Layer::large("x", 1000, Packing::Gzip)], arch());
    bed.registry.publish("team/app", &image);
    let reference = bed.registry.reference("team/app");
    assert!(bed.ok(&["image", "pull", &reference]).contains(&image.digest().to_string()));
    bed.ok(&["image", "tag", &reference, "other:1"]);
    assert_eq!(bed.json(&["image", "inspect", "other:1"])[0]["digest"], image.digest().to_string());
    assert_eq!(bed.ok(&["image", "ls"]), bed.ok(&["images"]));
    assert_eq!(bed.ok(&["image", "list", "-q"]), bed.ok(&["images", "-q"]));
    assert_eq!(bed.ok(&["image", "rm", "other:1"]), "Untagged: docker.io/library/other:1\n");
}

#[test]
fn rmi_frees_just_what_nothing_else_uses() {
    let bed = Bed::new();
    let shared = Layer::large("shared", 400_000, Packing::Gzip);
    let own = Layer::large("own", 80_000, Packing::Gzip);
    let one = bed.pull("one", &[shared.clone(), own.clone()]);
    let two = bed.pull("two", std::slice::from_ref(&shared));
    let size = || bed.usage("images").size + bed.usage("layers").size;
    let before = size();
    bed.ok(&["rmi", &one]);
    let freed = before - size();
    assert_eq!(bed.await_events("delete", 1)[0]["attributes"]["reclaimed"], freed.to_string());
    assert!(!bed.blob(&Digest::of(&own.blob)).exists());
    assert!(bed.blob(&Digest::of(&shared.blob)).exists() && bed.layer(&Digest::of(&shared.tar)).exists());
    // Once more under another name: it takes nothing more, and frees nothing.
    bed.ok(&["tag", &two, "again:1"]);
    bed.ok(&["rmi", "again:1"]);
    assert!(bed.blob(&Digest::of(&shared.blob)).exists());
    bed.ok(&["rmi", &two]);
    assert_eq!(size(), 0);
}
