//! The rights to download a protected file, to send destructive requests, and to offer pieces: grants, tickets,
//! the shared secret, administrators, addresses of peers.
//!
//! Owned by the event loop, which passes the time. Only the constructors read or write files. This module sends no
//! request: [`crate::origin`] asks origins, and the loop records what they have answered.

pub mod cidr;
pub mod credential;
mod grants;
mod secret;
mod tickets;

pub use cidr::{Cidr, CidrError};
pub use credential::Credential;
pub use grants::{GRANT_TIME, GRANT_TIME_MAX, GRANTS_MAX, Grants};
pub use secret::{Secret, SecretError};
pub use tickets::{TICKET_TIME, Tickets};

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The addresses that may send destructive requests and preheats.
#[derive(Clone, Debug)]
pub struct Admins {
    listed: Vec<Cidr>,
    own: Vec<IpAddr>,
}

impl Admins {
    /// Permits the addresses in `listed`; if `listed` is empty, those of this host: loopback, and the addresses
    /// `own`.
    pub fn new(listed: Vec<Cidr>, own: &[IpAddr]) -> Self {
        Admins { listed, own: own.iter().map(IpAddr::to_canonical).collect() }
    }

    /// Whether a client at `address` is an administrator.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        match self.listed.is_empty() {
            true => address.is_loopback() || self.own.contains(&address),
            false => self.listed.iter().any(|block| block.contains(address)),
        }
    }
}

/// Decides whether an address that a peer registers is one that other peers may be sent to.
#[derive(Clone, Debug, Default)]
pub struct PeerAddresses(Vec<Cidr>);

impl PeerAddresses {
    /// Believes the addresses in `listed`, too, whoever registers them.
    pub fn new(listed: Vec<Cidr>) -> Self {
        PeerAddresses(listed)
    }

    /// Whether a client that connects from `connected` may register that it serves files at `registered`.
    pub fn is_allowed(&self, registered: IpAddr, connected: IpAddr) -> bool {
        let registered = registered.to_canonical();
        let is_host = match registered {
            IpAddr::V4(address) => {
                !address.is_unspecified() && !address.is_multicast() && address != Ipv4Addr::BROADCAST
            }
            IpAddr::V6(address) => address != Ipv6Addr::UNSPECIFIED && !address.is_multicast(),
        };
        let is_listed = || self.0.iter().any(|block| block.contains(registered));
        is_host && (registered == connected.to_canonical() || is_listed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn administrators_are_on_this_host_or_listed() {
        let admins = Admins::new(Vec::new(), &[ip("10.0.0.7")]);
        for (address, is_admin) in [
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("::ffff:10.0.0.7", true),
            ("10.0.0.1", false),
        ] {
            assert_eq!(admins.contains(ip(address)), is_admin, "{address}");
        }
        let admins = Admins::new(vec!["10.0.0.0/24".parse().expect("a block")], &[]);
        assert!(admins.contains(ip("10.0.0.9")) && !admins.contains(ip("10.0.1.9")));
        assert!(!admins.contains(ip("127.0.0.1")), "the list replaces the default");
    }

    #[test]
    fn a_peer_is_where_it_connects_from_or_where_it_may_be() {
        let peers = PeerAddresses::new(vec!["10.7.0.0/16".parse().expect("a block")]);
        for (registered, connected, is_believed) in [
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "::ffff:10.0.0.1", true),
            ("10.0.0.2", "10.0.0.1", false),
            ("10.7.0.2", "10.0.0.1", true),
            ("127.0.0.1", "10.0.0.1", false),
            ("127.0.0.2", "127.0.0.1", false),
            ("0.0.0.0", "0.0.0.0", false),
            ("224.0.0.1", "224.0.0.1", false),
            ("255.255.255.255", "255.255.255.255", false),
            ("fd00::1", "fd00::1", true),
        ] {
            assert_eq!(
                peers.is_allowed(ip(registered), ip(connected)),
                is_believed,
                "{registered} {connected}"
            );
        }
    }
}
