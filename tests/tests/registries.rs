//! Sources of images: mirrors, short names, certificates, proxies, sockets; and what ends a wait for them.
//!
//! Names end in `.test`, which no resolver knows: a request for such a name only arrives by a mirror or a proxy.

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, getsockname, listen, socket,
};
use sampan_ipc::engine::{Answer, Code, Credential, Failure, Pull, Request};
use sampan_oci as oci;
use sampan_oci::digest::Digest;
use sampan_oci::reference::Reference;
use sampan_registry::credentials::Credentials;
use sampan_registry::mirrors::Mirrors;
use sampan_registry::{Access, RegistryError};
use sampan_tests::engine::Engine;
use sampan_tests::host::{binary, need_root};
use sampan_tests::registry::{DockerRegistry, Image, Layer, Packing, Reply, ScriptedRegistry};
use sampan_tests::tls;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longest time until a cancellation takes effect.
const AT_ONCE: Duration = Duration::from_secs(1);

fn image(name: &str) -> Image {
    Image::of(&[Layer::large(name, 100_000, Packing::Gzip)], "amd64")
}

/// Starts an engine with this registries.conf in `dir`, and certificates in its `certs.d`.
fn engine_in(dir: TempDir, conf: &str, environment: &[(&str, &OsStr)]) -> Engine {
    let (path, certs) = (dir.path().join("registries.conf"), dir.path().join("certs.d"));
    fs::write(&path, conf).expect("written");
    let table =
        format!("[engine]\nregistries-conf = '{}'\ncerts-dir = '{}'\n", path.display(), certs.display());
    fs::write(dir.path().join("sampan.toml"), table).expect("written");
    Engine::start_with(dir, environment)
}

fn engine(conf: &str) -> Engine {
    engine_in(tempfile::tempdir().expect("a directory"), conf, &[])
}

fn rewrite(engine: &Engine, conf: &str) {
    fs::write(engine.dir.path().join("registries.conf"), conf).expect("written");
}

/// A table `[[registry]]` of `prefix`, with the location `home` and `mirrors`.
fn registry(prefix: &str, home: &str, mirrors: &[&str]) -> String {
    let mut text = format!("[[registry]]\nprefix = '{prefix}'\nlocation = '{home}'\n");
    for mirror in mirrors {
        text.push_str(&format!("[[registry.mirror]]\nlocation = '{mirror}'\n"));
    }
    text
}

fn refused(engine: &Engine, name: &str) -> Failure {
    engine.pull(name).expect_err("it cannot be had")
}

fn assert_message(failure: &Failure, words: &[&str]) {
    for word in words {
        assert!(failure.message.contains(word), "{word:?} is not in {:?}", failure.message);
    }
}

fn pulled(engine: &Engine, name: &str, image: &Image) -> String {
    let done = engine.pull(name).expect("pulled").done;
    assert_eq!(done.digest, image.digest().to_string());
    done.reference
}

#[test]
fn mirrors_are_asked_in_order_and_the_name_stays() {
    let (first, second, home) =
        (ScriptedRegistry::start(), ScriptedRegistry::start(), ScriptedRegistry::start());
    let image = image("mirrored");
    second.publish("copies/app", &image);
    home.publish("real/app", &image);
    let mirrors = [format!("{}/none", first.address), format!("{}/copies", second.address)];
    let mirrors: Vec<&str> = mirrors.iter().map(String::as_str).collect();
    let engine = engine(&registry("corp.test/team", &format!("{}/real", home.address), &mirrors));
    assert_eq!(pulled(&engine, "corp.test/team/app:t", &image), "corp.test/team/app:t");
    assert_eq!(engine.images()[0].references, ["corp.test/team/app:t"]);
    assert_eq!(first.request_count("none/app/manifests/t"), 1);
    assert_eq!(home.requests().len(), 0, "a mirror had it all");
    engine.wait_until("the log to say who was passed over", || {
        engine.log().contains("passed over: manifest none/app:t")
    });
    // A mirror that does not listen is skipped too, and the error is the registry's own.
    let closed = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").to_string();
    rewrite(&engine, &registry("corp.test/team", &format!("{}/real", home.address), &[&closed]));
    assert_eq!(pulled(&engine, "corp.test/team/app:t", &image), "corp.test/team/app:t");
    assert_eq!(home.request_count("real/app/manifests/t"), 1);
    let failure = refused(&engine, "corp.test/team/absent:t");
    assert_eq!(failure.code, Code::NotFound);
    assert_message(&failure, &[&closed, "refused", &home.address, "manifest real/absent:t"]);
}

#[test]
fn a_blob_that_a_mirror_does_not_give_comes_from_the_next() {
    let (mirror, home) = (ScriptedRegistry::start(), ScriptedRegistry::start());
    let layers = [Layer::large("one", 300_000, Packing::Gzip), Layer::large("two", 300_000, Packing::Gzip)];
    let image = Image::of(&layers, "amd64");
    mirror.publish("app", &image);
    home.publish("app", &image);
    let path = |layer: &Layer| format!("app/blobs/{}", Digest::of(&layer.blob));
    let half = layers[1].blob.len() / 2;
    mirror.answer(&path(&layers[0]), Reply::Status(404));
    mirror.answer(&path(&layers[1]), Reply::Cut(layers[1].blob.clone(), half));
    home.answer(&path(&layers[1]), Reply::Ranged(layers[1].blob.clone()));
    let engine = engine(&registry("corp.test", &home.address, &[&mirror.address]));
    pulled(&engine, "corp.test/app:t", &image);
    assert_eq!(home.request_count("app/manifests/t"), 0, "the manifest was the mirror's");
    assert_eq!(home.request_count(&path(&layers[0])), 1);
    let rest = home.sent() - layers[0].blob.len() as u64;
    assert!(rest <= half as u64 + 1, "{rest} bytes of the second layer came again");
    assert!(mirror.request_count(&path(&layers[1])) <= 2, "it was given up");
}

#[test]
fn a_mirror_that_has_a_blob_wrong_is_passed_over_for_it() {
    let (mirror, home) = (ScriptedRegistry::start(), ScriptedRegistry::start());
    let image = image("spoilt");
    for registry in [&mirror, &home] {
        registry.publish("app", &image);
    }
    for (digest, bytes) in &image.blobs {
        let mut wrong = bytes.clone();
        *wrong.last_mut().expect("not empty") ^= 1;
        mirror
            .answer(&format!("app/blobs/{digest}"), Reply::Ok("application/octet-stream".to_owned(), wrong));
    }
    let engine = engine(&registry("corp.test", &home.address, &[&mirror.address]));
    pulled(&engine, "corp.test/app:t", &image);
    for (digest, _) in &image.blobs {
        let path = format!("app/blobs/{digest}");
        assert_eq!((mirror.request_count(&path), home.request_count(&path)), (1, 1), "{path}");
    }
    // Without mirrors, the pull fails.
    rewrite(&engine, &registry("other.test", &mirror.address, &[]));
    engine.ask(Request::Remove { name: "corp.test/app:t".to_owned(), force: true }).all();
    assert_eq!(refused(&engine, "other.test/app:t").code, Code::Failed);
    assert!(engine.images().is_empty());
}

