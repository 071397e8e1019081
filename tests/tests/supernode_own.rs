//! Sampan's own wire, and what protects a supernode: tickets, the shared secret, TLS with client certificates.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use sampan_oci::digest::Digest;
use sampan_tests::http_client::{HttpClient, Response, open};
use sampan_tests::origin_server::Origin;
use sampan_tests::supernode::{Supernode, address, registration};
use sampan_tests::tls::{openssl, with_new_key};
use serde_json::{Value, json};
use std::io::{self, Read, Write};
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MIB: usize = 1 << 20;

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_else(|| panic!("no {key} in {value}")).to_owned()
}

/// Registers from address number `host`; returns the answer.
fn register(supernode: &Supernode, host: u8, url: &str, peer: Option<Value>, have: &[u8]) -> Value {
    let mut http = HttpClient::from(address(host), supernode.control());
    let body = json!({ "url": url, "peer": peer, "have": STANDARD.encode(have) });
    let response = http.post("/sampan/v1/tasks", &body).expect("an answer");
    assert_eq!(response.status, 200, "{}", response.text());
    response.json()
}

fn peer(host: u8) -> Value {
    json!({ "id": format!("host-{host}"), "ip": address(host).to_string(), "port": 20_000, "zone": "a", "rack": "1" })
}

/// Asks from address number `host` which pieces there are.
fn pieces(supernode: &Supernode, host: u8, task: &str, query: &str) -> Response {
    let mut http = HttpClient::from(address(host), supernode.control());
    http.get(&format!("/sampan/v1/tasks/{task}/pieces?{query}")).expect("an answer")
}

#[test]
fn pieces_are_announced_and_served_raw_to_those_with_a_ticket() {
    let (origin, content) = Origin::with_file(20 * MIB);
    let supernode = Supernode::start(1, &[]);
    let registered = register(&supernode, 11, &origin.url("/file"), None, &[]);
    let (task, ticket) = (text(&registered, "task"), text(&registered, "ticket"));
    let size = registered["pieceSize"].as_u64().expect("a number") as usize;
    assert_eq!((size, registered["length"].as_u64()), (4 * MIB - 5, Some(content.len() as u64)));
    let (mut version, mut rounds) = (0, 0);
    let state = loop {
        let state =
            pieces(&supernode, 11, &task, &format!("ticket={ticket}&version={version}&from=0")).json();
        let next = state["version"].as_u64().expect("a number");
        assert!(next >= version, "{state}");
        version = next;
        rounds += 1;
        if state["complete"] == true {
            break state;
        }
        assert!(rounds < 100, "{state}");
    };
    assert_eq!(STANDARD.decode(text(&state, "have")).expect("base64")[0], 0b11_1111);
    let digests: Vec<String> =
        content.chunks(size).map(|piece| Digest::of(piece).to_string().replace("sha256:", "")).collect();
    assert_eq!(state["digests"], json!(digests));

    let mut http = HttpClient::from(address(11), supernode.download());
    let path = format!("/content/{task}?ticket={ticket}");
    for (from, to) in [(0, content.len() - 1), (size - 1, size), (5, 5)] {
        let range = format!("bytes={from}-{to}");
        let part = http.request("GET", &path, &[("Range", &range)], b"").expect("an answer");
        assert_eq!(part.status, 206, "{range}: {part:?}");
        assert!(part.body == content[from..=to], "{range}");
    }
    let past = http.request("GET", &path, &[("Range", "bytes=99999999-")], b"").expect("an answer");
    assert_eq!(past.status, 416);
    let other = "0".repeat(64);
    for target in [
        format!("/content/{task}"),
        format!("/content/{task}?ticket=x"),
        format!("/content/{task}?ticket=9999999999.00112233445566778899aabbccddeeff"),
        format!("/content/{other}?ticket={ticket}"),
    ] {
        let refused = http.request("GET", &target, &[("Range", "bytes=0-9")], b"").expect("an answer");
        assert!(matches!(refused.status, 401 | 403 | 404), "{target}: {refused:?}");
    }
    // A ticket belongs to the address that it was given to.
    let mut thief = HttpClient::from(address(12), supernode.download());
    let refused = thief.request("GET", &path, &[("Range", "bytes=0-9")], b"").expect("an answer");
    assert!(matches!(refused.status, 401 | 403 | 404), "{refused:?}");
    let refused = pieces(&supernode, 12, &task, &format!("ticket={ticket}&version=0&from=0"));
    assert!(matches!(refused.status, 401 | 403 | 404), "{refused:?}");
}

