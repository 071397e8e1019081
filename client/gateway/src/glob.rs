//! Patterns of the filter `reference`: `*`, `?` and `[a-z]`, none of which matches a slash. Go's path.Match.

/// Whether `text` as a whole matches `pattern`; `None` if the pattern is malformed.
///
/// The time is bounded by the product of both lengths: only the last `*` is ever tried again.
pub fn matches(pattern: &str, text: &str) -> Option<bool> {
    let tokens = parse(pattern)?;
    let text: Vec<char> = text.chars().collect();
    let (mut token, mut at) = (0, 0);
    // The last star, and the position up to which it reaches.
    let mut star: Option<(usize, usize)> = None;
    loop {
        match (tokens.get(token), text.get(at)) {
            (None, None) => return Some(true),
            (Some(Token::Star), _) => {
                star = Some((token, at));
                token += 1;
                continue;
            }
            (Some(one), Some(char)) if one.matches(*char) => {
                token += 1;
                at += 1;
                continue;
            }
            _ => {}
        }
        // Let the last star take one character more.
        let Some((star_at, reached)) = star else { return Some(false) };
        match text.get(reached) {
            Some(char) if *char != '/' => {
                star = Some((star_at, reached + 1));
                (token, at) = (star_at + 1, reached + 1);
            }
            _ => return Some(false),
        }
    }
}

enum Token {
    Char(char),
    Any,
    Star,
    /// Ranges of characters, and whether the characters outside of them are meant.
    Class(Vec<(char, char)>, bool),
}

impl Token {
    fn matches(&self, char: char) -> bool {
        match self {
            Token::Char(own) => *own == char,
            Token::Any => char != '/',
            Token::Star => false,
            Token::Class(ranges, negated) => {
                let is_in = ranges.iter().any(|(low, high)| (*low..=*high).contains(&char));
                char != '/' && is_in != *negated
            }
        }
    }
}

fn parse(pattern: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut chars = pattern.chars().peekable();
    while let Some(char) = chars.next() {
        tokens.push(match char {
            '*' => Token::Star,
            '?' => Token::Any,
            '\\' => Token::Char(chars.next()?),
            '[' => class(&mut chars)?,
            other => Token::Char(other),
        });
    }
    Some(tokens)
}

fn class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Token> {
    let negated = chars.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        let low = match chars.next()? {
            ']' if !ranges.is_empty() => return Some(Token::Class(ranges, negated)),
            ']' | '-' => return None,
            '\\' => chars.next()?,
            other => other,
        };
        let high = match chars.next_if_eq(&'-') {
            None => low,
            Some(_) => match chars.next()? {
                ']' | '-' => return None,
                '\\' => chars.next()?,
                other => other,
            },
        };
        ranges.push((low, high));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_go_s_do() {
        for (pattern, text, expected) in [
            ("*:latest", "alpine:latest", Some(true)),
            ("*", "a/b", Some(false)),
            ("*/*", "a/b", Some(true)),
            ("al?ine", "alpine", Some(true)),
            ("[a-c]lpine", "alpine", Some(true)),
            ("[^a]lpine", "alpine", Some(false)),
            ("a*b*c", "aXbXbYc", Some(true)),
            ("a*b*c", "aXbXbY", Some(false)),
            ("\\*", "*", Some(true)),
            ("", "", Some(true)),
            ("*", "", Some(true)),
            ("[", "a", None),
            ("[]", "a", None),
            ("a\\", "a", None),
            ("[a-]", "a", None),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn many_stars_take_no_time() {
        let pattern = "*a".repeat(2000);
        assert_eq!(matches(&pattern, &"b".repeat(20_000)), Some(false));
    }
}
