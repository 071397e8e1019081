//! Which origins may be asked for files: public addresses, and what the operator lists.
//!
//! Called by [`super::Origins`] and by preheats for each address that is about to be connected to. Any host of the
//! network can make the supernode fetch a URL. Without this check it could read services that only the supernode's
//! host can reach, such as the metadata of a cloud's machine at 169.254.169.254.

use crate::access::Cidr;
use sampan_registry::AddressFilter;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// Longest name of a host, in bytes. RFC 1035, section 2.3.4.
const NAME_MAX: usize = 253;

/// An origin that the operator lists, because its address is not public.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedOrigin {
    host: Host,
    /// The only port that is allowed; `None` for all.
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    /// A name in lower case, whatever its address is.
    Name(String),
    Block(Cidr),
}

/// The error for a text that names no origin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither HOST[:PORT] nor a block of addresses such as 10.0.0.0/8")]
pub struct AllowedOriginError(pub String);

/// Parses `HOST[:PORT]` or a block of addresses.
///
/// # Errors
/// [`AllowedOriginError`]: the text is neither.
pub fn parse_allowed(text: &str) -> Result<AllowedOrigin, AllowedOriginError> {
    text.parse()
}

impl FromStr for AllowedOrigin {
    type Err = AllowedOriginError;

    fn from_str(text: &str) -> Result<Self, AllowedOriginError> {
        let error = || AllowedOriginError(text.chars().take(100).collect());
        // An IPv6 address without brackets has no port.
        if let Ok(block) = text.parse() {
            return Ok(AllowedOrigin { host: Host::Block(block), port: None });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => {
                let is_number =
                    (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit());
                let port = port.parse().ok().filter(|port| is_number && *port != 0);
                (host, Some(port.ok_or_else(error)?))
            }
            None => (text, None),
        };
        if let Some(address) = host.parse().ok().filter(|_| !host.contains('/')) {
            return Ok(AllowedOrigin { host: Host::Block(address), port });
        }
        let name = normal(host);
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        match (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(is_name) {
            true => Ok(AllowedOrigin { host: Host::Name(name), port }),
            false => Err(error()),
        }
    }
}

impl AllowedOrigin {
    fn allows(&self, host: &str, address: SocketAddr) -> bool {
        let is_host = match &self.host {
            Host::Name(name) => *name == normal(host),
            Host::Block(block) => block.contains(reached(address.ip())),
        };
        is_host && self.port.is_none_or(|port| port == address.port())
    }
}

/// A filter for connections: permits public addresses, and the origins in `allowed`.
pub fn address_filter(allowed: Vec<AllowedOrigin>) -> AddressFilter {
    AddressFilter::new(move |host, address| {
        is_public(address.ip()) || allowed.iter().any(|allowed| allowed.allows(host, address))
    })
}

fn normal(host: &str) -> String {
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

/// The address that a connection to `address` reaches: the IPv4 address in an IPv6 address that a translator turns
/// into IPv4 (RFC 4291, section 2.5.5.2; RFC 6052; RFC 3056), otherwise `address` itself.
fn reached(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address.to_canonical() else { return address.to_canonical() };
    let v4 = |high: u16, low: u16| IpAddr::V4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    match v6.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        _ => address,
    }
}

/// Whether `address` belongs to a host of the public internet. IANA's special-purpose address registries.
fn is_public(address: IpAddr) -> bool {
    match reached(address) {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let is_special = match address.octets() {
        [0 | 10 | 127, ..] => true,
        // Carrier-grade NAT. RFC 6598.
        [100, second, ..] => (64..128).contains(&second),
        [169, 254, ..] | [192, 168, ..] => true,
        [172, second, ..] => (16..32).contains(&second),
        // Protocol assignments, documentation, and relays of 6to4.
        [192, 0, 0 | 2, _] | [192, 88, 99, _] | [198, 51, 100, _] | [203, 0, 113, _] => true,
        // Benchmarks. RFC 2544.
        [198, 18 | 19, ..] => true,
        // Multicast, reserved, broadcast.
        [first, ..] => first >= 224,
    };
    !is_special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    match address.segments() {
        // Protocol assignments, with Teredo and ORCHID; documentation.
        [0x2001, second, ..] => second >= 0x200 && second != 0xdb8,
        [0x3fff, second, ..] => second >= 0x1000,
        // Global unicast is 2000::/3: not loopback, link-local, unique local and multicast.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn addresses_of_no_public_host_are_known() {
        for special in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.8.8.8",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.168.0.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::10.0.0.1",
            "::8.8.8.8",
            "::ffff:10.0.0.1",
            "::ffff:127.0.0.1",
            "64:ff9b::a00:1",
            "64:ff9b:1::a00:1",
            "2002:a00:1::1",
            "2002:7f00:1::",
            "2001::1",
            "2001:db8::1",
            "3fff::1",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "100::1",
            "5f00::1",
        ] {
            assert!(!is_public(address(special)), "{special}");
        }
        for public in [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "192.167.1.1",
            "198.17.0.1",
            "198.20.0.1",
            "223.255.255.255",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
            "2002:808:808::1",
            "2001:4860:4860::8888",
            "2606:4700::1111",
            "2a00:1450::1",
        ] {
            assert!(is_public(address(public)), "{public}");
        }
    }

    #[test]
    fn the_operator_lists_names_addresses_and_blocks() {
        for (listed, host, at, is_allowed) in [
            ("files.internal", "files.internal", "10.0.0.1:80", true),
            ("Files.Internal.", "FILES.internal", "10.0.0.1:80", true),
            ("files.internal", "files.internal.", "10.0.0.1:80", true),
            ("files.internal", "other.internal", "10.0.0.1:80", false),
            ("files.internal:5000", "files.internal", "10.0.0.1:5000", true),
            ("files.internal:5000", "files.internal", "10.0.0.1:80", false),
            ("10.0.0.0/8", "any.name", "10.9.9.9:80", true),
            ("10.0.0.0/8", "any.name", "11.9.9.9:80", false),
            ("10.0.0.0/8", "any.name", "[::ffff:10.9.9.9]:80", true),
            ("10.0.0.0/8", "any.name", "[64:ff9b::a09:909]:80", true),
            ("10.0.0.1", "10.0.0.1", "10.0.0.1:80", true),
            ("10.0.0.1:81", "10.0.0.1", "10.0.0.1:80", false),
            ("::1", "::1", "[::1]:80", true),
            ("[::1]:81", "::1", "[::1]:80", false),
            ("[::1]:80", "::1", "[::1]:80", true),
            ("fd00::/8", "any.name", "[fd00::1]:80", true),
        ] {
            let allowed = parse_allowed(listed).expect("an origin");
            let at: SocketAddr = at.parse().expect("an address");
            assert_eq!(allowed.allows(host, at), is_allowed, "{listed} {host} {at}");
        }
        for bad in [
            "",
            ":80",
            "a:",
            "a:0",
            "a:99999",
            "a:+80",
            "http://a",
            "a/b",
            "10.0.0.0/33",
            "10.0.0.0/8:80",
            "a b",
            "*",
        ] {
            assert!(parse_allowed(bad).is_err(), "{bad}");
        }
    }
}
