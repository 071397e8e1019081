//! Loads and saves: images of podman, skopeo and umoci and for them, and hostile archives. All files are in the test's
//! directories.

use sampan_ipc::engine::{Answer, Container, Failure, JobState, Load, Request, Save};
use sampan_oci::digest::Digest;
use sampan_tests::dockerd::Dockerd;
use sampan_tests::engine::{Engine, Pulled};
use sampan_tests::host::{binary, need_root};
use sampan_tests::registry::{Image, Layer, Packing, write_layout};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A member of an archive.
enum Item {
    File(String, Vec<u8>),
    Link(String, String),
    HardLink(String, String),
    /// Bytes of a header that a builder would refuse.
    Raw(Vec<u8>),
}

fn file(name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Item {
    Item::File(name.into(), bytes.into())
}

fn header(name: &str, link: &str, kind: tar::EntryType, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    // Written directly, since `set_path` refuses the names of a hostile archive.
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(size);
    header.set_cksum();
    header
}

fn archive(items: &[Item]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for item in items {
        match item {
            Item::File(name, content) => {
                bytes.extend(header(name, "", tar::EntryType::Regular, content.len() as u64).as_bytes());
                bytes.extend(content);
                bytes.resize(bytes.len().next_multiple_of(512), 0);
            }
            Item::Link(name, to) => bytes.extend(header(name, to, tar::EntryType::Symlink, 0).as_bytes()),
            Item::HardLink(name, to) => bytes.extend(header(name, to, tar::EntryType::Link, 0).as_bytes()),
            Item::Raw(raw) => bytes.extend(raw),
        }
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

/// The config of an image that the test has made, and the image's ID.
fn config(image: &Image) -> (&[u8], Digest) {
    let (id, bytes) = image.blobs.last().expect("a config");
    (bytes, id.clone())
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("to memory");
    encoder.finish().expect("to memory")
}

/// Three layers, one for each compression; the second layer removes a file of the first.
fn layers() -> Vec<Layer> {
    vec![
        Layer::of(&[("etc/one", b"1"), ("etc/gone", b"x")], Packing::Plain),
        Layer::of(&[("etc/.wh.gone", b""), ("etc/two", &[7; 3000])], Packing::Gzip),
        Layer::of(&[("etc/three", b"3")], Packing::Zstd),
    ]
}

/// A docker archive in the format of docker 1.10 to 24: a directory per layer, of which one links to another layer's
/// tar.
fn old_docker_archive(layers: &[Layer], tags: &[&str]) -> (Vec<Item>, Digest) {
    let all: Vec<Layer> = layers.iter().chain(layers.first()).cloned().collect();
    let image = Image::of(&all, "amd64");
    let (config, id) = config(&image);
    let dirs: Vec<String> = (0..all.len()).map(|nth| Digest::of(&[nth as u8]).hex().to_owned()).collect();
    let mut items = Vec::new();
    for (nth, (dir, layer)) in dirs.iter().zip(&all).enumerate() {
        items.push(file(format!("{dir}/VERSION"), "1.0"));
        items.push(file(format!("{dir}/json"), "{}"));
        match nth == layers.len() {
            true => items.push(Item::Link(format!("{dir}/layer.tar"), format!("../{}/layer.tar", dirs[0]))),
            false => items.push(file(format!("{dir}/layer.tar"), layer.tar.clone())),
        }
    }
    items.push(file(format!("{}.json", id.hex()), config));
    let names: Vec<String> = dirs.iter().map(|dir| format!("{dir}/layer.tar")).collect();
    let manifest = json!([{"Config": format!("{}.json", id.hex()), "RepoTags": tags, "Layers": names}]);
    items.push(file("manifest.json", manifest.to_string()));
    items.push(file("repositories", "{}"));
    (items, id)
}

/// The files of an OCI layout, in the order of a tar.
fn layout_items(dir: &Path) -> Vec<Item> {
    let mut items = Vec::new();
    for entry in fs::read_dir(dir.join("blobs/sha256")).expect("listed") {
        let name = entry.expect("listed").file_name().into_string().expect("text");
        let bytes = fs::read(dir.join("blobs/sha256").join(&name)).expect("read");
        items.push(file(format!("./blobs/sha256/{name}"), bytes));
    }
    for name in ["index.json", "oci-layout"] {
        items.push(file(name, fs::read(dir.join(name)).expect("read")));
    }
    items
}

/// An engine, and a directory for the other tools.
struct Bench {
    engine: Engine,
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Bench { engine: Engine::start(), dir: tempfile::tempdir().expect("a directory") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().expect("text").to_owned()
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).expect("written");
        path
    }

    fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = Command::new(binary("sampan"));
        command.args(args).env("SAMPAN_RUN_DIR", self.engine.dir.path().join("run")).stdin(Stdio::null());
        command
    }

    fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Output {
        self.command(args).output().expect("built")
    }

    fn ok<S: AsRef<OsStr>>(&self, args: &[S]) -> String {
        succeeded(self.run(args))
    }

    /// Sends a request with one descriptor, and waits for its end.
    fn ask(&self, request: Request, file: &impl AsRawFd) -> Result<Pulled, Failure> {
        self.engine.ask_with(request, &[file.as_raw_fd()]).watch()
    }

    /// Loads from a regular file.
    fn load_file(&self, bytes: &[u8], load: Load) -> Result<Pulled, Failure> {
        let path = self.write("archive", bytes);
        self.ask(Request::Load(load), &File::open(path).expect("opened"))
    }

    /// Loads from a pipe.
    fn load_pipe(&self, bytes: &[u8], load: Load) -> Result<Pulled, Failure> {
        let (read, write) = nix::unistd::pipe().expect("a pipe");
        std::thread::scope(|scope| {
            scope.spawn(move || {
                // A write error is no failure: the engine does not read a refused archive to its end.
                let _ = File::from(write).write_all(bytes);
            });
            let stream = self.engine.ask_with(Request::Load(load), &[read.as_raw_fd()]);
            drop(read);
            stream.watch()
        })
    }

    /// The files of the image `name` after all layers: path, and length of the content.
    fn files(&self, name: &str) -> BTreeMap<String, usize> {
        let document: Value = serde_json::from_str(&self.ok(&["inspect", name])).expect("JSON");
        let mut files = BTreeMap::new();
        for layer in document[0]["Layers"].as_array().expect("layers") {
            let etc = Path::new(layer["Path"].as_str().expect("unpacked")).join("etc");
            for entry in fs::read_dir(etc).expect("listed") {
                let entry = entry.expect("listed");
                let name = entry.file_name().into_string().expect("text");
                match entry.metadata().expect("there").is_file() {
                    true => files.insert(name, entry.metadata().expect("there").len() as usize),
                    // A whiteout is a character device.
                    false => files.remove(&name),
                };
            }
        }
        files
    }

    fn podman(&self, args: &[&str]) -> String {
        let (root, run) = (self.text("podman"), self.text("podman-run"));
        let global = ["--root", &root, "--runroot", &run, "--storage-driver=vfs"];
        let output = Command::new("podman").args(global).args(args).stdin(Stdio::null()).output();
        succeeded(output.expect("podman is installed"))
    }

    fn is_clean(&self) {
        self.engine.wait_for_no_temporaries();
    }
}

fn succeeded(output: Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{stderr}");
    String::from_utf8(output.stdout).expect("text")
}

fn tool(name: &str, args: &[&str]) -> String {
    succeeded(Command::new(name).args(args).stdin(Stdio::null()).output().expect("it is installed"))
}

fn expected_files() -> BTreeMap<String, usize> {
    [("one", 1), ("three", 1), ("two", 3000)].map(|(name, len)| (name.to_owned(), len)).into()
}

#[test]
fn an_old_docker_archive_loads_in_any_order_and_compression() {
    let (mut items, id) = old_docker_archive(&layers(), &["app:1", "quay.io/a/app:2"]);
    let (forward, all) = (archive(&items), ["docker.io/library/app:1", "quay.io/a/app:2"]);
    items.reverse();
    let backward = archive(&items);
    let zstd = zstd::encode_all(backward.as_slice(), 1).expect("to memory");
    for (nth, bytes) in [forward.clone(), backward, gzip(&forward), zstd].iter().enumerate() {
        for from_pipe in [false, true] {
            let bench = Bench::new();
            let loaded = match from_pipe {
                true => bench.load_pipe(bytes, Load::default()),
                false => bench.load_file(bytes, Load::default()),
            };
            let loaded = loaded.expect("loaded");
            assert_eq!(loaded.done.references, all, "archive {nth}");
            let images = bench.engine.images();
            assert_eq!((images.len(), images[0].id.as_str()), (1, id.to_string().as_str()));
            assert_eq!((images[0].digest.as_str(), images[0].layers), (loaded.done.digest.as_str(), 4));
            // The lowest layer is repeated at the top, so the file that the second layer removed exists again.
            assert_eq!(bench.files("app:1").get("gone"), Some(&1));
            bench.is_clean();
            // A layer that is in the store is not read again.
            let again = bench.load_file(bytes, Load::default()).expect("loaded");
            assert!(again.done.unchanged);
            bench.is_clean();
        }
    }
}

#[test]
fn an_oci_archive_keeps_its_digests_and_its_layers_as_they_are() {
    let image = Image::of(&layers(), "amd64");
    let dir = tempfile::tempdir().expect("a directory");
    write_layout(dir.path(), std::slice::from_ref(&image));
    let bytes = archive(&layout_items(dir.path()));
    for from_pipe in [false, true] {
        let bench = Bench::new();
        let loaded = match from_pipe {
            true => bench.load_pipe(&gzip(&bytes), Load::default()),
            false => bench.load_file(&bytes, Load::default()),
        };
        assert_eq!(loaded.expect("loaded").done.digest, image.digest().to_string());
        assert_eq!(bench.files("localhost/t"), expected_files());
        assert!(
            bench.engine.named().contains(&format!("blobs/sha256/{}", Digest::of(&layers()[2].blob).hex()))
        );
        bench.is_clean();
    }
}

#[test]
fn a_config_whose_size_differs_from_the_manifest_is_not_loaded() {
    let mut image = Image::of(&layers(), "amd64");
    let mut manifest: serde_json::Value = serde_json::from_slice(&image.manifest).expect("JSON");
    manifest["config"]["size"] = (manifest["config"]["size"].as_u64().expect("a size") + 1).into();
    image.manifest = serde_json::to_vec(&manifest).expect("JSON");
    let dir = tempfile::tempdir().expect("a directory");
    write_layout(dir.path(), std::slice::from_ref(&image));
    let bench = Bench::new();
    let refused = bench.load_file(&archive(&layout_items(dir.path())), Load::default()).expect_err("a lie");
    assert!(refused.message.contains("bytes, expected"), "{}", refused.message);
    bench.is_clean();
}

#[test]
fn an_index_loads_the_image_of_the_platform_or_none() {
    let [one, two] = ["amd64", "arm64"].map(|arch| Image::of(&layers(), arch));
    let dir = tempfile::tempdir().expect("a directory");
    write_layout(dir.path(), &[one, two.clone()]);
    let bytes = archive(&layout_items(dir.path()));
    let bench = Bench::new();
    for from_pipe in [false, true] {
        let load = |load| match from_pipe {
            true => bench.load_pipe(&bytes, load),
            false => bench.load_file(&bytes, load),
        };
        let loaded = load(for_platform("linux/arm64")).expect("loaded");
        assert_eq!(loaded.done.digest, two.digest().to_string());
        let refused = load(for_platform("linux/s390x")).expect_err("not there");
        assert!(refused.message.contains("no image for linux/s390x"), "{}", refused.message);
    }
    // A docker archive has the platform in the image's config.
    let (items, _) = old_docker_archive(&layers(), &["app:1"]);
    let refused = bench.load_file(&archive(&items), for_platform("linux/riscv64")).expect_err("another");
    assert!(refused.message.contains("is for linux/amd64, not for linux/riscv64"), "{}", refused.message);
    bench.is_clean();
}

fn for_platform(platform: &str) -> Load {
    Load { platform: Some(platform.to_owned()), ..Load::default() }
}

/// Hostile archives: the defect, the archive, and a part of the expected error.
fn hostile() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let good = || old_docker_archive(&layers(), &["app:1"]).0;
    let with = |more: Vec<Item>| {
        let mut items = more;
        items.extend(good());
        archive(&items)
    };
    let listing = |manifest: Value| archive(&[file("manifest.json", manifest.to_string())]);
    let image = Image::of(&layers(), "amd64");
    let (config, id) = config(&image);
    let config_name = format!("{}.json", id.hex());
    let docker = |names: &[&str], more: Vec<Item>| {
        let manifest = json!([{"Config": config_name, "RepoTags": ["app:1"], "Layers": names}]);
        let mut items = vec![file(config_name.clone(), config), file("manifest.json", manifest.to_string())];
        items.extend(more);
        archive(&items)
    };
    let [a, b, c] = [0, 1, 2].map(|nth| layers()[nth].tar.clone());
    let escape = Layer::of(&[("../../escaped", b"x")], Packing::Plain).tar;
    let whole = with(vec![]);
    let mut device = header("null", "", tar::EntryType::Char, 0);
    device.set_cksum();
    let huge = header("manifest.json", "", tar::EntryType::Regular, 6 << 30);
    vec![
        ("nothing", vec![], "cannot load"),
        ("no tar", b"garbage".repeat(200), "it is not a tar"),
        ("no image", archive(&[file("hello", "x")]), "neither manifest.json nor index.json"),
        ("cut within a layer", whole[..3000].to_vec(), "ends within"),
        ("cut gzip", gzip(&whole)[..700].to_vec(), "cannot load"),
        ("a name outside", with(vec![file("../x", "x")]), r#""../x" leads out"#),
        ("an absolute name", with(vec![file("/etc/x", "x")]), "absolute"),
        ("a link outside", with(vec![Item::Link("a/b".into(), "../../etc/passwd".into())]), "leads out"),
        ("an absolute link", with(vec![Item::Link("a".into(), "/etc/passwd".into())]), "absolute"),
        ("a hard link outside", with(vec![Item::HardLink("a".into(), "../x".into())]), "leads out"),
        ("a device", with(vec![Item::Raw(device.as_bytes().to_vec())]), "neither file"),
        ("a name twice", with(vec![file("manifest.json", "[]")]), "twice"),
        ("a giant document", archive(&[file("manifest.json", vec![b' '; 5 << 20])]), "at most 4194304"),
        ("a size that is a lie", huge.as_bytes().to_vec(), "cannot load"),
        ("broken JSON", archive(&[file("manifest.json", "[{")]), "manifest.json"),
        ("no images", listing(json!([])), "holds no image"),
        (
            "a circle of links",
            docker(
                &["1", "2", "3"],
                vec![Item::Link("1".into(), "2".into()), Item::Link("2".into(), "1".into())],
            ),
            "circle",
        ),
        ("a config outside", listing(json!([{"Config": "../../etc/passwd", "Layers": []}])), "leads out"),
        (
            "no config",
            listing(json!([{"Config": "c.json", "Layers": []}])),
            r#""c.json" is not in the archive"#,
        ),
        (
            "a config with another digest",
            archive(&[
                file(format!("{}.json", "0".repeat(64)), config),
                file(
                    "manifest.json",
                    json!([{"Config": format!("{}.json", "0".repeat(64)), "Layers": []}]).to_string(),
                ),
            ]),
            "has digest",
        ),
        ("too few layers", docker(&["1"], vec![file("1", a.clone())]), "names 3 diff ids"),
        (
            "a missing layer",
            docker(&["1", "2", "3"], vec![file("1", a.clone()), file("2", b.clone())]),
            r#""3" is not in the archive"#,
        ),
        (
            "layers in the wrong order",
            docker(&["1", "2", "3"], vec![file("1", b.clone()), file("2", a.clone()), file("3", c.clone())]),
            "diff id",
        ),
        (
            "a layer that is no tar",
            docker(&["1", "2", "3"], vec![file("1", "text"), file("2", b.clone()), file("3", c.clone())]),
            "no tar",
        ),
        (
            "a layer that is cut",
            docker(
                &["1", "2", "3"],
                vec![file("1", a[..700].to_vec()), file("2", b.clone()), file("3", c.clone())],
            ),
            "cannot load layer",
        ),
        (
            "a layer that leads outside",
            {
                let layer = Layer::of_tar(escape, Packing::Plain);
                let image = Image::of(std::slice::from_ref(&layer), "amd64");
                let (config, id) = self::config(&image);
                let name = format!("{}.json", id.hex());
                archive(&[
                    file(name.clone(), config),
                    file("1", layer.tar),
                    file("manifest.json", json!([{"Config": name, "Layers": ["1"]}]).to_string()),
                ])
            },
            "cannot load",
        ),
        (
            "a name by digest",
            {
                let name = format!("a@sha256:{}", "0".repeat(64));
                docker_tagged(&name)
            },
            "a digest is no name",
        ),
        ("a name that is none", docker_tagged("A b"), "is not an image reference"),
        (
            "ten thousand images",
            listing(Value::Array(vec![json!({"Config": "c", "Layers": []}); 10_000])),
            "10000 images",
        ),
    ]
}

fn docker_tagged(tag: &str) -> Vec<u8> {
    archive(&old_docker_archive(&layers(), &[tag]).0)
}

#[test]
fn a_hostile_archive_is_refused_by_reason_and_leaves_nothing() {
    let bench = Bench::new();
    let before = bench.engine.named();
    for (what, bytes, why) in hostile() {
        for from_pipe in [false, true] {
            let loaded = match from_pipe {
                true => bench.load_pipe(&bytes, Load::default()),
                false => bench.load_file(&bytes, Load::default()),
            };
            let failure = loaded.expect_err(what);
            assert!(failure.message.contains(why), "{what}, pipe {from_pipe}: {}", failure.message);
            assert_eq!(bench.engine.named(), before, "{what}, pipe {from_pipe}");
            assert!(bench.engine.images().is_empty());
            bench.is_clean();
        }
    }
}

#[test]
fn an_oci_archive_that_lies_about_a_digest_or_a_size_is_refused() {
    let bench = Bench::new();
    let image = Image::of(&layers(), "amd64");
    for broken in [0, 2, 3, 4] {
        let dir = tempfile::tempdir().expect("a directory");
        write_layout(dir.path(), std::slice::from_ref(&image));
        let digest = image.blobs.get(broken).map_or_else(|| image.digest(), |(digest, _)| digest.clone());
        let path = dir.path().join("blobs/sha256").join(digest.hex());
        let mut bytes = fs::read(&path).expect("read");
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(&path, bytes).expect("written");
        let bytes = archive(&layout_items(dir.path()));
        for loaded in [bench.load_file(&bytes, Load::default()), bench.load_pipe(&bytes, Load::default())] {
            let message = loaded.expect_err("a lie").message;
            assert!(message.contains("digest") || message.contains("cannot"), "{message}");
        }
        let dir = File::open(dir.path()).expect("opened");
        let load = Load { source: Container::OciLayout, ..Load::default() };
        bench.ask(Request::Load(load), &dir).expect_err("a lie");
        assert!(bench.engine.images().is_empty());
        bench.is_clean();
    }
}

#[test]
fn blobs_may_be_named_by_sha512() {
    let layer = Layer::of(&[("etc/one", b"1")], Packing::Gzip);
    let mut hasher = sampan_oci::digest::Hasher::new(sampan_oci::digest::Algorithm::Sha512);
    hasher.update(&layer.blob);
    let digest = hasher.finish();
    let image = Image::of(std::slice::from_ref(&layer), "amd64");
    let old = Digest::of(&layer.blob).to_string();
    let manifest =
        String::from_utf8(image.manifest.clone()).expect("text").replace(&old, &digest.to_string());
    let image = Image { manifest: manifest.into_bytes(), ..image };
    let dir = tempfile::tempdir().expect("a directory");
    write_layout(dir.path(), std::slice::from_ref(&image));
    let mut items = layout_items(dir.path());
    items.push(file("blobs/sha512/x", "x"));
    let long = format!("blobs/sha512/{}", digest.hex());
    let mut tar = archive(&items);
    // A name of more than 100 bytes, in GNU format.
    tar.truncate(tar.len() - 1024);
    let mut name = header("././@LongLink", "", tar::EntryType::GNULongName, long.len() as u64);
    name.set_cksum();
    tar.extend(name.as_bytes());
    tar.extend(long.as_bytes());
    tar.resize(tar.len().next_multiple_of(512), 0);
    tar.extend(archive(&[file("short", layer.blob.clone())]));
    for from_pipe in [false, true] {
        let bench = Bench::new();
        let loaded = match from_pipe {
            true => bench.load_pipe(&tar, Load::default()),
            false => bench.load_file(&tar, Load::default()),
        };
        assert_eq!(loaded.expect("loaded").done.digest, image.digest().to_string());
        assert!(bench.engine.store().join(&long).is_file());
        // Saving the image again keeps the long name.
        let out = bench.text("out");
        bench.ok(&["save", "-q", "--format", "oci-archive", "-o", &out, "localhost/t"]);
        let other = Bench::new();
        let again = other.load_file(&fs::read(&out).expect("read"), Load::default()).expect("loaded");
        assert_eq!(again.done.digest, image.digest().to_string());
        bench.is_clean();
    }
}

#[test]
fn what_never_ends_is_not_read_for_ever() {
    let bench = Bench::new();
    let zero = File::open("/dev/zero").expect("opened");
    let failure = bench.ask(Request::Load(Load::default()), &zero).expect_err("nothing in it");
    assert!(failure.message.contains("no image archive"), "{}", failure.message);
    bench.is_clean();
}

#[test]
fn a_hostile_layout_leads_nowhere() {
    let bench = Bench::new();
    let image = Image::of(&layers(), "amd64");
    let dir = bench.path("layout");
    write_layout(&dir, std::slice::from_ref(&image));
    let outside = bench.path("outside");
    fs::rename(dir.join("blobs/sha256"), &outside).expect("moved");
    std::os::unix::fs::symlink(&outside, dir.join("blobs/sha256")).expect("linked");
    let output = bench.run(&["pull", &format!("oci:{}:t", dir.display())]);
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("leads out of the directory"), "{error}");
    bench.is_clean();
}

