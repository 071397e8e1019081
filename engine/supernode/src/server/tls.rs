//! The stream of an accepted connection, plain or encrypted, and the server's certificate.
//!
//! The event loop makes a [`Stream`] for each connection. [`load`] reads the PEM files once, at the start, and
//! checks that they fit. With a client CA, the handshake of a client without a certificate of that CA fails.

use mio::event::Source;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use rustls::server::{ServerConfig, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConnection};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sampan_http::transport::Transport;
use sampan_os::small_file;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Largest PEM file, in bytes.
const FILE_MAX: u64 = 1 << 20;
/// Bytes of a file that are read at once: the content of one TLS record.
const RECORD_BYTES: usize = 16 << 10;

/// The PEM files of a server that speaks TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate, followed by the certificates between it and its CA.
    pub cert: PathBuf,
    /// The private key of the certificate, not encrypted.
    pub key: PathBuf,
    /// The CAs of the clients' certificates. Without it, clients need no certificate.
    pub client_ca: Option<PathBuf>,
}

/// Why the server cannot speak TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Error of the read.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("cannot use {}: {why}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with the file.
        why: String,
    },
}

/// Reads the files, and makes the configuration of all connections. TLS 1.2 and 1.3 are spoken.
///
/// # Errors
/// [`TlsError`]: a file cannot be read, holds no certificate or key, or the key belongs to another certificate.
pub fn load(files: &TlsFiles) -> Result<Arc<ServerConfig>, TlsError> {
    let content = |path: &Path, why: String| TlsError::Content { path: path.to_owned(), why };
    let chain = certificates(&files.cert)?;
    let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?).map_err(|error| {
        content(&files.key, format!("expected a private key in PEM form, not encrypted: {error}"))
    })?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| content(&files.cert, error.to_string()))?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| content(path, error.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| content(path, error.to_string()))?)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| {
        content(&files.cert, format!("it does not belong to the key {}: {error}", files.key.display()))
    })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let read = small_file::open(path).and_then(|file| small_file::read(file, FILE_MAX));
    let bytes = read.map_err(|source| TlsError::Read { path: path.to_owned(), source })?;
    match bytes.len() as u64 > FILE_MAX {
        true => Err(TlsError::Content { path: path.to_owned(), why: "it has more than 1 MiB".to_owned() }),
        false => Ok(bytes),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let content = |why| TlsError::Content { path: path.to_owned(), why };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    match found {
        Ok(found) if found.is_empty() => Err(content("it holds no certificate in PEM form".to_owned())),
        Ok(found) => Ok(found),
        Err(error) => Err(content(error.to_string())),
    }
}

/// The stream of a connection.
pub enum Stream {
    /// Bytes as they are.
    Plain(TcpStream),
    /// Bytes in TLS.
    Tls(Box<TlsStream>),
}

impl Stream {
    /// Takes over a socket that was just accepted. With a configuration, the stream speaks TLS.
    ///
    /// # Errors
    /// rustls refuses the configuration.
    pub fn new(socket: TcpStream, config: Option<&Arc<ServerConfig>>) -> io::Result<Self> {
        Ok(match config {
            None => Stream::Plain(socket),
            Some(config) => {
                let tls = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
                Stream::Tls(Box::new(TlsStream { socket, tls }))
            }
        })
    }

    fn socket(&mut self) -> &mut TcpStream {
        match self {
            Stream::Plain(socket) => socket,
            Stream::Tls(stream) => &mut stream.socket,
        }
    }
}

impl Read for Stream {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.read(bytes),
            Stream::Tls(stream) => stream.read(bytes),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.write(bytes),
            Stream::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(_) => Ok(()),
            Stream::Tls(stream) => stream.flush(),
        }
    }
}

impl Transport for Stream {
    fn send_file(&mut self, file: &File, offset: u64, count: u64) -> io::Result<u64> {
        match self {
            Stream::Plain(socket) => socket.send_file(file, offset, count),
            Stream::Tls(stream) => stream.send_file(file, offset, count),
        }
    }

    fn wants_flush(&self) -> bool {
        match self {
            Stream::Plain(_) => false,
            Stream::Tls(stream) => stream.tls.wants_write(),
        }
    }

    fn is_empty_after_short_read(&self) -> bool {
        match self {
            Stream::Plain(socket) => socket.is_empty_after_short_read(),
            // A read returns what one record held; the socket may have more.
            Stream::Tls(_) => false,
        }
    }

    fn set_nodelay(&self) -> io::Result<()> {
        match self {
            Stream::Plain(socket) => Transport::set_nodelay(socket),
            Stream::Tls(stream) => Transport::set_nodelay(&stream.socket),
        }
    }

    fn end_sending(&mut self) -> io::Result<()> {
        if let Stream::Tls(stream) = self {
            stream.tls.send_close_notify();
            // If the socket has no room for this alert now, the peer sees the end of the socket all the same.
            let _ = stream.flush();
        }
        self.socket().shutdown(Shutdown::Write)
    }
}

impl Source for Stream {
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        self.socket().register(registry, token, interests)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        self.socket().reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.socket().deregister(registry)
    }
}

/// A socket with TLS. Keeps at most 64 KiB of encrypted bytes that the socket has not taken, which is the limit of
/// rustls.
pub struct TlsStream {
    socket: TcpStream,
    tls: ServerConnection,
}

impl TlsStream {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.tls.reader().read(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
            self.tls.read_tls(&mut self.socket)?;
            if let Err(error) = self.tls.process_new_packets() {
                // The alert tells the peer why, unless the socket is full.
                let _ = self.flush();
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
            self.flush_some()?;
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Earlier bytes go first, so that this stream keeps few.
        self.flush()?;
        let len = self.tls.writer().write(bytes)?;
        self.flush_some()?;
        Ok(len)
    }

    fn send_file(&mut self, file: &File, offset: u64, count: u64) -> io::Result<u64> {
        let mut record = [0; RECORD_BYTES];
        let len = usize::try_from(count).unwrap_or(usize::MAX).min(record.len());
        // While the socket takes nothing, nothing is read from the file.
        self.flush()?;
        let read = file.read_at(record.get_mut(..len).unwrap_or_default(), offset)?;
        match read {
            0 => Ok(0),
            _ => Ok(self.write(record.get(..read).unwrap_or_default())? as u64),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            if self.tls.write_tls(&mut self.socket)? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        Ok(())
    }

    /// Hands over as much as the socket takes now.
    fn flush_some(&mut self) -> io::Result<()> {
        match self.flush() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests;
