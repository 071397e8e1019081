//! `HOST[:PORT]`, as the options for hosts take it.
//!
//! Pure. Called by [`super::from_args`]. Resolves no name.

use std::net::Ipv6Addr;

/// Longest name of a host, in bytes. RFC 1035, section 2.3.4.
const HOST_MAX: usize = 253;

/// Parses `HOST[:PORT]`; an IPv6 address is in brackets.
pub(super) fn parse(text: &str) -> Option<(&str, Option<u16>)> {
    let is_v6 = |host: &str| {
        let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        inner.is_some_and(|inner| inner.parse::<Ipv6Addr>().is_ok())
    };
    let is_name = |host: &str| {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        (1..=HOST_MAX).contains(&host.len()) && host.bytes().all(is_allowed)
    };
    let (host, port) = match text.rsplit_once(':').filter(|_| !text.ends_with(']')) {
        Some((host, port)) => {
            let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
            (host, Some(port.parse().ok().filter(|port| is_number && *port != 0)?))
        }
        None => (text, None),
    };
    (is_name(host) || is_v6(host)).then_some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_names_or_addresses_and_maybe_ports() {
        assert_eq!(parse("a.lan:8002"), Some(("a.lan", Some(8002))));
        assert_eq!(parse("10.0.0.1:1"), Some(("10.0.0.1", Some(1))));
        assert_eq!(parse("[::1]:8002"), Some(("[::1]", Some(8002))));
        assert_eq!(parse("registry_1"), Some(("registry_1", None)));
        assert_eq!(parse("[::1]"), Some(("[::1]", None)));
        for bad in ["", ":1", "a:", "a:0", "a:65536", "a:+1", "a b", "a/b", "a,b", "::1", "[::1", "[a]", "é"]
        {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