#[test]
fn a_load_whose_client_hangs_up_ends_and_leaves_nothing() {
    let bench = Bench::new();
    let (read, write) = nix::unistd::pipe().expect("a pipe");
    let mut write = File::from(write);
    let bytes = archive(&old_docker_archive(&[Layer::large("x", 300_000, Packing::Plain)], &["a:1"]).0);
    let request = Request::Load(Load::default());
    let mut stream = bench.engine.ask_with(request, &[read.as_raw_fd()]);
    drop(read);
    write.write_all(&bytes[..100_000]).expect("read as it comes");
    while !matches!(stream.next(), Some(Answer::Rows { .. })) {}
    drop(stream);
    bench.engine.wait_until("the job to end", || {
        bench.engine.jobs().iter().all(|job| job.state == JobState::Cancelled)
    });
    bench.is_clean();
    assert!(bench.engine.images().is_empty());
}

#[test]
fn load_reads_standard_input_or_a_file_and_prints_like_docker() {
    let bench = Bench::new();
    let named = bench.write("named.tar", &archive(&old_docker_archive(&layers(), &["app:1"]).0));
    let (items, id) = old_docker_archive(&layers()[..1], &[]);
    let nameless = bench.write("nameless.tar", &archive(&items));
    let mut command = bench.command(&["load", "--quiet"]);
    let output = command.stdin(File::open(&named).expect("opened")).output().expect("built");
    assert_eq!(succeeded(output), "Loaded image: docker.io/library/app:1\n");
    let path = nameless.to_str().expect("text");
    assert_eq!(bench.ok(&["load", "-q", "-i", path]), format!("Loaded image ID: {id}\n"));
    let json = bench.ok(&["load", "--progress=json", "-i", path]);
    let last: Value = serde_json::from_str(json.lines().last().expect("a line")).expect("JSON");
    assert_eq!(last["references"], json!([id.to_string()]));
    let gone = bench.run(&["load", "-i", "/nonexistent"]);
    assert_eq!(gone.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&gone.stderr).starts_with("error: cannot read archive /nonexistent: "));
}

