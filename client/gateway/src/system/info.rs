//! `GET /info`.

use crate::call::{self, Call, Started};
use crate::daemon_call::DaemonCall;
use crate::exchange::Shared;
use crate::json;
use sampan_client::docker::host::Host;
use sampan_client::docker::info::Info;
use sampan_client::time;

/// Reports the engine's state and settings, and facts about the host.
///
/// # Errors
/// None.
pub fn start(call: &Call<'_>, shared: &mut Shared) -> call::Result {
    let _ = (call, shared);
    Ok(Started::Operation(DaemonCall::start(|engine, monitord| {
        let listeners = monitord
            .map(|status| (status.subscribers.len() as u64).saturating_add(status.subscribers_left_out));
        json::answer(&Info::new(engine, listeners, &Host::read(), time::now()))
    })))
}
