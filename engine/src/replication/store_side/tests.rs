//! Tests of the store as a source and a destination, with an OCI layout at the other side.

use super::*;
use crate::config::{self, Invocation};
use crate::image::disk_space::DiskSpace;
use crate::outbox::Outbox;
use crate::replication::oci_layout_side::OciLayoutPlace;
use crate::replication::state::ReplicationState;
use crate::replication::test_artifacts::{Written, copy, copy_parts, digest_of, host, read};
use sampan_ipc::announce::Announcer;
use sampan_ipc::sender::FifoSender;
use sampan_job::limits::Limits;
use serde_json::json;
use std::fs;
use std::path::Path;

/// An engine's state with a store in `dir`, and a policy for the names below `signed.example`.
fn shared(dir: &Path) -> Arc<Shared> {
    let file = dir.join("engine.toml");
    fs::write(&file, "[[engine.policy]]\nprefix = \"signed.example\"\nrequire = \"reject\"\n")
        .expect("written");
    let args = ["sampan-engine".into(), "--config".into(), file.into_os_string()];
    let Ok(Invocation::Run(config)) = config::from_args(args) else { panic!("no configuration") };
    let announcer = Announcer::new(FifoSender::new(dir.join("none")));
    let poll = mio::Poll::new().expect("made");
    let waker = mio::Waker::new(poll.registry(), mio::Token(0)).expect("made");
    Arc::new(Shared {
        store: Store::open(&dir.join("store")).expect("opened"),
        limits: Limits::new(config.bounds.clone()),
        announcer: announcer.clone(),
        room: DiskSpace::new(config.marks.clone(), announcer),
        config: *config,
        outbox: Outbox::new(std::sync::mpsc::channel().0, waker),
        advice: Mutex::default(),
        replication: ReplicationState::open(&dir.join("replication")).expect("opened").0,
        rootfs: crate::container::rootfs::RootfsChoice::default(),
    })
}

fn open(shared: &Arc<Shared>, name: &str, is_destination: bool) -> Arc<dyn Repository> {
    let place = StorePlace::new(Arc::clone(shared)).expect("opened");
    place.repository(name, is_destination).expect("a repository")
}

fn layout(dir: &Path) -> Arc<dyn Repository> {
    OciLayoutPlace::open(dir).expect("opened").repository("a", false).expect("a repository")
}

fn kind(result: Result<impl Sized, SideError>) -> Option<FailureKind> {
    result.err().map(|error| error.kind)
}

const APP: &str = "registry.example/team/app";

#[test]
fn an_image_goes_into_the_store_and_out_of_it_byte_for_byte() {
    let (dir, from, to) = (
        tempfile::tempdir().expect("made"),
        tempfile::tempdir().expect("made"),
        tempfile::tempdir().expect("made"),
    );
    let mut written = Written::new(from.path());
    written.list("a:1", &written.image(&host(), "layer"));
    let shared = shared(dir.path());
    let (source, target) = (layout(from.path()), open(&shared, APP, true));
    assert_eq!(target.head("1").expect("asked"), None);
    copy(&*source, &*target, "1").expect("copied");
    assert_eq!(target.head("1").expect("asked"), source.head("1").expect("asked"));
    let place = StorePlace::new(Arc::clone(&shared)).expect("opened");
    assert_eq!(place.repositories(&Cancel::default()).expect("listed"), [APP]);
    let stored = open(&shared, APP, false);
    assert_eq!(stored.tags().expect("listed"), ["1"]);
    let out = OciLayoutPlace::open(to.path()).expect("opened").repository("a", true).expect("a repository");
    copy(&*stored, &*out, "1").expect("copied");
    assert_eq!(out.manifest("1").expect("read"), source.manifest("1").expect("read"));
    assert_eq!(fs::read_dir(partial_blob::directory(&shared.store)).expect("listed").count(), 0);
    // By digest, as well.
    let digest = source.manifest("1").expect("read").digest.to_string();
    copy(&*source, &*open(&shared, "other.example/app", true), &digest).expect("copied");
    assert!(images::find(&shared.store, &format!("other.example/app@{digest}")).is_ok());
    assert_eq!(open(&shared, "other.example/app", false).tags().expect("listed"), [""; 0]);
}

#[test]
fn of_an_index_the_store_keeps_this_hosts_image_and_knows_the_index_again() {
    let (dir, from) = (tempfile::tempdir().expect("made"), tempfile::tempdir().expect("made"));
    let mut written = Written::new(from.path());
    let (ours, theirs) = (written.image(&host(), "ours"), written.image("s390", "theirs"));
    let index = written.index(&[theirs.clone(), ours.clone()]);
    written.list("a:1", &index);
    written.list("a:2", &written.index(std::slice::from_ref(&theirs)));
    let shared = shared(dir.path());
    let (source, target) = (layout(from.path()), open(&shared, APP, true));
    let manifest = source.manifest("1").expect("read");
    assert_eq!(kind(target.put_manifest("1", &manifest)), Some(FailureKind::BlobUnknown));
    copy(&*source, &*target, "1").expect("copied");
    assert_eq!(target.head("1").expect("asked"), Some(Head { digest: Some(digest_of(&index)) }));
    let child = digest_of(&ours).to_string();
    assert_eq!(target.head(&child).expect("asked"), Some(Head { digest: Some(digest_of(&ours)) }));
    assert!(!shared.store.blob_path(&Digest::of(b"theirs")).exists());
    // As a source, the store has the manifest alone.
    let stored = open(&shared, APP, false);
    assert_eq!(stored.head("1").expect("asked"), Some(Head { digest: Some(digest_of(&ours)) }));
    assert_eq!(stored.manifest("1").expect("read").digest, digest_of(&ours));
    assert_eq!(stored.head(&digest_of(&index).to_string()).expect("asked"), None);
    assert_eq!(kind(stored.manifest(&digest_of(&index).to_string())), Some(FailureKind::NotFound));
    assert_eq!(kind(copy(&*source, &*target, "2")), Some(FailureKind::Refused));
}