#[test]
fn podman_skopeo_and_umoci_read_saved_images() {
    need_root();
    let bench = Bench::new();
    let image = Image::of(&layers(), "amd64");
    write_layout(&bench.path("in"), std::slice::from_ref(&image));
    bench.ok(&["pull", &format!("oci:{}:t", bench.text("in"))]);
    bench.ok(&["tag", "localhost/in:t", "localhost/app:1", "localhost/app:2"]);
    let id = config(&image).1;
    for format in ["docker-archive", "oci-archive"] {
        let out = bench.text(format);
        bench.ok(&["save", "--format", format, "-o", &out, "localhost/app:1"]);
        bench.podman(&["load", "-q", "-i", &out]);
        assert_eq!(bench.podman(&["inspect", "--format", "{{.Id}}", "localhost/app:1"]).trim(), id.hex());
        bench.podman(&["rmi", "localhost/app:1"]);
        let config = tool("skopeo", &["inspect", "--config", "--raw", &format!("{format}:{out}")]);
        assert_eq!(Digest::of(config.as_bytes()), id);
    }
    let raw = tool("skopeo", &["inspect", "--raw", &format!("oci-archive:{}", bench.text("oci-archive"))]);
    assert_eq!(raw.as_bytes(), image.manifest);
    // Two names of one image in a docker archive: podman finds both.
    let both = bench.text("both");
    bench.ok(&["save", "-o", &both, "localhost/app:1", "localhost/app:2"]);
    bench.podman(&["load", "-q", "-i", &both]);
    bench.podman(&["inspect", "--format", "{{.Id}}", "localhost/app:1", "localhost/app:2"]);
    // A directory can be saved to repeatedly.
    let dir = bench.text("dir");
    bench.ok(&["save", "--format", "oci-dir", "-o", &dir, "localhost/app:1"]);
    bench.ok(&["save", "--format", "oci-dir", "-o", &dir, "localhost/app:2"]);
    assert_eq!(tool("umoci", &["ls", "--layout", &dir]), "localhost/app:1\nlocalhost/app:2\n");
    let raw = tool("skopeo", &["inspect", "--raw", &format!("oci:{dir}:localhost/app:2")]);
    assert_eq!(raw.as_bytes(), image.manifest);
}

