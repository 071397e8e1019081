//! Chooses the proxy of a request, from the variables `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`.
//!
//! The rules are those of Go's httpproxy, which the other container tools follow, plus `ALL_PROXY` from curl(1).
//! Upper case wins over lower case; `localhost` and loopback addresses never go through a proxy. A proxy is reached by
//! plain HTTP, or by TLS if its URL begins with `https`; a SOCKS proxy is an error. This module reads the environment
//! and never resolves a host.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::net::IpAddr;

/// The proxies that the environment configures.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proxies {
    http: Option<ProxyVariable>,
    https: Option<ProxyVariable>,
    exempt: Vec<Exemption>,
}

/// An environment variable that names a proxy.
#[derive(Clone, Debug)]
struct ProxyVariable {
    name: &'static str,
    url: String,
}

/// One proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Proxy {
    /// Name or address, without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Whether the connection to the proxy itself uses TLS.
    pub(crate) is_tls: bool,
    /// Value of the header `Proxy-Authorization`.
    pub(crate) authorization: Option<String>,
}

/// One item of `NO_PROXY`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Exemption {
    All,
    Net(IpAddr, u8),
    Address(IpAddr, Option<u16>),
    /// A suffix such as `.example.com`, whether it also covers `example.com` itself, and the port.
    Domain(String, bool, Option<u16>),
}

impl Proxies {
    pub(crate) fn from_env() -> Self {
        Proxies::from(|name| std::env::var(name).ok())
    }

    pub(crate) fn from(variable: impl Fn(&str) -> Option<String>) -> Self {
        let first_set = |names: &[&'static str]| {
            names.iter().find_map(|name| {
                let url = variable(name).filter(|url| !url.trim().is_empty())?;
                Some(ProxyVariable { name, url: url.trim().to_owned() })
            })
        };
        let exempt = first_set(&["NO_PROXY", "no_proxy"]).map_or(String::new(), |variable| variable.url);
        Proxies {
            http: first_set(&["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"]),
            https: first_set(&["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]),
            exempt: exempt.split([',', ' ', '\t']).filter_map(Exemption::parse).collect(),
        }
    }

    /// The proxy for a request to `host` (without brackets); `None` to connect directly.
    ///
    /// # Errors
    /// Why the URL in the environment variable is not valid. The text contains no password.
    pub(crate) fn find(&self, is_https: bool, host: &str, port: u16) -> Result<Option<Proxy>, String> {
        let variable = if is_https { &self.https } else { &self.http };
        let Some(variable) = variable.as_ref().filter(|_| !self.is_exempt(host, port)) else {
            return Ok(None);
        };
        Proxy::parse(&variable.url)
            .map(Some)
            .map_err(|why| format!("environment variable {} names no usable proxy: {why}", variable.name))
    }

    fn is_exempt(&self, host: &str, port: u16) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let address = host.parse::<IpAddr>().ok().map(|address| address.to_canonical());
        if host == "localhost" || address.is_some_and(|address| address.is_loopback()) {
            return true;
        }
        self.exempt.iter().any(|exempt| match exempt {
            Exemption::All => true,
            Exemption::Net(net, bits) => address.is_some_and(|address| is_in(address, *net, *bits)),
            Exemption::Address(exempt, on) => address == Some(*exempt) && on.is_none_or(|on| on == port),
            Exemption::Domain(domain, itself, on) => {
                let fits = host.ends_with(domain) || (*itself && domain.strip_prefix('.') == Some(&host));
                fits && on.is_none_or(|on| on == port)
            }
        })
    }
}

impl Proxy {
    /// Parses `[http[s]://][user[:password]@]host[:port][/]`. The error never quotes the URL, which may contain a
    /// password.
    fn parse(url: &str) -> Result<Self, String> {
        let (is_tls, rest) = match url.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
            Some((scheme, _)) => {
                let scheme: String = scheme.chars().filter(|c| c.is_ascii_alphanumeric()).take(20).collect();
                return Err(format!(
                    "its scheme is {scheme:?}, and only \"http\" and \"https\" are supported"
                ));
            }
            None => (false, url),
        };
        let rest = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (user, authority) = match rest.rsplit_once('@') {
            Some((user, authority)) => (Some(user), authority),
            None => (None, rest),
        };
        let (host, port) = split_port(authority).ok_or("its host and port are not valid")?;
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':');
        if host.is_empty() || !host.bytes().all(allowed) {
            return Err("its host is not valid".to_owned());
        }
        let authorization = user.map(authorization).transpose()?;
        let port = port.unwrap_or(if is_tls { 443 } else { 80 });
        Ok(Proxy { host: host.to_owned(), port, is_tls, authorization })
    }

    /// `host:port`, for messages.
    pub(crate) fn host_and_port(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

impl Exemption {
    /// Parses one item of `NO_PROXY`; `None` for an item that is not valid, which Go ignores as well.
    fn parse(item: &str) -> Option<Self> {
        let item = item.trim().to_ascii_lowercase();
        if item.is_empty() {
            return None;
        }
        if item == "*" {
            return Some(Exemption::All);
        }
        if let Some((net, bits)) = item.split_once('/') {
            let net: IpAddr = net.parse().ok()?;
            let most = if net.is_ipv4() { 32 } else { 128 };
            return bits.parse().ok().filter(|bits| *bits <= most).map(|bits| Exemption::Net(net, bits));
        }
        if let Ok(address) = item.parse::<IpAddr>() {
            return Some(Exemption::Address(address.to_canonical(), None));
        }
        let (host, port) = split_port(&item)?;
        if let Ok(address) = host.parse::<IpAddr>() {
            return Some(Exemption::Address(address.to_canonical(), port));
        }
        let host = host.strip_prefix('*').unwrap_or(host).trim_end_matches('.');
        match host.strip_prefix('.') {
            Some("") => None,
            Some(_) => Some(Exemption::Domain(host.to_owned(), false, port)),
            None if host.is_empty() => None,
            None => Some(Exemption::Domain(format!(".{host}"), true, port)),
        }
    }
}

/// Splits `host:port`, `[address]:port`, or either without a port; `None` for any other text.
fn split_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let (host, rest) = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']').filter(|(host, _)| host.parse::<IpAddr>().is_ok())?,
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    match rest.strip_prefix(':') {
        Some("") => Some((host, None)),
        Some(port) => Some((host, Some(port.parse().ok()?))),
        None => rest.is_empty().then_some((host, None)),
    }
}

