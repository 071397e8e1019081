//! The store's use of the disk, and what removes files from it: real engine, command line and events.

use nix::sys::signal::Signal;
use sampan_client::docker::columns;
use sampan_oci::digest::Digest;
use sampan_tests::host::{Host, need_root};
use sampan_tests::installation::{Installation, Usage, arch};
use sampan_tests::registry::{Image, Layer, Packing, Reply, ScriptedRegistry, write_layout};
use serde_json::Value;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Disk usage by du: each file counts once.
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
    let installation = Installation::new();
    let shared = Layer::large("shared", 300_000, Packing::Gzip);
    let one = installation.pull("one", &[shared.clone(), Layer::large("one", 100_000, Packing::Zstd)]);
    installation.pull("two", &[shared.clone(), Layer::large("two", 50_000, Packing::Plain)]);
    let images = installation.usage("images");
    let layers = installation.usage("layers");
    assert_eq!((images.count, images.active, images.reclaimable), (2, 2, 0));
    assert_eq!((layers.count, layers.active, layers.reclaimable), (3, 3, 0));
    assert_eq!(layers.size, du_of_children(&installation.store().join("layers")));
    assert_eq!(images.size, du_of_children(&installation.store().join("blobs/sha256")) + layers.size);
    // A note about synced files is written after a pull.
    let temporaries = || fs::read_dir(installation.store().join("tmp")).expect("listed").count();
    installation.host.wait_until("no temporary", || temporaries() == 0);
    assert_eq!(installation.usage("partials"), Usage { count: 0, active: 0, size: 0, reclaimable: 0 });

    // The name moves to another image: the old image's own layer can be freed, the shared one cannot.
    installation.registry.publish("one", &Image::of(&[shared], arch()));
    installation.ok(&["pull", "--quiet", &one]);
    let (images, layers) = (installation.usage("images"), installation.usage("layers"));
    assert_eq!((images.count, images.active), (3, 2));
    assert_eq!((layers.count, layers.active), (3, 2));
    let verbose = installation.json(&["system", "df", "-v", "--format", "json"]);
    let listed = verbose["images"].as_array().expect("an array");
    let old = listed.iter().find(|image| image["references"] == Value::Array(Vec::new())).expect("nameless");
    assert!(old["sharedSize"].as_u64() > Some(600_000), "{verbose}");
    let unique = old["uniqueSize"].as_u64().expect("a number");
    assert_eq!(unique, images.reclaimable);
    let table = installation.ok(&["system", "df", "-v"]);
    assert!(table.contains("Unpacked layers") && table.contains("UNIQUE SIZE") && table.contains("<none>"));

    let pruned = installation.ok(&["image", "prune", "--force"]);
    assert!(pruned.contains("Deleted: sha256:") && pruned.contains("Total reclaimed space: "), "{pruned}");
    let event = installation.await_events("prune", 1).remove(0);
    assert_eq!(event["attributes"]["reclaimed"], unique.to_string(), "{event}");
    assert_eq!((installation.usage("images").count, installation.usage("layers").count), (2, 2));
    assert_eq!((installation.usage("images").reclaimable, installation.usage("layers").reclaimable), (0, 0));
}

#[test]
fn an_image_has_one_size_in_every_list() {
    let installation = Installation::new();
    installation
        .pull("one", &[Layer::large("a", 300_000, Packing::Gzip), Layer::large("b", 100_000, Packing::Zstd)]);
    let on_disk = du_of_children(&installation.store().join("blobs/sha256"))
        + du_of_children(&installation.store().join("layers"));
    let listed = columns::size(on_disk);
    assert_eq!(installation.ok(&["images", "--format", "{{.Size}}"]), format!("{listed}\n"));
    assert_eq!(installation.json(&["inspect", &installation.registry.reference("one")])[0]["Size"], on_disk);
    assert_eq!(installation.usage("images").size, on_disk);
    let verbose = installation.json(&["system", "df", "-v", "--format", "json"]);
    assert_eq!(verbose["images"][0]["size"], on_disk, "{verbose}");
    assert_eq!(verbose["images"][0]["uniqueSize"], on_disk, "{verbose}");
    // People see the same figure, and the prune reports it.
    let shown = sampan_ipc::size::format(on_disk);
    for list in [&["images"][..], &["system", "df"], &["system", "df", "-v"]] {
        let table = installation.ok(list);
        assert!(table.contains(&shown), "{list:?} has no {shown}: {table}");
    }
    let pruned = installation.ok(&["image", "prune", "--all", "--force"]);
    assert!(pruned.contains(&format!("Total reclaimed space: {shown}\n")), "{shown}: {pruned}");
    assert_eq!(installation.usage("images").size, 0);
}