/// Requests for manifests after the first `before` requests to `registry`.
fn manifests(registry: &ScriptedRegistry, before: usize) -> Vec<String> {
    let asked = registry.requests().into_iter().skip(before).map(|(path, _)| path);
    asked.filter(|path| path.contains("/manifests/")).collect()
}

#[test]
fn skopeo_asks_the_same_places_in_the_same_order() {
    let home = ScriptedRegistry::start();
    let at = &home.address;
    let digest = image("nowhere").digest();
    let table = |prefix: &str, more: &str| {
        format!("[[registry]]\nprefix = '{prefix}'\n{}insecure = true\n", more.replace("HOST", at))
    };
    let mirror = |place: &str, more: &str| {
        format!("[[registry.mirror]]\nlocation = '{at}/{place}'\ninsecure = true\n{more}\n")
    };
    let conf = [
        table("corp.test", "location = 'HOST/home'\n"),
        mirror("m1", ""),
        mirror("m2/deep", "pull-from-mirror = 'digest-only'"),
        mirror("m3", "pull-from-mirror = 'tag-only'"),
        table("corp.test/team", "location = 'HOST/team'\n"),
        table("corp.test/team/one", "location = 'HOST/renamed'\n"),
        table("digests.test", "location = 'HOST/d'\nmirror-by-digest-only = true\n"),
        mirror("dm", ""),
        table("*.wild.test", "location = 'HOST/wild'\n"),
        table("docker.io/library", "location = 'HOST/hub'\n"),
        mirror("hubmirror", ""),
    ]
    .concat();
    let engine = engine(&conf);
    for name in [
        "corp.test/app",
        "corp.test/team/two",
        "corp.test/team/one",
        "corp.test/team/one/more",
        "corp.test/teams/x",
        "digests.test/x/y",
        "sub.sub.wild.test/x",
        "docker.io/library/alpine",
        "alpine",
    ] {
        for target in [":v1".to_owned(), format!("@{digest}")] {
            let name = format!("{name}{target}");
            let before = home.requests().len();
            refused(&engine, &name);
            let ours = manifests(&home, before);
            let before = home.requests().len();
            let peer = Command::new("skopeo")
                .args(["--registries-conf".as_ref(), engine.dir.path().join("registries.conf").as_os_str()])
                .env("CONTAINERS_REGISTRIES_CONF_DIR", engine.dir.path().join("none"))
                .args(["inspect", "--raw", &format!("docker://{name}")])
                .output()
                .expect("skopeo of Debian's package skopeo");
            assert!(!peer.status.success());
            let theirs = manifests(&home, before);
            assert!(!ours.is_empty(), "{name} is asked for nowhere");
            assert_eq!(ours, theirs, "{name}: {}", String::from_utf8_lossy(&peer.stderr));
        }
    }
}

#[test]
fn wrong_bytes_or_manifests_of_a_mirror_are_never_accepted() {
    let (mirror, home) = (ScriptedRegistry::start(), ScriptedRegistry::start());
    let (good, evil) = (image("good"), image("evil"));
    home.publish("app", &good);
    let path = format!("app/manifests/{}", good.digest());
    mirror.answer(&path, Reply::Ok(oci::MANIFEST.to_owned(), evil.manifest.clone()));
    let engine = engine(&registry("corp.test", &home.address, &[&mirror.address]));
    pulled(&engine, &format!("corp.test/app@{}", good.digest()), &good);
    assert_eq!((mirror.request_count(&path), home.request_count(&path)), (1, 1));
}

#[test]
fn a_mirror_is_for_digests_or_for_tags_if_it_says_so() {
    let (digests, tags, home) =
        (ScriptedRegistry::start(), ScriptedRegistry::start(), ScriptedRegistry::start());
    let image = image("either");
    for registry in [&digests, &tags, &home] {
        registry.publish("app", &image);
    }
    let conf = format!(
        "{}[[registry.mirror]]\nlocation = '{}'\npull-from-mirror = 'digest-only'\n\
         [[registry.mirror]]\nlocation = '{}'\npull-from-mirror = 'tag-only'\n",
        registry("corp.test", &home.address, &[]),
        digests.address,
        tags.address
    );
    let engine = engine(&conf);
    pulled(&engine, "corp.test/app:t", &image);
    assert_eq!((digests.requests().len(), home.requests().len()), (0, 0));
    let before = tags.requests().len();
    pulled(&engine, &format!("corp.test/app@{}", image.digest()), &image);
    assert_eq!((tags.requests().len(), home.requests().len()), (before, 0));
    assert_eq!(digests.request_count(&format!("app/manifests/{}", image.digest())), 1);
}

#[test]
fn what_is_blocked_is_not_asked_for() {
    let home = ScriptedRegistry::start();
    home.publish("evil/app", &image("evil"));
    let engine = engine(&format!("[[registry]]\nlocation = '{}/evil'\nblocked = true\n", home.address));
    let failure = refused(&engine, &home.reference("evil/app"));
    assert_message(&failure, &["blocked", "registries.conf, line 2"]);
    assert_eq!(home.requests().len(), 0);
    home.publish("fine", &image("fine"));
    pulled(&engine, &home.reference("fine"), &image("fine"));
}

#[test]
fn a_short_name_is_an_alias_or_is_sought_where_it_may_be() {
    let (first, second) = (ScriptedRegistry::start(), ScriptedRegistry::start());
    let image = image("short");
    second.publish("app", &image);
    second.publish("long/name", &image);
    let engine = engine(&format!(
        "unqualified-search-registries = ['{}', '{}']\n[aliases]\n'nick' = '{}/long/name'\n",
        first.address, second.address, second.address
    ));
    assert_eq!(pulled(&engine, "nick:t", &image), second.reference("long/name"));
    assert_eq!(first.requests().len(), 0, "an alias ends the search");
    assert_eq!(pulled(&engine, "app:t", &image), second.reference("app"));
    assert_eq!(first.request_count("app/manifests/t"), 1);
    let failure = refused(&engine, "none:t");
    assert_eq!(failure.code, Code::NotFound);
    assert_message(&failure, &["cannot pull none:t", &first.address, &second.address]);
    let text = fs::read_to_string(engine.dir.path().join("registries.conf")).expect("read");
    rewrite(&engine, &format!("short-name-mode = 'enforcing'\n{text}"));
    let failure = refused(&engine, "app:t");
    assert_eq!(failure.code, Code::Usage);
    assert_message(&failure, &[&first.address, "enforcing", "registries.conf"]);
    pulled(&engine, "nick:t", &image);
}