#[test]
fn peers_are_named_as_parents_until_they_leave() {
    let (origin, _) = Origin::with_file(9 * MIB);
    let supernode = Supernode::start(1, &[]);
    let url = origin.url("/file");
    let first = register(&supernode, 11, &url, Some(peer(11)), &[0b111]);
    let second = register(&supernode, 12, &url, Some(peer(12)), &[]);
    let expected = json!([{ "id": "host-11", "ip": address(11).to_string(), "port": 20_000 }]);
    assert_eq!(second["parents"], expected);
    let (task, ticket) = (text(&second, "task"), text(&second, "ticket"));
    // A peer at an address that is not its own is refused, and one without an ID.
    for bad in [peer(99), json!({ "id": "", "ip": address(13).to_string(), "port": 20_000 })] {
        let mut http = HttpClient::from(address(13), supernode.control());
        let body = json!({ "url": url, "peer": bad, "have": "" });
        let response = http.post("/sampan/v1/tasks", &body).expect("an answer");
        assert!(matches!(response.status, 400 | 403), "{bad}: {response:?}");
    }
    let mut http = HttpClient::from(address(12), supernode.control());
    let have = json!({ "peer": "host-12", "ticket": ticket, "have": STANDARD.encode([0b1]) });
    let response = http.post(&format!("/sampan/v1/tasks/{task}/have"), &have).expect("an answer");
    assert_eq!(response.status, 204, "{}", response.text());
    let third = register(&supernode, 13, &url, Some(peer(13)), &[]);
    assert_eq!(third["parents"].as_array().map(Vec::len), Some(2), "{third}");
    let leave = format!("/sampan/v1/tasks/{task}/peers/host-11?ticket={}", text(&first, "ticket"));
    let mut http = HttpClient::from(address(11), supernode.control());
    assert_eq!(http.request("DELETE", &leave, &[], b"").expect("an answer").status, 204);
    let fourth = register(&supernode, 14, &url, Some(peer(14)), &[]);
    let named = fourth["parents"].to_string();
    assert!(!named.contains("host-11") && named.contains("host-12"), "{named}");
}

#[test]
fn a_restarted_supernode_takes_peers_that_announce_themselves() {
    let (origin, content) = Origin::with_file(9 * MIB);
    let mut supernode = Supernode::start(1, &[]);
    let url = origin.url("/file");
    let registered = register(&supernode, 11, &url, Some(peer(11)), &[]);
    let (task, ticket) = (text(&registered, "task"), text(&registered, "ticket"));
    supernode.wait_until("the file", || origin.served("/file").bytes == content.len() as u64);
    let is_complete = |supernode: &Supernode, ticket: &str| {
        let state = pieces(supernode, 11, &task, &format!("ticket={ticket}&version=0&from=0"));
        state.status == 200 && state.json()["complete"] == true
    };
    supernode.wait_until("the last piece", || is_complete(&supernode, &ticket));
    supernode.kill9();
    supernode.start_again();
    // The ticket and the file are still good; the peer is not known.
    assert!(is_complete(&supernode, &ticket));
    let mut http = HttpClient::from(address(11), supernode.control());
    let have = json!({ "peer": "host-11", "ticket": ticket, "have": STANDARD.encode([0b111]) });
    let response = http.post(&format!("/sampan/v1/tasks/{task}/have"), &have).expect("an answer");
    assert_eq!(response.status, 404, "{}", response.text());
    let again = register(&supernode, 11, &url, Some(peer(11)), &[0b111]);
    assert!(is_complete(&supernode, &text(&again, "ticket")));
    let second = register(&supernode, 12, &url, None, &[]);
    assert!(second["parents"].to_string().contains("host-11"), "{second}");
    assert_eq!(origin.served("/file").bytes, content.len() as u64);
}