#[test]
fn a_layer_that_is_gone_counts_in_no_list() {
    let installation = Installation::new();
    installation.pull("one", &[Layer::large("a", 300_000, Packing::Gzip)]);
    let size = || installation.ok(&["images", "--format", "{{.Size}}"]);
    let whole = size();
    let layers = installation.store().join("layers");
    let layer =
        fs::read_dir(&layers).expect("a directory").next().expect("a layer").expect("readable").path();
    fs::rename(&layer, installation.host.path("elsewhere")).expect("renamed");
    assert_ne!(size(), whole);
    let verbose = installation.json(&["system", "df", "-v", "--format", "json"]);
    let bytes = verbose["images"][0]["size"].as_u64().expect("a number");
    assert_eq!(format!("{}\n", columns::size(bytes)), size());
}

#[test]
fn prune_takes_what_its_filters_name_and_tells_of_each() {
    let installation = Installation::new();
    let reference = installation.pull("kept", &[Layer::large("kept", 10_000, Packing::Gzip)]);
    for (name, label) in [("one:1", "team=a"), ("two:2", "team=b")] {
        let tar = installation.host.path("layer.tar");
        fs::write(&tar, Layer::of(&[("file", name.as_bytes())], Packing::Plain).tar).expect("written");
        installation.ok(&["import", "--quiet", name, tar.to_str().expect("text"), "--label", label]);
    }
    // The registry's image has no creation time, which counts as the epoch.
    installation.ok(&["image", "prune", "--all", "--filter", "until=24h"]);
    assert_eq!(installation.usage("images").count, 3);
    installation.ok(&["image", "prune", "--filter", "until=now"]);
    assert_eq!(installation.usage("images").count, 3, "all have names");
    installation.ok(&["image", "prune", "--all", "--filter", "label=team=c", "--filter", "until=now"]);
    assert_eq!(installation.usage("images").count, 3);
    let out = installation.ok(&[
        "image",
        "prune",
        "-a",
        "-f",
        "--filter",
        "label=team",
        "--filter",
        "label=team=b",
    ]);
    assert!(out.starts_with("Untagged: docker.io/library/two:2\nDeleted: sha256:"), "{out}");
    let deleted = installation.await_events("delete", 1).remove(0);
    assert_eq!(deleted["labels"]["team"], "b", "{deleted}");
    assert_eq!(installation.await_events("untag", 1)[0]["attributes"]["by"], "prune");
    installation.ok(&["image", "prune", "--all", "--filter", "until=now"]);
    let left = installation.ok(&["image", "ls", "--format", "{{.Repository}}:{{.Tag}}"]);
    assert_eq!(left, format!("{reference}\n"));
    assert!(
        installation
            .fails(&["image", "prune", "--filter", "color=red"], 125)
            .contains("until=TIME and label=")
    );
    installation.ok(&["image", "prune", "--all"]);
    assert_eq!((installation.usage("images").size, installation.usage("layers").size), (0, 0));
}

#[test]
fn the_image_group_does_what_the_short_commands_do() {
    let installation = Installation::new();
    let image = Image::of(&[Layer::large("x", 1000, Packing::Gzip)], arch());
    installation.registry.publish("team/app", &image);
    let reference = installation.registry.reference("team/app");
    assert!(installation.ok(&["image", "pull", &reference]).contains(&image.digest().to_string()));
    installation.ok(&["image", "tag", &reference, "other:1"]);
    assert_eq!(installation.json(&["image", "inspect", "other:1"])[0]["Digest"], image.digest().to_string());
    assert_eq!(installation.ok(&["image", "ls"]), installation.ok(&["images"]));
    assert_eq!(installation.ok(&["image", "list", "-q"]), installation.ok(&["images", "-q"]));
    assert_eq!(installation.ok(&["image", "rm", "other:1"]), "Untagged: docker.io/library/other:1\n");
}

