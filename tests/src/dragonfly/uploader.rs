//! The server from which other clients get pieces, as dfget's is.
//!
//! Serves files that grow while they are downloaded. Listens on the address of its host, with a thread for each
//! connection. It can be told to serve badly.

use crate::acceptor::Acceptor;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

/// Bytes that the wrapping adds to a piece.
const WRAPPING: u64 = 5;

/// How an uploader serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Upload {
    /// As dfget does.
    #[default]
    Good,
    /// A byte of each piece is wrong.
    Corrupt,
    /// All files are missing: 404.
    Missing,
    /// Half of each piece is sent, and then nothing.
    Stall,
    /// Half of each piece is sent, and the connection is closed.
    Cut,
}

struct Shared {
    files: Mutex<HashMap<String, PathBuf>>,
    upload: Mutex<Upload>,
    connections: Mutex<Vec<Weak<TcpStream>>>,
    is_dead: AtomicBool,
    pieces: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no thread of the uploader panics")
}

/// A running uploader.
pub struct Uploader {
    acceptor: Acceptor,
    shared: Arc<Shared>,
}

impl Uploader {
    /// Starts an uploader at `ip`.
    pub fn start(ip: Ipv4Addr) -> Self {
        let shared = Arc::new(Shared {
            files: Mutex::default(),
            upload: Mutex::default(),
            connections: Mutex::default(),
            is_dead: AtomicBool::new(false),
            pieces: AtomicU64::new(0),
        });
        let state = Arc::clone(&shared);
        let acceptor = Acceptor::start_at(ip, move |client| {
            let (state, client) = (Arc::clone(&state), Arc::new(client));
            let mut connections = lock(&state.connections);
            connections.retain(|weak| weak.strong_count() > 0);
            connections.push(Arc::downgrade(&client));
            drop(connections);
            std::thread::spawn(move || {
                // An error ends only this connection; the client notices it.
                let _ = state.serve(&client);
            });
        });
        Uploader { acceptor, shared }
    }

    /// The uploader's port.
    pub fn port(&self) -> u16 {
        let port = self.acceptor.address().rsplit(':').next().and_then(|port| port.parse().ok());
        port.expect("an address has a port")
    }

    /// Serves the file at `file` as `/peer/file/NAME`.
    pub fn share(&self, name: &str, file: PathBuf) {
        lock(&self.shared.files).insert(name.to_owned(), file);
    }

    /// Serves all pieces in this way from now on.
    pub fn set(&self, upload: Upload) {
        *lock(&self.shared.upload) = upload;
    }

    /// Number of pieces that were sent completely.
    pub fn pieces(&self) -> u64 {
        self.shared.pieces.load(Ordering::SeqCst)
    }

    /// Ends: refuses new connections, and closes the present ones.
    pub fn end(&self) {
        self.shared.is_dead.store(true, Ordering::SeqCst);
        self.acceptor.stop();
        for connection in lock(&self.shared.connections).drain(..).filter_map(|weak| weak.upgrade()) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Uploader {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn serve(&self, client: &TcpStream) -> io::Result<()> {
        client.set_nodelay(true)?;
        let mut reader = BufReader::new(client);
        let (mut line, mut headers) = (String::new(), HashMap::new());
        while !self.is_dead.load(Ordering::SeqCst) && reader.read_line(&mut line)? > 0 {
            let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
            headers.clear();
            loop {
                line.clear();
                reader.read_line(&mut line)?;
                let Some((name, value)) = line.split_once(':') else { break };
                headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
            }
            line.clear();
            self.answer(client, &path, &headers)?;
        }
        Ok(())
    }

    fn answer(
        &self,
        mut client: &TcpStream,
        path: &str,
        headers: &HashMap<String, String>,
    ) -> io::Result<()> {
        let mut refuse = |status: u16| write!(client, "HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n");
        let number = |name: &str| headers.get(name).and_then(|text| text.parse::<u64>().ok());
        let range = headers.get("range").and_then(|text| text.strip_prefix("bytes=")?.split_once('-'));
        let range = range.and_then(|(from, to)| Some((from.parse::<u64>().ok()?, to.parse::<u64>().ok()?)));
        let (Some((from, to)), Some(number), Some(size)) = (range, number("piecenum"), number("piecesize"))
        else {
            return refuse(400);
        };
        let upload = *lock(&self.upload);
        if upload == Upload::Missing {
            return refuse(404);
        }
        let name = path.strip_prefix("/peer/file/").unwrap_or_default();
        let file = lock(&self.files).get(name).cloned();
        let Some(file) = file else { return refuse(500) };
        let Ok(file) = File::open(file) else { return refuse(404) };
        let wrapping =
            if headers.get("cdnsource").is_some_and(|value| value == "source") { 0 } else { WRAPPING };
        let length = file.metadata()?.len();
        let (Some(from), true) = (from.checked_sub(number * wrapping), from < to) else { return refuse(416) };
        let wanted = (to + 1 - number * wrapping - from).saturating_sub(wrapping);
        let content = wanted.min(length.saturating_sub(from));
        if wrapping == 0 && from >= length {
            return refuse(416);
        }
        let mut piece = vec![0; usize::try_from(content).expect("a piece fits in memory")];
        file.read_exact_at(&mut piece, from)?;
        if wrapping > 0 {
            let head = u32::try_from(content | size << 4).unwrap_or(u32::MAX).to_be_bytes();
            piece.splice(0..0, head);
            piece.push(0x7f);
        }
        if upload == Upload::Corrupt {
            let middle = piece.len() / 2;
            piece[middle] ^= 1;
        }
        write!(client, "HTTP/1.1 206 X\r\nContent-Length: {}\r\n\r\n", piece.len())?;
        match upload {
            Upload::Stall | Upload::Cut => {
                client.write_all(&piece[..piece.len() / 2])?;
                if upload == Upload::Stall {
                    // Returns when the client gives up, or this uploader ends.
                    let _ = client.read(&mut [0]);
                }
                client.shutdown(Shutdown::Both)?;
            }
            _ => client.write_all(&piece)?,
        }
        self.pieces.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

/// The content of a wrapped piece of a file with pieces of `size` bytes; `None` if its head or tail is wrong.
pub fn unwrap(piece: &[u8], size: u64) -> Option<&[u8]> {
    let (head, rest) = piece.split_at_checked(4)?;
    let (tail, content) = rest.split_last()?;
    let expected = u32::try_from(content.len() as u64 | size << 4).ok()?.to_be_bytes();
    (*tail == 0x7f && head == expected).then_some(content)
}
