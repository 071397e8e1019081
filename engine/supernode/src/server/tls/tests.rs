use super::*;
use mio::{Events, Poll, Waker};
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use rustls_pki_types::ServerName;
use sampan_http::answer::{Answer, Body, Segment};
use sampan_http::connection::{Connection, Reply, Unlimited, WaitsFor};
use sampan_http::request::Limits;
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::thread;

const SOCKET: Token = Token(0);
const WAKER: Token = Token(1);

fn openssl(dir: &Path, args: &str) {
    let mut command = Command::new("openssl");
    command.current_dir(dir).args(args.split(' ')).stdin(Stdio::null());
    let output = command.output().expect("openssl of Debian's package openssl");
    assert!(output.status.success(), "{args}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Makes a CA, and certificates of it for the server 127.0.0.1 and the client peer1.
fn make_certificates(dir: &Path) {
    let new = "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(dir, &format!("{new} -x509 -days 2 -subj /CN=ca -keyout ca.key -out ca.pem"));
    for (name, alternative) in [("server", "IP:127.0.0.1"), ("peer1", "DNS:peer1")] {
        let of_ca = "-x509 -days 2 -CA ca.pem -CAkey ca.key -addext basicConstraints=CA:FALSE";
        let names = format!("-subj /O=test/CN={name} -addext subjectAltName={alternative}");
        openssl(dir, &format!("{new} {of_ca} {names} -keyout {name}.key -out {name}.pem"));
    }
}

fn files(dir: &Path, client_ca: bool) -> TlsFiles {
    let client_ca = client_ca.then(|| dir.join("ca.pem"));
    TlsFiles { cert: dir.join("server.pem"), key: dir.join("server.key"), client_ca }
}

/// A client that trusts the CA, and has the certificate of peer1 if it is `known`.
fn client(
    dir: &Path,
    address: SocketAddr,
    known: bool,
) -> StreamOwned<ClientConnection, std::net::TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(certificates(&dir.join("ca.pem")).expect("a CA").remove(0)).expect("a CA");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots);
    let config = match known {
        false => builder.with_no_client_auth(),
        true => {
            let key = PrivateKeyDer::from_pem_file(dir.join("peer1.key")).expect("a key");
            builder
                .with_client_auth_cert(certificates(&dir.join("peer1.pem")).expect("one"), key)
                .expect("they fit")
        }
    };
    let name = ServerName::try_from("127.0.0.1").expect("a name");
    let socket = std::net::TcpStream::connect(address).expect("connected");
    StreamOwned::new(ClientConnection::new(Arc::new(config), name).expect("a connection"), socket)
}

/// Serves one connection: `/later` is answered after a wake-up, all else at once with `body`. Returns how the
/// connection ended.
fn serve(listener: &TcpListener, config: &Arc<ServerConfig>, body: &dyn Fn() -> Body) -> io::Error {
    let (socket, _) = listener.accept().expect("accepted");
    socket.set_nonblocking(true).expect("set");
    let stream = Stream::new(TcpStream::from_std(socket), Some(config)).expect("a stream");
    let mut connection = Connection::new(stream, Limits::with_bodies(1 << 20));
    let mut poll = Poll::new().expect("a poll");
    let interest = Interest::READABLE | Interest::WRITABLE;
    poll.registry().register(connection.stream(), SOCKET, interest).expect("registered");
    let waker = Waker::new(poll.registry(), WAKER).expect("a waker");
    let mut events = Events::with_capacity(8);
    loop {
        let step = connection.step(&mut Unlimited, &mut |request| match request.uri().path() {
            "/later" => {
                waker.wake().expect("awake");
                Reply::Later
            }
            "/echo" => Reply::Now(Answer::new(200, "text/plain", request.body().to_vec())),
            _ => Reply::Now(Answer { status: 200, headers: Vec::new(), body: body() }),
        });
        match step {
            Err(error) => return error,
            Ok(WaitsFor::Turn) => continue,
            Ok(_) => {}
        }
        poll.poll(&mut events, None).expect("events");
        for event in &events {
            match event.token() {
                WAKER => connection.answer(Answer::new(200, "text/plain", "at last")),
                _ => connection.mark(event),
            }
        }
    }
}

