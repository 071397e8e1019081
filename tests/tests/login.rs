//! Logins and credentials: real registries with passwords, and a registry of the tests with tokens.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;
use sampan_oci as oci;
use sampan_tests::engine_host::EngineHost;
use sampan_tests::host::PATIENCE;
use sampan_tests::memory_registry::{Fault, Guard, MemoryRegistry, RecordedRequest};
use sampan_tests::registry::{DockerRegistry, Image, Layer, Packing};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

fn image() -> Image {
    Image::of(&[Layer::of(&[("file", b"content")], Packing::Gzip)], "amd64")
}

/// Runs `sampan` with a password on its standard input.
fn with_stdin(host: &EngineHost, args: &[&str], stdin: &str) -> (Option<i32>, String, String) {
    let mut command = host.command(&sampan_tests::host::binary("sampan"));
    let mut child = command
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("sampan starts");
    child.stdin.take().expect("a pipe").write_all(stdin.as_bytes()).expect("written");
    let out = child.wait_with_output().expect("it ends");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (out.status.code(), text(&out.stdout), text(&out.stderr))
}

#[test]
fn a_login_permits_pulls_until_the_logout() {
    let host = EngineHost::start();
    let registry = DockerRegistry::start_for(&host.path(""), "ann", "hunter2:x");
    let address = registry.address.clone();
    let reference = registry.push_as("private:t", &[image()], Some("ann:hunter2:x"));

    let said = host.fails(1, &["pull", &reference]);
    assert!(said.contains("denies access") && said.contains("sampan login"), "{said}");
    let login = ["login", "-u", "ann", "--password-stdin", &address];
    let (status, _, said) = with_stdin(&host, &login, "wrong\n");
    assert_eq!(status, Some(1), "{said}");
    let refused = format!("cannot log in to {address}: it refuses this user name or password");
    assert!(said.contains(&refused) && !said.contains("front page"), "{said}");
    assert!(!host.auth_file().exists(), "what was refused is not saved");

    assert_eq!(with_stdin(&host, &login, "hunter2:x\n"), (Some(0), "Login Succeeded!\n".into(), "".into()));
    assert_eq!(fs::metadata(host.auth_file()).expect("saved").permissions().mode() & 0o777, 0o600);
    assert_eq!(host.ok(&["login", "--get-login", &address]), "ann\n");
    host.ok(&["pull", &reference]);

    // podman and skopeo find the credentials in the same file.
    let skopeo = host
        .command("skopeo".as_ref())
        .args(["inspect", "--tls-verify=false"])
        .arg(format!("docker://{reference}"))
        .output();
    let skopeo = skopeo.expect("skopeo");
    assert!(skopeo.status.success(), "{}", String::from_utf8_lossy(&skopeo.stderr));

    assert_eq!(host.ok(&["logout", &address]), format!("Removed login credentials for {address}\n"));
    assert!(host.fails(1, &["logout", &address]).contains("not logged in"));
    assert!(host.fails(1, &["login", "--get-login", &address]).contains("not logged in"));
    host.ok(&["rmi", &reference]);
    host.fails(1, &["pull", &reference]);
    for secret in ["hunter2", "YW5uOmh1bnRlcjI"] {
        assert!(!host.log().contains(secret), "no secret in the log");
    }
}

/// The parameters of a query or a form, undecoded.
fn words(text: &str) -> Vec<&str> {
    text.split('&').collect()
}

/// Requests for tokens.
fn token_requests(registry: &MemoryRegistry) -> Vec<RecordedRequest> {
    registry.requests().into_iter().filter(|request| request.path == "/token").collect()
}

