//! Images that must be signed: keys and signatures by openssl, in cosign's layout, with a real engine.

use sampan_oci as oci;
use sampan_oci::digest::Digest;
use sampan_tests::host::Host;
use sampan_tests::installation::{Installation, arch};
use sampan_tests::registry::{Image, Layer, Packing, Reply, ScriptedRegistry, index_of};
use sampan_tests::tls::openssl;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const SIMPLE_SIGNING: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";

/// A key pair of openssl.
struct Pair {
    secret: PathBuf,
    public: PathBuf,
    ed25519: bool,
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

impl Pair {
    fn new(dir: &Path, name: &str, how: &[&str]) -> Self {
        let (secret, public) = (dir.join(format!("{name}.key")), dir.join(format!("{name}.pub")));
        openssl(&[&["genpkey", "-out", text(&secret)], how].concat());
        openssl(&["pkey", "-in", text(&secret), "-pubout", "-out", text(&public)]);
        Pair { secret, public, ed25519: how.contains(&"ed25519") }
    }

    fn p256(dir: &Path, name: &str) -> Self {
        Pair::new(dir, name, &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"])
    }

    /// Signature of `payload`, in base64.
    fn sign(&self, payload: &[u8]) -> String {
        let (input, output) = (self.secret.with_extension("in"), self.secret.with_extension("out"));
        fs::write(&input, payload).expect("written");
        let (input, key, to) = (text(&input), text(&self.secret), text(&output));
        match self.ed25519 {
            true => openssl(&["pkeyutl", "-sign", "-rawin", "-inkey", key, "-in", input, "-out", to]),
            false => openssl(&["dgst", "-sha256", "-sign", key, "-out", to, input]),
        }
        let encoded = Command::new("openssl").args(["base64", "-A", "-in", to]).output().expect("openssl");
        String::from_utf8(encoded.stdout).expect("base64")
    }
}

/// The payload that `cosign sign` signs.
fn payload(name: &str, digest: &Digest) -> Vec<u8> {
    let critical = json!({
        "identity": {"docker-reference": name},
        "image": {"docker-manifest-digest": digest},
        "type": "cosign container image signature",
    });
    json!({"critical": critical, "optional": null}).to_string().into_bytes()
}

/// A payload and its signature, which are one layer of the signatures' manifest.
struct Signed {
    payload: Vec<u8>,
    signature: String,
}

impl Signed {
    fn by(pair: &Pair, payload: Vec<u8>) -> Self {
        Signed { signature: pair.sign(&payload), payload }
    }
}

/// A registry, and a installation that requires signatures by `keys` for all of its images.
fn installation(keys: &[&Pair]) -> Installation {
    let registry = ScriptedRegistry::start();
    let keys: Vec<&str> = keys.iter().map(|pair| text(&pair.public)).collect();
    let table = format!(
        "[[engine.policy]]\nprefix = {:?}\nrequire = \"cosign\"\nkeys = {keys:?}\n",
        registry.address
    );
    Installation::on(Host::with_monitord(&[]), registry, &table)
}

fn image(content: &str) -> Image {
    Image::of(&[Layer::of(&[("etc/motd", content.as_bytes())], Packing::Gzip)], arch())
}

/// Publishes signatures of `digest` next to the image, as cosign does.
fn attach(registry: &ScriptedRegistry, name: &str, digest: &Digest, signed: &[Signed]) {
    attach_layers(registry, name, digest, layers(registry, name, signed));
}

/// Publishes the payloads of signatures; returns their descriptors.
fn layers(registry: &ScriptedRegistry, name: &str, signed: &[Signed]) -> Vec<Value> {
    signed
        .iter()
        .map(|Signed { payload, signature }| {
            let digest = Digest::of(payload);
            let reply = Reply::Ok("application/octet-stream".to_owned(), payload.clone());
            registry.answer(&format!("{name}/blobs/{digest}"), reply);
            json!({
                "mediaType": SIMPLE_SIGNING, "digest": digest, "size": payload.len(),
                "annotations": {SIGNATURE: signature},
            })
        })
        .collect()
}

fn attach_layers(registry: &ScriptedRegistry, name: &str, digest: &Digest, layers: Vec<Value>) {
    let config = json!({"mediaType": oci::CONFIG, "digest": Digest::of(b"{}"), "size": 2});
    let manifest =
        json!({"schemaVersion": 2, "mediaType": oci::MANIFEST, "config": config, "layers": layers});
    let reply = Reply::Ok(oci::MANIFEST.to_owned(), manifest.to_string().into_bytes());
    registry.answer(&format!("{name}/manifests/sha256-{}.sig", digest.hex()), reply);
}

/// Pulls an image that must be refused for `reason`: no layer is requested, nothing is stored, and an event reports it.
fn refuse(installation: &Installation, name: &str, image: &Image, reason: &str) {
    let before = installation.events("pull-error").len();
    let said = installation.fails(&["pull", &installation.registry.reference(name)], 1);
    assert!(said.contains(reason) && said.contains("[[engine.policy]]"), "{name}: {said}");
    for (digest, _) in &image.blobs {
        assert_eq!(installation.registry.request_count(&format!("{name}/blobs/{digest}")), 0, "{name}");
    }
    assert_eq!(installation.names(), Vec::<String>::new(), "{name}");
    let events = installation.await_events("pull-error", before + 1);
    let told = events.last().expect("it").to_string();
    assert!(told.contains(reason.split('"').next().unwrap_or(reason)), "{told}");
}

#[test]
fn an_image_signed_with_any_kind_of_key_comes_in() {
    let dir = tempfile::tempdir().expect("a directory");
    let pairs = [
        Pair::p256(dir.path(), "p256"),
        Pair::new(dir.path(), "p384", &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"]),
        Pair::new(dir.path(), "ed25519", &["-algorithm", "ed25519"]),
        Pair::new(dir.path(), "rsa", &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]),
    ];
    let installation = installation(&pairs.iter().collect::<Vec<_>>());
    for (nth, pair) in pairs.iter().enumerate() {
        let (image, name) = (image(&format!("{nth}")), format!("team/app{nth}"));
        installation.registry.publish(&name, &image);
        let identity = format!("{}/{name}", installation.registry.address);
        let signed = Signed::by(pair, payload(&identity, &image.digest()));
        // An additional signature by an unknown key does no harm.
        let strange = Signed { signature: "AAAA".to_owned(), payload: b"{}".to_vec() };
        attach(&installation.registry, &name, &image.digest(), &[strange, signed]);
        installation.ok(&["pull", "--quiet", &installation.registry.reference(&name)]);
        // By digest too; then no tag is requested.
        installation.ok(&["pull", "--quiet", &format!("{identity}@{}", image.digest())]);
    }
}

#[test]
fn a_right_signature_counts_whatever_stands_beside_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let (pair, stranger) = (Pair::p256(dir.path(), "key"), Pair::p256(dir.path(), "stranger"));
    let installation = installation(&[&pair]);
    let (image, name) = (image("beside"), "app");
    installation.registry.publish(name, &image);
    let payload = |more: usize| {
        let mut payload = payload(&format!("{}/{name}", installation.registry.address), &image.digest());
        payload.resize(payload.len() + more, b' ');
        payload
    };
    let refused = Signed::by(&stranger, b"its payload cannot be had".to_vec());
    let blob = format!("{name}/blobs/{}", Digest::of(&refused.payload));
    let mut all = layers(&installation.registry, name, &[refused, Signed::by(&pair, payload(0))]);
    installation.registry.answer(&blob, Reply::Status(403));
    all.insert(0, json!({"mediaType": SIMPLE_SIGNING, "digest": 7}));
    attach_layers(&installation.registry, name, &image.digest(), all.clone());
    installation.ok(&["pull", "--quiet", &installation.registry.reference(name)]);
    installation.ok(&["rmi", &installation.registry.reference(name)]);

