//! Text of strangers, cut to what a message or an event may repeat.
//!
//! Called wherever an error, an event or a log line quotes input. Always cuts between characters.

/// Longest [`excerpt`], in characters.
const EXCERPT_MAX: usize = 120;

/// The first bytes of `text`, at most `max`.
pub fn head(text: &str, max: usize) -> &str {
    let end = (0..=max.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text.get(..end).unwrap_or_default()
}

/// `text`, or its first bytes, at most `max`, and `…`.
pub fn crop(mut text: String, max: usize) -> String {
    if text.len() > max {
        text.truncate(head(&text, max).len());
        text.push('…');
    }
    text
}

/// The beginning of `text`, for a message that repeats what somebody typed.
pub fn excerpt(text: &str) -> String {
    let mut short: String = text.chars().take(EXCERPT_MAX).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// The first 200 bytes of a path; what of them is no UTF-8 is replaced.
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