#[test]
fn what_was_pulled_by_a_short_name_is_found_by_it() {
    let registry = ScriptedRegistry::start();
    let image = image("short");
    registry.publish("app", &image);
    let engine = engine(&format!("unqualified-search-registries = ['{}']\n", registry.address));
    let full = pulled(&engine, "app:t", &image);
    rewrite(&engine, &format!("unqualified-search-registries = ['none.test', '{}']\n", registry.address));
    let named = |name: &str| engine.ask(Request::Inspect { name: name.to_owned() }).all();
    assert!(matches!(named("app:t")[0], Answer::Json(_)), "{:?}", named("app:t"));
    assert!(matches!(named("app:other")[0], Answer::Error(_)));
    let (source, target) = ("app:t".to_owned(), "mine:1".to_owned());
    assert!(matches!(engine.ask(Request::Tag { source, target }).all()[0], Answer::Done(_)));
    let removed = engine.ask(Request::Remove { name: "app:t".to_owned(), force: false }).all();
    assert!(matches!(&removed[0], Answer::Done(done) if done.reference == full), "{removed:?}");
    assert_eq!(engine.images()[0].references, ["docker.io/library/mine:1"]);
    // An image in the store is found even if the files have no registry for it, or are invalid.
    assert!(matches!(named("mine:1")[0], Answer::Json(_)));
    rewrite(&engine, "broken");
    assert!(matches!(named("mine:1")[0], Answer::Json(_)));
}

#[test]
fn a_drop_in_wins_and_a_broken_one_is_named() {
    let (one, two) = (ScriptedRegistry::start(), ScriptedRegistry::start());
    let image = image("dropped");
    two.publish("app", &image);
    let engine = engine(&registry("corp.test", &one.address, &[]));
    let dir = engine.dir.path().join("registries.conf.d");
    fs::create_dir(&dir).expect("made");
    fs::write(dir.join("50-corp.conf"), registry("corp.test", &two.address, &[])).expect("written");
    pulled(&engine, "corp.test/app:t", &image);
    assert_eq!(one.requests().len(), 0);
    fs::write(dir.join("60-broken.conf"), "\n\n[[registry]\n").expect("written");
    assert_message(&refused(&engine, "corp.test/app:t"), &["60-broken.conf, line 3"]);
    fs::write(dir.join("60-broken.conf"), "[registries.search]\nregistries = ['x']\n").expect("written");
    assert_message(&refused(&engine, "corp.test/app:t"), &["60-broken.conf, line 1", "version 1"]);
}

#[test]
fn errors_of_registries_conf_are_logged_before_any_pull() {
    let engine = engine("\n[[registry]\n");
    engine.wait_until("the log to name the place", || engine.log().contains("registries.conf, line 2"));
    assert!(
        engine.log().contains("no image can be pulled or pushed until this is corrected"),
        "{}",
        engine.log()
    );
}

#[test]
fn the_environment_names_the_file_as_other_tools_have_it() {
    let home = ScriptedRegistry::start();
    let image = image("named");
    home.publish("app", &image);
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("elsewhere.conf");
    fs::write(&path, registry("corp.test", &home.address, &[])).expect("written");
    let engine = Engine::start_with(dir, &[("CONTAINERS_REGISTRIES_CONF", path.as_os_str())]);
    pulled(&engine, "corp.test/app:t", &image);
    fs::remove_file(&path).expect("there");
    assert_message(&refused(&engine, "corp.test/app:t"), &["cannot read", "elsewhere.conf"]);
}

/// A certificate authority for a test.
struct Authority {
    dir: PathBuf,
}

impl Authority {
    fn new(dir: &Path) -> Self {
        let authority = Authority { dir: dir.to_owned() };
        fs::create_dir_all(dir).expect("made");
        tls::with_new_key(dir, "ca", &["-x509", "-days", "2", "-subj", "/CN=an authority"]);
        authority
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    /// Signs a certificate for `name`; returns the paths of the certificate and its key.
    fn sign(&self, stem: &str, name: &str) -> (PathBuf, PathBuf) {
        let (name, cert) = (format!("subjectAltName={name}"), self.path(&format!("{stem}.cert")));
        let (request, key) = tls::with_new_key(&self.dir, stem, &["-subj", "/CN=x", "-addext", &name]);
        let request = request.display().to_string();
        let (ca, ca_key) = (self.path("ca.pem"), self.path("ca.key"));
        tls::openssl(&[
            "x509",
            "-req",
            "-in",
            &request,
            "-CA",
            &ca,
            "-CAkey",
            &ca_key,
            "-days",
            "2",
            "-copy_extensions",
            "copy",
            "-out",
            &cert,
        ]);
        (cert.into(), key)
    }
}

/// The engine's directory for a registry's certificates.
fn certs_of(engine: &Engine, host: &str) -> PathBuf {
    let dir = engine.dir.path().join("certs.d").join(host);
    fs::create_dir_all(&dir).expect("made");
    dir
}

#[test]
fn only_registries_with_an_authority_in_certs_d_are_trusted() {
    let dir = tempfile::tempdir().expect("a directory");
    let authority = Authority::new(&dir.path().join("ca"));
    let (cert, key) = authority.sign("server", "IP:127.0.0.1");
    let registry = DockerRegistry::start_tls(dir.path(), Some((&cert, &key)));
    let image = image("trusted");
    let reference = registry.push("secure:1", std::slice::from_ref(&image));
    let engine = engine("");
    assert_message(&refused(&engine, &reference), &["certificate"]);
    let certs = certs_of(&engine, &registry.address);
    fs::copy(authority.path("ca.pem"), certs.join("ca.crt")).expect("copied");
    pulled(&engine, &reference, &image);
    fs::write(certs.join("ca.crt"), "no certificate").expect("written");
    assert_message(&refused(&engine, &reference), &["ca.crt", "holds no certificate", &registry.address]);
}

/// A self-signed certificate for 127.0.0.1, as `openssl req -x509` makes it; and its key.
fn self_signed(dir: &Path, stem: &str) -> (PathBuf, PathBuf) {
    let names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"];
    tls::with_new_key(dir, stem, &[&["-x509", "-days", "2"], &names[..]].concat())
}

#[test]
fn a_self_signed_certificate_in_certs_d_is_trusted() {
    let dir = tempfile::tempdir().expect("a directory");
    let (cert, key) = self_signed(dir.path(), "server");
    let registry = DockerRegistry::start_tls(dir.path(), Some((&cert, &key)));
    let image = image("trusted");
    let reference = registry.push("secure:1", std::slice::from_ref(&image));
    let engine = engine("");
    let unknown = refused(&engine, &reference);
    assert_message(&unknown, &["certificate", "self-signed"]);
    assert!(unknown.hint.contains("/etc/containers/certs.d/HOST[:PORT]/ca.crt"), "{}", unknown.hint);
    let certs = certs_of(&engine, &registry.address);
    fs::copy(self_signed(dir.path(), "other").0, certs.join("ca.crt")).expect("copied");
    assert_message(&refused(&engine, &reference), &["certificate"]);
    fs::copy(&cert, certs.join("ca.crt")).expect("copied");
    pulled(&engine, &reference, &image);
    // The certificate's name is checked.
    let elsewhere = registry.address.replace("127.0.0.1", "localhost");
    fs::copy(&cert, certs_of(&engine, &elsewhere).join("ca.crt")).expect("copied");
    assert_message(&refused(&engine, &format!("{elsewhere}/secure:1")), &["not valid for name"]);
}

#[test]
fn a_registry_that_cannot_be_had_is_told_with_what_helps() {
    let engine = engine("");
    let unknown = refused(&engine, "no-such-host.invalid/a:1");
    assert_message(&unknown, &["cannot resolve no-such-host.invalid"]);
    assert_eq!(unknown.hint, "check the registry's name, and this host's DNS");
    let closed = refused(&engine, "127.0.0.1:1/a:1");
    assert!(closed.hint.starts_with("check that the registry is reachable"), "{}", closed.hint);
    assert!(!closed.hint.contains("certs.d"), "{}", closed.hint);
}

#[test]
fn a_client_certificate_opens_what_wants_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let authority = Authority::new(&dir.path().join("ca"));
    let (cert, key) = authority.sign("server", "IP:127.0.0.1");
    let (client, client_key) = authority.sign("client", "DNS:client.test");
    // This docker-registry has the directory of the other one, so images that are pushed here appear there.
    let open = DockerRegistry::start_tls(dir.path(), Some((&cert, &key)));
    let image = image("private");
    open.push("secure:1", std::slice::from_ref(&image));
    drop(open);
    let tls = format!(
        "tls: {{certificate: {}, key: {}, clientcas: [{}]}}",
        cert.display(),
        key.display(),
        authority.path("ca.pem")
    );
    let registry = DockerRegistry::start_with(dir.path(), "127.0.0.1", &tls);
    let reference = format!("{}/secure:1", registry.address);
    let engine = engine("");
    let certs = certs_of(&engine, &registry.address);
    fs::copy(authority.path("ca.pem"), certs.join("ca.crt")).expect("copied");
    assert_message(&refused(&engine, &reference), &["alert"]);
    fs::copy(&client, certs.join("me.cert")).expect("copied");
    assert_message(&refused(&engine, &reference), &["me.cert", "me.key is missing"]);
    fs::copy(&key, certs.join("me.key")).expect("copied");
    assert_message(&refused(&engine, &reference), &["me.cert", "does not belong to"]);
    fs::copy(&client_key, certs.join("me.key")).expect("copied");
    pulled(&engine, &reference, &image);
    fs::remove_file(certs.join("me.cert")).expect("there");
    assert_message(&refused(&engine, &reference), &["me.key", "me.cert is missing"]);
}

