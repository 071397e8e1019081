//! TLS to a proxy. The connection to the registry goes through this connection, often with a second layer of TLS.
//!
//! [`super::dial`] makes it; [`super::stream`] reads and writes it. Only the host's CA bundle decides whether the
//! proxy is trusted: the `insecure` setting and the certs.d directory of a registry do not apply to a proxy.

use crate::certs;
use crate::net::tls::der;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use rustls_pki_types::ServerName;
use sampan_os::mutex::lock;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

/// A TLS connection to a proxy.
pub(crate) struct Tunnel {
    /// The TCP connection. It is outside the lock, so that a thread can shut it down while another thread waits in a
    /// read.
    wire: TcpStream,
    tls: Mutex<ClientConnection>,
}

/// The condition for the next step of a handshake.
pub(crate) enum HandshakeStep {
    /// The wire has to become readable.
    NeedsRead,
    /// The wire has to become writable.
    NeedsWrite,
    /// The handshake is complete.
    Done,
}

/// The TLS configuration for proxies, which trusts the host's CA bundle.
pub(crate) fn tls_config() -> io::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certs::of_host().iter().map(der));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

impl Tunnel {
    /// Makes a connection to the proxy `host` over the connected `wire`. Sends nothing yet.
    pub(crate) fn new(wire: TcpStream, host: &str, config: Arc<ClientConfig>) -> io::Result<Self> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let tls = ClientConnection::new(config, name).map_err(io::Error::other)?;
        Ok(Tunnel { wire, tls: Mutex::new(tls) })
    }

    /// The TCP connection below TLS.
    pub(crate) fn wire(&self) -> &TcpStream {
        &self.wire
    }

    /// Does as much of the handshake as is possible without waiting; the wire must be non-blocking.
    ///
    /// # Errors
    /// The certificate of the peer is not trusted, or the peer does not speak TLS.
    pub(crate) fn handshake_step(&self) -> io::Result<HandshakeStep> {
        let mut tls = lock(&self.tls);
        loop {
            let stepped = match (tls.wants_write(), tls.is_handshaking()) {
                (true, _) => tls.write_tls(&mut &self.wire),
                (false, true) => self.receive(&mut tls),
                (false, false) => return Ok(HandshakeStep::Done),
            };
            match stepped {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(match tls.wants_write() {
                        true => HandshakeStep::NeedsWrite,
                        false => HandshakeStep::NeedsRead,
                    });
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads bytes from the wire and processes the TLS records in them.
    fn receive(&self, tls: &mut ClientConnection) -> io::Result<usize> {
        let len = tls.read_tls(&mut &self.wire)?;
        if len == 0 && tls.is_handshaking() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Err(error) = tls.process_new_packets() {
            // Send the alert that describes the error to the peer. If that fails, the error below is reported anyway.
            let _ = tls.write_tls(&mut &self.wire);
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        Ok(len)
    }

    /// Whether decrypted bytes are ready, so that a read does not wait.
    pub(crate) fn has_input(&self) -> bool {
        !lock(&self.tls).wants_read()
    }

    /// Reads some decrypted bytes; waits until there is at least one.
    pub(crate) fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        let mut tls = lock(&self.tls);
        loop {
            match tls.reader().read(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.receive(&mut tls)?;
                    self.flush(&mut tls)?;
                }
                other => return other,
            }
        }
    }

    /// Encrypts and writes some bytes; waits until the kernel has accepted them.
    pub(crate) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut tls = lock(&self.tls);
        let len = tls.writer().write(bytes)?;
        self.flush(&mut tls)?;
        Ok(len)
    }

    fn flush(&self, tls: &mut ClientConnection) -> io::Result<()> {
        while tls.wants_write() {
            tls.write_tls(&mut &self.wire)?;
        }
        Ok(())
    }
}