#[test]
fn images_are_listed_by_name() {
    let installation = Installation::new();
    let reference = installation.pull("team/app", &[Layer::large("x", 1000, Packing::Gzip)]);
    installation.ok(&["tag", &reference, "other:1", "other:2"]);
    let rows = |name: &str| {
        let text = installation.ok(&["images", name]);
        text.lines().skip(1).map(|row| row.split_whitespace().take(2).collect::<Vec<_>>().join(":")).collect()
    };
    let all: Vec<String> = rows("other");
    assert_eq!(all, ["docker.io/library/other:1", "docker.io/library/other:2"]);
    assert_eq!(rows("docker.io/library/other"), all);
    assert_eq!(rows("other:2"), all[1..]);
    assert_eq!(rows(&reference), std::slice::from_ref(&reference));
    assert_eq!(rows("othe"), Vec::<String>::new());
    assert_eq!(installation.ok(&["images", "-aq", "other"]), installation.ok(&["image", "ls", "-q"]));
    assert_eq!(installation.ok(&["images", "-q", "absent"]), "");
    let said = installation.fails(&["images", "--filter", "dangling=true"], 125);
    assert!(said.contains("hint: 'sampan images NAME'"), "{said}");
    let said = installation.fails(&["image", "exists", "other:1"], 125);
    assert!(said.contains("hint: 'inspect' exits with status 0"), "{said}");
    let said = installation.fails(&["load", "app.tar"], 125);
    assert!(said.contains("there is no argument \"app.tar\"") && said.contains("--input FILE"), "{said}");
}

#[test]
fn a_save_whose_reader_has_left_dies_of_it_and_says_nothing() {
    let installation = Installation::new();
    let reference = installation.pull("team/app", &[Layer::large("x", 400_000, Packing::Gzip)]);
    let (read, write) = std::io::pipe().expect("a pipe");
    drop(read);
    let output = installation.command(&["save", &reference]).stdout(write).output().expect("it runs");
    assert_eq!(output.status.signal(), Some(Signal::SIGPIPE as i32), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn rmi_frees_just_what_nothing_else_uses() {
    let installation = Installation::new();
    let shared = Layer::large("shared", 400_000, Packing::Gzip);
    let own = Layer::large("own", 80_000, Packing::Gzip);
    let one = installation.pull("one", &[shared.clone(), own.clone()]);
    let two = installation.pull("two", std::slice::from_ref(&shared));
    let size = || installation.usage("images").size;
    let before = size();
    installation.ok(&["rmi", &one]);
    let freed = before - size();
    assert_eq!(installation.await_events("delete", 1)[0]["attributes"]["reclaimed"], freed.to_string());
    assert!(!installation.blob(&Digest::of(&own.blob)).exists());
    assert!(
        installation.blob(&Digest::of(&shared.blob)).exists()
            && installation.layer(&Digest::of(&shared.tar)).exists()
    );
    // A second name of the image takes no space, and removing it frees none.
    installation.ok(&["tag", &two, "again:1"]);
    installation.ok(&["rmi", "again:1"]);
    assert!(installation.blob(&Digest::of(&shared.blob)).exists());
    installation.ok(&["rmi", &two]);
    assert_eq!(size(), 0);
}

/// A layer with entries that unpacking treats specially: links, whiteouts, directories without an entry.
fn odd_layer() -> Layer {
    let mut builder = tar::Builder::new(Vec::new());
    let mut add = |kind: tar::EntryType, name: &str, link: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o4755);
        header.set_uid(12);
        header.set_gid(34);
        header.set_mtime(1_500_000_000);
        header.set_size(content.len() as u64);
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        builder.append_data(&mut header, name, content).expect("to memory");
    };
    add(tar::EntryType::Directory, "usr/", "", b"");
    add(tar::EntryType::Regular, "usr/bin/deep/below/tool", "", b"tool");
    add(tar::EntryType::Link, "usr/tool", "usr/bin/deep/below/tool", b"");
    add(tar::EntryType::Symlink, "usr/lib", "/nowhere", b"");
    add(tar::EntryType::Regular, "etc/.wh.gone", "", b"");
    add(tar::EntryType::Regular, "var/.wh..wh..opq", "", b"");
    add(tar::EntryType::Fifo, "usr/pipe", "", b"");
    add(tar::EntryType::Regular, "usr/twice", "", b"first");
    add(tar::EntryType::Regular, "usr/twice", "", b"second");
    Layer::of_tar(builder.into_inner().expect("to memory"), Packing::Zstd)
}