/// A proxy that resolves the tests' names, and records its requests.
struct Proxy {
    address: String,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// Starts a proxy that connects every name to `target`; it requires `authorization` if that is given.
    fn start(target: &str, authorization: Option<&str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let heads: Arc<Mutex<Vec<String>>> = Arc::default();
        let (kept, target) = (Arc::clone(&heads), target.to_owned());
        let wanted = authorization.map(|value| format!("Proxy-Authorization: {value}\r\n"));
        // This thread ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (kept, target, wanted) = (Arc::clone(&kept), target.clone(), wanted.clone());
                std::thread::spawn(move || lead(stream, &kept, &target, wanted.as_deref()));
            }
        });
        Proxy { address, heads }
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().expect("no panic").clone()
    }
}

/// The head of a request, with the empty line at its end.
fn head(reader: &mut impl BufRead) -> Option<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    Some(head)
}

fn lead(mut client: TcpStream, heads: &Mutex<Vec<String>>, target: &str, wanted: Option<&str>) {
    let mut reader = BufReader::new(client.try_clone().expect("a descriptor"));
    while let Some(head) = head(&mut reader) {
        heads.lock().expect("no panic").push(head.clone());
        if wanted.is_some_and(|wanted| !head.contains(wanted)) {
            let _ =
                client.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n");
            continue;
        }
        let Ok(mut server) = TcpStream::connect(target) else {
            return;
        };
        if head.starts_with("CONNECT ") {
            let _ = client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n");
            let (mut from, mut to) = (server.try_clone().expect("one"), client.try_clone().expect("one"));
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(std::net::Shutdown::Both);
            });
            let _ = std::io::copy(&mut client, &mut server);
            let _ = server.shutdown(std::net::Shutdown::Both);
            return;
        }
        // The proxy uses one connection per request to the server, and any number of requests per connection of the
        // client.
        let (method, rest) = head.split_once(" http://").expect("the absolute form");
        let (_, path) = rest.split_once('/').expect("a path");
        let head = format!("{method} /{path}").replacen("\r\n", "\r\nConnection: close\r\n", 1);
        let _ = server.write_all(head.as_bytes());
        let _ = server.shutdown(std::net::Shutdown::Write);
        let _ = std::io::copy(&mut server, &mut client);
    }
}

#[test]
fn a_proxy_leads_to_names_that_only_it_knows() {
    let dir = tempfile::tempdir().expect("a directory");
    let authority = Authority::new(&dir.path().join("ca"));
    let (cert, key) = authority.sign("server", "DNS:registry.test");
    let registry = DockerRegistry::start_tls(dir.path(), Some((&cert, &key)));
    let image = image("far");
    registry.push("far:1", std::slice::from_ref(&image));
    let proxy = Proxy::start(&registry.address, Some("Basic bWU6czpjcmV0"));
    let url = format!("http://me:s%3Acret@{}", proxy.address);
    let home = tempfile::tempdir().expect("a directory");
    let engine = engine_in(home, "", &[("HTTPS_PROXY", url.as_ref()), ("no_proxy", "direct.test".as_ref())]);
    fs::copy(authority.path("ca.pem"), certs_of(&engine, "registry.test").join("ca.crt")).expect("copied");
    pulled(&engine, "registry.test/far:1", &image);
    let heads = proxy.heads();
    assert!(
        !heads.is_empty() && heads.iter().all(|h| h.starts_with("CONNECT registry.test:443 ")),
        "{heads:?}"
    );
    assert_message(&refused(&engine, "direct.test/far:1"), &["cannot resolve direct.test"]);
    assert_eq!(proxy.heads().len(), heads.len(), "NO_PROXY is kept");
}

