//! `bench replicate`: the cost of copying images from one docker-registry to another, by `sampan replicate` and by
//! skopeo.
//!
//! Both registries are on loopback and speak plain HTTP; their CPU time is not counted, but the copiers' waiting time
//! for them is. Copiers alternate, and each round begins with the other one. A cold copy has an empty destination, and
//! neither copier remembers anything: skopeo has an empty cache of blob locations, and Sampan a new engine with empty
//! directories. In the other tables both remember what they have copied. Each run has a new engine, so that its peak of
//! memory is that run's. Requests are counted in the registries' access logs.

use crate::cost::{self, Cost};
use crate::options::Options;
use crate::puller;
use crate::table;
use flate2::{Compression, write::GzEncoder};
use sampan_oci as oci;
use sampan_oci::digest::Digest;
use sampan_tests::random::Random;
use sampan_tests::replication::client::Client;
use sampan_tests::replication::registry::{Registry, Settings};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Highest accepted CPU time of a cold copy, as a multiple of skopeo's.
const CPU_BAR: f64 = 0.5;
/// Highest accepted time of a cold copy, as a multiple of skopeo's.
const WALL_BAR: f64 = 1.0;
/// Highest accepted peak of memory, engine and command together, in MB.
const RSS_BAR: f64 = 24.0;
/// Most requests, besides PATCHes, of a cold copy of six layers.
const COLD_BAR: usize = 34;
/// Most requests for an unchanged image.
const UNCHANGED_BAR: usize = 3;
/// Most requests for ten unchanged tags.
const TAGS_BAR: usize = 22;

/// Number of tags in the table of unchanged tags.
const TAGS: u64 = 10;
/// Bytes in a MiB, as a number of MB.
const MB_PER_MIB: f64 = 1.048576;
/// Time between two looks at an access log.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A program that copies images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Copier {
    Skopeo,
    Sampan,
}

const COPIERS: [Copier; 2] = [Copier::Skopeo, Copier::Sampan];

/// What is copied.
#[derive(Clone, Copy, Debug)]
enum Work<'a> {
    /// One tag, `NAME:TAG` at the source and at the destination.
    Image(&'a str, &'a str),
    /// All tags of the repository NAME.
    Tags(&'a str),
}

/// Requests by method.
type Requests = BTreeMap<String, usize>;

/// One measured copy.
struct Run {
    cost: Cost,
    source: Requests,
    destination: Requests,
}

/// Both registries, and what the copiers remember.
struct Rig {
    source: Registry,
    destination: Registry,
    dir: PathBuf,
}

/// Prints a table for each kind of copy.
///
/// # Errors A copy fails, or a program is missing.
pub fn run(options: &Options) -> io::Result<()> {
    let bench = std::env::current_exe()?;
    let target = bench.parent().and_then(Path::parent);
    let dir = target.ok_or_else(|| io::Error::other("the bench is not in target/PROFILE"))?;
    let dir = tempfile::Builder::new().prefix("bench-replicate.").tempdir_in(dir)?;
    let start = |name: &str| Registry::start(&dir.path().join(name), Settings::default());
    let mut rig =
        Rig { source: start("source"), destination: start("destination"), dir: dir.path().to_owned() };
    let client = rig.source.client();
    let bytes = push_image(&client, "image", "t", options.layers, options.layer_bytes, 0)?;
    for tag in 0..TAGS {
        // Two layers that all tags share, and a small one.
        let layers = [layer(12_000_000, 1001), layer(12_000_000, 1002), layer(500_000, 2000 + tag)];
        push_layers(&client, "tags", &format!("v{tag}"), layers.into_iter())?;
    }
    let cold = measure(&mut rig, options.runs, true, |_| Work::Image("image:t", "image:t"))?;
    let title = |what: &str| format!("{what}; median of {}, in [ ] the least and the most", options.runs);
    let megabytes = bytes as f64 / 1e6;
    print(&title(&format!("Cold copy of {} layers, {megabytes:.0} MB", options.layers)), &cold);
    bars(&cold, options.layers);

    // From here on, the destination has what both copiers have copied, and they remember it.
    rig.forget()?;
    rig.destination.wipe();
    for copier in COPIERS {
        rig.copy(copier, Work::Image("image:t", &format!("image-{copier:?}:t").to_lowercase()))?;
        rig.copy(copier, Work::Tags("tags"))?;
    }
    let own = |copier: Copier| match copier {
        Copier::Skopeo => Work::Image("image:t", "image-skopeo:t"),
        Copier::Sampan => Work::Image("image:t", "image-sampan:t"),
    };
    let unchanged = measure(&mut rig, options.runs, false, own)?;
    print(&title("Unchanged image"), &unchanged);
    bar("requests", total(&unchanged, Copier::Sampan), UNCHANGED_BAR);

    let tags = measure(&mut rig, options.runs, false, |_| Work::Tags("tags"))?;
    print(&title(&format!("{TAGS} unchanged tags (skopeo sync)")), &tags);
    bar("requests", total(&tags, Copier::Sampan), TAGS_BAR);

    let mut mounts: [Vec<Run>; 2] = Default::default();
    for nth in 0..options.runs {
        for copier in COPIERS {
            let name = format!("second-{copier:?}-{nth}:t").to_lowercase();
            mounts[copier as usize].push(rig.copy(copier, Work::Image("image:t", &name))?);
        }
    }
    print(&title("Second repository of the destination"), &mounts);
    let posts = mounts[Copier::Sampan as usize][0].destination.get("POST").copied().unwrap_or(0);
    let sent = ["PATCH", "PUT"]
        .map(|method| mounts[Copier::Sampan as usize][0].destination.get(method).copied().unwrap_or(0));
    println!("Sampan: {posts} mounts, {} requests with bytes of blobs", sent[0] + sent[1].saturating_sub(1));
    Ok(())
}