fn base64(text: &str) -> String {
    let path = text.to_owned();
    let mut child = Command::new("base64")
        .args(["-w", "0"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("base64 of coreutils");
    child.stdin.take().expect("a pipe").write_all(path.as_bytes()).expect("written");
    String::from_utf8(child.wait_with_output().expect("it ends").stdout).expect("text")
}

/// Writes a file of credentials.
fn write_auth(path: &Path, document: &serde_json::Value) {
    fs::create_dir_all(path.parent().expect("a directory")).expect("made");
    fs::write(path, document.to_string()).expect("written");
}

fn large() -> Image {
    Image::of(&[Layer::large("large", 3 << 20, Packing::Plain)], "amd64")
}

#[test]
fn a_pull_token_has_the_pulls_scope_and_is_renewed_in_a_blob() {
    let (host, registry, image) = (EngineHost::start(), MemoryRegistry::start(), large());
    registry.publish("a/b", "t", oci::MANIFEST, &image);
    registry.guard(Guard::default());
    let layer = format!("GET a/b/blobs/{}", image.blobs[0].0);
    registry.fail(&layer, Fault::Revoke(2 << 20));
    host.ok(&["pull", &format!("{}/a/b:t", registry.address)]);
    let tokens = token_requests(&registry);
    assert_eq!(tokens.len(), 2, "one at the beginning, one for the rest of the blob");
    for token in &tokens {
        assert_eq!(words(&token.query), ["service=a%2C%20test", "scope=repository:a/b:pull"]);
        assert_eq!(token.header("authorization"), "", "nobody has said who we are");
    }
    let gets: Vec<RecordedRequest> =
        registry.requests().into_iter().filter(|request| request.line() == layer).collect();
    let last = gets.last().expect("the layer is requested");
    assert_eq!(last.header("authorization"), "Bearer token-2");
    assert!(last.header("range").starts_with("bytes="), "what had come is not sent again");
}

#[test]
fn a_push_token_includes_mounts_and_is_renewed_on_the_way() {
    let (host, registry, image) = (EngineHost::start(), MemoryRegistry::start(), large());
    registry.publish("from", "t", oci::MANIFEST, &image);
    let source = format!("{}/from:t", registry.address);
    host.ok(&["pull", &source]);
    registry.guard(Guard::default());
    registry.fail("POST to/blobs/uploads/?mount=", Fault::Status(404, String::new()));
    registry.fail("POST to/blobs/uploads/?mount=", Fault::Status(404, String::new()));
    let challenge = format!("WWW-Authenticate: Bearer realm=\"http://{}/token\"", registry.address);
    registry.fail("PATCH", Fault::Status(401, challenge));
    host.ok(&["push", &source, &format!("{}/to:t", registry.address)]);
    let tokens = token_requests(&registry);
    assert_eq!(tokens.len(), 2);
    let scopes = ["scope=repository:to:pull,push", "scope=repository:from:pull"];
    let encoded: Vec<String> = scopes.iter().map(|scope| scope.replace(',', "%2C")).collect();
    assert_eq!(words(&tokens[0].query)[1..], encoded);
    assert!(registry.manifest("to", "t").is_some());
}

#[test]
fn a_password_goes_to_the_realm_and_the_token_to_the_registry() {
    let (host, registry, realm) = (EngineHost::start(), MemoryRegistry::start(), MemoryRegistry::start());
    // The realm is another server, whose tokens the registry does not know: this is enough to see which server gets the
    // credentials.
    realm.guard(Guard { secret: base64("ann:hunter2"), realm: None });
    registry.guard(Guard { realm: Some(format!("http://{}/token", realm.address)), ..Guard::default() });
    registry.publish("a", "t", oci::MANIFEST, &image());
    host.fails(1, &["login", "-u", "ann", "-p", "hunter2", &registry.address]);
    let heard = token_requests(&realm);
    assert_eq!(
        words(&heard[0].query),
        ["service=a%2C%20test", "account=ann"],
        "a login asks for no repository"
    );
    assert_eq!(heard[0].header("authorization"), format!("Basic {}", base64("ann:hunter2")));
    for request in registry.requests() {
        assert!(!request.header("authorization").starts_with("Basic"), "{request:?}");
    }

    let own = MemoryRegistry::start();
    own.guard(Guard { secret: base64("ann:hunter2"), realm: None });
    own.publish("a", "t", oci::MANIFEST, &image());
    let said = host.fails(1, &["login", "-u", "ann", "-p", "wrong", &own.address]);
    assert!(said.contains("cannot log in") && said.contains("check the user name"), "{said}");
    host.ok(&["login", "-u", "ann", "-p", "hunter2", &own.address]);
    host.ok(&["pull", &format!("{}/a:t", own.address)]);
    assert!(!host.log().contains("hunter2") && !host.log().contains(&base64("ann:hunter2")));
}

#[test]
fn an_identity_token_is_exchanged_by_oauth2() {
    let (host, registry) = (EngineHost::start(), MemoryRegistry::start());
    registry.publish("a", "t", oci::MANIFEST, &image());
    registry.guard(Guard { secret: "long-lived".to_owned(), realm: None });
    let entry = serde_json::json!({"auth": base64("<token>:"), "identitytoken": "long-lived"});
    write_auth(&host.auth_file(), &serde_json::json!({"auths": {&registry.address: entry}}));
    host.ok(&["pull", &format!("{}/a:t", registry.address)]);
    let exchange = token_requests(&registry).remove(0);
    assert_eq!((exchange.method.as_str(), exchange.query.as_str()), ("POST", ""));
    let form = String::from_utf8(exchange.body).expect("text");
    for word in [
        "grant_type=refresh_token",
        "refresh_token=long-lived",
        "scope=repository:a:pull",
        "client_id=sampan",
    ] {
        assert!(words(&form).contains(&word), "{form}");
    }
    assert!(!host.log().contains("long-lived"));
}

#[test]
fn a_realm_that_would_take_a_password_in_the_open_gets_none() {
    let host = EngineHost::start();
    for realm in ["http://realm.example/token", "file:///etc/passwd", "https://a@b/", ""] {
        let registry = MemoryRegistry::start();
        registry.guard(Guard { secret: String::new(), realm: Some(realm.to_owned()) });
        let said = host.fails(1, &["login", "-u", "ann", "-p", "hunter2", &registry.address]);
        assert!(said.contains("not HTTPS"), "{realm}: {said}");
        assert!(!said.contains("hunter2"));
    }
}

#[test]
fn who_we_are_stays_with_the_registry_when_it_redirects() {
    let (host, registry, store) = (EngineHost::start(), MemoryRegistry::start(), MemoryRegistry::start());
    let image = large();
    registry.publish("a", "t", oci::MANIFEST, &image);
    store.publish("a", "t", oci::MANIFEST, &image);
    registry.guard(Guard { secret: base64("ann:hunter2"), realm: None });
    registry.redirect(&store.address);
    host.ok(&["login", "-u", "ann", "-p", "hunter2", &registry.address]);
    host.ok(&["pull", &format!("{}/a:t", registry.address)]);
    let gets = store.requests();
    assert!(gets.iter().any(|request| request.path.contains("/blobs/")), "{gets:?}");
    assert!(gets.iter().all(|request| request.header("authorization").is_empty()), "{gets:?}");
    let requests = registry.requests();
    assert!(
        requests
            .iter()
            .any(|request| request.path.contains("/blobs/") && !request.header("authorization").is_empty())
    );
}

/// A credential helper that stores one secret in a file next to it.
const HELPER: &str = r#"
kept="$(dirname "$0")/kept"
echo "$1" >>"$(dirname "$0")/calls"
case "$1" in
    get) read -r server; [ -e "$kept" ] || { echo credentials not found in native keychain; exit 1; }; cat "$kept" ;;
    store) cat >"$kept" ;;
    erase) rm "$kept" ;;
