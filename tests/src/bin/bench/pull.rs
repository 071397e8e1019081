//! `bench pull`: the cost of pulling an image into an empty store, compared with the floor and with peers.
//!
//! A registry on loopback serves plain HTTP ([`crate::registries`]). Its CPU time is not counted; the time that pullers
//! wait for it is. Pullers alternate, each round begins with another one, and each pull has a new file system
//! ([`crate::disk`]). Pulls need not have synced what they wrote, since no puller waits for that.

use crate::cost::Cost;
use crate::disk::Disk;
use crate::images::{self, SHAPES, Shape};
use crate::options::Options;
use crate::puller::{Puller, Source};
use crate::registries::Serves;
use crate::table;
use sampan_tests::registry::DockerRegistry;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Highest accepted CPU time of a pull, as a multiple of the one-thread floor's.
const CPU_BAR: f64 = 1.15;
/// Highest accepted time of a pull, as a multiple of the one-thread floor's.
const WALL_BAR: f64 = 0.7;

/// Prints a table per image.
///
/// # Errors An image cannot be made, or a pull fails.
pub fn run(options: &Options) -> io::Result<()> {
    let cache = cache()?;
    fs::create_dir_all(&cache)?;
    let registry = DockerRegistry::start(&cache);
    let data = cache.join("registry/data");
    let mut source = Serves::start(options.registry, &cache)?;
    let disk = Disk::attach(&cache)?;
    let pullers: Vec<Puller> = Puller::ALL.into_iter().filter(|puller| options.pulls_with(*puller)).collect();
    for puller in Puller::ALL.into_iter().filter(|puller| !puller.is_there()) {
        println!("not here, and so not measured: {}", puller.name());
    }
    for shape in SHAPES
        .iter()
        .filter(|shape| options.images.is_empty() || options.images.iter().any(|i| i == shape.name))
    {
        shape.ensure(&registry.address, &data, &cache)?;
        source.take(&reference(&registry.address, shape))?;
        let from = (source.address(&registry.address), options.registry.name());
        measure(shape, &pullers, from, &data, &disk, options.runs)?;
    }
    Ok(())
}

/// Images and stores are below `target/`, so they are on disk and reused.
fn cache() -> io::Result<PathBuf> {
    let bench = std::env::current_exe()?;
    let target = bench.parent().and_then(Path::parent);
    Ok(target.ok_or_else(|| io::Error::other("the bench is not in target/PROFILE"))?.join("bench"))
}

/// Reference of an image in the registry at `address`.
fn reference(address: &str, shape: &Shape) -> String {
    let (name, tag) = shape.repository();
    format!("{address}/{name}:{tag}")
}

/// `from` is the address of the registry and its kind.
fn measure(
    shape: &Shape,
    pullers: &[Puller],
    from: (&str, &str),
    data: &Path,
    disk: &Disk,
    runs: u64,
) -> io::Result<()> {
    let reference = reference(from.0, shape);
    let layers = images::layer_files(data, shape)?;
    let source = Source { reference: &reference, layers: &layers };
    let mut packed = 0;
    for layer in &layers {
        // Reading the layer also puts it into the page cache, for every puller.
        packed += io::copy(&mut fs::File::open(layer)?, &mut io::sink())?;
    }
    let mut pullers = pullers.to_vec();
    let mut costs: Vec<Vec<Cost>> = vec![Vec::new(); pullers.len()];
    for round in 0..usize::try_from(runs).map_err(io::Error::other)? {
        for nth in 0..pullers.len() {
            let nth = (nth + round) % pullers.len();
            match pullers[nth].pull(&source, disk) {
                Err(error) if pullers[nth].is_peer() => {
                    println!(
                        "cannot pull {}, and so is not measured: {}: {error}",
                        shape.name,
                        pullers[nth].name()
                    );
                    pullers.remove(nth);
                    costs.remove(nth);
                    break;
                }
                cost => costs[nth].push(cost?),
            }
        }
    }
    let title = format!(
        "Pull of {} from {}: {} layers, {:.1} MB; median of {runs}, in [ ] the least and the most",
        shape.name,
        from.1,
        layers.len(),
        packed as f64 / 1e6
    );
    print(&title, &pullers, &costs);
    Ok(())
}

fn print(title: &str, pullers: &[Puller], costs: &[Vec<Cost>]) {
    let median = |nth: usize, of: fn(&Cost) -> f64| table::median(costs[nth].iter().map(of).collect());
    let of = |wanted: Puller, of: fn(&Cost) -> f64| {
        pullers.iter().position(|puller| *puller == wanted).map_or(f64::NAN, |nth| median(nth, of))
    };
    let (floor_wall, floor_cpu) = (of(Puller::Floor, |c| c.wall), of(Puller::Floor, |c| c.cpu));
    let our_wall = of(Puller::Sampan, |c| c.wall);
    let our_cpu = of(Puller::Sampan, |c| c.cpu);
    let mut rows = vec![table::row([
        "",
        "wall s",
        "",
        "× floor",
        "× ours",
        "CPU s",
        "× floor",
        "× ours",
        "peak RSS MiB",
        "written MiB",
    ])];
    for (nth, puller) in pullers.iter().enumerate() {
        let [wall, wall_ratio] = table::with_ratio(median(nth, |c| c.wall), floor_wall);
        let [cpu, cpu_ratio] = table::with_ratio(median(nth, |c| c.cpu), floor_cpu);
        let [_, wall_ours] = table::with_ratio(median(nth, |c| c.wall), our_wall);
        let [_, cpu_ours] = table::with_ratio(median(nth, |c| c.cpu), our_cpu);
        rows.push(vec![
            puller.name().to_owned(),
            wall,
            table::range(costs[nth].iter().map(|cost| cost.wall)),
            wall_ratio,
            wall_ours,
            cpu,
            cpu_ratio,
            cpu_ours,
            table::number(median(nth, |c| c.rss)),
            table::number(median(nth, |c| c.written)),
        ]);
    }
    table::print(title, &rows);
    if !our_wall.is_nan() && !floor_wall.is_nan() {
        println!(
            "bar: CPU {:.2} of at most {CPU_BAR} × the one-thread floor, wall {:.2} of at most {WALL_BAR} ×",
            our_cpu / floor_cpu,
            our_wall / floor_wall
        );
    }
}