    // The error says that there are too many signatures.
    let strange: Vec<Signed> = (1..=32).map(|more| Signed::by(&stranger, payload(more))).collect();
    all.splice(0..0, layers(&installation.registry, name, &strange));
    attach_layers(&installation.registry, name, &image.digest(), all);
    let said = installation.fails(&["pull", &installation.registry.reference(name)], 1);
    assert!(said.contains("only the first 32 of 35 signatures were checked"), "{said}");
}

#[test]
fn the_signature_of_an_index_or_of_the_chosen_manifest_will_do() {
    let dir = tempfile::tempdir().expect("a directory");
    let pair = Pair::p256(dir.path(), "key");
    let installation = installation(&[&pair]);
    for (name, of_index) in [("by-index", true), ("by-manifest", false)] {
        let image = image(name);
        installation.registry.publish(name, &image);
        let index = index_of(std::slice::from_ref(&image));
        let reply = Reply::Ok(oci::INDEX.to_owned(), index.clone());
        installation.registry.answer(&format!("{name}/manifests/t"), reply);
        let digest = if of_index { Digest::of(&index) } else { image.digest() };
        let payload = payload(&format!("{}/{name}", installation.registry.address), &digest);
        attach(&installation.registry, name, &digest, &[Signed::by(&pair, payload)]);
        installation.ok(&["pull", "--quiet", &installation.registry.reference(name)]);
    }
}

#[test]
fn a_mirror_need_not_have_the_signatures() {
    let dir = tempfile::tempdir().expect("a directory");
    let pair = Pair::p256(dir.path(), "key");
    let (home, mirror) = (ScriptedRegistry::start(), ScriptedRegistry::start());
    let conf = dir.path().join("registries.conf");
    let text = format!(
        "[[registry]]\nprefix = \"corp.test\"\nlocation = {:?}\ninsecure = true\n\
         [[registry.mirror]]\nlocation = {:?}\ninsecure = true\n",
        home.address, mirror.address
    );
    fs::write(&conf, text).expect("written");
    let table = format!(
        "registries-conf = {conf:?}\n[[engine.policy]]\nprefix = \"corp.test\"\nrequire = \"cosign\"\n\
         keys = [{:?}]\n",
        pair.public
    );
    let image = image("mirrored");
    mirror.publish("app", &image);
    home.publish("app", &image);
    let installation = Installation::on(Host::with_monitord(&[]), home, &table);
    assert!(installation.fails(&["pull", "corp.test/app:t"], 1).contains("it has none"));
    attach(
        &installation.registry,
        "app",
        &image.digest(),
        &[Signed::by(&pair, payload("corp.test/app", &image.digest()))],
    );
    installation.ok(&["pull", "--quiet", "corp.test/app:t"]);
    for (digest, _) in &image.blobs {
        assert_eq!(
            (
                mirror.request_count(&format!("app/blobs/{digest}")),
                installation.registry.request_count(&format!("app/blobs/{digest}"))
            ),
            (1, 0)
        );
    }
}

#[test]
fn an_image_without_a_valid_signature_is_not_fetched() {
    let dir = tempfile::tempdir().expect("a directory");
    let (pair, stranger) = (Pair::p256(dir.path(), "key"), Pair::p256(dir.path(), "stranger"));
    let installation = installation(&[&pair]);
    let image = image("evil");
    let (digest, other) = (image.digest(), Digest::of(b"another image"));
    let publish = |name: &str, signed: Option<Signed>| {
        installation.registry.publish(name, &image);
        if let Some(signed) = signed {
            attach(&installation.registry, name, &digest, &[signed]);
        }
    };
    let identity = |name: &str| format!("{}/{name}", installation.registry.address);

    publish("unsigned", None);
    refuse(&installation, "unsigned", &image, "wants a signature, and it has none");
    publish("strange", Some(Signed::by(&stranger, payload(&identity("strange"), &digest))));
    refuse(&installation, "strange", &image, "by none of the keys");
    publish("replayed", Some(Signed::by(&pair, payload(&identity("replayed"), &other))));
    refuse(&installation, "replayed", &image, "is of another image");
    publish("renamed", Some(Signed::by(&pair, payload(&identity("trusted"), &digest))));
    refuse(&installation, "renamed", &image, "is of an image of another name");
    publish("retagged", Some(Signed::by(&pair, payload(&identity("retagged:u"), &digest))));
    refuse(&installation, "retagged", &image, "is of an image of another name");
    let right = Signed::by(&pair, payload(&identity("changed"), &other));
    publish("changed", Some(Signed { payload: payload(&identity("changed"), &digest), ..right }));
    refuse(&installation, "changed", &image, "by none of the keys");
    let right = Signed::by(&pair, payload(&identity("cut"), &digest));
    let signature = right.signature[..right.signature.len() - 5].to_owned();
    publish("cut", Some(Signed { signature, ..right }));
    refuse(&installation, "cut", &image, "a signature");
    // A valid signature, whose payload the registry replaces.
    let right = Signed::by(&pair, payload(&identity("exchanged"), &digest));
    let blob = format!("exchanged/blobs/{}", Digest::of(&right.payload));
    publish("exchanged", Some(right));
    let mut forged = payload(&identity("exchanged"), &digest);
    forged.reverse();
    installation.registry.answer(&blob, Reply::Ok("application/octet-stream".to_owned(), forged));
    refuse(&installation, "exchanged", &image, "has another digest");
    // Bytes that are no manifest.
    publish("garbled", None);
    let tag = format!("garbled/manifests/sha256-{}.sig", digest.hex());
    installation.registry.answer(&tag, Reply::Ok(oci::MANIFEST.to_owned(), b"[".to_vec()));
    refuse(&installation, "garbled", &image, "cannot be read");
    // An error of the registry does not count as permission.
    installation.registry.answer(&tag, Reply::Status(403));
    refuse(&installation, "garbled", &image, "cannot fetch its signatures");
}

#[test]
fn a_rejected_prefix_takes_nothing_and_a_longer_one_may() {
    let registry = ScriptedRegistry::start();
    let address = registry.address.clone();
    let table = format!(
        "[[engine.policy]]\nprefix = \"{address}\"\nrequire = \"reject\"\n\
         [[engine.policy]]\nprefix = \"{address}/team\"\nrequire = \"accept\"\n"
    );
    let installation = Installation::on(Host::with_monitord(&[]), registry, &table);
    let image = image("x");
    installation.registry.publish("teamwork/app", &image);
    refuse(&installation, "teamwork/app", &image, &format!("the policy for \"{address}\" rejects it"));
    installation.registry.publish("team/app", &image);
    installation.ok(&["pull", "--quiet", &installation.registry.reference("team/app")]);
}

#[test]
fn an_engine_whose_keys_cannot_be_read_does_not_start() {
    let dir = tempfile::tempdir().expect("a directory");
    let (config, key) = (dir.path().join("sampan.toml"), dir.path().join("bad.pub"));
    fs::write(&key, "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n").expect("written");
    let rule = format!("[[engine.policy]]\nprefix = \"\"\nrequire = \"cosign\"\nkeys = [{key:?}]\n");
    fs::write(&config, rule).expect("written");
    let host = Host::new();
    let output =
        host.command("sampan-engine").arg("--config").arg(&config).output().expect("sampan-engine starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("bad.pub") && said.contains("no supported public key"), "{said}");
}
