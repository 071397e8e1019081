//! The identity of a task: a hash of the URL and of what distinguishes files of one URL.
//!
//! Pure. Dragonfly's clients compute the hash, too, so it can never change.

use crate::hex;
use ring::digest::{Context, SHA256};
use std::fmt;

/// The constant that Dragonfly hashes before and after the rest. `K` in docs/peers.md.
const KEY: &[u8; 32] = b">I$pg-~AS~sP'rqu_`Oh&lz#9]\"=;nE%";

/// The ID of a task: 32 bytes, 64 hexadecimal digits in text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId([u8; 32]);

impl TaskId {
    /// Computes the ID of the file at `task_url`. `sign` is the file's MD5 or else its identifier, as the client
    /// gives it; `range` is the value of a `Range` header that the client sends to the origin. Both may be empty.
    pub fn new(task_url: &str, sign: &str, range: &str) -> Self {
        let mut context = Context::new(&SHA256);
        for part in [KEY.as_slice(), task_url.as_bytes(), sign.as_bytes(), range.as_bytes(), KEY] {
            context.update(part);
        }
        let mut id = [0; 32];
        id.copy_from_slice(context.finish().as_ref());
        TaskId(id)
    }

    /// Parses 64 lowercase hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let is_lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
        hex::parse(text).filter(|_| is_lower).map(TaskId)
    }

    /// The bytes of the ID.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first three digits: the name of the directory that holds the task's files.
    pub fn prefix(&self) -> String {
        self.to_string().chars().take(3).collect()
    }
}

impl serde::Serialize for TaskId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for TaskId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        TaskId::parse(&text).ok_or_else(|| serde::de::Error::custom("expected 64 hexadecimal digits"))
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_of_dragonfly() {
        for (url, sign, id) in [
            (
                "http://127.0.0.1:5991/blob",
                "",
                "48439b5cc385365984e7d4970097b83b49565e0baae34de65eac65a22c8c2289",
            ),
            (
                "http://127.0.0.1:5991/blob?v=1",
                "d41d8cd98f00b204e9800998ecf8427e",
                "950c3681672d3ec00b5aa4a58aa967a157777990178c0ab63740785016c139fd",
            ),
        ] {
            let computed = TaskId::new(url, sign, "");
            assert_eq!(computed.to_string(), id);
            assert_eq!(TaskId::parse(id), Some(computed));
        }
        assert_eq!(TaskId::parse("48439B"), None);
        assert_eq!(TaskId::parse(&"g".repeat(64)), None);
        assert_eq!(TaskId::parse(&"a".repeat(65)), None);
    }
}