#[test]
fn a_store_that_is_right_is_found_right_however_odd_its_layers() {
    let installation = Installation::new();
    assert_eq!(installation.ok(&["image", "verify"]), "");
    let reference = installation.pull("odd", &[Layer::large("base", 100_000, Packing::Gzip), odd_layer()]);
    installation.ok(&["image", "verify", "--deep"]);
    let lines = installation.ok(&["image", "verify", "--deep", "--progress", "json"]);
    let rows: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let of_layers = || rows.iter().filter(|row| row["type"] == "layer");
    let complete = of_layers().filter(|row| row["state"] == "complete").count();
    // Manifest, config, two blobs, two layers.
    assert!(complete >= 6 && of_layers().all(|row| row["state"] != "failed"), "{lines}");
    assert_eq!(installation.names().iter().filter(|name| name.starts_with("tmp/")).count(), 0);
    installation.ok(&["rmi", &reference]);
    assert_eq!(installation.ok(&["image", "verify", "--deep"]), "");
    assert_eq!(installation.events("verify-error"), Vec::<Value>::new());
}

#[test]
fn a_broken_blob_is_named_and_fetched_again_by_the_next_pull() {
    let installation = Installation::new();
    let (good, bad) =
        (Layer::large("good", 90_000, Packing::Gzip), Layer::large("bad", 80_000, Packing::Gzip));
    let reference = installation.pull("app", &[good.clone(), bad.clone()]);
    let blob = Digest::of(&bad.blob);
    let mut bytes = fs::read(installation.blob(&blob)).expect("there");
    bytes[40_000] ^= 1;
    fs::write(installation.blob(&blob), &bytes).expect("written");
    let said = installation.fails(&["image", "verify"], 1);
    assert!(said.contains(&format!("blob {blob} of {reference} has digest sha256:")), "{said}");
    assert!(
        said.contains("1 of 4 ") && said.contains("it was removed") && said.contains("sampan pull"),
        "{said}"
    );
    assert!(!installation.blob(&blob).exists());
    let event = installation.await_events("verify-error", 1).remove(0);
    assert_eq!(event["id"], reference, "{event}");
    // The blob is still missing, and is reported again.
    assert!(installation.fails(&["image", "verify"], 1).contains("is missing"));
    let requests = |digest: &Digest| installation.registry.request_count(&format!("app/blobs/{digest}"));
    let before = (requests(&Digest::of(&good.blob)), requests(&blob));
    installation.ok(&["pull", "--quiet", &reference]);
    assert_eq!((requests(&Digest::of(&good.blob)), requests(&blob)), (before.0, before.1 + 1));
    installation.ok(&["image", "verify", "--deep"]);
}