#[test]
fn images_of_podman_and_skopeo_load_from_files_and_pipes() {
    need_root();
    let source = tempfile::tempdir().expect("a directory");
    let image = Image::of(&layers()[..2], "amd64");
    write_layout(source.path(), std::slice::from_ref(&image));
    let from = format!("oci:{}:t", source.path().display());
    let id = config(&image).1.to_string();
    let maker = Bench::new();
    let copy = |to: String| drop(tool("skopeo", &["copy", "-q", &from, &to]));
    copy(format!("docker-archive:{}:localhost/app:1", maker.text("skopeo.docker")));
    copy(format!("oci-archive:{}:localhost/app:1", maker.text("skopeo.oci")));
    maker.podman(&["load", "-q", "-i", &maker.text("skopeo.docker")]);
    maker.podman(&["tag", "localhost/app:1", "localhost/other:2"]);
    let save = |format: &str, out: &str| {
        maker.podman(&["save", "-q", "--format", format, "-o", &maker.text(out), "localhost/app:1"]);
    };
    save("docker-archive", "podman.docker");
    save("oci-archive", "podman.oci");
    let both = ["save", "-q", "-m", "-o", &maker.text("podman.both"), "localhost/app:1", "localhost/other:2"];
    maker.podman(&both);
    for name in ["skopeo.docker", "skopeo.oci", "podman.docker", "podman.oci", "podman.both"] {
        let bytes = fs::read(maker.path(name)).expect("read");
        for from_pipe in [false, true] {
            let bench = Bench::new();
            let loaded = match from_pipe {
                true => bench.load_pipe(&bytes, Load::default()),
                false => bench.load_file(&bytes, Load::default()),
            };
            let mut references = loaded.expect(name).done.references;
            references.sort();
            let both = ["localhost/app:1", "localhost/other:2"];
            assert_eq!(references, both[..if name == "podman.both" { 2 } else { 1 }], "{name}");
            let images = bench.engine.images();
            // podman writes a new config into OCI archives; the other tools keep it.
            assert!(images[0].id == id || name == "podman.oci", "{name}");
            if name.ends_with(".oci") {
                let raw = tool("skopeo", &["inspect", "--raw", &format!("oci-archive:{}", maker.text(name))]);
                assert_eq!(images[0].digest, Digest::of(raw.as_bytes()).to_string(), "{name}");
            }
            assert_eq!(bench.files("localhost/app:1").get("two"), Some(&3000), "{name}");
            bench.is_clean();
            let output = tool("umoci", &["ls", "--layout", bench.engine.store().to_str().expect("text")]);
            assert!(output.contains("localhost/app:1"), "{name}: {output}");
        }
    }
}