#[test]
fn a_client_with_a_certificate_gets_answers_of_all_kinds() {
    let dir = tempfile::tempdir().expect("a directory");
    make_certificates(dir.path());
    let config = load(&files(dir.path(), true)).expect("they fit");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let content: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let path = dir.path().join("content");
    std::fs::write(&path, &content).expect("written");
    let wanted = [b"head", &content[5..2_900_005], b"tail"].concat();
    let at = dir.path().to_owned();
    let asking = thread::spawn(move || {
        let mut client = client(&at, address, true);
        let upload = "u".repeat(300_000);
        let echo = format!("POST /echo HTTP/1.1\r\nContent-Length: {}\r\n\r\n{upload}", upload.len());
        let ask = ["GET /later HTTP/1.1\r\n\r\n", &echo, "GET / HTTP/1.1\r\nConnection: close\r\n\r\n"];
        client.write_all(ask.concat().as_bytes()).expect("written");
        let mut answers = Vec::new();
        client.read_to_end(&mut answers).expect("the end is told");
        (answers, upload)
    });
    let body = || {
        let file = Arc::new(File::open(&path).expect("a file"));
        let part = Segment::File { file, offset: 5, len: 2_900_000 };
        vec![Segment::Bytes(b"head".to_vec()), part, Segment::Bytes(b"tail".to_vec())].into()
    };
    let error = serve(&listener, &config, &body);
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{error}");
    let (answers, upload) = asking.join().expect("all was answered");
    let kind = "content-type: text/plain\r\n\r\n";
    let echoed = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n{kind}at lastHTTP/1.1 200 OK\r\ncontent-length: 300000\r\n{kind}{upload}"
    );
    let last = "HTTP/1.1 200 OK\r\ncontent-length: 2900008\r\nconnection: close\r\n\r\n";
    assert!(answers == [echoed.as_bytes(), last.as_bytes(), &wanted].concat());
}

#[test]
fn a_client_without_a_certificate_is_refused_if_a_ca_is_given() {
    let dir = tempfile::tempdir().expect("a directory");
    make_certificates(dir.path());
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    for client_ca in [true, false] {
        let config = load(&files(dir.path(), client_ca)).expect("they fit");
        let at = dir.path().to_owned();
        let asking = thread::spawn(move || {
            let mut client = client(&at, address, false);
            let asked = client.write_all(b"GET / HTTP/1.0\r\n\r\n");
            let mut answer = String::new();
            asked.and_then(|()| client.read_to_string(&mut answer)).is_ok()
        });
        let error = serve(&listener, &config, &Body::default);
        assert_eq!(asking.join().expect("it ends"), !client_ca);
        let refused = io::ErrorKind::InvalidData;
        assert_eq!(error.kind() == refused, client_ca, "{error}");
    }
}

#[test]
fn what_is_no_tls_ends_the_connection() {
    let dir = tempfile::tempdir().expect("a directory");
    make_certificates(dir.path());
    let config = load(&files(dir.path(), false)).expect("they fit");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut plain = std::net::TcpStream::connect(listener.local_addr().expect("one")).expect("connected");
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("written");
    let error = serve(&listener, &config, &Body::default);
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

#[test]
fn files_that_do_not_fit_are_named() {
    let dir = tempfile::tempdir().expect("a directory");
    make_certificates(dir.path());
    let of = |cert: &str, key: &str, ca: &str| {
        let [cert, key, ca] = [cert, key, ca].map(|name| dir.path().join(name));
        load(&TlsFiles { cert, key, client_ca: Some(ca) }).map(drop).expect_err("they do not fit").to_string()
    };
    assert!(of("absent", "server.key", "ca.pem").contains("cannot read"));
    assert!(of("server.key", "server.key", "ca.pem").contains("no certificate"));
    assert!(of("server.pem", "ca.pem", "ca.pem").contains("ca.pem: expected a private key"));
    assert!(of("server.pem", "peer1.key", "ca.pem").contains("does not belong to the key"));
    assert!(of("server.pem", "server.key", "server.key").contains("no certificate"));
}
