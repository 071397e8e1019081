//! The subscribers: one process with one thread and any number of connections, which only counts.
//!
//! `bench receive SYSTEM ADDRESS SUBSCRIBERS WISH MESSAGES MODE` connects and prints `ready`, then the number of
//! received bytes whenever it has grown much, and `done` when every subscriber has received every message. With MODE
//! `latency`, the last line has percentiles of the time since each message's stamp, in nanoseconds.

use crate::system::{Layout, STAMP, System, Wish};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::time::{ClockId, clock_gettime};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Longest wait before the benchmark fails.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Most bytes per read.
const READ: usize = 256 << 10;

/// A connection to a server.
pub enum Stream {
    /// A Unix socket.
    Unix(UnixStream),
    /// A TCP port of this machine.
    Tcp(TcpStream),
}

impl Stream {
    /// Connects to `address`: a path, or a port.
    ///
    /// # Errors No process listens there.
    pub fn connect(address: &str) -> io::Result<Self> {
        let stream = match address.parse::<u16>() {
            Ok(port) => Stream::Tcp(TcpStream::connect(("127.0.0.1", port))?),
            Err(_) => Stream::Unix(UnixStream::connect(address)?),
        };
        match &stream {
            Stream::Unix(unix) => unix.set_read_timeout(Some(PATIENCE))?,
            Stream::Tcp(tcp) => {
                tcp.set_read_timeout(Some(PATIENCE))?;
                tcp.set_nodelay(true)?;
            }
        }
        Ok(stream)
    }

    fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            Stream::Unix(unix) => unix.set_nonblocking(true),
            Stream::Tcp(tcp) => tcp.set_nonblocking(true),
        }
    }

    /// Sends `words`, and reads until the reply ends with `end`.
    ///
    /// # Errors The connection broke, or no such reply came.
    pub fn greet(&mut self, words: &[u8], end: &[u8]) -> io::Result<()> {
        self.write_all(words)?;
        let mut answer = Vec::new();
        while !answer.ends_with(end) {
            let mut byte = [0];
            self.read_exact(&mut byte)?;
            answer.push(byte[0]);
        }
        Ok(())
    }

    /// Reads the frames before the first event of Sampan: the welcome and the lineage.
    fn read_welcome(&mut self) -> io::Result<()> {
        use sampan_ipc::watch::Item;
        match (self.read_frame()?, self.read_frame()?) {
            (Item::Welcome { .. }, Item::Journal(_)) => Ok(()),
            other => Err(io::Error::other(format!("not welcome: {other:?}"))),
        }
    }

    fn read_frame(&mut self) -> io::Result<sampan_ipc::watch::Item> {
        let mut header = [0; sampan_ipc::frame::HEADER_LEN];
        self.read_exact(&mut header)?;
        let len = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        let mut body = vec![0; len as usize];
        self.read_exact(&mut body)?;
        sampan_ipc::frame::parse(&body).map_err(io::Error::other)
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(unix) => unix.read(into),
            Stream::Tcp(tcp) => tcp.read(into),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(unix) => unix.write(bytes),
            Stream::Tcp(tcp) => tcp.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Unix(unix) => unix.as_fd(),
            Stream::Tcp(tcp) => tcp.as_fd(),
        }
    }
}

/// Nanoseconds of the clock of stamps, which all processes share.
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has it");
    time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
}

/// Raises this process's limit of descriptors to its maximum.
///
/// # Errors The kernel refuses.
pub fn raise_descriptor_limit() -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