#[test]
fn a_proxy_with_an_https_url_needs_a_valid_certificate() {
    let dir = tempfile::tempdir().expect("a directory");
    let authority = Authority::new(&dir.path().join("ca"));
    let (cert, key) = authority.sign("server", "DNS:registry.test,IP:127.0.0.1");
    let registry = DockerRegistry::start_tls(dir.path(), Some((&cert, &key)));
    let (far, plain) = (Image::of(&[Layer::large("far", 300_000, Packing::Gzip)], "amd64"), image("plain"));
    registry.push("far:1", std::slice::from_ref(&far));
    let proxy = Proxy::start(&registry.address, Some("Basic bWU6czpjcmV0"));
    let behind_tls = sampan_tests::tls::front(&cert, &key, &proxy.address);
    let open = ScriptedRegistry::start();
    open.publish("near", &plain);
    let plain_proxy = Proxy::start(&open.address, None);
    let plain_behind_tls = sampan_tests::tls::front(&cert, &key, &plain_proxy.address);
    let (https, http) = (format!("https://me:s%3Acret@{behind_tls}"), format!("https://{plain_behind_tls}"));
    let conf = "[[registry]]\nlocation = 'plain.test:5000'\ninsecure = true\n";
    let bundle = authority.path("ca.pem");
    let proxies = [("HTTPS_PROXY", https.as_ref()), ("HTTP_PROXY", http.as_ref())];
    let trusting = [proxies.as_slice(), &[("SSL_CERT_FILE", bundle.as_ref())]].concat();
    let engine = engine_in(tempfile::tempdir().expect("a directory"), conf, &trusting);
    pulled(&engine, "registry.test/far:1", &far);
    assert!(proxy.heads().iter().all(|head| head.starts_with("CONNECT registry.test:443 ")));
    assert!(!proxy.heads().is_empty(), "it went through the proxy");
    let engine = engine_in(tempfile::tempdir().expect("a directory"), conf, &trusting[1..]);
    pulled(&engine, "plain.test:5000/near:t", &plain);
    assert!(plain_proxy.heads().iter().any(|head| head.starts_with("GET http://plain.test:5000/v2/")));
    // The proxy's own certificate is checked even if the registry's is not.
    let asked = proxy.heads().len();
    let engine = engine_in(tempfile::tempdir().expect("a directory"), conf, &proxies);
    let reference = "registry.test/far:1".to_owned();
    let insecure = Request::Pull(Pull { reference, insecure: true, ..Pull::default() });
    let failure = engine.ask(insecure).watch().expect_err("no trust");
    assert_message(&failure, &["proxy", &behind_tls, "certificate"]);
    assert_eq!(proxy.heads().len(), asked, "no password went there");
}

#[test]
fn plain_http_goes_through_a_proxy_in_its_absolute_form() {
    let (registry, image) = (ScriptedRegistry::start(), image("plain"));
    registry.publish("far", &image);
    let proxy = Proxy::start(&registry.address, None);
    let url = format!("http://{}", proxy.address);
    let conf = "[[registry]]\nlocation = 'plain.test:5000'\ninsecure = true\n";
    let home = tempfile::tempdir().expect("a directory");
    let engine = engine_in(home, conf, &[("ALL_PROXY", url.as_ref())]);
    pulled(&engine, "plain.test:5000/far:t", &image);
    let plain: Vec<String> = proxy.heads().into_iter().filter(|head| !head.starts_with("CONNECT")).collect();
    assert!(plain.len() > 2, "{plain:?}");
    for head in plain {
        assert!(head.starts_with("GET http://plain.test:5000/v2/"), "{head}");
        assert!(head.to_ascii_lowercase().contains("\r\nhost: plain.test:5000\r\n"), "{head}");
    }
    // A registry on this host is never reached by a proxy.
    let before = proxy.heads().len();
    pulled(&engine, &registry.reference("far"), &image);
    assert_eq!(proxy.heads().len(), before);
}

#[test]
fn what_is_said_of_one_place_is_not_said_of_another() {
    let registry = ScriptedRegistry::start();
    let proxy = Proxy::start(&registry.address, None);
    let url = format!("http://{}", proxy.address);
    let conf = "[[registry]]\nprefix = 'corp.test'\nlocation = 'home.test'\n\
                [[registry.mirror]]\nlocation = 'mirror.test'\ninsecure = true\n\
                [[registry]]\nprefix = 'other.test'\nlocation = 'home2.test'\n\
                [[registry.mirror]]\nlocation = 'mirror2.test'\n";
    let home = tempfile::tempdir().expect("a directory");
    let engine = engine_in(home, conf, &[("ALL_PROXY", url.as_ref())]);
    let plain = |host: &str| proxy.heads().iter().any(|h| h.starts_with(&format!("GET http://{host}/")));
    refused(&engine, "corp.test/x:1");
    assert!(plain("mirror.test") && !plain("home.test"), "{:?}", proxy.heads());
    // `--tls-verify=false` applies to the registry, not to its mirrors.
    let reference = "other.test/x:1".to_owned();
    engine
        .ask(Request::Pull(Pull { reference, insecure: true, ..Pull::default() }))
        .watch()
        .expect_err("absent");
    assert!(!plain("mirror2.test") && plain("home2.test"), "{:?}", proxy.heads());
}

#[test]
fn a_proxy_that_cannot_be_used_is_named_and_its_password_is_not() {
    let proxy = Proxy::start("127.0.0.1:1", Some("Basic something else"));
    let url = format!("http://me:secret@{}", proxy.address);
    for (url, words) in [
        (url.as_str(), ["407", proxy.address.as_str()]),
        ("socks5://me:secret@127.0.0.1:1", ["HTTPS_PROXY", "\"socks5\""]),
        ("http://me:secret@127.0.0.1:1", ["proxy 127.0.0.1:1", "refused"]),
    ] {
        let home = tempfile::tempdir().expect("a directory");
        let engine = engine_in(home, "", &[("HTTPS_PROXY", url.as_ref())]);
        let answers = engine.ask(pull("registry.test/x:1"));
        let failure = answers.watch().expect_err("no way");
        assert_message(&failure, &words);
        assert!(
            !failure.message.contains("secret") && !engine.log().contains("secret"),
            "{}",
            failure.message
        );
    }
}

#[test]
fn a_registry_on_a_unix_socket_is_a_location_like_others() {
    let dir = tempfile::tempdir().expect("a directory");
    let image = image("local");
    let open = DockerRegistry::start(dir.path());
    open.push("team/app:1", std::slice::from_ref(&image));
    drop(open);
    let socket = dir.path().join("r.sock");
    let registry = DockerRegistry::start_unix(dir.path(), &socket);
    let engine = engine(&format!(
        "[[registry]]\nprefix = 'here.test'\nlocation = 'unix://{}:team'\n",
        socket.display()
    ));
    assert_eq!(pulled(&engine, "here.test/app:1", &image), "here.test/app:1");
    drop(registry);
    assert_message(&refused(&engine, "here.test/app:2"), &["r.sock"]);
}

