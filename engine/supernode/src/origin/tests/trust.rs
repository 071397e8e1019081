//! Requests to origins that must not be trusted: addresses, redirects, certificates, and origins that do not
//! answer.

use super::*;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{self, Receiver};

#[test]
fn addresses_that_are_not_public_are_never_connected_to() {
    let origin = file_server(b"x");
    let port = origin.address.port();
    for host in
        ["127.0.0.1", "localhost", "127.1", "2130706433", "0", "[::1]", "[::ffff:127.0.0.1]", "0x7f.1"]
    {
        let asked = origins(&["10.0.0.0/8", "other"]).probe(
            &request(&format!("http://{host}:{port}/")),
            None,
            &Cancel::default(),
        );
        let error = asked.expect_err(host);
        assert!(matches!(error, OriginError::Forbidden { .. }), "{host}: {error:?}");
        assert!(error.to_string().contains("--allow-origin"), "{error}");
        assert!(!error.is_temporary());
    }
    assert!(origin.received().is_empty());
    let by_name = origins(&[&format!("localhost:{port}")]);
    let asked = by_name.probe(&request(&format!("http://localhost:{port}/")), None, &Cancel::default());
    assert!(matches!(asked, Ok(ProbeResult::Found(_))), "{asked:?}");
}

#[test]
fn a_redirect_does_not_lead_to_a_forbidden_address() {
    let hidden = file_server(b"x");
    let location = hidden.url("/meta-data");
    let origin =
        Origin::fixed(format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"));
    let origins = origins(&[&origin.address.to_string()]);
    for error in [
        origins.probe(&origin.request(), None, &Cancel::default()).map(|_| ()),
        origins.fetch(&origin.request(), 0, None, &Validators::default(), &Cancel::default()).map(|_| ()),
    ] {
        assert!(matches!(error, Err(OriginError::Forbidden { .. })), "{error:?}");
    }
    assert!(hidden.received().is_empty());
}

#[test]
fn a_redirect_to_another_server_takes_no_secret_along() {
    let other = file_server(b"0123456789");
    let location = other.url("/blob?signature=1");
    let origin = Origin::start(move |request, stream| {
        // The first redirect stays at this server.
        let location = if request.path.starts_with("/file") { "/next" } else { location.as_str() };
        let answer = format!("HTTP/1.1 307 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n");
        let _ = stream.write_all(answer.as_bytes());
    });
    let headers = [("Authorization", "Bearer x"), ("X-Token", "y"), ("Cookie", "z"), ("User-Agent", "dfget")];
    let request = Request::new(&origin.url("/file"), headers).expect("a request");
    let cancel = Cancel::default();
    let origins = origins(&["127.0.0.1"]);
    let mut body = origins.fetch(&request, 5, None, &etag("\"1\""), &cancel).expect("fetched");
    let mut bytes = Vec::new();
    body.reader.read_to_end(&mut bytes).expect("read");
    assert_eq!((body.starts, bytes.as_slice()), (5, &b"56789"[..]));
    for (received, has_secret) in
        origin.received().iter().map(|r| (r, true)).chain([(&other.received()[0], false)])
    {
        for name in ["authorization", "x-token", "cookie"] {
            assert_eq!(received.get(name).is_some(), has_secret, "{name} at {}", received.path);
        }
        assert_eq!(received.get("user-agent"), Some("dfget"));
        assert_eq!((received.get("range"), received.get("if-range")), (Some("bytes=5-"), Some("\"1\"")));
    }
    assert_eq!((origin.received().len(), other.received().len()), (2, 1));
}

#[test]
fn redirects_that_lead_nowhere_are_errors() {
    for location in ["/again", "ftp://a/b", "http://", "http://u:p@127.0.0.1/", "http://[bad/"] {
        let origin =
            Origin::fixed(format!("HTTP/1.1 301 Moved\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"));
        let error = probe(&origin).expect_err(location);
        assert!(matches!(error, OriginError::Web { .. }) && !error.is_temporary(), "{location}: {error:?}");
        assert!(origin.received().len() <= 11);
    }
}

#[test]
fn connections_serve_several_requests() {
    let origin = file_server(b"0123456789");
    let (origins, cancel) = (origins(&["127.0.0.1"]), Cancel::default());
    for _ in 0..5 {
        origins.probe(&origin.request(), None, &cancel).expect("found");
        let mut body =
            origins.fetch(&origin.request(), 2, Some(6), &Validators::default(), &cancel).expect("fetched");
        let mut bytes = Vec::new();
        body.reader.read_to_end(&mut bytes).expect("read");
        assert_eq!(bytes, b"2345");
    }
    assert!(origin.received().iter().all(|received| received.connection == 0));
}

/// An origin that sends `begin` and then nothing, and says when it has got a request.
fn silent(begin: &'static str) -> (Origin, Receiver<()>) {
    let (sender, asked) = mpsc::channel();
    let sender = Mutex::new(sender);
    let origin = Origin::start(move |_, stream| {
        let _ = stream.write_all(begin.as_bytes());
        let _ = sender.lock().expect("no panic").send(());
    });
    (origin, asked)
}

#[test]
fn a_cancelled_request_ends_at_once() {
    let (origin, asked) = silent("");
    let (origins, cancel) = (origins(&["127.0.0.1"]), Cancel::default());
    thread::scope(|scope| {
        let probing = scope.spawn(|| origins.probe(&origin.request(), None, &cancel));
        asked.recv().expect("asked");
        cancel.cancel();
        let ended = probing.join().expect("no panic");
        assert!(matches!(ended, Err(OriginError::Cancelled)), "{ended:?}");
    });
    let ended = origins.probe(&origin.request(), None, &cancel);
    assert!(matches!(ended, Err(OriginError::Cancelled)), "{ended:?}");
    assert_eq!(origin.received().len(), 1);
}

#[test]
fn a_cancelled_body_ends_and_leaves_others_alone() {
    let (origin, asked) = silent("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n01234");
    let good = file_server(b"0123456789");
    let (origins, cancel, other) = (origins(&["127.0.0.1"]), Cancel::default(), Cancel::default());
    let mut fetched = origins.fetch(&good.request(), 0, None, &Validators::default(), &other).expect("begun");
    thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let body = origins.fetch(&origin.request(), 0, None, &Validators::default(), &cancel);
            body.expect("begun").reader.read_to_end(&mut Vec::new())
        });
        asked.recv().expect("asked");
        cancel.cancel();
        let ended = reading.join().expect("no panic");
        assert!(ended.is_err_and(|error| error.to_string().contains("cancelled")));
    });
    let mut bytes = Vec::new();
    fetched.reader.read_to_end(&mut bytes).expect("read");
    assert_eq!(bytes, b"0123456789");
    let probed = origins.probe(&good.request(), None, &other);
    assert!(matches!(probed, Ok(ProbeResult::Found(_))), "{probed:?}");
}