#[test]
fn what_is_no_image_or_wants_a_signature_is_refused() {
    let (dir, from) = (tempfile::tempdir().expect("made"), tempfile::tempdir().expect("made"));
    let mut written = Written::new(from.path());
    written.list("a:1", &written.image(&host(), "layer"));
    let config = written.blob("application/vnd.oci.empty.v1+json", b"{}");
    let artifact = json!({"schemaVersion": 2, "mediaType": oci::MANIFEST, "config": config, "layers": []});
    written.list("a:artifact", &written.document(&artifact));
    let shared = shared(dir.path());
    let source = layout(from.path());
    assert_eq!(kind(copy(&*source, &*open(&shared, APP, true), "artifact")), Some(FailureKind::Refused));
    let signed = open(&shared, "signed.example/app", true);
    assert_eq!(kind(copy(&*source, &*signed, "1")), Some(FailureKind::Refused));
    assert_eq!(images::count(&shared.store), 0);
    let place = StorePlace::new(shared).expect("opened");
    for name in ["", "UPPER", "a:1", "a:latest", "../x"] {
        assert_eq!(kind(place.repository(name, true)), Some(FailureKind::Refused), "{name}");
    }
}

#[test]
fn no_sweep_takes_a_blob_that_is_being_copied() {
    let (dir, from) = (tempfile::tempdir().expect("made"), tempfile::tempdir().expect("made"));
    let mut written = Written::new(from.path());
    written.list("a:1", &written.image(&host(), "layer"));
    let shared = shared(dir.path());
    let (source, target) = (layout(from.path()), open(&shared, APP, true));
    let manifest = source.manifest("1").expect("read");
    copy_parts(&*source, &*target, &manifest).expect("copied");
    shared.store.collect_garbage();
    target.put_manifest("1", &manifest).expect("nothing is missing");
    // A source that has opened the image keeps it, whoever removes its name.
    let stored = open(&shared, APP, false);
    let manifest = stored.manifest("1").expect("read");
    images::remove(&shared.store, &format!("{APP}:1"), true, &|_| Vec::new()).expect("removed");
    for blob in artifact::parts(&manifest.bytes).expect("a manifest").blobs {
        read(&*stored, &blob).expect("there");
    }
    drop((stored, target));
    shared.store.collect_garbage();
    assert!(!shared.store.blob_path(&Digest::of(b"layer")).exists());
}

#[test]
fn an_upload_goes_on_after_a_restart_and_is_hashed() {
    let dir = tempfile::tempdir().expect("made");
    let blob = Descriptor {
        media_type: String::new(),
        digest: Digest::of(b"0123456789"),
        size: 10,
        platform: None,
        annotations: BTreeMap::new(),
    };
    let first = shared(dir.path());
    let begin = || match open(&first, APP, true).begin(&blob, None).expect("begun") {
        Begin::Session(session) => session,
        Begin::Mounted => panic!("absent"),
    };
    let (mut right, mut wrong) = (begin(), begin());
    open(&first, APP, true).send(&mut right, &blob, 0, b"01234").expect("sent");
    open(&first, APP, true).send(&mut wrong, &blob, 0, b"?????").expect("sent");
    drop(first);
    let again = shared(dir.path());
    let side = open(&again, APP, true);
    for session in [&mut right, &mut wrong] {
        assert_eq!(side.offset(session).expect("asked"), Some(5));
        side.send(session, &blob, 5, b"56789").expect("sent");
    }
    assert_eq!(kind(side.finish(&wrong, &blob)), Some(FailureKind::LostSession));
    side.finish(&right, &blob).expect("finished");
    assert_eq!(again.store.read_blob(&blob.digest, 10).expect("right"), b"0123456789");
    assert!(matches!(side.begin(&blob, None), Ok(Begin::Mounted)));
    assert!(!side.cancel(&right).expect("asked") && !side.cancel(&wrong).expect("asked"));
}

#[test]
fn a_tag_is_deleted_unless_a_container_uses_the_image() {
    let (dir, from) = (tempfile::tempdir().expect("made"), tempfile::tempdir().expect("made"));
    let mut written = Written::new(from.path());
    let image = written.image(&host(), "layer");
    written.list("a:1", &image);
    written.list("a:2", &image);
    let shared = shared(dir.path());
    let target = open(&shared, APP, true);
    for tag in ["1", "2"] {
        copy(&*layout(from.path()), &*target, tag).expect("copied");
    }
    // As a container pins it.
    let pin = shared.store.pin([digest_of(&image)]);
    assert!(target.delete("1").expect("the image has another name"));
    assert_eq!(kind(target.delete("2")), Some(FailureKind::Refused));
    drop(pin);
    assert!(!target.delete("1").expect("asked"));
    assert!(target.delete(&digest_of(&image).to_string()).expect("deleted"));
    assert!(!shared.store.blob_path(&Digest::of(b"layer")).exists());
}
