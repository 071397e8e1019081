//! The keys that detach from a terminal, as in docker's `--detach-keys`. Parses the keys, and finds them in the input
//! even if they arrive in several reads.

/// A text that names no keys.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("detach keys {text:?} are invalid")]
pub struct DetachKeysError {
    text: String,
}

/// What a person can write instead of a text that names no keys.
pub const HINT: &str = "separate keys with ','; a key is one letter, or ctrl- and one of a-z @ [ \\ ] ^ _";

/// The keys without the option `--detach-keys`.
pub const DEFAULT: &str = "ctrl-p,ctrl-q";

/// Parses `ctrl-p,ctrl-q`, `ctrl-@,x`: letters, or `ctrl-` and one of `a-z@[\]^_`. An empty text means no keys.
///
/// # Errors
/// The text names no keys.
pub fn parse(text: &str) -> Result<Vec<u8>, DetachKeysError> {
    let wrong = || DetachKeysError { text: text.to_owned() };
    if text.is_empty() {
        return Ok(Vec::new());
    }
    text.split(',')
        .map(|key| {
            match (key.as_bytes(), key.to_ascii_lowercase().strip_prefix("ctrl-").map(str::as_bytes)) {
                ([one], _) if one.is_ascii() => Ok(*one),
                (_, Some([letter @ (b'a'..=b'z' | b'@' | b'[' | b'\\' | b']' | b'^' | b'_')])) => {
                    Ok(letter & 0x1f)
                }
                ([], _) | (_, _) if key.eq_ignore_ascii_case("del") => Ok(127),
                _ => Err(wrong()),
            }
        })
        .collect()
}

/// Finds the keys in a stream of bytes. Holds back bytes that may be the beginning of the keys.
#[derive(Debug)]
pub struct KeyMatcher {
    keys: Vec<u8>,
    matched: usize,
}

impl KeyMatcher {
    /// A matcher for `keys`; without keys it finds nothing.
    pub fn new(keys: Vec<u8>) -> Self {
        KeyMatcher { keys, matched: 0 }
    }

    /// Appends the bytes to forward to `out`. Returns whether the keys were typed; drops the bytes after the keys.
    pub fn filter(&mut self, typed: &[u8], out: &mut Vec<u8>) -> bool {
        if self.keys.is_empty() {
            out.extend_from_slice(typed);
            return false;
        }
        for &byte in typed {
            if self.take(byte, out) {
                return true;
            }
        }
        false
    }

    /// Appends the bytes that are still held back to `out`: no more bytes follow.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.keys.get(..self.matched).unwrap_or_default());
        self.matched = 0;
    }

    fn take(&mut self, byte: u8, out: &mut Vec<u8>) -> bool {
        if self.keys.get(self.matched) == Some(&byte) {
            self.matched += 1;
            if self.matched == self.keys.len() {
                self.matched = 0;
                return true;
            }
            return false;
        }
        // Hold back only the longest end of the bytes so far that is a beginning of the keys.
        let mut held = self.keys.get(..self.matched).unwrap_or_default().to_vec();
        held.push(byte);
        let keep =
            (0..=self.matched).rev().find(|&len| held.ends_with(self.keys.get(..len).unwrap_or_default()));
        self.matched = keep.unwrap_or(0);
        out.extend_from_slice(held.get(..held.len() - self.matched).unwrap_or_default());
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_docker_writes_them() {
        assert_eq!(parse(DEFAULT).expect("good"), [16, 17]);
        assert_eq!(parse("ctrl-@,a,ctrl-[,CTRL-_").expect("good"), [0, b'a', 27, 31]);
        assert!(parse("").expect("none").is_empty());
        for text in [",", "ctrl-", "ctrl-1", "ab", "ctrl-p,", "\u{e4}"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn keys_are_found_however_they_are_split() {
        let run = |parts: &[&[u8]]| {
            let (mut keys, mut out) = (KeyMatcher::new(vec![16, 17]), Vec::new());
            let found = parts.iter().any(|part| keys.filter(part, &mut out));
            (found, out)
        };
        assert_eq!(run(&[b"ab\x10\x11cd"]), (true, b"ab".to_vec()));
        assert_eq!(run(&[b"ab\x10", b"\x11"]), (true, b"ab".to_vec()));
        assert_eq!(run(&[b"\x10x\x11"]), (false, b"\x10x\x11".to_vec()));
        assert_eq!(run(&[b"\x10\x10", b"\x11"]), (true, b"\x10".to_vec()));
        assert_eq!(run(&[b"\x11\x10"]), (false, b"\x11".to_vec()));
        let (mut keys, mut out) = (KeyMatcher::new(b"aab".to_vec()), Vec::new());
        assert!(keys.filter(b"aaab", &mut out) && out == b"a");
        out.clear();
        assert!(!keys.filter(b"xaa", &mut out) && out == b"x");
        keys.finish(&mut out);
        assert_eq!(out, b"xaa");
    }
}