esac"#;

#[test]
fn a_credential_helper_keeps_what_a_login_has_found_good() {
    let host = EngineHost::start();
    let registry = DockerRegistry::start_for(&host.path(""), "ann", "hunter2");
    let reference = registry.push_as("private:t", &[image()], Some("ann:hunter2"));
    host.script("docker-credential-test", HELPER);
    let document = serde_json::json!({"credHelpers": {&registry.address: "test"}, "other": 1});
    write_auth(&host.auth_file(), &document);
    host.fails(1, &["pull", &reference]);
    host.ok(&["login", "-u", "ann", "-p", "hunter2", &registry.address]);
    assert_eq!(
        fs::read_to_string(host.auth_file()).expect("there"),
        document.to_string(),
        "no secret in the file"
    );
    assert_eq!(host.ok(&["login", "--get-login", &registry.address]), "ann\n");
    host.ok(&["pull", &reference]);
    host.ok(&["logout", &registry.address]);
    assert!(!host.path("bin/kept").exists());
    host.fails(1, &["logout", &registry.address]);

    // The error names a helper that fails as the reason.
    host.script("docker-credential-test", "echo hunter2; exit 3");
    let out = host.sampan(&["pull", &reference]);
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(said.contains("docker-credential-test get failed") && !said.contains("hunter2"), "{said}");
}