#[test]
fn a_probe_has_a_time_limit() {
    let (origin, _asked) = silent("HTTP/1.1 200 OK\r\n");
    let allowed = vec![parse_allowed("127.0.0.1").expect("an origin")];
    let probe_time = Duration::from_millis(50);
    let origins = Origins::new(OriginSettings { allowed, probe_time, ..OriginSettings::default() });
    let error = origins.probe(&origin.request(), None, &Cancel::default()).expect_err("no answer");
    assert!(matches!(error, OriginError::Transport { .. }) && error.is_temporary(), "{error:?}");
}

/// An origin that speaks TLS with the certificate `name` in `dir`, and gives one answer to each connection.
fn tls_origin(dir: &Path, name: &str, answer: String) -> SocketAddr {
    let certificate = CertificateDer::from_pem_file(dir.join(format!("{name}.pem"))).expect("a certificate");
    let key = PrivateKeyDer::from_pem_file(dir.join(format!("{name}.key"))).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("they fit");
    let (config, listener) = (Arc::new(config), TcpListener::bind("127.0.0.1:0").expect("a port"));
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let session = rustls::ServerConnection::new(Arc::clone(&config)).expect("a session");
            let mut stream = rustls::StreamOwned::new(session, stream.expect("a connection"));
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                match stream.read(&mut byte) {
                    Ok(1) => request.push(byte[0]),
                    _ => break,
                }
            }
            let _ = stream.write_all(answer.as_bytes());
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
    });
    address
}