#[test]
fn a_changed_layer_is_found_by_verify_deep_and_unpacked_again() {
    let installation = Installation::new();
    let layers = [Layer::of(&[("etc/passwd", b"root:x:0:0")], Packing::Gzip), odd_layer()];
    let reference = installation.pull("app", &layers);
    let layer = installation.layer(&Digest::of(&layers[0].tar));
    let file = layer.join("diff/etc/passwd");
    let modified = fs::metadata(&file).and_then(|meta| meta.modified()).expect("a time");
    fs::write(&file, "evil:x:0:0").expect("written");
    fs::File::options().write(true).open(&file).and_then(|f| f.set_modified(modified)).expect("set");
    installation.ok(&["image", "verify"]);
    let said = installation.fails(&["image", "verify", "--deep"], 1);
    assert!(said.contains("\"etc/passwd\" has other content; it was unpacked again"), "{said}");
    assert_eq!(fs::read_to_string(&file).expect("there"), "root:x:0:0");
    installation.ok(&["image", "verify", "--deep"]);
    // A missing layer directory is noticed without `--deep`, since the directory of the layer above exists.
    fs::remove_dir_all(layer.join("diff")).expect("removed");
    assert!(installation.fails(&["image", "verify"], 1).contains("is missing"));
    let before = installation.registry.requests().len();
    installation.ok(&["pull", "--quiet", &reference]);
    assert_eq!(fs::read_to_string(&file).expect("there"), "root:x:0:0");
    let after = installation.registry.requests();
    assert!(!after[before..].iter().any(|(path, _)| path.contains("/blobs/")), "{after:?}");
    fs::remove_dir_all(&layer).expect("removed");
    assert!(
        installation.fails(&["image", "verify", "--deep"], 1).contains("is missing; it was unpacked again")
    );
    installation.ok(&["image", "verify", "--deep"]);
}

#[test]
fn an_image_without_its_config_can_be_removed_completely() {
    let installation = Installation::new();
    let reference = installation.pull("broken", &[Layer::large("x", 50_000, Packing::Gzip)]);
    let other = installation.pull("other", &[Layer::large("y", 50_000, Packing::Gzip)]);
    let config = installation.json(&["inspect", &reference])[0]["Id"].as_str().expect("a digest").to_owned();
    fs::write(installation.blob(&Digest::parse(&config).expect("a digest")), "{}").expect("written");
    // The engine cannot know what the image needs, so every request to remove something fails.
    let said = installation.fails(&["image", "prune", "--all"], 1);
    assert!(said.contains(&config) && said.contains("image verify"), "{said}");
    assert_eq!(installation.usage("images").reclaimable, 0);
    assert!(installation.fails(&["image", "verify"], 1).contains(&format!("blob {config} of {reference}")));
    assert_eq!(installation.usage("layers").count, 2);
    installation.ok(&["image", "rm", &reference]);
    assert_eq!(installation.usage("layers").count, 1);
    installation.ok(&["image", "verify", "--deep"]);
    installation.ok(&["image", "rm", &other]);
    assert_eq!((installation.usage("images").size, installation.usage("layers").size), (0, 0));
}

#[test]
fn a_fifo_for_a_blob_and_a_garbled_index_are_findings() {
    let installation = Installation::new();
    let layer = Layer::large("x", 1000, Packing::Gzip);
    let reference = installation.pull("app", std::slice::from_ref(&layer));
    let blob = installation.blob(&Digest::of(&layer.blob));
    fs::remove_file(&blob).expect("removed");
    nix::unistd::mkfifo(&blob, nix::sys::stat::Mode::S_IRWXU).expect("made");
    assert!(
        installation.fails(&["image", "verify", "--deep"], 1).contains("is no regular file; it was removed")
    );
    installation.ok(&["pull", "--quiet", &reference]);
    installation.ok(&["image", "verify", "--deep"]);
    fs::write(installation.store().join("index.json"), "{").expect("written");
    assert!(installation.fails(&["image", "verify"], 1).contains("index.json"));
}

#[test]
fn a_long_verification_ends_when_it_is_cancelled() {
    let installation = Installation::new();
    // Hashing large files takes minutes, but writes nothing to the disk.
    let stray = installation.blob(&Digest::of(b"something else"));
    fs::File::create(&stray).and_then(|file| file.set_len(64 << 30)).expect("sparse");
    let mut verify =
        installation.command(&["image", "verify", "--progress", "none"]).spawn().expect("it runs");
    let mut job = Value::Null;
    installation.host.wait_until("the job", || {
        let jobs = installation.ok(&["jobs", "--format", "json"]);
        job = jobs.lines().next().map_or(Value::Null, |line| serde_json::from_str(line).expect("JSON"));
        job["state"] == "running"
    });
    assert_eq!(job["kind"], "verify");
    installation.ok(&["cancel", &job["id"].to_string()]);
    let mut status = None;
    installation.host.wait_until("the end", || {
        status = verify.try_wait().expect("ours");
        status.is_some()
    });
    assert_eq!(status.and_then(|status| status.code()), Some(1));
    assert!(stray.exists(), "nothing was found out about it");
}