fn is_in(address: IpAddr, net: IpAddr, bits: u8) -> bool {
    let bits = u32::from(bits);
    match (address, net.to_canonical()) {
        (IpAddr::V4(address), IpAddr::V4(net)) => {
            let differ = u32::from(address) ^ u32::from(net);
            differ.checked_shr(32 - bits.min(32)).unwrap_or(0) == 0
        }
        (IpAddr::V6(address), IpAddr::V6(net)) => {
            let differ = u128::from(address) ^ u128::from(net);
            differ.checked_shr(128 - bits.min(128)).unwrap_or(0) == 0
        }
        _ => false,
    }
}

/// The value of `Proxy-Authorization` for the percent-encoded `user[:password]` of a URL. RFC 7617.
fn authorization(user: &str) -> Result<String, String> {
    let (user, password) = user.split_once(':').unwrap_or((user, ""));
    let mut plain = decode(user)?;
    plain.push(b':');
    plain.extend(decode(password)?);
    Ok(format!("Basic {}", STANDARD.encode(&plain)))
}

/// Decodes percent-encoded text.
fn decode(text: &str) -> Result<Vec<u8>, String> {
    let (mut out, mut bytes) = (Vec::with_capacity(text.len()), text.bytes());
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                let (high, low) = (digit(), digit());
                let value = high.zip(low).and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
                out.push(value.ok_or("its user or password has a '%' without two hex digits")?);
            }
            _ => out.push(byte),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &'static [(&str, &str)]) -> Proxies {
        Proxies::from(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, v)| (*v).to_owned()))
    }

    #[test]
    fn each_scheme_has_its_variable_in_either_case() {
        let place = |proxies: &Proxies, is_https| {
            proxies.find(is_https, "r.example", 443).expect("good").map(|proxy| proxy.host_and_port())
        };
        assert_eq!(place(&of(&[]), true), None);
        assert_eq!(place(&of(&[("HTTPS_PROXY", "http://p:3128/")]), true).as_deref(), Some("p:3128"));
        assert_eq!(place(&of(&[("HTTPS_PROXY", "http://p:3128")]), false), None);
        assert_eq!(place(&of(&[("http_proxy", "p")]), false).as_deref(), Some("p:80"));
        assert_eq!(place(&of(&[("all_proxy", "http://[::1]:8080")]), true).as_deref(), Some("[::1]:8080"));
        assert_eq!(place(&of(&[("HTTPS_PROXY", "a"), ("https_proxy", "b")]), true).as_deref(), Some("a:80"));
    }

    #[test]
    fn credentials_are_decoded_and_never_shown() {
        let proxies = of(&[("HTTPS_PROXY", "http://al%40ice:s%3Acret@p:1")]);
        let proxy = proxies.find(true, "r.example", 443).expect("good").expect("one");
        assert_eq!(proxy.authorization.as_deref(), Some("Basic YWxAaWNlOnM6Y3JldA=="));
        for url in
            ["http://u:secret@p:x", "socks5://u:secret@p", "https://u:secret@p:x", "http://u:secret%2@p"]
        {
            let why = Proxy::parse(url).expect_err("bad");
            assert!(!why.contains("secret"), "{why}");
        }
        assert!(Proxy::parse("socks5://p").expect_err("bad").contains("only \"http\""));
        let tls = Proxy::parse("HTTPS://p").expect("good");
        assert!(tls.is_tls && tls.port == 443 && !Proxy::parse("p").expect("good").is_tls);
        assert!(Proxy::parse("http://").is_err() && Proxy::parse("p\r\nx").is_err());
    }

    #[test]
    fn no_proxy_knows_domains_addresses_nets_and_ports() {
        let all = of(&[(
            "NO_PROXY",
            "example.com, .sub.net,*.wild.org,10.0.0.0/8,192.168.1.1,fd00::/8,[2001:db8::1]:5000,port.de:81,300.1/99",
        )]);
        for (host, port, exempt) in [
            ("example.com", 443, true),
            ("a.EXAMPLE.com.", 443, true),
            ("badexample.com", 443, false),
            ("sub.net", 443, false),
            ("a.sub.net", 443, true),
            ("wild.org", 443, false),
            ("x.wild.org", 443, true),
            ("10.255.0.1", 443, true),
            ("11.0.0.1", 443, false),
            ("192.168.1.1", 80, true),
            ("192.168.1.2", 80, false),
            ("fd12::1", 80, true),
            ("fe80::1", 80, false),
            ("2001:db8::1", 5000, true),
            ("2001:db8::1", 5001, false),
            ("port.de", 81, true),
            ("port.de", 80, false),
            ("localhost", 1, true),
            ("127.1.2.3", 1, true),
            ("::1", 1, true),
            ("::ffff:127.0.0.1", 1, true),
        ] {
            assert_eq!(all.is_exempt(host, port), exempt, "{host}:{port}");
        }
        assert!(of(&[("no_proxy", "*")]).is_exempt("anything", 1));
        assert!(is_in("1.2.3.4".parse().expect("one"), "9.9.9.9".parse().expect("one"), 0));
    }
}
