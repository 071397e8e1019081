//! Which addresses this process may connect to, for a program that fetches what other hosts ask for.
//!
//! The supernode sets a filter; the engine sets none. `net::dial` asks it about each address that it is about to
//! connect to, so that a redirect or a name whose address has changed meanwhile is checked, too. This module
//! resolves nothing.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

type Permits = dyn Fn(&str, SocketAddr) -> bool + Send + Sync;

/// Decides whether a host may be reached at an address. The default permits every address.
///
/// The address of a proxy that the environment names is not checked. A host behind a proxy is checked if this host
/// can resolve its name; the proxy resolves it again, and its own rules decide about the rest.
#[derive(Clone, Default)]
pub struct AddressFilter(Option<Arc<Permits>>);

impl AddressFilter {
    /// Permits the addresses for which `permits` returns true. Its arguments are the host of the URL, without
    /// brackets, and an address of that host.
    pub fn new(permits: impl Fn(&str, SocketAddr) -> bool + Send + Sync + 'static) -> Self {
        AddressFilter(Some(Arc::new(permits)))
    }

    /// Whether some addresses may not be permitted.
    pub(crate) fn is_set(&self) -> bool {
        self.0.is_some()
    }

    /// Keeps the addresses of `host` that are permitted.
    ///
    /// # Errors
    /// [`AddressRefused`] if there are addresses, and none is permitted.
    pub(crate) fn retain(&self, host: &str, addresses: &mut Vec<SocketAddr>) -> Result<(), AddressRefused> {
        let (Some(permits), Some(first)) = (&self.0, addresses.first().copied()) else { return Ok(()) };
        addresses.retain(|address| permits(host, *address));
        match addresses.is_empty() {
            true => Err(AddressRefused { host: host.to_owned(), address: first.ip() }),
            false => Ok(()),
        }
    }
}

impl fmt::Debug for AddressFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "AddressFilter(set)" } else { "AddressFilter(none)" })
    }
}

/// The error for a host of which no address may be connected to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{host} has the address {address}, which must not be connected to")]
pub struct AddressRefused {
    /// The host of the URL, without brackets.
    pub host: String,
    /// The first address of the host.
    pub address: IpAddr,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_permitted_addresses_are_kept() {
        let filter = AddressFilter::new(|host, address| host == "a" && address.ip().is_loopback());
        let all: Vec<SocketAddr> =
            ["10.0.0.1:80", "127.0.0.1:80"].map(|address| address.parse().expect("an address")).to_vec();
        let mut kept = all.clone();
        filter.retain("a", &mut kept).expect("one is permitted");
        assert_eq!(kept, [all[1]]);
        let refused = filter.retain("b", &mut all.clone()).expect_err("none is permitted");
        assert_eq!((refused.host.as_str(), refused.address), ("b", all[0].ip()));
        filter.retain("b", &mut Vec::new()).expect("nothing to refuse");
        let mut kept = all.clone();
        AddressFilter::default().retain("b", &mut kept).expect("no filter");
        assert_eq!(kept, all);
    }
}