#[test]
fn an_ipv6_literal_is_a_host() {
    // skopeo does not use the proxy, so it pushes to the registry directly.
    let dir = tempfile::tempdir().expect("a directory");
    let (image, open) = (image("six"), DockerRegistry::start(dir.path()));
    open.push("six:1", std::slice::from_ref(&image));
    drop(open);
    let registry = DockerRegistry::start_with(dir.path(), "::1", "");
    let engine = engine("");
    let reference = format!("{}/six:1", registry.address);
    assert!(reference.starts_with("[::1]:"));
    assert_eq!(pulled(&engine, &reference, &image), reference);
    // With TLS, the certificate must be for the address.
    let authority = Authority::new(&dir.path().join("ca"));
    let (cert, key) = authority.sign("server", "IP:::1");
    let tls = format!("tls: {{certificate: {}, key: {}}}", cert.display(), key.display());
    let registry = DockerRegistry::start_with(dir.path(), "::1", &tls);
    let reference = format!("{}/six:1", registry.address);
    assert_message(&refused(&engine, &reference), &["certificate"]);
    fs::copy(authority.path("ca.pem"), certs_of(&engine, &registry.address).join("ca.crt")).expect("copied");
    assert_eq!(pulled(&engine, &reference, &image), reference);
}

fn pull(reference: &str) -> Request {
    Request::Pull(Pull { reference: reference.to_owned(), ..Pull::default() })
}

/// An address where a connection is neither accepted nor refused: its queue of waiting connections is full.
struct BlackHole {
    address: String,
    _listener: OwnedFd,
    _waiting: Vec<TcpStream>,
}

impl BlackHole {
    fn new() -> Self {
        let listener =
            socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
        bind(listener.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).expect("bound");
        listen(&listener, Backlog::new(0).expect("small")).expect("listening");
        let address: SockaddrIn = getsockname(listener.as_raw_fd()).expect("an address");
        let address = SocketAddr::from(std::net::SocketAddrV4::from(address));
        let mut waiting = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
            waiting.push(stream);
            assert!(waiting.len() < 100, "the queue has no end");
        }
        BlackHole { address: address.to_string(), _listener: listener, _waiting: waiting }
    }
}

#[test]
fn a_mirror_that_swallows_connections_costs_seconds_and_is_told() {
    let (hole, home) = (BlackHole::new(), ScriptedRegistry::start());
    let image = image("patient");
    home.publish("app", &image);
    let engine = engine(&registry("corp.test", &home.address, &[&hole.address]));
    let began = Instant::now();
    let mut notes = Vec::new();
    let answers = engine.ask(pull("corp.test/app:t")).all();
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert!(matches!(answers.last(), Some(Answer::Done(_))), "{answers:?}");
    for answer in answers {
        if let Answer::Note(note) = answer {
            notes.push(note);
        }
    }
    let told = |note: &String| note.contains(&hole.address) && note.contains("no connection in time");
    assert!(notes.iter().any(told), "{notes:?}");
}

/// Cancels a pull of `name` once the kernel has a connection to `port` in `state` (proc_pid_net(5)), and checks that
/// the pull ends at once.
fn cancel_while(engine: &Engine, name: &str, address: &str, state: &str) {
    let port: u16 = address.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let mut stream = engine.ask(pull(name));
    let Some(Answer::Job(job)) = stream.next() else { panic!("a job") };
    engine.wait_until("a connection", || {
        let table = fs::read_to_string("/proc/net/tcp").expect("readable");
        let column =
            |line: &str, nth| line.split_whitespace().nth(nth).map(str::to_owned).unwrap_or_default();
        table.lines().any(|l| column(l, 2).ends_with(&format!(":{port:04X}")) && column(l, 3) == state)
    });
    let began = Instant::now();
    engine.ask(Request::Cancel { job: job.id }).all();
    assert_eq!(stream.watch().expect_err("cancelled").code, Code::Cancelled);
    assert!(began.elapsed() < AT_ONCE, "{name}: {:?}", began.elapsed());
}

#[test]
fn a_cancelled_pull_that_waits_for_a_connection_ends_at_once() {
    const SYN_SENT: &str = "02";
    let hole = BlackHole::new();
    let home = tempfile::tempdir().expect("a directory");
    let url = format!("http://{}", hole.address);
    let engine = engine_in(home, "", &[("HTTPS_PROXY", url.as_ref())]);
    // A connection to the registry itself, and one to its proxy.
    cancel_while(&engine, &format!("{}/x:1", hole.address), &hole.address, SYN_SENT);
    cancel_while(&engine, "far.test/x:1", &hole.address, SYN_SENT);
}

#[test]
fn a_pull_that_waits_for_a_greeting_ends_at_once_when_cancelled() {
    const ESTABLISHED: &str = "01";
    // The kernel accepts the connection, but no process replies: neither to TLS nor to CONNECT.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("an address").to_string();
    let home = tempfile::tempdir().expect("a directory");
    let url = format!("http://{address}");
    let engine = engine_in(home, "", &[("HTTPS_PROXY", url.as_ref())]);
    cancel_while(&engine, &format!("{address}/x:1"), &address, ESTABLISHED);
    cancel_while(&engine, "far.test/x:1", &address, ESTABLISHED);
    // No greeting in TLS either.
    let (home, url) = (tempfile::tempdir().expect("a directory"), format!("https://{address}"));
    let engine = engine_in(home, "", &[("HTTPS_PROXY", url.as_ref())]);
    cancel_while(&engine, "far.test/x:1", &address, ESTABLISHED);
}

#[test]
fn a_hanging_credential_helper_is_killed_with_its_pull() {
    let (asking, hiding) = (ScriptedRegistry::start(), ScriptedRegistry::start());
    asking.answer("x/manifests/t", Reply::Challenge("Basic realm=\"x\"".to_owned()));
    let home = tempfile::tempdir().expect("a directory");
    let bin = home.path().join("bin");
    fs::create_dir_all(&bin).expect("made");
    let (helper, begun) = (bin.join("docker-credential-hang"), home.path().join("begun"));
    fs::write(&helper, format!("#!/bin/sh\necho $$ >>{}\nexec sleep 600\n", begun.display()))
        .expect("written");
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).expect("set");
    let auth = home.path().join("auth.json");
    fs::write(&auth, r#"{"credsStore":"hang"}"#).expect("written");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").expect("a path"));
    let environment = [("REGISTRY_AUTH_FILE", auth.as_os_str()), ("PATH", path.as_ref())];
    let engine = engine_in(home, "", &environment);
    let pids = || -> Vec<String> {
        fs::read_to_string(&begun).unwrap_or_default().lines().map(str::to_owned).collect()
    };
    // A registry that requires authentication, and one that replies 404 to anonymous clients.
    for (nth, registry) in [&asking, &hiding].into_iter().enumerate() {
        let mut stream = engine.ask(pull(&registry.reference("x")));
        let Some(Answer::Job(job)) = stream.next() else { panic!("a job") };
        engine.wait_until("the helper to hang", || pids().len() == nth + 1);
        let began = Instant::now();
        engine.ask(Request::Cancel { job: job.id }).all();
        assert_eq!(stream.watch().expect_err("cancelled").code, Code::Cancelled);
        engine.jobs();
        assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
        let pid = pids().remove(nth);
        engine.wait_until("the helper to be killed", || !Path::new("/proc").join(&pid).exists());
    }
}

