//! Images in unusual forms: other tags, platforms, digests and compressions.

use sampan_ipc::engine::{Code, Phase, Pull, Request};
use sampan_oci as oci;
use sampan_oci::digest::{Algorithm, Digest, Hasher};
use sampan_tests::engine::Engine;
use sampan_tests::registry::{DockerRegistry, Image, Layer, Packing, Reply, ScriptedRegistry, index_of};

fn sha512(bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::new(Algorithm::Sha512);
    hasher.update(bytes);
    hasher.finish()
}

fn all_tags(reference: &str) -> Request {
    Request::Pull(Pull { reference: reference.to_owned(), all_tags: true, ..Pull::default() })
}

#[test]
fn one_job_pulls_all_tags_of_a_repository_and_shares_layers() {
    let (engine, dir) = (Engine::start(), tempfile::tempdir().expect("a directory"));
    let registry = DockerRegistry::start(dir.path());
    let base = Layer::large("base", 1 << 20, Packing::Gzip);
    for tag in ["1", "2", "3"] {
        let top = Layer::of(&[("tag", tag.as_bytes())], Packing::Gzip);
        registry.push(&format!("many:{tag}"), &[Image::of(&[base.clone(), top], "amd64")]);
    }
    let repository = format!("{}/many", registry.address);
    let pulled = engine.ask(all_tags(&repository)).watch().expect("pulled");
    assert_eq!(pulled.done.reference, repository);
    let names: Vec<_> = pulled.done.references.iter().map(|r| r.split('@').next()).collect();
    let expected = ["1", "2", "3"].map(|tag| format!("{repository}:{tag}"));
    assert_eq!(names, expected.iter().map(|name| Some(name.as_str())).collect::<Vec<_>>());
    let phases: Vec<_> = pulled.rows.iter().map(|row| (row.index, row.phase)).collect();
    let (new, old) = (Phase::Complete, Phase::Exists);
    assert_eq!(phases, [(0, new), (1, new), (2, old), (3, new), (4, old), (5, new)]);
    assert_eq!(engine.images().len(), 3);
    assert_eq!(engine.jobs().len(), 1);
}

#[test]
fn a_tag_that_cannot_be_pulled_keeps_no_other_back() {
    let (engine, registry) = (Engine::start(), ScriptedRegistry::start());
    let image = Image::of(&[Layer::of(&[("a", b"b")], Packing::Gzip)], "amd64");
    registry.publish("some", &image);
    let tags = br#"{"name":"some","tags":["bad","t"]}"#;
    registry.answer("some/tags/list", Reply::Ok("application/json".to_owned(), tags.to_vec()));
    let failure =
        engine.ask(all_tags(&format!("{}/some", registry.address))).watch().expect_err("one is bad");
    assert!(failure.message.contains("some:bad"), "{failure:?}");
    assert_eq!(engine.images()[0].references, [registry.reference("some")]);
    let failure = engine.ask(all_tags(&registry.reference("some"))).watch().expect_err("it has a tag");
    assert_eq!(failure.code, Code::Usage);

    let tags = br#"{"name":"some","tags":["bad","t","worse"]}"#;
    registry.answer("some/tags/list", Reply::Ok("application/json".to_owned(), tags.to_vec()));
    let failure =
        engine.ask(all_tags(&format!("{}/some", registry.address))).watch().expect_err("two are bad");
    let named = format!("cannot pull 2 of the 3 tags of {}/some: bad, worse; the last: ", registry.address);
    assert!(failure.message.starts_with(&named), "{failure:?}");
}

/// Replaces the digest `from` by `to` everywhere in a document.
fn replaced(document: &[u8], from: &Digest, to: &Digest) -> Vec<u8> {
    String::from_utf8(document.to_vec())
        .expect("JSON")
        .replace(&from.to_string(), &to.to_string())
        .into_bytes()
}

#[test]
fn digests_of_sha_512_are_as_good() {
    let (engine, registry) = (Engine::start(), ScriptedRegistry::start());
    let layer = Layer::large("data", 100_000, Packing::Gzip);
    let mut image = Image::of(std::slice::from_ref(&layer), "amd64");
    let long = sha512(&layer.blob);
    let manifest = replaced(&image.manifest, &Digest::of(&layer.blob), &long);
    image.blobs[0].0 = long.clone();
    registry.publish("long", &image);
    let name = sha512(&manifest);
    let reply = |bytes: &[u8]| Reply::Ok(oci::MANIFEST.to_owned(), bytes.to_vec());
    registry.answer(&format!("long/manifests/{name}"), reply(&manifest));
    let reference = format!("{}/long@{name}", registry.address);
    let pulled = engine.pull(&reference).expect("pulled");
    assert_eq!(pulled.done.digest, name.to_string());
    assert!(engine.store().join("blobs/sha512").join(long.hex()).exists());
    assert!(engine.layer_dir(&Digest::of(&layer.tar)).join("data").exists());
    // A manifest that does not match its digest is refused.
    registry.answer(&format!("long/manifests/{name}"), reply(&image.manifest));
    assert!(engine.pull(&reference).expect_err("refused").message.contains("has digest"));
}

