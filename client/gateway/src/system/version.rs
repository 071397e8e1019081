//! `GET /version`.

use crate::call::{self, Call, Started};
use crate::daemon_call::DaemonCall;
use crate::exchange::Shared;
use crate::json;
use sampan_client::docker::host::Host;
use sampan_client::docker::version::Version;

/// Reports the versions of the daemons and of the OCI runtime.
///
/// # Errors
/// None.
pub fn start(call: &Call<'_>, shared: &mut Shared) -> call::Result {
    let _ = (call, shared);
    Ok(Started::Operation(DaemonCall::start(|engine, monitord| {
        let monitord = monitord.map(|status| status.version.as_str());
        json::answer(&Version::new(engine, monitord, &Host::read()))
    })))
}
