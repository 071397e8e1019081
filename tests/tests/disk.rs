//! What the store takes on the disk, and who takes it away: real engine, real command line, real events.

use sampan_engine::digest::Digest;
use sampan_tests::bed::{Bed, Usage, arch};
use sampan_tests::registry::{Image, Layer, Packing};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;

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
