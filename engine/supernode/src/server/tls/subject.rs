//! The common name in a certificate that was verified before. RFC 5280, 4.1; X.690.

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_IDENTIFIER: u8 = 0x06;
/// The tag of the version, which is the first field if it is there at all.
const VERSION: u8 = 0xa0;
/// `id-at-commonName`, 2.5.4.3.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const IA5_STRING: u8 = 0x16;

/// The first common name of the subject. Names in other encodings than UTF-8 and ASCII are not returned.
pub(super) fn common_name(certificate: &[u8]) -> Option<String> {
    let (signed, _) = content(SEQUENCE, certificate)?;
    let (mut fields, _) = content(SEQUENCE, signed)?;
    if fields.first() == Some(&VERSION) {
        fields = element(fields)?.2;
    }
    // Serial number, algorithm, issuer, validity.
    for _ in 0..4 {
        fields = element(fields)?.2;
    }
    let mut names = content(SEQUENCE, fields)?.0;
    while !names.is_empty() {
        let (name, rest) = content(SET, names)?;
        let (attribute, _) = content(SEQUENCE, name)?;
        let (kind, value) = content(OBJECT_IDENTIFIER, attribute)?;
        if kind == COMMON_NAME {
            let (tag, text, _) = element(value)?;
            let is_text = matches!(tag, UTF8_STRING | PRINTABLE_STRING | IA5_STRING);
            return String::from_utf8(text.to_vec()).ok().filter(|_| is_text);
        }
        names = rest;
    }
    None
}

/// The content of the first element, which must have this tag, and the bytes after the element.
fn content(tag: u8, bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    element(bytes).filter(|found| found.0 == tag).map(|(_, content, rest)| (content, rest))
}

/// Tag and content of the first element, and the bytes after it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, first], rest) = bytes.split_first_chunk::<2>()?;
    let (len, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (digits.iter().fold(0, |len, digit| len << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(len)?;
    Some((tag, content, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_is_cut_has_no_name_and_does_no_harm() {
        let name = [&[SET, 14, SEQUENCE, 12, OBJECT_IDENTIFIER, 3], COMMON_NAME, &[UTF8_STRING, 5], b"peer1"]
            .concat();
        let fields = [&[VERSION, 1, 2, 2, 1, 7, 48, 0, 48, 0, 48, 0, SEQUENCE, 16][..], &name].concat();
        let whole =
            [&[SEQUENCE, fields.len() as u8 + 3, SEQUENCE, 0x81, fields.len() as u8][..], &fields].concat();
        assert_eq!(common_name(&whole).as_deref(), Some("peer1"));
        for len in 0..whole.len() {
            assert_eq!(common_name(&whole[..len]), None);
        }
        for at in 0..whole.len() {
            for byte in 0..=255 {
                let mut changed = whole.clone();
                changed[at] = byte;
                common_name(&changed);
            }
        }
    }
}