#[test]
fn a_supernode_with_a_secret_answers_only_those_who_know_it() {
    use std::os::unix::fs::PermissionsExt;
    let (origin, _) = Origin::with_file(100);
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("secret");
    std::fs::write(&file, "s3cret-s3cret-s3cret-s3cret\n").expect("written");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("ours");
    let mut supernode = Supernode::new(1, &["--secret-file", &file.display().to_string()]);
    supernode.spawn();
    let ip = address(11);
    let body = registration(&supernode, ip, 0, &format!("{ip}-26462-1795229659.132"), &origin.url("/file"));
    let body = body.to_string();
    let ask = |secret: Option<&str>| {
        let value = format!("Bearer {}", secret.unwrap_or_default());
        let headers = [("Authorization", value.as_str())];
        let headers = if secret.is_some() { &headers[..] } else { &[] };
        HttpClient::from(ip, supernode.control()).request("POST", "/peer/registry", headers, body.as_bytes())
    };
    supernode.wait_until("the supernode", || ask(None).is_ok());
    for secret in [None, Some(""), Some("s3cret"), Some("s3cret-s3cret-s3cret-s3creT")] {
        assert_eq!(ask(secret).expect("an answer").status, 401, "{secret:?}");
    }
    let answer = ask(Some("s3cret-s3cret-s3cret-s3cret")).expect("an answer");
    assert_eq!((answer.status, &answer.json()["code"]), (200, &json!(200)));
}

/// A certificate for `name`, signed by the authority `ca` in `dir`; its path and its key's.
fn signed(dir: &Path, name: &str, ca: &(PathBuf, PathBuf)) -> (PathBuf, PathBuf) {
    let (request, key) = with_new_key(dir, name, &["-subj", &format!("/CN={name}")]);
    let (cert, names) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.ext")));
    let usage = "extendedKeyUsage=serverAuth,clientAuth\nbasicConstraints=CA:FALSE\n";
    std::fs::write(&names, format!("subjectAltName=IP:{}\n{usage}", address(1))).expect("written");
    let paths = [&request, &ca.0, &ca.1, &cert, &names].map(|path| path.display().to_string());
    let [request, ca, ca_key, out, names] = &paths;
    openssl(&[
        "x509", "-req", "-days", "2", "-in", request, "-CA", ca, "-CAkey", ca_key, "-out", out, "-extfile",
        names,
    ]);
    (cert, key)
}

/// Sends a GET over TLS; returns the first line of the answer.
fn get_over_tls(
    server: SocketAddrV4,
    ca: &Path,
    client: Option<&(PathBuf, PathBuf)>,
    path: &str,
) -> io::Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).expect("a certificate")).expect("an authority");
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots);
    let config = match client {
        None => config.with_no_client_auth(),
        Some((cert, key)) => config
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_file(cert).expect("a certificate")],
                PrivateKeyDer::from_pem_file(key).expect("a key"),
            )
            .expect("a certificate and its key"),
    };
    let name = ServerName::from(std::net::IpAddr::V4(*server.ip()));
    let connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(connection, open(address(11), server)?);
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned())
}

#[test]
fn a_supernode_with_tls_wants_certificates_of_its_authority() {
    let dir = tempfile::tempdir().expect("a directory");
    let authority = |name: &str| {
        let subject = format!("/CN={name}");
        with_new_key(dir.path(), name, &["-x509", "-days", "2", "-subj", &subject])
    };
    let (ca, stranger) = (authority("fleet"), authority("stranger"));
    let server = signed(dir.path(), "server", &ca);
    let (friend, foe) = (signed(dir.path(), "friend", &ca), signed(dir.path(), "foe", &stranger));
    let path = |path: &Path| path.display().to_string();
    let args =
        ["--tls-cert", &path(&server.0), "--tls-key", &path(&server.1), "--tls-client-ca", &path(&ca.0)];
    let mut supernode = Supernode::new(1, &args);
    supernode.spawn();
    let ask = |port: SocketAddrV4, client: Option<&(PathBuf, PathBuf)>, path: &str| {
        get_over_tls(port, &ca.0, client, path)
    };
    supernode.wait_until("the supernode", || {
        ask(supernode.control(), Some(&friend), "/_ping").is_ok_and(|line| line.starts_with("HTTP/1.1 200"))
    });
    let missing = ask(supernode.download(), Some(&friend), "/content/x").expect("an answer");
    assert!(missing.starts_with("HTTP/1.1 40"), "{missing}");
    for client in [None, Some(&foe)] {
        for port in [supernode.control(), supernode.download()] {
            let answer = ask(port, client, "/_ping");
            assert!(!answer.is_ok_and(|line| line.starts_with("HTTP")), "{client:?} is answered");
        }
    }
    // Without TLS there is no answer either, and the supernode goes on.
    let plain = HttpClient::from(address(11), supernode.control()).get("/_ping");
    assert!(plain.is_err(), "{plain:?}");
    ask(supernode.control(), Some(&friend), "/_ping").expect("an answer");
}
