//! Signals as a source of events in a mio poll. signal(7).

use mio::{Interest, Registry, Token};
pub use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
pub use signal_hook_mio::v1_0::Signals;
use std::io;

/// Has `wanted` reported as readiness of `token` in place of their default actions.
///
/// # Errors
/// A handler cannot be set, or the poll refuses.
pub fn register(registry: &Registry, token: Token, wanted: &[i32]) -> io::Result<Signals> {
    let mut signals = Signals::new(wanted)?;
    registry.register(&mut signals, token, Interest::READABLE)?;
    Ok(signals)
}
