//! Blocks of addresses, such as `10.0.0.0/8`. RFC 4632.
//!
//! Pure. The configuration parses the operator's lists of blocks; `access` and `origin` look addresses up in them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// A block of addresses: all addresses with one prefix. An IPv4 address in IPv6 form counts as the IPv4 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    address: IpAddr,
    bits: u8,
}

/// The error for a text that is no block of addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither an address nor ADDRESS/BITS")]
pub struct CidrError(pub String);

impl Cidr {
    /// The block of one address.
    pub fn of(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Cidr { address, bits: if address.is_ipv4() { 32 } else { 128 } }
    }

    /// Whether `address` is in the block.
    pub fn contains(&self, address: IpAddr) -> bool {
        let bits = u32::from(self.bits);
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(of), IpAddr::V4(address)) => {
                (u32::from(of) ^ u32::from(address)).checked_shr(32 - bits).unwrap_or(0) == 0
            }
            (IpAddr::V6(of), IpAddr::V6(address)) => {
                (u128::from(of) ^ u128::from(address)).checked_shr(128 - bits).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    /// Parses `ADDRESS` or `ADDRESS/BITS`; an IPv6 address may be in brackets.
    fn from_str(text: &str) -> Result<Self, CidrError> {
        let error = || CidrError(text.chars().take(100).collect());
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let inner = address.strip_prefix('[').and_then(|address| address.strip_suffix(']'));
        let given: IpAddr = inner.unwrap_or(address).parse().map_err(|_| error())?;
        let whole = Cidr::of(given);
        let Some(bits) = bits else { return Ok(whole) };
        let is_number = bits.len() <= 3 && bits.bytes().all(|byte| byte.is_ascii_digit());
        let bits: u8 = bits.parse().ok().filter(|_| is_number).ok_or_else(error)?;
        // The bits of `::ffff:10.0.0.0/104` count from the start of the IPv6 address.
        let is_mapped = given.is_ipv6() && whole.address.is_ipv4();
        let bits = if is_mapped { bits.checked_sub(96).ok_or_else(error)? } else { bits };
        if bits > whole.bits {
            return Err(error());
        }
        Ok(Cidr { bits, ..whole })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_contains_the_addresses_with_its_prefix() {
        for (block, address, is_in) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.1.2.3/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.1.1.1", true),
            ("::ffff:10.0.0.0/104", "10.1.1.1", true),
            ("::ffff:10.0.0.0/104", "11.1.1.1", false),
            ("0.0.0.0/0", "8.8.8.8", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("::/0", "2001:db8::1", true),
            ("::/0", "8.8.8.8", false),
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7", "192.0.2.6", false),
            ("fd00::/8", "fdff::1", true),
            ("[::1]", "::1", true),
            ("2001:db8::/33", "2001:db8:8000::", false),
        ] {
            let cidr: Cidr = block.parse().expect("a block");
            assert_eq!(cidr.contains(address.parse().expect("an address")), is_in, "{address} in {block}");
        }
    }

    #[test]
    fn what_is_no_block_is_refused() {
        for text in
            ["", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/+8", "10.0.0/8", "a/8", "::ffff:1.2.3.4/8"]
        {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
        assert_eq!("10.1.2.3/8".parse::<Cidr>().expect("a block").to_string(), "10.1.2.3/8");
    }
}