#[test]
fn zstd_with_frames_to_be_skipped_is_taken() {
    let (engine, registry) = (Engine::start(), ScriptedRegistry::start());
    // zstd:chunked ends with a skippable frame, its table of contents. RFC 8878, section 3.1.2.
    let skipped = [&[0x50, 0x2a, 0x4d, 0x18][..], &5_u32.to_le_bytes(), b"abcde"].concat();
    let mut layer = Layer::large("data", 100_000, Packing::Zstd);
    layer.blob = [&skipped[..], &layer.blob, &skipped].concat();
    registry.publish("chunked", &Image::of(std::slice::from_ref(&layer), "amd64"));
    engine.pull(&registry.reference("chunked")).expect("pulled");
    assert!(engine.layer_dir(&Digest::of(&layer.tar)).join("data").exists());
}

#[test]
fn what_is_no_image_is_refused_by_name() {
    let (engine, registry) = (Engine::start(), ScriptedRegistry::start());
    let artifact = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
        "artifactType":"application/vnd.example.sbom","layers":[],
        "config":{"mediaType":"application/vnd.oci.empty.v1+json","size":2,
        "digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"}}"#;
    for (name, document, words) in [
        ("old", r#"{"schemaVersion":1,"fsLayers":[]}"#, "schema 1"),
        ("sbom", artifact, "application/vnd.example.sbom"),
        ("page", "<html>log in first</html>", "the manifest is not a JSON object"),
        ("list", "[2]", "the manifest is not a JSON object"),
        ("nothing", "", "the manifest is empty"),
    ] {
        let reply = Reply::Ok("application/json".to_owned(), document.as_bytes().to_vec());
        registry.answer(&format!("{name}/manifests/t"), reply);
        let failure = engine.pull(&registry.reference(name)).expect_err("no image");
        assert!(failure.message.contains(words), "{failure:?}");
        assert_eq!(failure.hint, "", "no other platform makes an image of it");
    }
    assert_eq!(engine.named(), Vec::<String>::new());
}

#[test]
fn an_index_without_the_wanted_platform_says_what_there_is() {
    let (engine, registry) = (Engine::start(), ScriptedRegistry::start());
    let entry = r#"{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":2,
        "digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
        "platform":{"os":"linux","architecture":"mips"}}"#;
    for (entries, words, hint) in [
        (entry, "there are: linux/mips", "give one of these with --platform"),
        ("", "it names no platform", ""),
    ] {
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{entries}]}}"#);
        registry.answer("many/manifests/t", Reply::Ok(oci::INDEX.to_owned(), index.into_bytes()));
        let failure = engine.pull(&registry.reference("many")).expect_err("not there");
        assert!(failure.message.ends_with(words), "{failure:?}");
        assert_eq!(failure.hint, hint);
    }
}

#[test]
fn an_index_in_an_index_is_taken_and_one_without_end_is_not() {
    let (engine, registry) = (Engine::start(), ScriptedRegistry::start());
    let image = Image::of(&[Layer::of(&[("one", b"1")], Packing::Gzip)], "amd64");
    registry.publish("deep", &image);
    let mut below = index_of(std::slice::from_ref(&image));
    for (depth, is_taken) in [(1, true), (2, true), (3, true), (4, false)] {
        let reply = Reply::Ok(oci::INDEX.to_owned(), below.clone());
        registry.answer("deep/manifests/t", reply.clone());
        match engine.pull(&registry.reference("deep")) {
            Ok(pulled) => assert!(is_taken && pulled.done.digest == image.digest().to_string(), "{depth}"),
            Err(failure) => assert!(!is_taken && failure.message.contains("nested"), "{depth}: {failure:?}"),
        }
        registry.answer(&format!("deep/manifests/{}", Digest::of(&below)), reply);
        let platform = r#"{"os":"linux","architecture":"amd64"}"#;
        below = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{}","digest":"{}","size":{},"platform":{platform}}}]}}"#,
            oci::INDEX,
            Digest::of(&below),
            below.len()
        )
        .into_bytes();
    }
}