/// The field `what` of docker's image `name`, by `docker inspect`.
fn docker_inspect(dockerd: &Dockerd, name: &str, what: &str) -> String {
    let output = dockerd.docker().args(["inspect", "--format", what, name]).output();
    succeeded(output.expect("docker is installed")).trim().to_owned()
}

#[test]
fn docker_loads_saved_images_and_its_saved_images_load_here() {
    need_root();
    let bench = Bench::new();
    let dockerd = Dockerd::start(bench.dir.path()).expect("dockerd of Debian's package docker.io");
    let docker =
        |args: &[&str]| succeeded(dockerd.docker().args(args).output().expect("docker is installed"));
    let image = Image::of(&layers(), "amd64");
    write_layout(&bench.path("in"), std::slice::from_ref(&image));
    bench.ok(&["pull", &format!("oci:{}:t", bench.text("in"))]);
    bench.ok(&["tag", "localhost/in:t", "docker.io/demo/app:1", "localhost/app:2"]);
    let (id, diff_ids) =
        (config(&image).1.to_string(), layers().iter().map(|l| Digest::of(&l.tar)).collect::<Vec<_>>());
    let (out, names) = (bench.text("saved"), ["docker.io/demo/app:1", "localhost/app:2"]);
    bench.ok(&["save", "-o", &out, names[0], names[1]]);
    docker(&["load", "--quiet", "--input", &out]);
    for name in ["demo/app:1", "localhost/app:2"] {
        assert_eq!(docker_inspect(&dockerd, name, "{{.Id}}"), id, "{name}");
        let layers = docker_inspect(&dockerd, name, "{{json .RootFS.Layers}}");
        assert_eq!(serde_json::from_str::<Vec<Digest>>(&layers).expect("JSON"), diff_ids, "{name}");
    }
    // The image that docker saved loads into an empty store.
    let other = Bench::new();
    let mut save = dockerd.docker();
    let mut save = save.args(["save", "demo/app:1", "localhost/app:2"]).stdout(Stdio::piped()).spawn();
    let saved = save.as_mut().expect("docker is installed").stdout.take().expect("piped");
    let said = succeeded(other.command(&["load"]).stdin(saved).output().expect("built"));
    assert!(save.expect("started").wait().expect("waited for").success());
    for name in names {
        assert!(said.contains(&format!("Loaded image: {name}\n")), "{said}");
        assert_eq!(other.files(name), bench.files(name), "{name}");
    }
    assert_eq!(other.engine.images()[0].id, id);
    other.is_clean();
    // The exported file system of a docker container can be imported.
    docker(&["create", "--name", "made", "--network", "none", "demo/app:1"]);
    docker(&["export", "--output", &out, "made"]);
    other.ok(&["import", "exported:1", &out]);
    assert_eq!(other.files("exported:1").get("two"), Some(&3000));
}

