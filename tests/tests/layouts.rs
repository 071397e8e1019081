//! OCI layouts that a replication writes and reads, and that skopeo and umoci read and write.

use sampan_engine::replication::oci_layout_side::OciLayoutPlace;
use sampan_job::cancel::Cancel;
use sampan_oci::digest::Digest;
use sampan_replication::artifact;
use sampan_replication::side::{Begin, Place, Repository};
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

fn tool(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().expect("the program runs");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {args:?}: {err}");
    out.into_owned()
}

fn open(dir: &Path, repository: &str, is_destination: bool) -> Arc<dyn Repository> {
    let place = OciLayoutPlace::open(dir).expect("opened");
    place.repository(repository, is_destination).expect("a repository")
}

/// Writes a layout with one image under the bare tag `1.0`.
fn make_layout(dir: &Path) {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("made");
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("written");
    let blob = |kind: &str, bytes: &[u8]| {
        let digest = Digest::of(bytes);
        fs::write(blobs.join(digest.hex()), bytes).expect("written");
        json!({"mediaType": format!("application/vnd.oci.image.{kind}"), "digest": digest, "size": bytes.len()})
    };
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(5);
    header.set_mode(0o644);
    tar.append_data(&mut header, "hello", &b"hello"[..]).expect("added");
    let tar = tar.into_inner().expect("finished");
    // skopeo would compress a layer that is not, and so give the image another digest.
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(&tar).expect("compressed");
    let layer = blob("layer.v1.tar+gzip", &gzip.finish().expect("compressed"));
    let config = json!({"os": "linux", "architecture": "amd64", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(&tar)]}});
    let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob("config.v1+json", config.to_string().as_bytes()), "layers": [layer]});
    let mut entry = blob("manifest.v1+json", format!("{manifest:#}").as_bytes());
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": "1.0"});
    fs::write(dir.join("index.json"), json!({"schemaVersion": 2, "manifests": [entry]}).to_string())
        .expect("written");
}

/// Copies one image.
fn copy(source: &dyn Repository, target: &dyn Repository, tag: &str) {
    let manifest = source.manifest(tag).expect("read");
    for blob in artifact::parts(&manifest.bytes).expect("a manifest").blobs {
        let Begin::Session(mut session) = target.begin(&blob, None).expect("begun") else { continue };
        let mut bytes = Vec::new();
        source.blob(&blob, 0, None).expect("opened").reader.read_to_end(&mut bytes).expect("read");
        target.send(&mut session, &blob, 0, &bytes).expect("sent");
        target.finish(&session, &blob).expect("finished");
    }
    target.put_manifest(tag, &manifest).expect("put");
}

#[test]
fn skopeo_and_umoci_read_a_layout_that_a_replication_wrote() {
    let dir = tempfile::tempdir().expect("a directory");
    let [from, stick, theirs] = ["from", "stick", "theirs"].map(|name| dir.path().join(name));
    make_layout(&from);
    // The bare tag is in the repository that the request names.
    copy(&*open(&from, "team/app", false), &*open(&stick, "team/app", true), "1.0");
    let name = format!("oci:{}:team/app:1.0", stick.display());
    let raw = tool("skopeo", &["inspect", "--raw", &name]);
    let digest = open(&from, "", false).manifest("1.0").expect("read").digest;
    assert_eq!(Digest::of(raw.as_bytes()), digest);
    let listed = tool("umoci", &["ls", "--layout", &stick.to_string_lossy()]);
    assert_eq!(listed.trim(), "team/app:1.0");
    // skopeo adds an image beside it, and the replication another: all stay.
    tool("skopeo", &["copy", "-q", &name, &format!("oci:{}:bare", stick.display())]);
    copy(&*open(&from, "other", false), &*open(&stick, "other", true), "1.0");
    let place = OciLayoutPlace::open(&stick).expect("opened");
    let mut repositories = place.repositories(&Cancel::default()).expect("listed");
    repositories.sort();
    assert_eq!(repositories, ["", "other", "team/app"]);
    // skopeo compares every digest while it copies.
    tool(
        "skopeo",
        &[
            "copy",
            "-q",
            &format!("oci:{}:other:1.0", stick.display()),
            &format!("oci:{}:x", theirs.display()),
        ],
    );
    let back = open(&theirs, "any/name", false);
    assert_eq!(
        (back.tags().expect("listed"), back.manifest("x").expect("read").digest),
        (vec!["x".to_owned()], digest)
    );
    // What is deleted takes nothing from the others.
    assert!(open(&stick, "team/app", true).delete("1.0").expect("deleted"));
    let left: Value =
        serde_json::from_slice(&fs::read(stick.join("index.json")).expect("read")).expect("JSON");
    assert_eq!(left["manifests"].as_array().map(Vec::len), Some(2));
    tool("skopeo", &["inspect", &format!("oci:{}:bare", stick.display())]);
}
