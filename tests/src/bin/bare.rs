//! A fan-out server without any function of monitord: the kernel's own cost, with which the benchmark compares
//! monitord.
//!
//! `bare FIFO SOCKET` reads up to 64 KiB of prepared frames from a FIFO and writes them unchanged to every subscriber
//! of a Unix socket, with one `write` each. It keeps nothing: while a subscriber's socket is full it does not read on,
//! so a slow subscriber delays all. `bare FIFO` only reads. It checks, stores and filters nothing.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::stat::Mode;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

/// Most bytes per read: with more than 16 KiB, the kernel's cost per delivery no longer falls.
const BATCH: usize = 64 << 10;
/// Capacity of the FIFO; monitord requests the same capacity.
const FIFO_BYTES: i32 = 1 << 20;
const FIFO: u64 = u64::MAX;
const LISTENER: u64 = u64::MAX - 1;
/// Sent to every subscriber after it was accepted.
const HELLO: u8 = b'+';

/// A subscriber, and the number of bytes of the batch that it has been sent.
struct Client {
    stream: UnixStream,
    given: usize,
    gone: bool,
}

struct Bare {
    epoll: Epoll,
    fifo: File,
    listener: Option<UnixListener>,
    clients: Vec<Client>,
    batch: Box<[u8]>,
    filled: usize,
    /// Number of subscribers that have not been sent the whole batch.
    behind: usize,
}

fn main() -> io::Result<()> {
    let mut args = std::env::args_os().skip(1);
    let Some(fifo) = args.next() else {
        return Err(io::Error::other("usage: bare FIFO [SOCKET]"));
    };
    let fifo = open(fifo.as_os_str(), OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC, Mode::empty())?;
    fcntl(&fifo, FcntlArg::F_SETPIPE_SZ(FIFO_BYTES))?;
    let listener = args.next().map(UnixListener::bind).transpose()?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(&fifo, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, FIFO))?;
    if let Some(listener) = &listener {
        listener.set_nonblocking(true)?;
        epoll.add(listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
    }
    let batch = vec![0; BATCH].into();
    Bare { epoll, fifo: File::from(fifo), listener, clients: Vec::new(), batch, filled: 0, behind: 0 }.run()
}

impl Bare {
    fn run(&mut self) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); 256];
        loop {
            while self.behind == 0 && self.read()? {
                for nth in 0..self.clients.len() {
                    self.clients[nth].given = 0;
                    self.behind += 1;
                    self.give(nth);
                }
            }
            let count = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Err(Errno::EINTR) => 0,
                result => result?,
            };
            for event in &events[..count] {
                match event.data() {
                    FIFO => {}
                    LISTENER => self.accept()?,
                    nth => self.give(nth as usize),
                }
            }
        }
    }

    /// Reads the next batch; false if the FIFO is empty.
    fn read(&mut self) -> io::Result<bool> {
        match self.fifo.read(&mut self.batch) {
            Ok(len) => {
                self.filled = len;
                Ok(len > 0)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes the unsent rest of the batch to a subscriber, as far as its socket takes it.
    fn give(&mut self, nth: usize) {
        let client = &mut self.clients[nth];
        while client.given < self.filled && !client.gone {
            match client.stream.write(&self.batch[client.given..self.filled]) {
                Ok(len) => client.given += len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => client.gone = true,
            }
            if client.given == self.filled || client.gone {
                self.behind -= 1;
            }
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        let Some(listener) = &self.listener else { return Ok(()) };
        while let Ok((mut stream, _)) = listener.accept() {
            stream.set_nonblocking(true)?;
            if stream.write_all(&[HELLO]).is_err() {
                continue;
            }
            let flags = EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
            self.epoll.add(&stream, EpollEvent::new(flags, self.clients.len() as u64))?;
            // A new subscriber begins with the next batch.
            self.clients.push(Client { stream, given: self.filled, gone: false });
        }
        Ok(())
    }
}
