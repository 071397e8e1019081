//! Turns signals into events of a mio poll. signal(7).
//!
//! Called once by each event loop, which owns the [`Signals`].

use mio::{Interest, Registry, Token};
pub use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
pub use signal_hook_mio::v1_0::Signals;
use std::io;

/// Replaces the default actions of the signals `wanted`: the poll reports them as readiness of `token`.
///
/// # Errors
/// A signal handler cannot be installed, or the poll cannot register the source.
pub fn register(registry: &Registry, token: Token, wanted: &[i32]) -> io::Result<Signals> {
    let mut signals = Signals::new(wanted)?;
    registry.register(&mut signals, token, Interest::READABLE)?;
    Ok(signals)
}