/// A credential helper that stores a file for each server.
const KEEPER: &str = r#"
kept="$0.d"
mkdir -p "$kept"
case "$1" in
    get) read -r server; [ -e "$kept/$server" ] || { echo credentials not found in native keychain; exit 1; }
        cat "$kept/$server" ;;
    store) entry="$(cat)"
        printf %s "$entry" >"$kept/$(printf %s "$entry" | sed 's/.*"ServerURL":"\([^"]*\)".*/\1/')" ;;
    erase) read -r server; rm "$kept/$server" ;;
    list) cd "$kept"; all=; for server in *; do all="$all,\"$server\":\"ann\""; done; echo "{${all#,}}" ;;
esac"#;

/// An engine with this registries.conf.
fn with_registries_conf(dir: &Path, text: &str) -> EngineHost {
    let conf = dir.join("registries.conf");
    fs::write(&conf, text).expect("written");
    EngineHost::start_with(&format!("registries-conf = {:?}", conf.display().to_string()))
}

#[test]
fn credential_helpers_keep_logins_and_are_asked_in_order() {
    let dir = tempfile::tempdir().expect("a directory");
    let registry = DockerRegistry::start_for(dir.path(), "ann", "hunter2");
    let address = registry.address.as_str();
    let reference = registry.push_as("private:t", &[image()], Some("ann:hunter2"));
    let order = "credential-helpers = ['broken', 'kept', 'containers-auth.json', 'other']";
    let host = with_registries_conf(dir.path(), order);
    host.script("docker-credential-broken", "echo hunter2; exit 3");
    host.script("docker-credential-kept", KEEPER);
    host.script("docker-credential-other", KEEPER);
    let kept = |helper: &str| host.path(&format!("bin/docker-credential-{helper}.d/{address}"));

    let out = host.sampan(&["login", "-u", "ann", "-p", "hunter2", address]);
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && said.contains("docker-credential-broken store failed"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
    assert!(kept("kept").exists() && !kept("other").exists() && !host.auth_file().exists());
    assert_eq!(host.ok(&["login", "--get-login", address]), "ann\n");
    host.ok(&["pull", &reference]);
    host.ok(&["push", &reference, &format!("{address}/copy:t")]);

    // skopeo and podman find the credentials in the same place. They require the directory, although no file is in it.
    fs::create_dir_all(host.path("home/run")).expect("made");
    let mut skopeo = host.command("skopeo".as_ref());
    skopeo.arg("--registries-conf").arg(dir.path().join("registries.conf"));
    let out = skopeo.args(["inspect", "--tls-verify=false", &format!("docker://{reference}")]).output();
    let out = out.expect("skopeo");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));

    // The first helper with an answer decides, even if its credentials are wrong.
    let wrong = format!(r#"{{"ServerURL":"{address}","Username":"ann","Secret":"wrong"}}"#);
    fs::create_dir_all(kept("other").parent().expect("a directory")).expect("made");
    fs::write(kept("other"), &wrong).expect("written");
    host.ok(&["rmi", &reference]);
    host.ok(&["pull", &reference]);
    fs::write(kept("kept"), &wrong).expect("written");
    let entry = serde_json::json!({"auth": base64("ann:hunter2")});
    write_auth(&host.auth_file(), &serde_json::json!({"auths": {address: entry}}));
    assert!(host.fails(1, &["pull", &reference]).contains("denies access"));
    fs::remove_file(kept("kept")).expect("there");
    host.ok(&["pull", &reference]);

    // All helpers forget the credentials; an error of one is reported after the others have forgotten them.
    fs::write(kept("kept"), &wrong).expect("written");
    let said = host.fails(1, &["logout", address]);
    assert!(said.contains("docker-credential-broken get failed") && !said.contains("hunter2"), "{said}");
    assert!(!kept("kept").exists() && !kept("other").exists());
    assert!(!fs::read_to_string(host.auth_file()).expect("there").contains(address));
    host.script("docker-credential-broken", KEEPER);
    let said = host.fails(1, &["logout", address]);
    assert!(said.contains("docker-credential-kept has no entry"), "{said}");
    fs::write(kept("kept"), &wrong).expect("written");
    fs::write(kept("other"), &wrong).expect("written");
    host.script("docker-credential-broken", r#"[ "$1" = list ] && echo '{}'"#);
    host.ok(&["logout", "--all"]);
    assert!(!kept("kept").exists() && !kept("other").exists());
}

#[test]
fn helpers_without_containers_auth_json_leave_files_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let registry = DockerRegistry::start_for(dir.path(), "ann", "hunter2");
    let reference = registry.push_as("private:t", &[image()], Some("ann:hunter2"));
    let host = with_registries_conf(dir.path(), "credential-helpers = ['only']");
    host.script("docker-credential-only", "echo credentials not found in native keychain; exit 1");
    let entry = serde_json::json!({"auth": base64("ann:hunter2")});
    let document = serde_json::json!({"auths": {&registry.address: entry}});
    write_auth(&host.auth_file(), &document);
    write_auth(&host.path("engine-home/.docker/config.json"), &document);
    assert!(host.fails(1, &["pull", &reference]).contains("denies access"));
    let said = host.fails(1, &["login", "-u", "ann", "-p", "hunter2", &registry.address]);
    assert!(said.contains("docker-credential-only store failed") && !said.contains("hunter2"), "{said}");
    // If the user names a file, only that file is used.
    let named = host.auth_file().display().to_string();
    host.ok(&["pull", "--authfile", &named, &reference]);
    host.ok(&["logout", "--authfile", &named, &registry.address]);

    // For users without credentials, the engine uses its own.
    host.ok(&["rmi", &reference]);
    host.script(
        "docker-credential-only",
        r#"case "$HOME" in
            */engine-home) echo '{"Username":"ann","Secret":"hunter2"}' ;;
            *) echo credentials not found in native keychain; exit 1 ;;
        esac"#,
    );
    host.fails(1, &["login", "--get-login", &registry.address]);
    host.ok(&["pull", &reference]);
    host.ok(&["push", &reference, &format!("{}/copy:t", registry.address)]);
}