#[test]
fn what_a_proxy_answers_wrong_is_told() {
    for (answer, words) in [
        ("", "hangs up"),
        ("HTTP/1.1 200 OK\r\nX: ", "an answer with a head of more than"),
        ("SSH-2.0-nonsense\r\n\r\n", "SSH-2.0-nonsense"),
        ("HTTP/1.1 502 Bad Gateway\r\n\r\n", "502 Bad Gateway"),
        ("HTTP/1.1 20 Hm\r\n\r\n", "20 Hm"),
        ("HTTP/1.1\r\n\r\n", "HTTP/1.1"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut reader = BufReader::new(stream.try_clone().expect("a descriptor"));
                let _ = head(&mut reader);
                let _ = stream.write_all(answer.as_bytes());
                // Sends headers as long as the client reads.
                while answer.ends_with("X: ") && stream.write_all(&[b'x'; 1000]).is_ok() {}
            }
        });
        let home = tempfile::tempdir().expect("a directory");
        let engine = engine_in(home, "", &[("HTTPS_PROXY", url.as_ref())]);
        assert_message(&refused(&engine, "far.test/x:1"), &["far.test", words]);
    }
}

#[test]
fn a_pull_that_waits_for_a_name_ends_at_once_when_cancelled() {
    need_root();
    // A name server that receives requests and never replies, for this engine only.
    let bound = (1..250).find_map(|n| UdpSocket::bind((Ipv4Addr::new(127, 53, 53, n), 53)).ok());
    let server = bound.expect("root may listen there");
    let address = server.local_addr().expect("an address").ip();
    let dir = tempfile::tempdir().expect("a directory");
    let resolv = dir.path().join("resolv.conf");
    fs::write(&resolv, format!("nameserver {address}\n")).expect("written");
    let script = format!(
        "mount --make-rprivate / && mount --bind {} /etc/resolv.conf && exec {}",
        resolv.display(),
        binary("sampan-engine").display()
    );
    let engine = Engine::start_by(dir, Command::new("unshare").args(["--mount", "sh", "-c", &script]));
    let mut stream = engine.ask(pull("slow.test/x:1"));
    let Some(Answer::Job(job)) = stream.next() else { panic!("a job") };
    server.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
    let mut question = [0; 512];
    let len = server.recv(&mut question).expect("a question");
    assert!(question[..len].windows(4).any(|label| label == b"slow"));
    let began = Instant::now();
    engine.ask(Request::Cancel { job: job.id }).all();
    assert_eq!(stream.watch().expect_err("cancelled").code, Code::Cancelled);
    assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
}

/// A server that answers each path by `answers`, and records its requests.
fn tiny(answers: impl Fn(&str) -> String + Send + Sync + 'static) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let heads: Arc<Mutex<Vec<String>>> = Arc::default();
    let (kept, answers) = (Arc::clone(&heads), Arc::new(answers));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (kept, answers) = (Arc::clone(&kept), Arc::clone(&answers));
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().expect("a descriptor"));
                let mut stream = stream;
                // Closes the connection of a client that does not speak HTTP, such as one that begins with a TLS
                // greeting.
                while matches!(reader.fill_buf(), Ok([b'G', ..]))
                    && let Some(head) = head(&mut reader)
                {
                    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
                    kept.lock().expect("no panic").push(head);
                    if stream.write_all(answers(&path).as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, heads)
}

fn ok(headers: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{headers}\r\n{body}", body.len())
}

fn tags(address: &str) -> Result<Vec<String>, RegistryError> {
    let reference = Reference::parse(&format!("{address}/a/b")).expect("good");
    Mirrors::new(&reference, &Access::default()).tags()
}

