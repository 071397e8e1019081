//! Cuts input to the length that a message or an event may quote.
//!
//! Used wherever an error, an event or a log line quotes input. Always cuts between two characters.

/// Longest [`excerpt`], in characters.
const EXCERPT_MAX: usize = 120;

/// The beginning of `text`, of at most `max` bytes.
pub fn head(text: &str, max: usize) -> &str {
    let end = (0..=max.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text.get(..end).unwrap_or_default()
}

/// Returns `text` if it has at most `max` bytes; otherwise its beginning of at most `max` bytes, with `…` appended.
pub fn crop(mut text: String, max: usize) -> String {
    if text.len() > max {
        text.truncate(head(&text, max).len());
        text.push('…');
    }
    text
}

/// The beginning of `text`, for a message that quotes what a person typed.
pub fn excerpt(text: &str) -> String {
    let mut short: String = text.chars().take(EXCERPT_MAX).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// The first 200 bytes of a path as text. Bytes that are not UTF-8 are replaced.
pub fn path(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.get(..200).unwrap_or(bytes)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_between_characters() {
        assert_eq!((head("aé", 3), head("aé", 2), head("aé", 0)), ("aé", "a", ""));
        assert_eq!(
            (crop("aé".to_owned(), 3), crop("aéé".to_owned(), 4)),
            ("aé".to_owned(), "aé…".to_owned())
        );
        assert_eq!(excerpt(&"é".repeat(EXCERPT_MAX)), "é".repeat(EXCERPT_MAX));
        assert_eq!(excerpt(&"é".repeat(EXCERPT_MAX + 1)), "é".repeat(EXCERPT_MAX) + "…");
    }
}