#[test]
fn certificates_are_verified_unless_the_operator_says_otherwise() {
    let dir = tempfile::tempdir().expect("a directory");
    let plain = file_server(b"x");
    let new = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=origin \
               -addext subjectAltName=IP:127.0.0.1 -keyout origin.key -out origin.pem";
    let mut openssl = Command::new("openssl");
    let output = openssl.current_dir(dir.path()).args(new.split_whitespace()).output().expect("openssl");
    assert!(output.status.success(), "{output:?}");
    let file = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nAccept-Ranges: bytes\r\n\r\n".to_owned();
    let good = tls_origin(dir.path(), "origin", file);
    let location = plain.url("/");
    let redirect = format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n");
    let downgrade = tls_origin(dir.path(), "origin", redirect);
    let probe = |address: SocketAddr, certs: Vec<PathBuf>, insecure_hosts: Vec<String>| {
        let allowed = vec![parse_allowed("127.0.0.1").expect("an origin")];
        let settings = OriginSettings { allowed, certs, insecure_hosts, ..OriginSettings::default() };
        // The threads that ask origins have small stacks; TLS needs the most.
        let ask = move || {
            let request = request(&format!("https://{address}/"));
            Origins::new(settings).probe(&request, None, &Cancel::default())
        };
        let asking = thread::Builder::new().stack_size(256 << 10).spawn(ask).expect("a thread");
        asking.join().expect("no panic")
    };
    let error = probe(good, Vec::new(), Vec::new()).expect_err("nobody trusts the certificate");
    assert!(matches!(error, OriginError::Transport { .. }) && !error.is_temporary(), "{error:?}");
    let trusted = dir.path().join("certs.d").join(good.to_string());
    std::fs::create_dir_all(&trusted).expect("created");
    std::fs::copy(dir.path().join("origin.pem"), trusted.join("ca.crt")).expect("copied");
    let probed = probe(good, vec![dir.path().join("certs.d")], Vec::new()).expect("trusted");
    assert_eq!(probed, found(Some(5), true, Validators::default()));
    for insecure in ["127.0.0.1".to_owned(), good.to_string()] {
        probe(good, Vec::new(), vec![insecure]).expect("not verified");
    }
    let error = probe(downgrade, Vec::new(), vec!["127.0.0.1".to_owned()]).expect_err("it leaves TLS");
    assert!(matches!(error, OriginError::Web { .. }), "{error:?}");
    assert!(plain.received().is_empty());
}

#[test]
fn an_origin_that_stalls_is_given_up() {
    let (origin, _asked) = silent("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n01234");
    let allowed = vec![parse_allowed("127.0.0.1").expect("an origin")];
    let stall = Some(Duration::from_millis(50));
    let origins = Origins::new(OriginSettings { allowed, stall, ..OriginSettings::default() });
    let cancel = Cancel::default();
    // On a busy machine even the first byte may come too late.
    match origins.fetch(&origin.request(), 0, None, &Validators::default(), &cancel) {
        Ok(mut body) => {
            let error = body.reader.read_to_end(&mut Vec::new()).expect_err("nothing comes");
            assert_ne!(error.kind(), std::io::ErrorKind::UnexpectedEof, "{error}");
        }
        Err(error) => assert!(matches!(error, OriginError::Transport { .. }), "{error:?}"),
    }
}