#[test]
fn a_logout_does_without_the_engine() {
    let host = EngineHost::start();
    let entry = serde_json::json!({"auth": base64("ann:hunter2")});
    write_auth(&host.auth_file(), &serde_json::json!({"auths": {"r.example": entry}}));
    let nowhere = host.path("nowhere").display().to_string();
    let out = host.sampan(&["logout", "--socket", &nowhere, "r.example"]);
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && said.contains("credential-helpers"), "{said}");
    assert!(!fs::read_to_string(host.auth_file()).expect("there").contains("r.example"));
}

#[test]
fn the_engine_has_credentials_of_its_own() {
    let dir = tempfile::tempdir().expect("a directory");
    let registry = DockerRegistry::start_for(dir.path(), "ann", "hunter2");
    let reference = registry.push_as("private:t", &[image()], Some("ann:hunter2"));
    let file = dir.path().join("engine.json");
    let entry = serde_json::json!({"auth": base64("ann:hunter2")});
    write_auth(&file, &serde_json::json!({"auths": {format!("{}/private", registry.address): entry}}));
    let host = EngineHost::start_with(&format!("auth-file = {:?}", file.display().to_string()));
    host.ok(&["pull", &reference]);

    // A helper for all registries, in docker's configuration file.
    let host = EngineHost::start();
    host.script("docker-credential-all", r#"echo '{"Username":"ann","Secret":"hunter2"}'"#);
    host.fails(1, &["pull", &reference]);
    write_auth(&host.path("engine-home/.docker/config.json"), &serde_json::json!({"credsStore": "all"}));
    host.ok(&["pull", &reference]);

    // The user's credentials take precedence over the engine's, even if they are wrong.
    write_auth(
        &host.auth_file(),
        &serde_json::json!({"auths": {&registry.address: {"auth": base64("ann:wrong")}}}),
    );
    host.ok(&["rmi", &reference]);
    let said = host.fails(1, &["pull", &reference]);
    assert!(said.contains("denies access"), "{said}");
}

#[test]
fn a_login_that_makes_no_sense_is_refused() {
    let host = EngineHost::start();
    for (args, says) in [
        (&["login", "127.0.0.1:1"][..], "not a terminal"),
        (&["login", "-p", "b", "127.0.0.1:1"], "cannot ask for a user name"),
        (&["login", "-u", "a", "127.0.0.1:1"], "cannot ask for a password"),
        (&["login", "-u", "a", "-p", "b", "a b"], "is no registry"),
        (&["login", "-u", "a", "-p", "b", "nodots"], "is no registry"),
        (&["login", "-u", "a:b", "-p", "b", "127.0.0.1:1"], "no colon"),
        (&["login", "-u", "", "-p", "b", "127.0.0.1:1"], "must not be empty"),
        (&["login", "--password-stdin", "127.0.0.1:1"], "--username"),
        (&["logout", "--all", "127.0.0.1:1"], "cannot be used"),
    ] {
        let said = host.fails(125, args);
        assert!(said.contains(says), "{args:?}: {said}");
    }
    let said = host.fails(1, &["pull", "127.0.0.1:1/a"]);
    assert!(!said.contains("credential"), "{said}");
    assert!(host.ok(&["logout", "--all"]).starts_with("Removed"));
}

/// An interactive login at a terminal, and the terminal's output.
struct Typed {
    child: Child,
    master: File,
    shown: String,
}

impl Typed {
    fn start(host: &EngineHost, registry: &str) -> Self {
        let pty = openpty(None, None).expect("a terminal");
        let slave = || Stdio::from(pty.slave.try_clone().expect("a descriptor"));
        let mut command = host.command(&sampan_tests::host::binary("sampan"));
        command.args(["login", registry]).stdin(slave()).stdout(slave()).stderr(slave());
        let child = command.spawn().expect("sampan starts");
        Typed { child, master: File::from(pty.master), shown: String::new() }
    }

    fn await_text(&mut self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.shown.contains(text) {
            assert!(Instant::now() < deadline, "waited for {text:?}: {:?}", self.shown);
            let mut fds = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::from(100u8)).expect("polled");
            if fds[0].any() == Some(true) {
                let mut bytes = [0; 1024];
                let len = self.master.read(&mut bytes).expect("readable");
                self.shown.push_str(&String::from_utf8_lossy(&bytes[..len]));
            }
        }
    }

    fn echoes(&self) -> bool {
        tcgetattr(&self.master).expect("a terminal").local_flags.contains(LocalFlags::ECHO)
    }
}

