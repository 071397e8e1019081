//! Tests of an OCI layout as a source and a destination, in directories of their own.

use super::*;
use crate::replication::test_artifacts::{Written, copy, copy_parts, digest_of, host, read};
use sampan_oci::digest::Algorithm;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;

fn open(dir: &Path, name: &str, is_destination: bool) -> Arc<dyn Repository> {
    OciLayoutPlace::open(dir).expect("opened").repository(name, is_destination).expect("a repository")
}

fn kind(result: Result<impl Sized, SideError>) -> Option<FailureKind> {
    result.err().map(|error| error.kind)
}

fn descriptor(value: &Value) -> Descriptor {
    serde_json::from_value(value.clone()).expect("a descriptor")
}

/// The names of all blobs, and of everything else but the uploads.
fn files(dir: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut waiting = vec![dir.to_owned()];
    while let Some(at) = waiting.pop() {
        for entry in fs::read_dir(&at).expect("listed") {
            let path = entry.expect("listed").path();
            match path.is_dir() {
                true => waiting.push(path),
                false => drop(found.insert(path.strip_prefix(dir).expect("beneath").to_owned())),
            }
        }
    }
    found
}

#[test]
fn everything_arrives_in_another_layout_byte_for_byte() {
    let (from, to) = (tempfile::tempdir().expect("made"), tempfile::tempdir().expect("made"));
    let mut layout = Written::new(from.path());
    let image = layout.image(&host(), "layer");
    layout.list("team/app:image", &image);
    let other = layout.image("other", "other layer");
    let nested = layout.index(&[layout.image("third", "third layer")]);
    layout.list("team/app:index", &layout.index(&[image.clone(), other, nested]));
    let empty = layout.blob("application/vnd.oci.empty.v1+json", b"{}");
    let big = layout.blob_by(Algorithm::Sha512, "a/b", b"by another algorithm");
    let foreign = json!({"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "digest": Digest::of(b"elsewhere"), "size": 9, "urls": ["https://vendor.example/layer"]});
    let artifact = layout.document(&json!({"schemaVersion": 2, "mediaType": oci::MANIFEST, "config": empty,
        "artifactType": "a/c", "layers": [big, foreign], "subject": image, "unknown": {"z": 1.50, "a": []}}));
    layout.list("team/app:artifact", &artifact);
    let target = to.path().join("made/here");
    let (source, destination) = (open(from.path(), "team/app", false), open(&target, "team/app", true));
    destination.check_writable().expect("writable");
    assert!(!target.exists(), "a check changes nothing");
    for tag in source.tags().expect("listed") {
        assert_eq!(destination.head(&tag).expect("asked"), None);
        copy(&*source, &*destination, &tag).expect("copied");
        let (here, there) = (source.head(&tag).expect("asked"), destination.head(&tag).expect("asked"));
        assert!(here.is_some() && here == there, "{tag}");
        let again = open(&target, "team/app", false).manifest(&tag).expect("read");
        assert_eq!(again, source.manifest(&tag).expect("read"));
    }
    let blobs = |dir: &Path| -> BTreeSet<(PathBuf, Vec<u8>)> {
        let all = files(dir).into_iter().filter(|path| path.starts_with("blobs"));
        all.map(|path| (path.clone(), fs::read(dir.join(path)).expect("read"))).collect()
    };
    assert_eq!(blobs(&target), blobs(from.path()));
    assert_eq!(files(&target.join(".sampan-uploads")), BTreeSet::new());
    let referrers = destination.referrers(&digest_of(&image)).expect("listed").expect("a list");
    assert_eq!(referrers.iter().map(|one| &one.digest).collect::<Vec<_>>(), [&digest_of(&artifact)]);
    // Children of an index are not listed on their own, and are found by digest.
    let listed = fs::read_to_string(target.join("index.json")).expect("read");
    assert_eq!(listed.matches("\"digest\"").count(), 3);
    assert!(destination.head(&digest_of(&image).to_string()).expect("asked").is_some());
}

#[test]
fn a_manifest_is_refused_until_all_that_it_names_is_there() {
    let (from, to) = (tempfile::tempdir().expect("made"), tempfile::tempdir().expect("made"));
    let mut layout = Written::new(from.path());
    let image = layout.image("amd64", "layer");
    layout.list("a:1", &layout.index(std::slice::from_ref(&image)));
    let (source, target) = (open(from.path(), "a", false), open(to.path(), "a", true));
    let (index, child) = (source.manifest("1").expect("read"), digest_of(&image).to_string());
    let child = source.manifest(&child).expect("read");
    assert_eq!(kind(target.put_manifest("1", &index)), Some(FailureKind::BlobUnknown));
    assert_eq!(kind(target.put_child(&child)), Some(FailureKind::BlobUnknown));
    copy_parts(&*source, &*target, &index).expect("copied");
    let layer = to.path().join("blobs/sha256").join(Digest::of(b"layer").hex());
    fs::remove_file(&layer).expect("there");
    assert_eq!(kind(target.put_manifest("1", &index)), Some(FailureKind::BlobUnknown));
    fs::write(&layer, b"layer").expect("written");
    assert!(target.put_manifest("1", &index).expect("put").indexes_subject);
    let wrong = Digest::of(b"wrong").to_string();
    assert_eq!(kind(target.put_manifest(&wrong, &index)), Some(FailureKind::Corrupt));
    assert_eq!(kind(target.put_manifest("no tag", &index)), Some(FailureKind::Refused));
}

#[test]
fn a_kill_between_two_steps_leaves_a_layout_that_can_be_read() {
    let (from, to) = (tempfile::tempdir().expect("made"), tempfile::tempdir().expect("made"));
    let mut layout = Written::new(from.path());
    layout.list("a:1", &layout.image("amd64", "the layer"));
    let source = open(from.path(), "a", false);
    let manifest = source.manifest("1").expect("read");
    let parts = sampan_replication::artifact::parts(&manifest.bytes).expect("a manifest");
    // Each step is made by another process.
    let step = || {
        let again = OciLayoutPlace::open(to.path()).expect("a layout");
        assert_eq!(again.repositories(&Cancel::default()).expect("listed"), [""; 0]);
        again.repository("a", true).expect("a repository")
    };
    for blob in &parts.blobs {
        let bytes = read(&*source, blob).expect("read");
        let Begin::Session(mut session) = step().begin(blob, None).expect("begun") else { panic!("absent") };
        assert_eq!(step().offset(&mut session).expect("asked"), Some(0));
        step().send(&mut session, blob, 0, &bytes[..5]).expect("sent");
        assert_eq!(step().offset(&mut session).expect("asked"), Some(5));
        assert_eq!(kind(step().send(&mut session, blob, 6, b"x")), Some(FailureKind::LostSession));
        assert_eq!(kind(step().finish(&session, blob)), Some(FailureKind::LostSession));
        // Bytes behind the offset, which the copier does not know of, are dropped.
        step().send(&mut session, blob, 5, b"???").expect("sent");
        step().send(&mut session, blob, 5, &bytes[5..]).expect("sent");
        assert!(!step().has_blob(blob).expect("asked"));
        step().finish(&session, blob).expect("finished");
        assert!(step().has_blob(blob).expect("asked"));
        assert_eq!(step().offset(&mut session).expect("asked"), None);
        assert!(!step().cancel(&session).expect("asked"));
    }
    // A kill inside the change of the index leaves its temporary file.
    fs::write(to.path().join(".sampan-uploads/staged"), b"{\"manif").expect("written");
    step().put_child(&manifest).expect("put");
    assert_eq!(step().head(&manifest.digest.to_string()).expect("asked"), None, "nothing names it yet");
    step().put_manifest("1", &manifest).expect("put");
    assert_eq!(open(to.path(), "a", false).tags().expect("listed"), ["1"]);
    assert_eq!(files(&to.path().join(".sampan-uploads")), BTreeSet::new());
}

#[test]
fn bytes_of_another_process_are_hashed_before_they_get_a_name() {
    let dir = tempfile::tempdir().expect("made");
    let blob = descriptor(&json!({"mediaType": "a/b", "digest": Digest::of(b"right"), "size": 5}));
    let begin = || match open(dir.path(), "a", true).begin(&blob, None).expect("begun") {
        Begin::Session(session) => session,
        Begin::Mounted => panic!("absent"),
    };
    let (mut session, other) = (begin(), begin());
    assert_ne!(session.location, other.location, "two tasks may send the same blob");
    open(dir.path(), "a", true).send(&mut session, &blob, 0, b"wr").expect("sent");
    let last = open(dir.path(), "a", true);
    last.send(&mut session, &blob, 2, b"ong").expect("sent");
    assert_eq!(kind(last.send(&mut session, &blob, 5, b"!")), Some(FailureKind::Corrupt));
    assert_eq!(kind(last.finish(&session, &blob)), Some(FailureKind::LostSession));
    assert_eq!(last.offset(&mut session).expect("asked"), None);
    assert!(last.cancel(&other).expect("removed"));
    for location in ["../index.json", "index.json", "", "sha256-0.upload-1"] {
        let mut hostile = Session { location: location.to_owned(), chunk_min: 0 };
        assert_eq!(last.offset(&mut hostile).expect("asked"), None, "{location}");
        assert_eq!(kind(last.send(&mut hostile, &blob, 0, b"x")), Some(FailureKind::LostSession));
        assert!(!last.cancel(&hostile).expect("asked"));
    }
    assert!(dir.path().join("index.json").exists());
}

#[test]
fn a_hostile_layout_gives_errors_and_nothing_of_this_host() {
    let (dir, outside) = (tempfile::tempdir().expect("made"), tempfile::tempdir().expect("made"));
    let mut layout = Written::new(dir.path());
    let image = layout.image("amd64", "layer");
    layout.list("a:1", &image);
    let path = layout.path(&digest_of(&image));
    let good = fs::read(&path).expect("read");
    let secret = outside.path().join("secret");
    fs::write(&secret, &good).expect("written");
    let side = || open(dir.path(), "a", false);
    // A link out, a link to nowhere, a directory, a FIFO.
    fs::remove_file(&path).expect("there");
    symlink(&secret, &path).expect("made");
    assert_eq!(kind(side().manifest("1")), Some(FailureKind::Refused));
    assert_eq!(kind(side().blob(&descriptor(&image), 0, None)), Some(FailureKind::Refused));
    assert_eq!(kind(side().has_blob(&descriptor(&image))), Some(FailureKind::Refused));
    fs::remove_file(&path).expect("there");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("made");
    assert_eq!(kind(side().manifest("1")), Some(FailureKind::Refused));
    fs::remove_file(&path).expect("there");
    assert_eq!(kind(side().manifest("1")), Some(FailureKind::NotFound));
    assert_eq!(side().head("1").expect("asked"), None);
    // Other bytes of the right size, and another size.
    fs::write(&path, vec![b' '; good.len()]).expect("written");
    assert_eq!(kind(side().manifest("1")), Some(FailureKind::Corrupt));
    assert_eq!(side().head("1").expect("asked"), Some(Head { digest: None }));
    assert_eq!(
        kind(side().blob(&Descriptor { size: 1, ..descriptor(&image) }, 0, None)),
        Some(FailureKind::Corrupt)
    );
    fs::write(&path, &good).expect("written");
    assert!(side().manifest("1").is_ok());
    // The index itself.
    let index = dir.path().join("index.json");
    for (bytes, found) in [
        (vec![b' '; usize::try_from(oci::MANIFEST_MAX).expect("small") + 1], FailureKind::Refused),
        (b"{\"manifests\":7}".to_vec(), FailureKind::Refused),
        (Vec::new(), FailureKind::Refused),
    ] {
        fs::write(&index, bytes).expect("written");
        assert_eq!(kind(OciLayoutPlace::open(dir.path())), Some(found));
    }
    fs::remove_file(&index).expect("there");
    symlink("/etc/passwd", &index).expect("made");
    assert_eq!(kind(OciLayoutPlace::open(dir.path())), Some(FailureKind::Refused));
    fs::remove_file(&index).expect("there");
    let odd = json!({"manifests": [{"digest": "sha256:../../../etc/passwd", "size": 1}, {}, 1, null]});
    fs::write(&index, odd.to_string()).expect("written");
    assert_eq!(
        OciLayoutPlace::open(dir.path()).expect("opened").repositories(&Cancel::default()).expect("listed"),
        [""; 0]
    );
    fs::write(dir.path().join("oci-layout"), r#"{"imageLayoutVersion":"2.0.0"}"#).expect("written");
    fs::write(&index, "{ }").expect("written");
    assert_eq!(kind(OciLayoutPlace::open(dir.path())), Some(FailureKind::Refused));
}

#[test]
fn nothing_is_written_through_a_link() {
    let blob = descriptor(&json!({"mediaType": "a/b", "digest": Digest::of(b"abc"), "size": 3}));
    for (link, is_named) in
        [("blobs", false), ("blobs/sha256", false), (".sampan-uploads", false), ("index.json", true)]
    {
        let (dir, outside) = (tempfile::tempdir().expect("made"), tempfile::tempdir().expect("made"));
        fs::create_dir(dir.path().join("blobs")).expect("made");
        let _ = fs::remove_dir(dir.path().join(link));
        symlink(outside.path().join(if is_named { "absent" } else { "" }), dir.path().join(link))
            .expect("made");
        let stored = OciLayoutPlace::open(dir.path()).and_then(|place| {
            let side = place.repository("a", true)?;
            let Begin::Session(mut session) = side.begin(&blob, None)? else { panic!("absent") };
            side.send(&mut session, &blob, 0, b"abc")?;
            side.finish(&session, &blob)
        });
        assert!(stored.is_err(), "{link}");
        assert_eq!(files(outside.path()), BTreeSet::new(), "{link}");
    }
}

#[test]
fn two_writers_and_another_tool_lose_no_entry() {
    const TAGS: usize = 12;
    let (from, to) = (tempfile::tempdir().expect("made"), tempfile::tempdir().expect("made"));
    let mut layout = Written::new(from.path());
    layout.list("a:1", &layout.image("amd64", "layer"));
    let source = open(from.path(), "a", false);
    let manifest = source.manifest("1").expect("read");
    copy_parts(&*source, &*open(to.path(), "a", true), &manifest).expect("copied");
    std::thread::scope(|scope| {
        for name in ["a", "b"] {
            let (manifest, to) = (&manifest, to.path());
            scope.spawn(move || {
                let side = open(to, name, true);
                for nth in 0..TAGS {
                    side.put_manifest(&nth.to_string(), manifest).expect("put");
                }
            });
        }
    });
    let tags = |name| open(to.path(), name, true).tags().expect("listed").len();
    assert_eq!((tags("a"), tags("b")), (TAGS, TAGS));
    // Another tool writes while the index is being changed.
    let place = OciLayoutPlace::open(to.path()).expect("opened");
    let (layout, stop) = (place.layout().expect("there"), AtomicBool::new(false));
    let dir = &layout.dir;
    let (uploads, index) = (dir.uploads(&stop).expect("opened"), to.path().join("index.json"));
    let lock = dir.lock(&stop).expect("locked");
    let mut runs = 0;
    dir.change_index(uploads, &lock, &mut |found| {
        runs += 1;
        if runs == 1 {
            let mut other: Value = serde_json::from_slice(&fs::read(&index).expect("read")).expect("JSON");
            other["manifests"][0]["annotations"] =
                json!({crate::image::archive::manifest::REF_NAME: "theirs"});
            fs::write(&index, other.to_string()).expect("written");
        }
        Ok(found
            .put("a", Some("ours"), &descriptor(&json!({"digest": manifest.digest, "size": 1})))
            .expect("put"))
    })
    .expect("changed");
    drop(lock);
    assert_eq!(runs, 2);
    let place = OciLayoutPlace::open(to.path()).expect("opened");
    let tags = |name| place.repository(name, true).and_then(|side| side.tags()).expect("listed");
    assert!(tags("").contains(&"theirs".to_owned()) && tags("a").contains(&"ours".to_owned()));
    assert_eq!(tags("a").len() + tags("b").len(), 2 * TAGS);
}

#[test]
fn a_deleted_tag_takes_only_blobs_that_nothing_else_needs() {
    let dir = tempfile::tempdir().expect("made");
    let mut layout = Written::new(dir.path());
    let (one, two) = (layout.image("amd64", "one"), layout.image("arm64", "two"));
    layout.list("a:1", &layout.index(&[one.clone(), two.clone()]));
    layout.list("a:2", &one);
    layout.list("bare", &two);
    let stray = layout.blob("a/b", b"of another job");
    let side = open(dir.path(), "a", true);
    let has = |content: &str| layout.path(&Digest::of(content.as_bytes())).exists();
    assert!(!side.delete("bare").expect("asked"), "a bare tag is of no other repository");
    assert!(side.delete("1").expect("deleted"));
    assert!(!side.delete("1").expect("asked"));
    assert!(has("one") && has("two"));
    assert!(side.delete("2").expect("deleted"));
    assert!(!has("one") && has("two") && !layout.path(&digest_of(&one)).exists());
    assert!(layout.path(&digest_of(&stray)).exists());
    // What cannot be read may need anything.
    let three = layout.image("amd64", "three");
    let mut layout = Written::new(dir.path());
    layout.list("a:3", &three);
    let broken = layout.blob(oci::MANIFEST, b"no manifest");
    layout.list("b:1", &broken);
    let side = open(dir.path(), "a", true);
    assert!(side.delete(&digest_of(&three).to_string()).expect("deleted"));
    assert!(layout.path(&Digest::of(b"three")).exists());
    assert_eq!(open(dir.path(), "b", true).tags().expect("listed"), ["1"]);
}

#[test]
fn another_stick_is_noticed_and_an_absent_one_is_not_replaced() {
    let top = tempfile::tempdir().expect("made");
    let [path, first, second] = ["stick", "first", "second"].map(|name| top.path().join(name));
    for (dir, tag) in [(&path, "one"), (&second, "two")] {
        let mut layout = Written::new(dir);
        layout.list(&format!("a:{tag}"), &layout.image("amd64", tag));
    }
    let place = OciLayoutPlace::open(&path).expect("opened");
    let tags = || place.repository("a", true).and_then(|side| side.tags());
    assert_eq!(tags().expect("listed"), ["one"]);
    fs::rename(&path, &first).expect("renamed");
    assert_eq!(kind(tags()), Some(FailureKind::Host));
    fs::create_dir(&path).expect("made");
    assert_eq!(kind(tags()), Some(FailureKind::Host));
    fs::remove_dir(&path).expect("empty");
    fs::rename(&second, &path).expect("renamed");
    assert_eq!(tags().expect("listed"), ["two"]);
}

#[test]
fn a_stopped_side_reads_and_writes_no_more() {
    let dir = tempfile::tempdir().expect("made");
    let mut layout = Written::new(dir.path());
    layout.list("a:1", &layout.image("amd64", "layer"));
    let side = open(dir.path(), "a", true);
    let blob = descriptor(&json!({"digest": Digest::of(b"layer"), "size": 5}));
    let mut reader = side.blob(&blob, 2, None).expect("opened");
    assert_eq!(reader.starts, 2);
    side.shutdown();
    assert!(std::io::Read::read(&mut reader.reader, &mut [0; 9]).is_err());
    assert!(side.manifest("1").is_err() && side.begin(&blob, None).is_err() && side.delete("1").is_err());
}
