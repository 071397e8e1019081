//! A listener on a loopback address that accepts connections until it is stopped.
//!
//! Used by the proxies and servers of these tests. It neither reads nor writes, and never ends a connection.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A listener on a port that the kernel chooses.
pub struct Acceptor {
    address: String,
    is_stopped: Arc<AtomicBool>,
}

impl Acceptor {
    /// Starts a thread that calls `on_client` with each new connection to 127.0.0.1. `on_client` delays the next
    /// connection.
    pub fn start(on_client: impl FnMut(TcpStream) + Send + 'static) -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST, on_client)
    }

    /// Starts a thread that calls `on_client` with each new connection to `ip`.
    pub fn start_at(ip: Ipv4Addr, mut on_client: impl FnMut(TcpStream) + Send + 'static) -> Self {
        let listener = TcpListener::bind((ip, 0)).expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let is_stopped = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&is_stopped);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                // A client that has already left is no error of the listener.
                let Ok(client) = client else { continue };
                on_client(client);
            }
        });
        Acceptor { address, is_stopped }
    }

    /// `IP:PORT`, for clients.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Accepts no more connections.
    pub fn stop(&self) {
        self.is_stopped.store(true, Ordering::SeqCst);
        // Connects to the listening thread, so that its accept(2) returns.
        let _ = TcpStream::connect(&self.address);
    }
}