/// A installation whose store is on a file system of `size` bytes.
fn small_bed(size: usize, table: &str) -> Installation {
    need_root();
    let mut host = Host::with_monitord(&[]);
    host.mount_tmpfs("data", size);
    Installation::on(host, ScriptedRegistry::start(), table)
}

/// Names of the images in the store.
fn names(installation: &Installation) -> Vec<String> {
    let usage = installation.json(&["system", "df", "-v", "--format", "json"]);
    let images = usage["images"].as_array().expect("an array").iter();
    images.filter_map(|image| image["references"][0].as_str().map(str::to_owned)).collect()
}

#[test]
fn a_pull_that_does_not_fit_fails_before_it_fetches_a_layer() {
    let installation = small_bed(8 << 20, "min-free = \"1M\"\n");
    let layer = Layer::large("big", 3 << 20, Packing::Gzip);
    installation.registry.publish("big", &Image::of(std::slice::from_ref(&layer), arch()));
    let said = installation.fails(&["pull", &installation.registry.reference("big")], 1);
    assert!(said.contains("it needs 9.49 MiB (3.16 MiB to download, about 6.33 MiB unpacked)"), "{said}");
    assert!(said.contains("7.95 MiB are free, of which 1.00 MiB must stay free"), "{said}");
    assert!(said.contains("sampan system df") && said.contains("sampan image prune"), "{said}");
    assert_eq!(installation.registry.request_count(&format!("big/blobs/{}", Digest::of(&layer.blob))), 0);
    assert!(installation.names().iter().all(|name| name.starts_with("blobs/")), "{:?}", installation.names());
    assert!(
        installation.await_events("pull-error", 1)[0]["attributes"]["reason"]
            .to_string()
            .contains("9.49 MiB")
    );
    // An image in the store needs no space.
    let small = installation.pull("small", &[Layer::large("small", 1 << 20, Packing::Gzip)]);
    fs::write(installation.store().join("ballast"), vec![0; 5 << 20]).expect("written");
    installation.ok(&["pull", "--quiet", &small]);
    assert!(
        installation
            .fails(&["pull", &installation.registry.reference("big")], 1)
            .contains("it needs 9.49 MiB")
    );
}

#[test]
fn a_pull_does_not_take_the_room_that_another_one_was_promised() {
    let installation = small_bed(20 << 20, "");
    let [one, two] = ["one", "two"].map(|name| Layer::large(name, 4 << 20, Packing::Gzip));
    installation.registry.publish("one", &Image::of(std::slice::from_ref(&one), arch()));
    installation.registry.publish("two", &Image::of(std::slice::from_ref(&two), arch()));
    // The pull is refused after a small part of the layer.
    let blob = format!("one/blobs/{}", Digest::of(&one.blob));
    installation.registry.answer(&blob, Reply::Hang(one.blob.clone(), 1000));
    installation.ok(&["pull", "--detach", &installation.registry.reference("one")]);
    installation
        .host
        .wait_until("the first pull to be under way", || installation.registry.request_count(&blob) == 1);
    let said = installation.fails(&["pull", &installation.registry.reference("two")], 1);
    assert!(said.contains("it needs 12.") && said.contains("other jobs still need 12."), "{said}");
    assert_eq!(installation.registry.request_count(&format!("two/blobs/{}", Digest::of(&two.blob))), 0);
    // A second pull of the same image, even by another name, joins the first one and needs no space of its own.
    installation.registry.publish("three", &Image::of(std::slice::from_ref(&one), "riscv64"));
    let third = installation.registry.reference("three");
    installation.ok(&["pull", "--detach", "--platform", "linux/riscv64", &third]);
    installation.ok(&["cancel", "1"]);
    installation.ok(&["cancel", "3"]);
    installation.host.wait_until("both to end", || {
        let jobs = installation.ok(&["jobs"]);
        !jobs.contains("running")
    });
    installation.ok(&["pull", "--quiet", &installation.registry.reference("two")]);
    installation.ok(&["image", "verify"]);
}

