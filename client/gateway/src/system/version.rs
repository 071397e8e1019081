//! `GET /version`.

use crate::daemon_call::DaemonCall;
use crate::exchange::Shared;
use crate::json;
use crate::route::{self, Call, Started};
use sampan_client::docker::host::Host;
use sampan_client::docker::version::Version;

/// Reports the versions of the daemons and of the OCI runtime.
///
/// # Errors
/// None.
pub fn start(call: &Call<'_>, shared: &mut Shared) -> route::Result {
    let _ = (call, shared);
    Ok(Started::Operation(DaemonCall::start(|engine, monitord| {
        let monitord = monitord.map(|status| status.version.as_str());
        json::answer(&Version::new(engine, monitord, &Host::read()))
    })))
}
