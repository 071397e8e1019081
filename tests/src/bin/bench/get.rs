//! The minimum of HTTP that a pull needs: one GET after the other over one connection, by blocking reads.
//!
//! Used by [`crate::floor`] and [`crate::nginx`]. No TLS, redirects, chunks or retries: it only talks to the
//! benchmark's registries. RFC 9112.

use std::io::{self, BufRead, BufReader, Read, Take, Write};
use std::net::TcpStream;

/// Bytes per read.
const PIECE: usize = 64 << 10;

/// Splits `HOST:PORT/NAME:TAG` into host, name and tag.
///
/// # Errors The reference has another form.
pub fn parts(reference: &str) -> io::Result<(&str, &str, &str)> {
    let parts = reference.split_once('/').and_then(|(host, rest)| {
        let (name, tag) = rest.split_once(':')?;
        Some((host, name, tag))
    });
    parts.ok_or_else(|| io::Error::other(format!("{reference} is not HOST:PORT/NAME:TAG")))
}

/// A connection to a registry.
pub struct Connection {
    host: String,
    from: BufReader<TcpStream>,
}

impl Connection {
    /// Connects to `host`, which is `HOST:PORT`.
    ///
    /// # Errors No process listens there.
    pub fn open(host: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(host)?;
        stream.set_nodelay(true)?;
        Ok(Connection { host: host.to_owned(), from: BufReader::with_capacity(PIECE, stream) })
    }

    /// Requests `path`; the body must be read to its end before the next request.
    ///
    /// # Errors The reply is not 200 with a Content-Length.
    pub fn get(&mut self, path: &str, accept: &str) -> io::Result<Take<&mut BufReader<TcpStream>>> {
        let ask = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nAccept: {accept}\r\n\r\n", self.host);
        self.from.get_mut().write_all(ask.as_bytes())?;
        let status = self.line()?;
        let mut length = None;
        loop {
            let line = self.line()?;
            match line.split_once(':') {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    length = value.trim().parse().ok();
                }
                Some(_) => {}
                None => break,
            }
        }
        match length {
            Some(length) if status.contains(" 200 ") => Ok((&mut self.from).take(length)),
            _ => Err(io::Error::other(format!("{path}: {status}"))),
        }
    }

    /// Requests a small document.
    ///
    /// # Errors The reply is not 200 with a Content-Length.
    pub fn document(&mut self, path: &str, accept: &str) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.get(path, accept)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.from.read_line(&mut line)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }
}