#[test]
fn room_is_promised_before_the_config_has_come_and_once() {
    let installation = small_bed(20 << 20, "");
    let [one, two] = ["one", "two"].map(|name| Layer::large(name, 4 << 20, Packing::Gzip));
    let image = Image::of(std::slice::from_ref(&one), arch());
    installation.registry.publish("one", &image);
    installation.registry.publish("two", &Image::of(std::slice::from_ref(&two), arch()));
    let (digest, config) =
        image.blobs.iter().find(|(digest, _)| *digest != Digest::of(&one.blob)).expect("a config").clone();
    let config_path = format!("one/blobs/{digest}");
    installation.registry.answer(&config_path, Reply::Hang(config.clone(), 10));
    installation.ok(&["pull", "--detach", &installation.registry.reference("one")]);
    installation
        .host
        .wait_until("its config to be asked for", || installation.registry.request_count(&config_path) == 1);
    let said = installation.fails(&["pull", &installation.registry.reference("two")], 1);
    assert!(said.contains("other jobs still need"), "{said}");
    // Alone, a pull of the first image has enough space: its own reservation does not count against it.
    installation.ok(&["cancel", "1"]);
    installation.host.wait_until("it to end", || !installation.ok(&["jobs"]).contains("running"));
    installation.registry.answer(&config_path, Reply::Ok("application/octet-stream".to_owned(), config));
    installation.ok(&["pull", "--quiet", &installation.registry.reference("one")]);
}

#[test]
fn a_load_from_a_pipe_ends_before_the_disk_is_full() {
    let installation = small_bed(40 << 20, "");
    // 24 MiB twice: as a blob and as files.
    let layer = Layer::large("big", 24 << 20, Packing::Plain);
    let image = Image::of(std::slice::from_ref(&layer), arch());
    write_layout(&installation.host.path("layout"), &[image]);
    let archive = installation.host.path("archive.tar");
    let mut tar = Command::new("tar");
    tar.arg("-cf").arg(&archive).arg("-C").arg(installation.host.path("layout")).arg(".");
    assert!(tar.status().expect("tar is installed").success());
    let load = |from: Stdio| installation.command(&["load", "--quiet"]).stdin(from).output().expect("built");
    let mut cat = Command::new("cat").arg(&archive).stdout(Stdio::piped()).spawn().expect("cat is there");
    let out = load(cat.stdout.take().expect("piped").into());
    let _ = cat.wait();
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(
        said.contains("the disk is full: in ") && said.contains(" and 2.00 MiB must stay free"),
        "{said}"
    );
    assert!(said.contains("sampan image prune"), "{said}");
    assert_eq!(installation.names(), Vec::<String>::new());
    installation.host.wait_until("no temporary", || {
        fs::read_dir(installation.store().join("tmp")).expect("listed").count() == 0
    });
    // The size of a regular file is known before it is read.
    let said =
        String::from_utf8_lossy(&load(fs::File::open(&archive).expect("there").into()).stderr).into_owned();
    assert!(said.contains("it needs 48.00 MiB"), "{said}");
    let small = installation.pull("small", &[Layer::large("small", 1 << 20, Packing::Gzip)]);
    assert_eq!(names(&installation), [small]);
}

