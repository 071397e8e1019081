//! Who we are to registries: real ones with passwords, and one of the test's own with tokens.

use sampan_tests::engine_host::EngineHost;
use sampan_tests::registry::{DockerRegistry, Image, Layer, Packing};
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

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
fn a_registry_with_a_password_is_pulled_from_after_a_login_and_not_after_a_logout() {
    let host = EngineHost::start();
    let registry = DockerRegistry::start_for(&host.path(""), "ann", "hunter2:x");
    let address = registry.address.clone();
    let reference = registry.push_as("private:t", &[image()], Some("ann:hunter2:x"));

    let said = host.fails(1, &["pull", &reference]);
    assert!(said.contains("denies access") && said.contains("sampan login"), "{said}");
    let login = ["login", "-u", "ann", "--password-stdin", &address];
    let (status, _, said) = with_stdin(&host, &login, "wrong\n");
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains(&format!("cannot log in to {address}")), "{said}");
    assert!(!host.auth_file().exists(), "what was refused is not saved");

    assert_eq!(with_stdin(&host, &login, "hunter2:x\n"), (Some(0), "Login Succeeded!\n".into(), "".into()));
    assert_eq!(fs::metadata(host.auth_file()).expect("saved").permissions().mode() & 0o777, 0o600);
    assert_eq!(host.ok(&["login", "--get-login", &address]), "ann\n");
    host.ok(&["pull", &reference]);

    // podman and skopeo find it where we do.
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
