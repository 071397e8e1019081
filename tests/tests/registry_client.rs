//! The client of registries against a registry in memory: the requests that a replication needs.

use sampan_oci as oci;
use sampan_oci::digest::{Algorithm, Digest, Hasher};
use sampan_oci::reference::Reference;
use sampan_registry::config::Registries;
use sampan_registry::host_gate::HostGates;
use sampan_registry::mirrors::Mirrors;
use sampan_registry::retry::{self, Backoff};
use sampan_registry::{Access, Payload, Registry, RegistryError, Upload, UploadStart};
use sampan_tests::memory_registry::{Behaviour, Fault, Guard, MemoryRegistry};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn client_with(registry: &MemoryRegistry, repository: &str, access: &Access) -> Registry {
    let name = format!("{}/{repository}", registry.address);
    Registry::new(&Reference::parse(&name).expect("a name"), access)
}

fn client(registry: &MemoryRegistry, repository: &str) -> Registry {
    client_with(registry, repository, &Access::default())
}

/// A registry in which `behaviour` differs from the default.
fn behaving(behaviour: Behaviour) -> MemoryRegistry {
    let registry = MemoryRegistry::start();
    registry.behave(behaviour);
    registry
}

/// Calls `send` with a payload of `bytes`.
fn with_payload<T>(bytes: &[u8], send: impl FnOnce(&Payload<'_>) -> T) -> T {
    send(&Payload { len: bytes.len() as u64, open: &|| Ok(Box::new(bytes) as Box<dyn Read + '_>) })
}

fn begin(client: &Registry, digest: &Digest) -> Upload {
    match client.begin_upload(digest, None).expect("begun") {
        UploadStart::Upload(upload) => upload,
        UploadStart::Mounted => panic!("nothing to mount"),
    }
}

fn sha512(bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::new(Algorithm::Sha512);
    hasher.update(bytes);
    hasher.finish()
}

/// Stores an artifact of type `kind` that refers to `subject`; returns its digest.
fn refer(registry: &MemoryRegistry, kind: &str, subject: &Digest) -> Digest {
    let document = json!({
        "schemaVersion": 2, "mediaType": oci::MANIFEST, "artifactType": kind, "layers": [],
        "subject": {"mediaType": oci::MANIFEST, "digest": subject, "size": 1}, "annotations": {"k": kind},
    });
    registry.put_manifest("a", "", oci::MANIFEST, document.to_string().as_bytes())
}

/// Stores an empty index as `tag`.
fn store_index(registry: &MemoryRegistry, repository: &str, tag: &str) -> Digest {
    let document = format!(r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[]}}"#, oci::INDEX);
    registry.put_manifest(repository, tag, oci::INDEX, document.as_bytes())
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names
}

#[test]
fn tags_are_listed_completely_whatever_the_pages() {
    for behaviour in [
        Behaviour::default(),
        Behaviour { page_max: Some(3), ..Behaviour::default() },
        Behaviour { lists_unsorted: true, ..Behaviour::default() },
    ] {
        let registry = behaving(behaviour.clone());
        let expected: Vec<String> = (10..20).map(|n| n.to_string()).collect();
        expected.iter().for_each(|tag| drop(store_index(&registry, "a", tag)));
        assert_eq!(sorted(client(&registry, "a").tags().expect("listed")), expected, "{behaviour:?}");
    }
    let registry = MemoryRegistry::start();
    let refused = client(&registry, "none").tags().expect_err("there is no repository");
    assert!(matches!(refused, RegistryError::NotFound { .. }), "{refused}");
}

#[test]
fn a_list_of_full_pages_without_links_is_read_to_its_end() {
    let registry = behaving(Behaviour { page_max: Some(1000), omits_links: true, ..Behaviour::default() });
    for tag in 0..2000 {
        store_index(&registry, "a", &format!("{tag:04}"));
    }
    assert_eq!(client(&registry, "a").tags().expect("listed").len(), 2000);
    assert_eq!(registry.count("GET a/tags/list"), 3);
}

#[test]
fn repositories_are_listed_where_the_registry_lists_them() {
    for behaviour in [
        Behaviour::default(),
        Behaviour { page_max: Some(2), ..Behaviour::default() },
        Behaviour { page_max: Some(2), refuses_long_pages: true, ..Behaviour::default() },
        Behaviour { lists_unsorted: true, ..Behaviour::default() },
    ] {
        let registry = behaving(behaviour.clone());
        let expected = ["a", "b/c", "d", "e"];
        expected.iter().for_each(|name| drop(store_index(&registry, name, "t")));
        store_index(&registry, "NOT-A-NAME", "t");
        let client = client(&registry, "any").for_catalog();
        assert_eq!(sorted(client.catalog().expect("listed")), expected, "{behaviour:?}");
    }
    for status in [401, 404, 405] {
        let registry = behaving(Behaviour { catalog_status: Some(status), ..Behaviour::default() });
        let refused = client(&registry, "any").for_catalog().catalog().expect_err("not listed");
        assert!(matches!(refused, RegistryError::Unsupported { .. }), "{refused}");
        assert!(refused.to_string().contains("does not list repositories"), "{refused}");
    }
    let registry = behaving(Behaviour { catalog_status: Some(403), ..Behaviour::default() });
    let refused = client(&registry, "any").for_catalog().catalog().expect_err("denied");
    assert!(matches!(refused, RegistryError::Denied { .. }), "{refused}");
}

#[test]
fn the_list_of_repositories_has_a_scope_of_its_own() {
    let registry = behaving(Behaviour { checks_scopes: true, ..Behaviour::default() });
    registry.guard(Guard::default());
    store_index(&registry, "a", "t");
    assert_eq!(client(&registry, "any").for_catalog().catalog().expect("listed"), ["a"]);
    let refused = client(&registry, "any").catalog().expect_err("another scope");
    assert!(matches!(refused, RegistryError::Unsupported { status: 401, .. }), "{refused}");
}

#[test]
fn referrers_are_listed_and_filtered_by_either_side() {
    let subject = Digest::of(b"subject");
    for behaviour in [
        Behaviour::default(),
        Behaviour { page_max: Some(2), ..Behaviour::default() },
        Behaviour { ignores_filters: true, page_max: Some(2), ..Behaviour::default() },
    ] {
        let registry = behaving(behaviour.clone());
        let signatures = [refer(&registry, "sig/x+json", &subject)];
        refer(&registry, "sig/x+json", &Digest::of(b"another subject"));
        (0..4).for_each(|n| drop(refer(&registry, &format!("sbom/{n}"), &subject)));
        let client = client(&registry, "a");
        let all = client.referrers(&subject, None).expect("listed").expect("supported");
        assert_eq!(all.len(), 5, "{behaviour:?}");
        let found = client.referrers(&subject, Some("sig/x+json")).expect("listed").expect("supported");
        let digests: Vec<Digest> = found.iter().map(|referrer| referrer.descriptor.digest.clone()).collect();
        assert_eq!(digests, signatures, "{behaviour:?}");
        assert_eq!(found[0].descriptor.annotations["k"], "sig/x+json");
        assert_eq!(found[0].artifact_type, "sig/x+json");
        let none = client.referrers(&Digest::of(b"unknown"), None).expect("listed");
        assert_eq!(none.map(|list| list.len()), Some(0));
    }
    let registry = behaving(Behaviour { has_no_referrers: true, ..Behaviour::default() });
    assert_eq!(client(&registry, "a").referrers(&subject, None).expect("answered"), None);
}

#[test]
fn a_manifest_is_described_without_being_fetched() {
    let registry = MemoryRegistry::start();
    let digest = store_index(&registry, "a", "t");
    let one = client(&registry, "a");
    let head = one.manifest_head("t").expect("answered").expect("there");
    assert_eq!((head.digest.as_ref(), head.media_type.as_deref()), (Some(&digest), Some(oci::INDEX)));
    assert_eq!(head.size, Some(registry.manifest("a", "t").expect("there").1.len() as u64));
    assert_eq!(registry.methods(), BTreeMap::from([("HEAD".to_owned(), 1)]), "one request is enough");
    assert_eq!(one.manifest_head("absent").expect("answered"), None);
    registry.forget();
    assert_eq!(client(&registry, "a").manifest_head("absent").expect("answered"), None);
    assert_eq!(registry.methods(), BTreeMap::from([("HEAD".to_owned(), 1)]), "for an absent one, too");
    registry.behave(Behaviour { states_no_digest: true, ..Behaviour::default() });
    assert_eq!(one.manifest_head("t").expect("answered").expect("there").digest, None);
}

#[test]
fn a_blob_is_described_by_its_length() {
    let registry = MemoryRegistry::start();
    let digest = registry.put_blob("a", b"twelve bytes");
    let client = client(&registry, "a");
    assert_eq!(client.blob_head(&digest).expect("answered").expect("there").size, Some(12));
    assert_eq!(client.blob_head(&Digest::of(b"absent")).expect("answered"), None);
}

#[test]
fn a_manifest_of_another_type_than_announced_is_refused() {
    let registry = MemoryRegistry::start();
    store_index(&registry, "a", "t");
    let client = client(&registry, "a");
    client.manifest("t").expect("fetched");
    for (content_type, is_accepted) in [
        (format!("{}; charset=utf-8", oci::INDEX), true),
        ("application/octet-stream".to_owned(), true),
        (oci::MANIFEST.to_owned(), false),
    ] {
        registry.behave(Behaviour { content_type: Some(content_type.clone()), ..Behaviour::default() });
        match client.manifest("t") {
            Ok(_) => assert!(is_accepted, "{content_type}"),
            Err(RegistryError::Answer { .. }) => assert!(!is_accepted, "{content_type}"),
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn a_stored_manifest_says_whether_its_subject_lists_it() {
    let subject = json!({"mediaType": oci::MANIFEST, "digest": Digest::of(b"x"), "size": 1});
    let document = json!({"schemaVersion": 2, "mediaType": oci::INDEX, "manifests": [], "subject": subject});
    let bytes = document.to_string().into_bytes();
    let digest = Digest::of(&bytes);
    let registry = MemoryRegistry::start();
    let client = client(&registry, "a").for_push([]);
    let stored = client.put_manifest("t", &digest, oci::INDEX, &bytes).expect("stored");
    assert_eq!((stored.digest.as_ref(), stored.is_listed_by_subject), (Some(&digest), true));
    registry.behave(Behaviour { has_no_referrers: true, states_no_digest: true, ..Behaviour::default() });
    let stored = client.put_manifest("t", &digest, oci::INDEX, &bytes).expect("stored");
    assert_eq!((stored.digest, stored.is_listed_by_subject), (None, false));
    let refused = document.to_string().replace("\"manifests\":[]", "\"layers\":[{\"digest\":\"sha256:0\"}]");
    match client.put_manifest("t", &Digest::of(refused.as_bytes()), oci::INDEX, refused.as_bytes()) {
        Err(RegistryError::Status { status: 400, code, .. }) => assert_eq!(code, "MANIFEST_BLOB_UNKNOWN"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_manifest_is_deleted_where_the_registry_deletes() {
    let registry = MemoryRegistry::start();
    let digest = store_index(&registry, "a", "t");
    store_index(&registry, "a", "u");
    let client = client(&registry, "a").for_push([]);
    registry.behave(Behaviour { refuses_tag_deletes: true, ..Behaviour::default() });
    let refused = client.delete_manifest("t").expect_err("tags are not deleted");
    assert!(refused.to_string().contains("does not delete tags"), "{refused}");
    registry.behave(Behaviour { delete_status: Some(405), ..Behaviour::default() });
    let refused = client.delete_manifest(&digest.to_string()).expect_err("nothing is deleted");
    assert!(matches!(refused, RegistryError::Unsupported { status: 405, .. }), "{refused}");
    assert_eq!(registry.names("a").len(), 3);
    registry.behave(Behaviour::default());
    assert!(client.delete_manifest("t").expect("answered"));
    assert_eq!(registry.names("a"), [digest.to_string(), "u".to_owned()]);
    assert!(client.delete_manifest(&digest.to_string()).expect("answered"));
    assert!(registry.names("a").is_empty());
    assert!(!client.delete_manifest(&digest.to_string()).expect("answered"), "it is gone");
}

#[test]
fn a_deletion_gets_the_right_that_the_registry_names() {
    let registry = behaving(Behaviour { checks_scopes: true, ..Behaviour::default() });
    registry.guard(Guard::default());
    let digest = store_index(&registry, "a", "t").to_string();
    let client = client(&registry, "a").for_push([]);
    assert!(client.manifest_head("t").expect("answered").is_some());
    registry.forget();
    assert!(client.delete_manifest(&digest).expect("deleted"));
    assert_eq!((registry.count("DELETE"), registry.count("GET /token")), (2, 1));
    assert!(!client.delete_manifest(&digest).expect("answered"));
    assert_eq!(registry.count("GET /token"), 1, "the next deletion has the right");
}

#[test]
fn a_repository_for_mounts_may_be_named_at_any_time() {
    let registry = behaving(Behaviour { checks_scopes: true, ..Behaviour::default() });
    registry.guard(Guard::default());
    let digest = registry.put_blob("from", b"blob");
    let client = client(&registry, "to").for_push([]);
    let mount = || client.begin_upload(&digest, Some("from")).expect("answered");
    let UploadStart::Upload(upload) = mount() else { panic!("the token does not allow that") };
    client.cancel_upload(&upload).expect("ended");
    client.add_pull_scope("from");
    client.add_pull_scope("from");
    registry.forget();
    assert!(matches!(mount(), UploadStart::Mounted));
    assert_eq!(registry.blob("to", &digest).expect("mounted"), b"blob");
    assert!(matches!(mount(), UploadStart::Mounted));
    assert_eq!(registry.count("GET /token"), 1, "one renewal");
    // More repositories than a token may have: the newest counts.
    (0..20).for_each(|n| client.add_pull_scope(&format!("other{n}")));
    client.add_pull_scope("from");
    assert!(matches!(mount(), UploadStart::Mounted));
    let tokens = registry.requests().into_iter().filter(|request| request.path == "/token");
    assert!(tokens.map(|request| request.query.matches("scope=").count()).all(|scopes| scopes <= 9));
}

#[test]
fn a_realm_that_refuses_a_scope_refuses_no_push() {
    let refused_scope = Some("repository:secret:pull".to_owned());
    let registry = behaving(Behaviour { checks_scopes: true, refused_scope, ..Behaviour::default() });
    registry.guard(Guard::default());
    let client = client(&registry, "to").for_push(["secret"]);
    let digest = Digest::of(b"blob");
    let upload = begin(&client, &digest);
    with_payload(b"blob", |whole| client.finish_upload(&upload, &digest, Some(whole))).expect("sent");
    client.add_pull_scope("secret");
    registry.forget();
    assert!(client.has_blob(&digest).expect("answered"));
    assert_eq!(registry.count("GET /token"), 0, "the scope is not asked for again");
}

#[test]
fn a_refused_mount_goes_on_as_an_upload() {
    let registry = behaving(Behaviour { refuses_mounts: true, ..Behaviour::default() });
    let digest = registry.put_blob("from", b"blob");
    let client = client(&registry, "to").for_push(["from"]);
    let UploadStart::Upload(mut upload) = client.begin_upload(&digest, Some("from")).expect("answered")
    else {
        panic!("202 is not mounted");
    };
    assert_eq!(client.upload_bytes(&mut upload, &digest, 0, b"blob").expect("sent"), 4);
    client.finish_upload(&upload, &digest, None).expect("finished");
    assert_eq!(registry.blob("to", &digest).expect("there"), b"blob");
    assert_eq!((registry.count("POST"), registry.uploads()), (1, 0), "the session of the answer is used");
}

#[test]
fn an_upload_is_taken_up_by_another_process() {
    let registry = behaving(Behaviour { chunk_min: Some(4), ..Behaviour::default() });
    registry.guard(Guard::default());
    let (bytes, access) = (b"first and second", Access::default());
    let digest = Digest::of(bytes);
    let location = {
        let client = client_with(&registry, "a", &access).for_push([]);
        let mut upload = begin(&client, &digest);
        assert_eq!(upload.chunk_min(), 4);
        let sent = client.upload_bytes(&mut upload, &digest, 0, &bytes[..6]);
        assert_eq!(sent.expect("sent"), 6);
        upload.location().to_owned()
    };
    // A new client knows neither the scheme nor a token.
    let client = client_with(&registry, "a", &access).for_push([]);
    let mut upload = Upload::restore(location).expect("a URL");
    assert_eq!(client.upload_offset(&mut upload).expect("answered"), Some(6));
    let sent = client.upload_bytes(&mut upload, &digest, 6, &bytes[6..]);
    assert_eq!(sent.expect("sent"), bytes.len() as u64);
    client.finish_upload(&upload, &digest, None).expect("finished");
    assert_eq!(registry.blob("a", &digest).expect("there"), bytes);
    assert_eq!(client.upload_offset(&mut upload).expect("answered"), None, "it is over");
}

#[test]
fn a_token_goes_to_no_other_host_of_a_stored_upload() {
    let (registry, other) = (MemoryRegistry::start(), MemoryRegistry::start());
    registry.guard(Guard::default());
    let client = client(&registry, "a").for_push([]);
    assert!(!client.has_blob(&Digest::of(b"x")).expect("answered"));
    let location = format!("http://{}/v2/a/blobs/uploads/upload-1", other.address);
    let mut upload = Upload::restore(location).expect("a URL");
    assert_eq!(client.upload_offset(&mut upload).expect("answered"), None);
    assert!(!client.cancel_upload(&upload).expect("answered"));
    let requests = other.requests();
    assert_eq!(requests.len(), 2);
    assert!(requests.iter().all(|request| request.header("authorization").is_empty()), "{requests:?}");
}

#[test]
fn an_upload_is_ended_or_unknown() {
    let registry = MemoryRegistry::start();
    let client = client(&registry, "a").for_push([]);
    let digest = Digest::of(b"blob");
    let (ended, mut lost) = (begin(&client, &digest), begin(&client, &digest));
    assert!(client.cancel_upload(&ended).expect("ended"));
    assert_eq!(registry.uploads(), 1);
    assert!(!client.cancel_upload(&ended).expect("answered"), "it is unknown now");
    registry.lose_uploads();
    assert_eq!(client.upload_offset(&mut lost).expect("answered"), None);
    let refused = client.upload_bytes(&mut lost, &digest, 0, b"blob");
    assert!(matches!(refused, Err(RegistryError::NotFound { .. })));
    let mut cut = begin(&client, &digest);
    registry.behave(Behaviour { loses_cut_uploads: true, ..Behaviour::default() });
    registry.fail("PATCH a/", Fault::Cut(2));
    client.upload_bytes(&mut cut, &digest, 0, b"blob").expect_err("cut");
    assert!(!client.cancel_upload(&cut).expect("answered"), "the registry has forgotten it");
}

#[test]
fn a_token_that_ends_in_mid_upload_is_renewed_once() {
    let registry = MemoryRegistry::start();
    registry.guard(Guard::default());
    let client = client(&registry, "a").for_push([]);
    let digest = Digest::of(b"blob");
    let mut upload = begin(&client, &digest);
    registry.forget();
    registry.fail("PATCH a/", Fault::Expire);
    assert_eq!(client.upload_bytes(&mut upload, &digest, 0, b"blob").expect("sent"), 4);
    registry.fail("PUT a/", Fault::Expire);
    client.finish_upload(&upload, &digest, None).expect("finished");
    assert_eq!((registry.count("PATCH"), registry.count("PUT"), registry.count("GET /token")), (2, 2, 2));
    assert_eq!(registry.blob("a", &digest).expect("there"), b"blob");
    for _ in 0..2 {
        registry.fail("HEAD a/", Fault::Status(401, String::new()));
    }
    let denied = client.has_blob(&digest).expect_err("refused twice");
    assert!(matches!(denied, RegistryError::Denied { .. }), "{denied}");
}

#[test]
fn content_by_sha512_is_sent_to_a_registry_that_states_sha256() {
    let registry = MemoryRegistry::start();
    let client = client(&registry, "a").for_push([]);
    let digest = sha512(b"blob");
    let upload = begin(&client, &digest);
    with_payload(b"blob", |whole| client.finish_upload(&upload, &digest, Some(whole))).expect("sent");
    assert!(client.has_blob(&digest).expect("answered"));
    let document = format!(r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[]}}"#, oci::INDEX);
    let digest = sha512(document.as_bytes());
    let stored = client.put_manifest(&digest.to_string(), &digest, oci::INDEX, document.as_bytes());
    assert_eq!(stored.expect("stored").digest, Some(Digest::of(document.as_bytes())));
    let fetched = client.manifest(&digest.to_string()).expect("fetched");
    assert_eq!((fetched.digest, fetched.bytes), (digest, document.into_bytes()));
}

#[test]
fn a_pause_of_one_job_holds_the_requests_of_all() {
    let (registry, other) = (MemoryRegistry::start(), MemoryRegistry::start());
    let access = Access::default();
    let (first, second) = (client_with(&registry, "a", &access), client_with(&registry, "b", &access));
    store_index(&registry, "b", "t");
    registry.fail("HEAD a/", Fault::Status(429, "Retry-After: 1".to_owned()));
    let began = Instant::now();
    let error = first.manifest_head("t").expect_err("busy");
    // Another host is not held, and neither are jobs of another process, which has other gates.
    assert_eq!(client_with(&other, "b", &access).manifest_head("t").expect("answered"), None);
    assert!(client(&registry, "b").manifest_head("t").expect("answered").is_some());
    assert!(second.manifest_head("t").expect("answered").is_some());
    assert!(began.elapsed() >= Duration::from_secs(1), "the second job has waited");
    assert_eq!(Backoff::default().after(&error), Some(Duration::from_secs(1)));
}

#[test]
fn a_wait_for_a_host_ends_when_its_job_does() {
    let registry = MemoryRegistry::start();
    let access = Access::default();
    registry.fail("HEAD a/", Fault::Status(503, "Retry-After: 100".to_owned()));
    client_with(&registry, "a", &access).manifest_head("t").expect_err("busy");
    registry.forget();
    let waiting = Arc::new(client_with(&registry, "b", &access));
    let thread = {
        let waiting = Arc::clone(&waiting);
        std::thread::spawn(move || (waiting.wait_until_open(), waiting.manifest_head("t")))
    };
    waiting.shutdown();
    let (_, ended) = thread.join().expect("no panic");
    assert!(!retry::is_passing(&RegistryError::Unsupported {
        host: String::new(),
        operation: "",
        status: 0
    }));
    ended.expect_err("shut down");
    assert!(registry.requests().is_empty(), "no request was sent");
}

#[test]
fn a_refusal_without_a_time_pauses_the_host_too() {
    let registry = MemoryRegistry::start();
    let access = Access::default();
    registry.fail("HEAD a/", Fault::Status(429, String::new()));
    let began = Instant::now();
    client_with(&registry, "a", &access).manifest_head("t").expect_err("busy");
    assert_eq!(client_with(&registry, "b", &access).manifest_head("t").expect("answered"), None);
    // At most a half of the pause is taken off.
    assert!(began.elapsed() >= retry::REFUSED_FIRST / 2, "{:?}", began.elapsed());
}

#[test]
fn a_mirror_in_a_pause_is_passed_over_at_once() {
    let (home, mirror) = (MemoryRegistry::start(), MemoryRegistry::start());
    let digest = store_index(&home, "a", "t");
    let blob = home.put_blob("a", b"blob");
    let conf = format!(
        "[[registry]]\nprefix = \"{}\"\n[[registry.mirror]]\nlocation = \"{}\"\n",
        home.address, mirror.address
    );
    let registries = Registries::parse(&conf, Path::new("/conf")).expect("good");
    let access = Access { registries: Arc::new(registries), ..Access::default() };
    let reference = Reference::parse(&format!("{}/a:t", home.address)).expect("a name");
    mirror.fail("GET a/manifests/t", Fault::Status(429, "Retry-After: 100".to_owned()));
    for _ in 0..2 {
        let mirrors = Mirrors::new(&reference, &access);
        assert_eq!(mirrors.manifest("t").expect("fetched").digest, digest);
        mirrors.wait_until_open(&blob);
        assert_eq!(mirrors.small_blob(&blob, 4).expect("fetched"), b"blob");
    }
    let mirrors = Mirrors::new(&reference, &access);
    assert_eq!(mirrors.small_blob(&blob, 4).expect("fetched"), b"blob", "a blob searched from the mirror on");
    assert_eq!(mirror.requests().len(), 1, "it is not asked again");
}

#[test]
fn a_limit_of_requests_holds_for_all_clients_of_a_host() {
    let registry = MemoryRegistry::start();
    let access = Access { gates: Arc::new(HostGates::default()), ..Access::default() };
    access.gates.limit(&registry.address, 20.0);
    let began = Instant::now();
    for n in 0..5 {
        client_with(&registry, &format!("r{n}"), &access).manifest_head("t").expect("answered");
    }
    assert!(began.elapsed() >= Duration::from_millis(200), "{:?}", began.elapsed());
    access.gates.limit(&registry.address, 0.0);
}

#[test]
fn a_large_part_is_sent_from_memory_as_it_is() {
    let registry = MemoryRegistry::start();
    let client = client(&registry, "a").for_push([]);
    let bytes: Vec<u8> = (0..9_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let digest = Digest::of(&bytes);
    let mut upload = begin(&client, &digest);
    let sent = client.upload_bytes(&mut upload, &digest, 0, &bytes);
    assert_eq!(sent.expect("sent"), bytes.len() as u64);
    client.finish_upload(&upload, &digest, None).expect("finished");
    assert!(registry.blob("a", &digest).expect("there") == bytes);
}