#[test]
fn images_can_be_removed_from_a_disk_that_is_full() {
    let installation = small_bed(12 << 20, "");
    let pull = |name: &str| installation.pull(name, &[Layer::large(name, 2 << 20, Packing::Gzip)]);
    let (one, two) = (pull("one"), pull("two"));
    // Zeros compress to a thousandth, so the unpacked size is known too late.
    let bomb = Layer::of(&[("zeros", &vec![0; 16 << 20])], Packing::Gzip);
    installation.registry.publish("bomb", &Image::of(&[bomb], arch()));
    let said = installation.fails(&["pull", &installation.registry.reference("bomb")], 1);
    assert!(said.contains("No space left") && said.contains("sampan image prune"), "{said}");
    let ballast = installation.store().join("../ballast");
    let mut file = fs::File::create(&ballast).expect("made");
    while std::io::Write::write_all(&mut file, &[1; 4096]).is_ok() {}
    assert!(fs::write(installation.store().join("../more"), [1; 4096]).is_err(), "the disk is full");
    // The reserve is only for removals; an operation that needs more space may not use it.
    installation.fails(&["tag", &one, "another:1"], 1);
    assert!(installation.store().join("spare").exists());
    installation.ok(&["rmi", &one]);
    assert!(installation.store().join("spare").exists(), "laid by again");
    assert_eq!(names(&installation), std::slice::from_ref(&two));
    while std::io::Write::write_all(&mut file, &[1; 4096]).is_ok() {}
    installation.ok(&["image", "prune", "--all", "--force"]);
    // The complete blob is kept, as it is after an interrupted download.
    assert!(
        installation.names().iter().all(|name| name.starts_with("partial/")),
        "{:?}",
        installation.names()
    );
    drop(file);
    fs::remove_file(&ballast).expect("there");
    assert_eq!(pull("one"), one);
}

#[test]
fn what_cannot_be_removed_keeps_no_engine_from_starting() {
    need_root();
    let mut host = Host::with_monitord(&[]);
    // Removing a mounted layer is refused.
    for name in ["layer-0", "blob-7", "other"] {
        host.mount_tmpfs(&format!("data/store/tmp/{name}"), 1 << 20);
    }
    let installation = Installation::on(host, ScriptedRegistry::start(), "");
    let log = installation.log();
    assert!(
        log.contains("cannot remove") && log.contains("store/tmp/layer-0, which goes on using disk space"),
        "{log}"
    );
    let small = installation.pull("small", &[Layer::large("small", 100_000, Packing::Gzip)]);
    assert_eq!(names(&installation), [small]);
}

#[test]
fn low_space_removes_the_least_recently_used_images() {
    let installation = small_bed(8 << 20, "gc-free-low = \"40%\"\ngc-free-high = \"45%\"\n");
    let layer = |name: &str, mib: usize| [Layer::large(name, mib << 20, Packing::Gzip)];
    let a = installation.pull("a", &layer("a", 1));
    let b = installation.pull("b", &layer("b", 1));
    installation.ok(&["pull", "--quiet", &a]);
    let c = installation.pull("c", &layer("c", 1));
    assert_eq!(names(&installation), [a.clone(), c.clone()], "b was not used since\n{}", installation.log());
    let untagged = installation.await_events("untag", 1);
    assert_eq!((&untagged[0]["id"], &untagged[0]["attributes"]["by"]), (&b.into(), &"low-space".into()));
    assert_eq!(installation.await_events("prune", 1)[0]["attributes"]["by"], "low-space");
    // A pull that lacks space first removes the images it must: here all of them.
    let d = installation.pull("d", &layer("d", 2));
    assert_eq!(names(&installation), std::slice::from_ref(&d));
    // A pull that does not fit even an empty store removes no image.
    installation.registry.publish("e", &Image::of(&layer("e", 4), arch()));
    assert!(installation.fails(&["pull", &installation.registry.reference("e")], 1).contains("it needs 12."));
    assert_eq!(names(&installation), [d]);
    installation.ok(&["image", "verify", "--deep"]);
}

#[test]
fn marks_that_contradict_each_other_are_refused_at_start() {
    let host = Host::new();
    let config = host.path("sampan.toml");
    for (table, said) in [
        ("gc-free-low = \"20%\"\ngc-free-high = \"10%\"", "gc-free-high is 10%"),
        ("gc-free-high = \"10%\"", "gc-free-high is set, and gc-free-low"),
        ("min-free = \"lots\"", "\"lots\" is no amount of disk"),
    ] {
        fs::write(&config, format!("[engine]\n{table}\n")).expect("written");
        let output = host.command("sampan-engine").arg("--config").arg(&config).output().expect("it runs");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && text.contains(said), "{text}");
    }
}
