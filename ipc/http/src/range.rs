//! Byte ranges of a blob: which range a client requests, and which range a server sends. RFC 9110, section 14.
//!
//! Servers parse `Range`, clients check `Content-Range`. Both headers are untrusted. A header that is not exactly
//! one valid range of bytes is ignored by servers and rejected by clients.

/// The part of a blob that a client requests. RFC 9110, section 14.1.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    /// The whole blob. Also the answer to an invalid header, and to several ranges at once.
    All,
    /// The bytes from the first to the last of these offsets, both included. Both are less than the size.
    Part(u64, u64),
    /// A range without any byte of the blob; the answer is status 416.
    Outside,
}

impl Range {
    /// Parses the value of a `Range` header for a blob of `size` bytes.
    pub fn parse(text: &str, size: u64) -> Self {
        let parts =
            text.strip_prefix("bytes=").filter(|t| !t.contains(',')).and_then(|t| t.trim().split_once('-'));
        let number =
            |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten();
        match parts {
            Some(("", tail)) => match number(tail) {
                Some(0) => Range::Outside,
                Some(_) if size == 0 => Range::Outside,
                Some(tail) => Range::Part(size.saturating_sub(tail), size - 1),
                None => Range::All,
            },
            Some((first, last)) => match (number(first), last) {
                (Some(first), _) if first >= size => Range::Outside,
                (Some(first), "") => Range::Part(first, size - 1),
                (Some(first), last) => match number(last) {
                    Some(last) if last >= first => Range::Part(first, last.min(size - 1)),
                    _ => Range::All,
                },
                (None, _) => Range::All,
            },
            None => Range::All,
        }
    }
}

/// Whether a `Content-Range` header announces exactly the bytes from `offset` to the end of a blob of `size`
/// bytes. RFC 9110, section 14.4.
pub fn is_rest(content_range: &str, offset: u64, size: u64) -> bool {
    offset < size && content_range.trim() == format!("bytes {offset}-{}/{size}", size - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_the_rfc_says() {
        for (text, size, range) in [
            ("bytes=0-0", 10, Range::Part(0, 0)),
            ("bytes=5-", 10, Range::Part(5, 9)),
            ("bytes=5-99", 10, Range::Part(5, 9)),
            ("bytes=-3", 10, Range::Part(7, 9)),
            ("bytes=-30", 10, Range::Part(0, 9)),
            ("bytes=-0", 10, Range::Outside),
            ("bytes=10-", 10, Range::Outside),
            ("bytes=0-", 0, Range::Outside),
            ("bytes=-1", 0, Range::Outside),
            ("bytes=3-2", 10, Range::All),
            ("bytes=0-1,3-4", 10, Range::All),
            ("bytes=+1-2", 10, Range::All),
            ("lines=0-1", 10, Range::All),
            ("bytes=99999999999999999999-", 10, Range::All),
        ] {
            assert_eq!(Range::parse(text, size), range, "{text} of {size}");
        }
    }

    #[test]
    fn only_the_rest_that_was_asked_for_is_the_rest() {
        for (content_range, is) in [
            ("bytes 5-9/10", true),
            (" bytes 5-9/10 ", true),
            ("bytes 4-9/10", false),
            ("bytes 5-8/10", false),
            ("bytes 5-9/11", false),
            ("bytes 5-9/*", false),
            ("bytes 05-9/10", false),
            ("bytes */10", false),
            ("5-9/10", false),
            ("", false),
        ] {
            assert_eq!(is_rest(content_range, 5, 10), is, "{content_range}");
        }
        assert!(!is_rest("bytes 10-9/10", 10, 10) && !is_rest("bytes 0-18446744073709551615/0", 0, 0));
    }
}
