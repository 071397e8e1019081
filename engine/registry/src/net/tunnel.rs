//! TLS to a proxy, below whatever goes through it.
//!
//! Made by [`super::dial`], read and written by [`super::stream`]. The host's CA bundle vouches for the proxy: what is
//! said of a registry, `insecure` or a certificate of its own, is not said of what leads there.

use crate::certs;
use crate::net::tls::der;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use rustls_pki_types::ServerName;
use sampan_os::mutex::lock;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

/// A connection in TLS.
pub(crate) struct Tunnel {
    /// Not behind the lock: whoever shuts it down must not wait for whoever reads.
    wire: TcpStream,
    tls: Mutex<ClientConnection>,
}

/// What a greeting waits for.
pub(crate) enum Waits {
    /// Bytes of the peer.
    ToRead,
    /// Room for ours.
    ToWrite,
    /// Nothing: it is over.
    Done,
}

/// How proxies are known: by the host's CA bundle.
pub(crate) fn trust() -> io::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certs::of_host().iter().map(der));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

impl Tunnel {
    /// To `host` over `wire`; nothing is said yet.
    pub(crate) fn new(wire: TcpStream, host: &str, trust: Arc<ClientConfig>) -> io::Result<Self> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let tls = ClientConnection::new(trust, name).map_err(io::Error::other)?;
        Ok(Tunnel { wire, tls: Mutex::new(tls) })
    }

    /// What is below.
    pub(crate) fn wire(&self) -> &TcpStream {
        &self.wire
    }

    /// One step of the greeting, on a wire that does not block.
    ///
    /// # Errors
    /// The peer is not who it should be, or speaks no TLS.
    pub(crate) fn greet(&self) -> io::Result<Waits> {
        let mut tls = lock(&self.tls);
        loop {
            let stepped = match (tls.wants_write(), tls.is_handshaking()) {
                (true, _) => tls.write_tls(&mut &self.wire),
                (false, true) => self.take(&mut tls),
                (false, false) => return Ok(Waits::Done),
            };
            match stepped {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(if tls.wants_write() { Waits::ToWrite } else { Waits::ToRead });
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads and understands what has come.
    fn take(&self, tls: &mut ClientConnection) -> io::Result<usize> {
        let len = tls.read_tls(&mut &self.wire)?;
        if len == 0 && tls.is_handshaking() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Err(error) = tls.process_new_packets() {
            // The peer is told why.
            let _ = tls.write_tls(&mut &self.wire);
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        Ok(len)
    }

    /// True if a read need not wait.
    pub(crate) fn has_input(&self) -> bool {
        !lock(&self.tls).wants_read()
    }

    /// Reads some bytes, and waits for them.
    pub(crate) fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        let mut tls = lock(&self.tls);
        loop {
            match tls.reader().read(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.take(&mut tls)?;
                    self.flush(&mut tls)?;
                }
                other => return other,
            }
        }
    }

    /// Writes some bytes, and waits until they are gone.
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
