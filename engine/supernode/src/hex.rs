//! Bytes as hexadecimal digits, and back.
//!
//! Pure. Called wherever a digest is text: in URLs, tickets, task IDs, errors and on the wires.

/// The lower-case hexadecimal digits of `bytes`.
pub fn encode(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
    let mut text = String::with_capacity(bytes.len() * 2);
    text.extend(digits.filter_map(|digit| char::from_digit(digit.into(), 16)));
    text
}

/// Parses exactly `N` bytes of hexadecimal digits, in either case.
pub fn parse<const N: usize>(text: &str) -> Option<[u8; N]> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    let digit = |byte: u8| u8::try_from(char::from(byte).to_digit(16)?).ok();
    let mut bytes = [0; N];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_parsed_in_either_case_and_only_whole() {
        let bytes = [0x00, 0x9a, 0xff];
        assert_eq!(encode(&bytes), "009aff");
        assert_eq!((parse("009aff"), parse("009AFF")), (Some(bytes), Some(bytes)));
        for bad in ["", "009af", "009affe", "009aff00", "009ag0", "+09aff"] {
            assert_eq!(parse::<3>(bad), None, "{bad}");
        }
    }
}