#[test]
fn tags_are_listed_over_all_pages_and_within_bounds() {
    let (address, heads) = tiny(|path| match path {
        "/v2/" => ok("", ""),
        path if path.contains("last=b") => ok("", r#"{"name":"a/b","tags":["b","c"]}"#),
        _ => {
            let link = "Link: <https://elsewhere.test/v2/x/tags/list?n=2&last=b>; rel=\"next\"\r\n";
            ok(link, r#"{"name":"a/b","tags":["a","b"]}"#)
        }
    });
    assert_eq!(tags(&address).expect("listed"), ["a", "b", "c"]);
    let heads = heads.lock().expect("no panic");
    assert!(
        heads.last().is_some_and(|head| head.starts_with("GET /v2/a/b/tags/list?n=2&last=b ")),
        "{heads:?}"
    );
    for (answer, words) in [
        (ok("", r#"{"tags":["../x"]}"#), "no tag"),
        (ok("", "nonsense"), "not valid JSON"),
        (ok("Link: </v2/a/b/tags/list?n=1>; rel=next\r\n", r#"{"tags":[]}"#), "pages"),
        (ok("Link: <>; rel=next\r\n", r#"{"tags":[]}"#), "next page"),
        (ok("", &format!(r#"{{"tags":["{}"]}}"#, "a".repeat(17 << 20))), "more than"),
    ] {
        let (address, _) = tiny(move |path| if path == "/v2/" { ok("", "") } else { answer.clone() });
        let error = tags(&address).expect_err("refused").to_string();
        assert!(error.contains(words), "{words:?} is not in {error:?}");
    }
    let (address, _) = tiny(|path| if path == "/v2/" { ok("", "") } else { ok("", r#"{"tags":null}"#) });
    assert_eq!(tags(&address).expect("none"), Vec::<String>::new());
}

#[test]
fn docker_registry_lists_its_tags() {
    let dir = tempfile::tempdir().expect("a directory");
    let registry = DockerRegistry::start(dir.path());
    let image = image("listed");
    for tag in ["one", "two", "three"] {
        registry.push(&format!("a/b:{tag}"), std::slice::from_ref(&image));
    }
    let mut found = tags(&registry.address).expect("listed");
    found.sort();
    assert_eq!(found, ["one", "three", "two"]);
}

#[test]
fn an_etag_is_shown_to_nobody_but_the_place_that_gave_it() {
    let layer = Layer::large("tagged", 200_000, Packing::Plain);
    let (digest, size) = (Digest::of(&layer.blob), layer.blob.len() as u64);
    let (mirror, mirror_heads) = tiny(|path| match path {
        "/v2/" => ok("", ""),
        _ => "HTTP/1.1 200 OK\r\nETag: \"the mirror's\"\r\nContent-Length: 201728\r\n\r\nshort".to_owned(),
    });
    let (home, home_heads) = tiny(|path| if path == "/v2/" { ok("", "") } else { ok("", "x") });
    let conf = registry("corp.test", &home, &[&mirror]);
    let registries = sampan_registry::config::Registries::parse(&conf, Path::new("/conf")).expect("good");
    let access = Access { registries: Arc::new(registries), ..Access::default() };
    let sources = Mirrors::new(&Reference::parse("corp.test/a:t").expect("good"), &access);
    assert_eq!(size, 201_728);
    let mut etag = None;
    for _ in 0..2 {
        let body = sources.blob(&digest, size, 5, etag.as_deref()).expect("begun");
        etag = body.etag.clone();
        drop(body);
        sources.blob_read_error(&digest, std::io::ErrorKind::ConnectionReset.into());
    }
    assert_eq!(etag.as_deref(), Some("\"the mirror's\""));
    assert!(sources.blob(&digest, size, 5, etag.as_deref()).is_err(), "one byte is not the blob");
    let lower = |heads: &Mutex<Vec<String>>| heads.lock().expect("no panic").concat().to_ascii_lowercase();
    assert!(lower(&mirror_heads).contains("if-range: \"the mirror's\""));
    let home = lower(&home_heads);
    assert!(home.contains("range: bytes=5-") && !home.contains("if-range"), "{home}");
}

#[test]
fn where_a_registry_redirects_to_cannot_ask_for_its_password() {
    let heard_of = |heads: &Mutex<Vec<String>>| heads.lock().expect("no panic").concat().to_ascii_lowercase();
    let (thief, thief_heads) = tiny(|path| match path.split('?').next() {
        Some("/token") => ok("", r#"{"token":"mine"}"#),
        _ => refusing("Basic realm=\"x\""),
    });
    let named = thief.clone();
    let (bearer, bearer_heads) = tiny(move |_| refusing(&format!("Bearer realm=\"http://{named}/token\"")));
    for (place, path) in [(&bearer, "blob?signature=secret"), (&thief, "basic")] {
        let to =
            format!("HTTP/1.1 307 Elsewhere\r\nLocation: http://{place}/{path}\r\nContent-Length: 0\r\n\r\n");
        let (home, home_heads) = tiny(move |path| if path == "/v2/" { ok("", "") } else { to.clone() });
        let credential = Credential {
            registry: home.clone(),
            username: "ann".to_owned(),
            password: "hunter2".to_owned(),
            ..Credential::default()
        };
        let access = Access { credentials: Credentials::only(credential), ..Access::default() };
        let reference = Reference::parse(&format!("{home}/a:t")).expect("good");
        let error =
            Mirrors::new(&reference, &access).manifest("t").map(|raw| raw.digest).expect_err("refused");
        assert!(matches!(error, RegistryError::Denied { .. }), "{error}");
        assert!(!error.to_string().contains("secret"), "{error}");
        assert!(heard_of(&home_heads).contains("get /v2/a/manifests/t"));
    }
    for heads in [&thief_heads, &bearer_heads] {
        assert!(!heard_of(heads).contains("authorization"), "{}", heard_of(heads));
        assert!(!heard_of(heads).contains("/token"), "{}", heard_of(heads));
    }
}

#[test]
fn unusual_replies_of_registries_are_understood_or_named() {
    let (address, heads) = tiny(|path| {
        match path {
        "/v2/a/manifests/up" => {
            "HTTP/1.1 307 Elsewhere\r\nLocation: ../../b/manifests/odd one?\u{e9}#x\r\nContent-Length: 0\r\n\r\n".to_owned()
        }
        "/v2/b/manifests/odd%20one?%C3%A9" => ok("", "{}"),
        "/v2/a/manifests/long" => format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "y".repeat(200_000)),
        _ => ok("", ""),
    }
    });
    let manifest = |target: &str| {
        let reference = Reference::parse(&format!("{address}/a:{target}")).expect("good");
        Mirrors::new(&reference, &Access::default()).manifest(target).map(|raw| raw.bytes)
    };
    assert_eq!(manifest("up").expect("found"), b"{}", "{:?}", heads.lock());
    let error = manifest("long").expect_err("no end");
    assert!(!sampan_registry::retry::is_passing(&error), "it would be no shorter: {error:?}");
    assert!(sampan_ipc::report::chain(&error).contains("the head of its answer is too long"), "{error:?}");
}

#[test]
fn a_challenge_is_found_after_invalid_ones() {
    let home = Arc::new(Mutex::new(String::new()));
    let named = Arc::clone(&home);
    let (address, _) = tiny(move |path| match path {
        "/v2/a/manifests/t" if !named.lock().expect("no panic").is_empty() => {
            let realm = std::mem::take(&mut *named.lock().expect("no panic"));
            refusing(&format!("Foo \"a, b\", Bearer realm=\"http://{realm}/token\", note=\"\u{e9}\""))
        }
        "/v2/a/manifests/t" => ok("", "{}"),
        path if path.starts_with("/token") => ok("", r#"{"token":"x","expires_in":-5}"#),
        _ => ok("", ""),
    });
    *home.lock().expect("no panic") = address.clone();
    let reference = Reference::parse(&format!("{address}/a:t")).expect("good");
    let found = Mirrors::new(&reference, &Access::default()).manifest("t").map(|raw| raw.bytes);
    assert_eq!(found.expect("found"), b"{}");
}

fn refusing(challenge: &str) -> String {
    format!("HTTP/1.1 401 Who\r\nWWW-Authenticate: {challenge}\r\nContent-Length: 0\r\n\r\n")
}

#[test]
fn a_document_that_comes_byte_by_byte_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().expect("a descriptor"));
                let mut stream = stream;
                while matches!(reader.fill_buf(), Ok([b'G', ..]))
                    && let Some(head) = head(&mut reader)
                {
                    let front = head.starts_with("GET /v2/ ");
                    let said = if front { ok("", "") } else { ok("", &" ".repeat(5000)) };
                    let (at_once, slowly) =
                        said.as_bytes().split_at(said.len() - if front { 0 } else { 4900 });
                    let _ = stream.write_all(at_once);
                    for byte in slowly {
                        if stream.write_all(&[*byte]).is_err() {
                            return;
                        }
                        std::thread::sleep(Duration::from_millis(20));
                    }
                }
            });
        }
    });
    let access = Access { stall: Some(Duration::from_millis(500)), ..Access::default() };
    let reference = Reference::parse(&format!("{address}/a:t")).expect("good");
    let began = Instant::now();
    let error = Mirrors::new(&reference, &access)
        .manifest("t")
        .map(|raw| raw.digest)
        .expect_err("98 s would be too long");
    assert!(sampan_registry::retry::is_passing(&error), "{error}");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}