#[test]
fn a_saved_image_loads_with_the_same_digest() {
    let bench = Bench::new();
    let image = Image::of(&layers(), "amd64");
    write_layout(&bench.path("in"), std::slice::from_ref(&image));
    bench.ok(&["pull", "-q", &format!("oci:{}:t", bench.text("in"))]);
    for format in ["docker-archive", "oci-archive"] {
        let mut bytes = Vec::new();
        for _ in 0..2 {
            let output = bench.run(&["save", "--format", format, "localhost/in:t"]);
            assert!(output.status.success());
            assert!(
                bytes.is_empty() || bytes == output.stdout,
                "{format} differs from one time to the other"
            );
            bytes = output.stdout;
        }
        let loaded = bench.load_pipe(&bytes, Load::default()).expect("loaded");
        assert!(loaded.done.unchanged, "{format}");
        assert_eq!(loaded.done.digest, image.digest().to_string());
        let other = Bench::new();
        other.load_pipe(&bytes, Load::default()).expect("loaded");
        assert_eq!(other.engine.images()[0].id, config(&image).1.to_string());
        assert_eq!(other.files("localhost/in:t"), expected_files());
        other.is_clean();
    }
    bench.is_clean();
}

#[test]
fn an_image_removed_meanwhile_is_complete_or_not_found() {
    let bench = Bench::new();
    let image = Image::of(&layers(), "amd64");
    write_layout(&bench.path("a"), std::slice::from_ref(&image));
    let (from, out) = (format!("oci:{}:t", bench.text("a")), bench.text("out"));
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let looks = || {
        let mut saved = 0;
        for nth in 0..400 {
            let output = bench.run(&["save", "-q", "-o", &format!("{out}{}", nth % 2), "localhost/a:t"]);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            saved += usize::from(output.status.success());
            assert!(output.status.success() || said.contains("is not in the local store"), "{said}");
        }
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        saved
    };
    std::thread::scope(|scope| {
        let looks = scope.spawn(looks);
        while !is_over.load(std::sync::atomic::Ordering::Relaxed) && !looks.is_finished() {
            bench.ok(&["pull", "-q", &from]);
            bench.ok(&["rmi", "-f", "localhost/a:t"]);
        }
        assert!(looks.join().expect("no other error") > 0);
    });
    bench.is_clean();
}

#[test]
fn layers_that_images_share_are_written_once() {
    let bench = Bench::new();
    let shared = layers();
    let more = Layer::large("etc/big", 50_000, Packing::Gzip);
    for (name, image) in
        [("a", Image::of(&shared, "amd64")), ("b", Image::of(&[&shared[..], &[more]].concat(), "amd64"))]
    {
        write_layout(&bench.path(name), std::slice::from_ref(&image));
        bench.ok(&["pull", "-q", &format!("oci:{}:t", bench.text(name))]);
    }
    for format in ["docker-archive", "oci-archive"] {
        let out = bench.text(format);
        bench.ok(&["save", "-q", "--format", format, "-o", &out, "localhost/a:t", "localhost/b:t"]);
        let mut tar = tar::Archive::new(File::open(&out).expect("opened"));
        let names: Vec<String> = (tar.entries().expect("a tar"))
            .map(|entry| entry.expect("whole").path().expect("a name").display().to_string())
            .collect();
        let mut unique = names.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), names.len(), "{names:?}");
        let other = Bench::new();
        let loaded = other.load_pipe(&fs::read(&out).expect("read"), Load::default()).expect("loaded");
        assert_eq!(loaded.done.references.len(), 2);
        let mut expected = expected_files();
        expected.insert("big".to_owned(), 50_000);
        assert_eq!(other.files("localhost/b:t"), expected);
    }
}