#[test]
fn a_password_is_typed_unseen_and_the_terminal_is_as_before() {
    let host = EngineHost::start();
    let registry = DockerRegistry::start_for(&host.path(""), "ann", "hunter2");
    let mut typed = Typed::start(&host, &registry.address);
    typed.await_text("Username: ");
    typed.master.write_all(b"ann\n").expect("typed");
    typed.await_text("Password: ");
    sampan_tests::host::wait_until("the echo to be off", String::new, || !typed.echoes());
    typed.master.write_all(b"hunter2\n").expect("typed");
    typed.await_text("Login Succeeded!");
    assert!(typed.child.wait().expect("ours").success());
    assert!(typed.echoes() && !typed.shown.contains("hunter2"), "{:?}", typed.shown);

    let mut typed = Typed::start(&host, &registry.address);
    typed.await_text("Username: ");
    typed.master.write_all(b"ann\n").expect("typed");
    typed.await_text("Password: ");
    sampan_tests::host::wait_until("the echo to be off", String::new, || !typed.echoes());
    kill(Pid::from_raw(typed.child.id().cast_signed()), Signal::SIGINT).expect("it runs");
    assert_eq!(typed.child.wait().expect("ours").signal(), Some(Signal::SIGINT as i32));
    assert!(typed.echoes());
}