/// Measures both copiers alternately; with `is_cold`, each copy begins with nothing.
fn measure<'a>(
    rig: &mut Rig,
    runs: u64,
    is_cold: bool,
    work: impl Fn(Copier) -> Work<'a>,
) -> io::Result<[Vec<Run>; 2]> {
    let mut all: [Vec<Run>; 2] = Default::default();
    for round in 0..runs {
        let mut order = COPIERS;
        if round % 2 == 1 {
            order.reverse();
        }
        for copier in order {
            if is_cold {
                rig.forget()?;
                rig.destination.wipe();
            }
            all[copier as usize].push(rig.copy(copier, work(copier))?);
        }
    }
    Ok(all)
}

impl Rig {
    /// Removes all that the copiers remember.
    fn forget(&self) -> io::Result<()> {
        for copier in COPIERS {
            match fs::remove_dir_all(self.home(copier)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => fs::create_dir_all(self.home(copier))?,
            }
        }
        Ok(())
    }

    fn home(&self, copier: Copier) -> PathBuf {
        self.dir.join(format!("{copier:?}").to_lowercase())
    }

    /// Copies once.
    fn copy(&self, copier: Copier, work: Work<'_>) -> io::Result<Run> {
        let home = self.home(copier);
        // Writes back what the copy before has left in the page cache, so that it does not count for this one.
        nix::unistd::sync();
        let before = [&self.source, &self.destination].map(Registry::request_count);
        let (from, to) = (&self.source.address, &self.destination.address);
        let cost = match copier {
            Copier::Skopeo => {
                let mut command = Command::new("skopeo");
                command.arg("--insecure-policy").env("HOME", &home).env("XDG_DATA_HOME", &home);
                match work {
                    Work::Image(source, target) => command
                        .args(["copy", "--quiet", "--src-tls-verify=false", "--dest-tls-verify=false"])
                        .args([format!("docker://{from}/{source}"), format!("docker://{to}/{target}")]),
                    Work::Tags(name) => command
                        .args(["sync", "--src", "docker", "--dest", "docker"])
                        .args(["--src-tls-verify=false", "--dest-tls-verify=false"])
                        .args([format!("{from}/{name}"), format!("{to}/synced")]),
                };
                cost::of(&command)?
            }
            Copier::Sampan => {
                let engine = puller::engine(&home)?;
                let mut command = puller::client(&home)?;
                command.args(["replicate", "--quiet"]);
                match work {
                    Work::Image(source, target) => {
                        command.args([format!("docker://{from}/{source}"), format!("docker://{to}/{target}")])
                    }
                    Work::Tags(name) => command.arg("--all-tags").args([
                        format!("docker://{from}/{name}"),
                        format!("docker://{to}/replicated/{name}"),
                    ]),
                };
                engine.cost_with(&command)?
            }
        };
        let [source, destination] = [(&self.source, before[0]), (&self.destination, before[1])]
            .map(|(side, before)| requests(side, before));
        Ok(Run { cost, source, destination })
    }
}

/// Counts the requests after the first `before` ones.
fn requests(registry: &Registry, before: usize) -> Requests {
    let mut count = registry.request_count();
    loop {
        // docker-registry writes a line of its access log after the answer, and does not say that the last line is
        // written. So take the count once it no longer changes.
        std::thread::sleep(LOOK_AGAIN);
        let now = registry.request_count();
        if now == count {
            break;
        }
        count = now;
    }
    let mut requests = Requests::new();
    for (method, ..) in registry.requests_since(before) {
        *requests.entry(method).or_default() += 1;
    }
    requests
}

/// A layer of bytes that do not compress, as a gzip stream: skopeo compresses a layer that is not compressed,
/// which would be more work.
fn layer(bytes: u64, seed: u64) -> io::Result<Vec<u8>> {
    let mut random = Random::new(seed);
    let mut layer = GzEncoder::new(Vec::new(), Compression::none());
    for _ in 0..bytes / 8 {
        layer.write_all(&random.number().to_le_bytes())?;
    }
    layer.finish()
}

