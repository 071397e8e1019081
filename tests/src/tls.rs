//! TLS for tests: a server in front of a server without TLS, and certificates that openssl makes.
//!
//! The server listens on 127.0.0.1, and ends with the test's process.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustls::{ServerConfig, ServerConnection};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

/// Runs an openssl command, which must succeed.
pub fn openssl(args: &[&str]) {
    let output = Command::new("openssl").args(args).stdin(Stdio::null()).output();
    let output = output.expect("openssl of Debian's package openssl");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Makes a self-signed certificate for 127.0.0.1 below `dir`, and its key; their paths. The certificate is not an
/// authority's, which no strict client accepts from a server.
pub fn self_signed(dir: &Path, stem: &str) -> (PathBuf, PathBuf) {
    let mut args = vec!["-x509", "-days", "2", "-subj", "/CN=localhost"];
    args.extend(["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"]);
    with_new_key(dir, stem, &args)
}

/// Makes a key below `dir`, and what `openssl req` makes for the key: a certificate if `args` have `-x509`, else a
/// request for one. The paths of the certificate or request, and of the key.
pub fn with_new_key(dir: &Path, stem: &str, args: &[&str]) -> (PathBuf, PathBuf) {
    let (made, key) = (dir.join(format!("{stem}.pem")), dir.join(format!("{stem}.key")));
    let (made_name, key_name) = (made.display().to_string(), key.display().to_string());
    let mut all = vec!["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    all.extend(["-keyout", &key_name, "-out", &made_name]);
    all.extend(args);
    openssl(&all);
    (made, key)
}

/// Accepts TLS connections with this certificate and key, and forwards them to `target` as plain TCP. Returns its
/// `127.0.0.1:PORT`.
pub fn front(cert: &Path, key: &Path, target: &str) -> String {
    let certs = CertificateDer::pem_file_iter(cert).expect("a file").collect::<Result<_, _>>().expect("PEM");
    let key = PrivateKeyDer::from_pem_file(key).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(certs, key)
        .expect("a certificate and its key");
    let (config, target) = (Arc::new(config), target.to_owned());
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    std::thread::spawn(move || {
        for far in listener.incoming().flatten() {
            let (config, target) = (Arc::clone(&config), target.clone());
            std::thread::spawn(move || {
                let near = TcpStream::connect(&target).expect("the server is there");
                let tls = ServerConnection::new(config).expect("a connection");
                let _ = pass_on(tls, &far, &near);
                let _ = near.shutdown(Shutdown::Both);
                let _ = far.shutdown(Shutdown::Both);
            });
        }
    });
    address
}

/// Forwards bytes in both directions until one side closes.
fn pass_on(mut tls: ServerConnection, mut far: &TcpStream, mut near: &TcpStream) -> io::Result<()> {
    let mut bytes = [0; 16 << 10];
    loop {
        while tls.wants_write() {
            tls.write_tls(&mut far)?;
        }
        let mut fds = [far, near].map(|side| PollFd::new(side.as_fd(), PollFlags::POLLIN));
        poll(&mut fds, PollTimeout::NONE)?;
        let [from_far, from_near] = fds.map(|fd| fd.any().unwrap_or(true));
        if from_far {
            if tls.read_tls(&mut far)? == 0 {
                return Ok(());
            }
            let state = tls.process_new_packets().map_err(io::Error::other);
            if state.is_err() {
                tls.write_tls(&mut far)?;
            }
            let there = state?.plaintext_bytes_to_read();
            let mut plain = vec![0; there];
            tls.reader().read_exact(&mut plain)?;
            near.write_all(&plain)?;
        }
        if from_near {
            match near.read(&mut bytes)? {
                0 => {
                    tls.send_close_notify();
                    while tls.wants_write() {
                        tls.write_tls(&mut far)?;
                    }
                    return Ok(());
                }
                len => tls.writer().write_all(&bytes[..len])?,
            }
        }
    }
}