#[test]
fn a_failed_save_leaves_nothing_and_a_damaged_blob_is_noticed() {
    let bench = Bench::new();
    let image = Image::of(&layers(), "amd64");
    write_layout(&bench.path("in"), std::slice::from_ref(&image));
    bench.ok(&["pull", "-q", &format!("oci:{}:t", bench.text("in"))]);
    let blob = bench.engine.store().join("blobs/sha256").join(Digest::of(&layers()[2].blob).hex());
    let good = fs::read(&blob).expect("read");
    let mut bad = good.clone();
    bad[good.len() - 1] ^= 1;
    fs::write(&blob, bad).expect("written");
    let old = bench.write("old.tar", b"what was there before");
    for (format, out) in
        [("docker-archive", "old.tar"), ("oci-archive", "new.tar"), ("oci-dir", "dir"), ("oci-dir", "in")]
    {
        let before = fs::read_dir(bench.dir.path()).expect("listed").count();
        let output = bench.run(&["save", "--format", format, "-o", &bench.text(out), "localhost/in:t"]);
        assert_eq!(output.status.code(), if out == "in" { Some(0) } else { Some(1) }, "{format} {out}");
        assert_eq!(fs::read_dir(bench.dir.path()).expect("listed").count(), before, "{format}");
    }
    assert_eq!(fs::read(old).expect("read"), b"what was there before");
    // A truncated archive must not look complete.
    let output = bench.run(&["save", "--format", "oci-archive", "localhost/in:t"]);
    assert!(!output.status.success());
    assert!(!output.stdout.ends_with(&[0; 1024]));
    fs::write(&blob, good).expect("written");
    let missing = bench.run(&["save", "-o", &bench.text("none.tar"), "localhost/in:t", "nope"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains(r#"image "nope" is not in the local store"#));
    assert!(!bench.path("none.tar").exists());
}

#[test]
fn a_reader_that_leaves_or_sleeps_ends_a_save_and_no_other_job() {
    let bench = Bench::new();
    let image = Image::of(&[Layer::large("x", 400_000, Packing::Gzip)], "amd64");
    write_layout(&bench.path("in"), std::slice::from_ref(&image));
    bench.ok(&["pull", "-q", &format!("oci:{}:t", bench.text("in"))]);
    let save = || Request::Save(Save { names: vec!["localhost/in:t".to_owned()], ..Save::default() });
    let pipe = || -> (OwnedFd, OwnedFd) { nix::unistd::pipe().expect("a pipe") };
    // The reader closes the pipe.
    let (read, write) = pipe();
    drop(read);
    let failure = bench.ask(save(), &write).expect_err("nobody reads");
    assert!(failure.message.contains("Broken pipe"), "{}", failure.message);
    // While the reader of one save sleeps, other requests succeed; closing the pipe ends the save.
    let (read, write) = pipe();
    let mut stream = bench.engine.ask_with(save(), &[write.as_raw_fd()]);
    drop(write);
    while !matches!(stream.next(), Some(Answer::Rows { .. })) {}
    let archive = archive(&old_docker_archive(&layers(), &["app:1"]).0);
    bench.load_pipe(&archive, Load::default()).expect("loaded beside it");
    drop(stream);
    bench.engine.wait_until("the save to end", || {
        bench.engine.jobs().iter().all(|job| job.state != JobState::Running)
    });
    let mut rest = Vec::new();
    File::from(read).read_to_end(&mut rest).expect("its end");
    assert!(!rest.ends_with(&[0; 1024]));
}

#[test]
fn transports_name_images_as_documented() {
    let bench = Bench::new();
    let image = Image::of(&layers(), "amd64");
    write_layout(&bench.path("My_App"), std::slice::from_ref(&image));
    bench.ok(&["pull", "-q", &format!("oci:{}:t", bench.text("My_App"))]);
    bench.ok(&["pull", "-q", &format!("oci:{}", bench.text("My_App"))]);
    let two = [old_docker_archive(&layers(), &["app:1"]).0, old_docker_archive(&layers()[..1], &["app:2"]).0];
    let mut lists = Vec::new();
    let mut items = Vec::new();
    for item in two.into_iter().flatten() {
        match item {
            Item::File(name, bytes) if name == "manifest.json" => {
                let list: Vec<Value> = serde_json::from_slice(&bytes).expect("JSON");
                lists.extend(list);
            }
            Item::File(name, bytes) => {
                let twice = |other: &Item| matches!(other, Item::File(there, _) if *there == name);
                if !items.iter().any(twice) {
                    items.push(Item::File(name, bytes));
                }
            }
            Item::Link(name, to) => {
                let twice = |other: &Item| matches!(other, Item::File(there, _) | Item::Link(there, _) if *there == name);
                if !items.iter().any(twice) {
                    items.push(Item::Link(name, to));
                }
            }
            _ => {}
        }
    }
    items.push(file("manifest.json", Value::Array(lists).to_string()));
    // The top layer of the second image has the same path as a layer of the first one: write the right tar there.
    let path = bench.write("two.tar", &archive(&items));
    let path = path.to_str().expect("text");
    bench.ok(&["pull", "-q", &format!("docker-archive:{path}:app:1")]);
    let refused = bench.run(&["pull", &format!("docker-archive:{path}:app:9")]);
    assert_eq!(refused.status.code(), Some(1));
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        error.contains(r#"no image in the archive is called "app:9"; there are: app:1, app:2"#),
        "{error}"
    );
    let images = bench.engine.images();
    let mut names: Vec<&str> =
        images.iter().flat_map(|image| &image.references).map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["docker.io/library/app:1", "localhost/my-app:latest", "localhost/my-app:t"]);
    for bad in ["oci:", "dir:/x", "docker-archive::a"] {
        assert_eq!(bench.run(&["pull", bad]).status.code(), Some(125), "{bad}");
    }
    let empty = bench.path("empty");
    fs::create_dir(&empty).expect("made");
    let refused = bench.run(&["pull", &format!("oci:{}", empty.display())]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("no OCI image layout") && !said.contains("archive"), "{said}");
    let pointless = bench.run(&["pull", "--all-tags", "oci:/x:y"]);
    assert_eq!(pointless.status.code(), Some(125));
}

#[test]
fn a_directory_that_is_somebody_elses_is_not_written_to() {
    need_root();
    let bench = Bench::new();
    let image = Image::of(&layers()[..1], "amd64");
    write_layout(&bench.path("in"), std::slice::from_ref(&image));
    bench.ok(&["pull", "-q", &format!("oci:{}:t", bench.text("in"))]);
    // A symbolic link in a hostile directory leads outside of it: nothing is written there.
    let (dir, outside) = (bench.path("dir"), bench.path("outside"));
    fs::create_dir(&dir).expect("made");
    fs::create_dir(&outside).expect("made");
    std::os::unix::fs::symlink(&outside, dir.join("blobs")).expect("linked");
    let output = bench.run(&["save", "--format", "oci-dir", "-o", &bench.text("dir"), "localhost/in:t"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(fs::read_dir(&outside).expect("listed").count(), 0);
    // Saved files get the owner of the directory.
    let theirs = bench.path("theirs");
    fs::create_dir(&theirs).expect("made");
    nix::unistd::chown(&theirs, Some(1234.into()), Some(1234.into())).expect("root may");
    bench.ok(&["save", "-q", "--format", "oci-dir", "-o", &bench.text("theirs"), "localhost/in:t"]);
    let owner = |path: &Path| std::os::unix::fs::MetadataExt::uid(&fs::metadata(path).expect("there"));
    assert_eq!(owner(&theirs.join("index.json")), 1234);
    assert_eq!(owner(&theirs.join("blobs/sha256")), 1234);
}

#[test]
fn a_push_to_a_transport_is_a_save_under_the_name_there() {
    let bench = Bench::new();
    let image = Image::of(&layers(), "amd64");
    write_layout(&bench.path("in"), std::slice::from_ref(&image));
    bench.ok(&["pull", "-q", &format!("oci:{}:t", bench.text("in"))]);
    let (dir, oci, docker) = (bench.text("dir"), bench.text("oci.tar"), bench.text("docker.tar"));
    bench.ok(&["push", "-q", "localhost/in:t", &format!("oci:{dir}:v1")]);
    bench.ok(&["push", "-q", "localhost/in:t", &format!("oci-archive:{oci}:v2")]);
    bench.ok(&["push", "-q", "localhost/in:t", &format!("docker-archive:{docker}:app:3")]);
    for place in [format!("oci:{dir}:v1"), format!("oci-archive:{oci}:v2")] {
        assert_eq!(tool("skopeo", &["inspect", "--raw", &place]).as_bytes(), image.manifest);
    }
    let other = Bench::new();
    other.ok(&["pull", "-q", &format!("docker-archive:{docker}:docker.io/library/app:3")]);
    other.ok(&["pull", "-q", &format!("oci-archive:{oci}:v2")]);
    let images = other.engine.images();
    let mut names: Vec<&str> =
        images.iter().flat_map(|image| &image.references).map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["docker.io/library/app:3", "localhost/v2:latest"]);
    assert_eq!(bench.run(&["push", "localhost/in:t", "dir:/x"]).status.code(), Some(125));
    let bad = bench.run(&["push", "localhost/in:t", &format!("oci:{dir}:not a name")]);
    assert_eq!(bad.status.code(), Some(125));
}

#[test]
fn an_archive_gives_no_image_a_name_that_wants_signatures() {
    let mut bench = Bench::new();
    bench.engine = Engine::configured("[[engine.policy]]\nprefix = 'quay.io/prod'\nrequire = 'reject'");
    let bytes = docker_tagged("quay.io/prod/db:1");
    for from_pipe in [false, true] {
        let loaded = match from_pipe {
            true => bench.load_pipe(&bytes, Load::default()),
            false => bench.load_file(&bytes, Load::default()),
        };
        let message = loaded.expect_err("not signed").message;
        assert!(message.contains("called quay.io/prod/db:1: the policy for"), "{message}");
        assert!(bench.engine.named().is_empty());
        bench.is_clean();
    }
    let path = bench.write("archive", &bytes);
    let loaded = bench.ok(&["load", "-q", "--name", "mine:1", "-i", path.to_str().expect("text")]);
    assert_eq!(loaded, "Loaded image: docker.io/library/mine:1\n");
}

/// Events that the engine has written to its FIFO so far: type and action, ID, attributes.
fn events(fifo: &mut File, seen: &mut Vec<u8>) -> Vec<(String, String, BTreeMap<String, String>)> {
    let mut bytes = [0; 65536];
    while let Ok(len @ 1..) = fifo.read(&mut bytes) {
        seen.extend_from_slice(&bytes[..len]);
    }
    let mut scanner = sampan_ipc::record::Scanner::new(seen);
    let mut events = Vec::new();
    while let Some(sampan_ipc::record::Step::Record(record)) = scanner.next() {
        let facts = record.event.attributes.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        events.push((
            format!("{} {}", record.event.kind, record.event.action),
            record.event.id.to_owned(),
            facts,
        ));
    }
    events
}

#[test]
fn loads_and_saves_and_their_failures_write_their_events() {
    use std::os::unix::fs::OpenOptionsExt;
    let bench = Bench::new();
    let fifo = bench.engine.dir.path().join("run/monitor.fifo");
    let flags = nix::libc::O_NONBLOCK;
    let mut fifo = File::options().read(true).custom_flags(flags).open(fifo).expect("the engine made it");
    let (items, id) = old_docker_archive(&layers(), &["app:1", "app:2"]);
    bench.load_file(&archive(&items), Load::default()).expect("loaded");
    bench.load_file(b"no tar", Load::default()).expect_err("refused");
    let out = bench.text("out.tar");
    bench.ok(&["save", "-o", &out, "app:1"]);
    bench.run(&["save", "-o", &out, "nope"]);
    let mut seen = Vec::new();
    bench.engine.wait_until("the last event", || {
        events(&mut fifo, &mut seen).iter().filter(|(what, ..)| what == "job failed").count() == 2
    });
    let events = events(&mut fifo, &mut seen);
    let of_images: Vec<(&str, &str)> = (events.iter())
        .filter(|(what, ..)| what.starts_with("image"))
        .map(|(what, name, _)| (what.as_str(), name.as_str()))
        .collect();
    assert_eq!(
        of_images,
        [
            ("image load", "docker.io/library/app:1"),
            ("image load", "docker.io/library/app:2"),
            ("image load-error", "archive"),
            ("image save", "docker.io/library/app:1"),
            ("image save-error", "nope"),
        ]
    );
    let loaded = events.iter().find(|(what, ..)| what == "image load").expect("there");
    assert_eq!(loaded.2.get("imageId"), Some(&id.to_string()));
    assert!(loaded.2.contains_key("digest"));
}

#[test]
fn a_layout_of_umoci_is_pulled_and_loads_as_an_archive() {
    let bench = Bench::new();
    let (dir, one) = (bench.text("made"), bench.write("one", b"from umoci"));
    tool("umoci", &["init", "--layout", &dir]);
    tool("umoci", &["new", "--image", &format!("{dir}:v1")]);
    tool("umoci", &["insert", "--image", &format!("{dir}:v1"), one.to_str().expect("text"), "/etc/one"]);
    bench.ok(&["pull", "-q", &format!("oci:{dir}:v1")]);
    assert_eq!(bench.files("localhost/made:v1").get("one"), Some(&10));
    let raw = tool("skopeo", &["inspect", "--raw", &format!("oci:{dir}:v1")]);
    assert_eq!(bench.engine.images()[0].digest, Digest::of(raw.as_bytes()).to_string());
    let loaded = bench.load_pipe(&archive(&layout_items(Path::new(&dir))), Load::default()).expect("loaded");
    assert_eq!(loaded.done.references, ["localhost/v1:latest"]);
    bench.is_clean();
}