/// Pushes an image of `layers` layers; its size in bytes.
fn push_image(client: &Client, name: &str, tag: &str, layers: u64, bytes: u64, seed: u64) -> io::Result<u64> {
    push_layers(client, name, tag, (0..layers).map(|nth| layer(bytes, seed + nth)))
}

/// Pushes an image; only one of its layers is in memory at a time.
fn push_layers(
    client: &Client,
    name: &str,
    tag: &str,
    layers: impl Iterator<Item = io::Result<Vec<u8>>>,
) -> io::Result<u64> {
    let stored = |answer: sampan_tests::replication::client::Answer| match answer.status() {
        201 => Ok(()),
        _ => Err(io::Error::other(format!("cannot push {name}:{tag}: {answer:?}"))),
    };
    let (mut descriptors, mut total) = (Vec::new(), 0);
    for bytes in layers {
        let bytes = bytes?;
        let digest = Digest::of(&bytes);
        stored(client.push_blob(name, &digest.to_string(), &bytes))?;
        total += bytes.len() as u64;
        descriptors
            .push(serde_json::json!({"mediaType": oci::LAYER[1], "digest": digest, "size": bytes.len()}));
    }
    let config = serde_json::json!({"architecture": "amd64", "os": "linux", "author": tag}).to_string();
    let digest = Digest::of(config.as_bytes());
    stored(client.push_blob(name, &digest.to_string(), config.as_bytes()))?;
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": oci::MANIFEST, "layers": descriptors,
        "config": {"mediaType": oci::CONFIG, "digest": digest, "size": config.len()},
    });
    stored(client.push_manifest(name, tag, oci::MANIFEST, manifest.to_string().as_bytes()))?;
    Ok(total)
}

fn median(runs: &[Run], of: fn(&Cost) -> f64) -> f64 {
    table::median(runs.iter().map(|run| of(&run.cost)).collect())
}

/// Requests of the last run as `SUM: N METHOD, …`.
fn in_words(requests: &Requests) -> String {
    let each: Vec<String> = requests.iter().map(|(method, count)| format!("{count} {method}")).collect();
    format!("{}: {}", requests.values().sum::<usize>(), each.join(", "))
}

fn total(runs: &[Vec<Run>; 2], copier: Copier) -> usize {
    let count = |run: &Run| run.source.values().chain(run.destination.values()).sum();
    runs[copier as usize].iter().map(count).max().unwrap_or(0)
}

fn print(title: &str, runs: &[Vec<Run>; 2]) {
    let head =
        ["", "wall s", "", "× skopeo", "CPU s", "× skopeo", "peak RSS MB", "at source", "at destination"];
    let mut rows = vec![table::row(head)];
    let skopeo = &runs[Copier::Skopeo as usize];
    for copier in COPIERS {
        let own = &runs[copier as usize];
        let [wall, wall_ratio] = table::with_ratio(median(own, |c| c.wall), median(skopeo, |c| c.wall));
        let [cpu, cpu_ratio] = table::with_ratio(median(own, |c| c.cpu), median(skopeo, |c| c.cpu));
        let last = own.last().map(|run| [in_words(&run.source), in_words(&run.destination)]);
        let [source, destination] = last.unwrap_or_default();
        rows.push(vec![
            format!("{copier:?}").to_lowercase(),
            wall,
            table::range(own.iter().map(|run| run.cost.wall)),
            wall_ratio,
            cpu,
            cpu_ratio,
            table::number(median(own, |c| c.rss) * MB_PER_MIB),
            source,
            destination,
        ]);
    }
    table::print(title, &rows);
}

fn bar(what: &str, value: usize, most: usize) {
    println!("bar: {what} {value} of at most {most}");
}

fn bars(cold: &[Vec<Run>; 2], layers: u64) {
    let (skopeo, sampan) = (&cold[Copier::Skopeo as usize], &cold[Copier::Sampan as usize]);
    let ratio = |of: fn(&Cost) -> f64| median(sampan, of) / median(skopeo, of);
    println!(
        "bar: CPU {:.2} of at most {CPU_BAR} × skopeo, wall {:.2} of at most {WALL_BAR} ×, \
         peak RSS {:.1} of at most {RSS_BAR} MB",
        ratio(|c| c.cpu),
        ratio(|c| c.wall),
        median(sampan, |c| c.rss) * MB_PER_MIB
    );
    let patches = sampan.iter().filter_map(|run| run.destination.get("PATCH")).max().copied().unwrap_or(0);
    if layers == 6 {
        bar("requests besides PATCHes", total(cold, Copier::Sampan) - patches, COLD_BAR);
    }
}
