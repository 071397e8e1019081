//! The TLS configuration of servers without certificates in certs.d, for many agents.
//!
//! [`crate::web`] owns one, and `agents` takes connectors from it. A registry does not use it: each job reads the
//! CA bundle of the host again.

use crate::certs;
use crate::net::tls::Tls;
use rustls::ClientConfig;
use sampan_os::mutex::lock;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Longest time for which the CA bundle of the host is not read again.
const BUNDLE_TIME: Duration = Duration::from_secs(600);

/// One TLS configuration. The agents share the CA bundle of the host in it, and their sessions, so that a new
/// connection to a known server needs a shorter handshake.
#[derive(Default)]
pub(crate) struct SharedTls(Mutex<Option<(Instant, Arc<ClientConfig>)>>);

impl SharedTls {
    /// A connector with the shared configuration; `None` if the host has no CA bundle.
    pub(crate) fn get(&self) -> Option<Tls> {
        let mut shared = lock(&self.0);
        if let Some((_, config)) = shared.as_ref().filter(|(read, _)| read.elapsed() < BUNDLE_TIME) {
            return Some(Tls(Arc::clone(config)));
        }
        let tls = Tls::new(&certs::of_host(), &[], None)?;
        *shared = Some((Instant::now(), Arc::clone(&tls.0)));
        Some(tls)
    }
}