/// Runs the subscribers.
///
/// # Errors Any error makes the benchmark void.
pub fn run(args: &[String]) -> io::Result<()> {
    let [system, address, subscribers, wish, messages, mode] = args else {
        return Err(io::Error::other("bench calls this itself"));
    };
    let system = System::named(system).ok_or_else(|| io::Error::other("no such system"))?;
    let wish = match wish.as_str() {
        "half" => Wish::Half,
        "half-each" => Wish::HalfEach,
        _ => Wish::All,
    };
    let number = |text: &str| text.parse::<u64>().map_err(io::Error::other);
    let mut receiver = Receiver::connect(system, address, number(subscribers)? as u32, wish)?;
    let expected = number(messages)? * system.layout().len as u64;
    println!("ready");
    if mode == "latency" {
        receiver.until(expected, true)?;
        let mut delays = receiver.delays;
        delays.sort_unstable();
        let at = |share: f64| delays[((delays.len() - 1) as f64 * share) as usize];
        println!("done {} {} {}", at(0.5), at(0.99), at(0.999));
    } else {
        receiver.until(expected, false)?;
        println!("done");
    }
    Ok(())
}

struct Receiver {
    epoll: Epoll,
    streams: Vec<Stream>,
    layout: Layout,
    /// For each stream, the received beginning of an incomplete message.
    parts: Vec<Vec<u8>>,
    delays: Vec<u64>,
}

impl Receiver {
    fn connect(system: System, address: &str, subscribers: u32, wish: Wish) -> io::Result<Self> {
        raise_descriptor_limit()?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let mut streams = Vec::new();
        for nth in 0..subscribers {
            let mut stream = Stream::connect(address)?;
            let (words, end) = system.subscription(nth, wish);
            stream.greet(&words, &end)?;
            if system == System::Sampan {
                stream.read_welcome()?;
            }
            streams.push(stream);
        }
        for (stream, nth) in streams.iter_mut().zip(0..) {
            if let Some(end) = system.late_greeting() {
                stream.greet(b"", end)?;
            }
            stream.set_nonblocking()?;
            epoll.add(&*stream, EpollEvent::new(EpollFlags::EPOLLIN, nth))?;
        }
        let parts = streams.iter().map(|_| Vec::new()).collect();
        Ok(Receiver { epoll, streams, layout: system.layout(), parts, delays: Vec::new() })
    }

    /// Receives until `each` bytes have arrived on each stream; prints the total now and then.
    fn until(&mut self, each: u64, stamps: bool) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); 256];
        let mut buffer = vec![0; READ];
        let (mut total, mut reported, mut complete) = (0, 0, 0);
        let mut came = vec![0; self.streams.len()];
        let expected = each * self.streams.len() as u64;
        let step = (expected / 1000).max(1);
        let timeout = EpollTimeout::try_from(PATIENCE).map_err(io::Error::other)?;
        // A subscriber with a filter also receives position frames, a few bytes per second.
        while complete < self.streams.len() {
            let count = self.epoll.wait(&mut events, timeout)?;
            if count == 0 {
                return Err(io::Error::other(format!("only {total} of {expected} bytes came")));
            }
            for event in &events[..count] {
                let nth = event.data() as usize;
                let len = match self.streams[nth].read(&mut buffer) {
                    Ok(0) => return Err(io::Error::other(format!("subscriber {nth} was cut off"))),
                    Ok(len) => len,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                    Err(error) => return Err(error),
                };
                total += len as u64;
                let before = came[nth];
                came[nth] += len as u64;
                complete += usize::from(before < each && came[nth] >= each);
                if stamps {
                    self.take_stamps(nth, &buffer[..len])?;
                }
            }
            if total - reported >= step {
                reported = total;
                println!("{total}");
            }
        }
        Ok(())
    }

    fn take_stamps(&mut self, nth: usize, bytes: &[u8]) -> io::Result<()> {
        let now = now();
        let part = &mut self.parts[nth];
        part.extend_from_slice(bytes);
        let whole = part.len() / self.layout.len * self.layout.len;
        for message in part[..whole].chunks(self.layout.len) {
            let end = message.len() - self.layout.behind_stamp;
            let stamp = std::str::from_utf8(&message[end - STAMP..end]).map_err(io::Error::other)?;
            let stamp = u64::from_str_radix(stamp, 16).map_err(io::Error::other)?;
            self.delays.push(now.saturating_sub(stamp));
        }
        part.drain(..whole);
        Ok(())
    }
}