#[test]
fn a_registry_that_does_not_answer_keeps_nobody_else_waiting() {
    let host = EngineHost::start();
    // This server accepts connections and never replies.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("an address").to_string();
    let login = || {
        let mut command = host.command(&sampan_tests::host::binary("sampan"));
        command.args(["login", "-u", "a", "-p", "b", &address]).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("sampan starts")
    };
    let mut logins: Vec<Child> = (0..16).map(|_| login()).collect();
    host.wait_until("as many logins as there may be", || host.log().matches("requests Login").count() == 16);
    let said = host.fails(1, &["login", "-u", "a", "-p", "b", &address]);
    assert!(said.contains("16 logins are running, the maximum"), "{said}");
    let began = Instant::now();
    host.ok(&["images"]);
    assert!(began.elapsed() < PATIENCE / 2, "{:?}", began.elapsed());
    for login in &mut logins {
        login.kill().expect("it runs");
        login.wait().expect("ours");
    }
    // The end of its client ends a login, which makes room for others.
    host.wait_until("room for a login", || {
        let out = host.sampan(&["login", "-u", "a", "-p", "b", "127.0.0.1:1"]);
        String::from_utf8_lossy(&out.stderr).contains("cannot fetch")
    });
}

#[test]
fn a_file_that_a_person_names_is_the_only_one() {
    let host = EngineHost::start();
    let registry = DockerRegistry::start_for(&host.path(""), "ann", "hunter2");
    let reference = registry.push_as("private:t", &[image()], Some("ann:hunter2"));
    let file = host.path("named.json").display().to_string();
    let missing = host.fails(1, &["pull", "--authfile", &file, &reference]);
    assert!(missing.contains("named.json"), "{missing}");
    host.ok(&["login", "--authfile", &file, "-u", "ann", "-p", "hunter2", &registry.address]);
    assert!(!host.auth_file().exists());
    host.fails(1, &["pull", &reference]);
    host.ok(&["pull", "--authfile", &file, &reference]);
    host.ok(&["push", "--authfile", &file, &reference, &format!("{}/copy:t", registry.address)]);
    host.ok(&["logout", "--authfile", &file, &registry.address]);
    host.fails(1, &["pull", "--authfile", &file, &format!("{}/copy:t", registry.address)]);
}
