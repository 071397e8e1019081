//! Globs as in the Go library doublestar v4, which Harbor's filters use.
//!
//! Used by `place_name` and `filter`. No crate is used: globset adds 659 KiB to a program, and neither it nor fast-glob
//! matches `a` with `a/**`. The time for one match is at most the pattern's length (after `{a,b}` is expanded) times the
//! text's length.

use std::fmt;

/// Longest pattern in bytes.
pub const PATTERN_MAX: usize = 512;
/// Most patterns that the alternatives of one pattern expand to.
pub const ALTERNATIVES_MAX: usize = 128;

/// A pattern for a whole name: `*`, `?` and classes match within one component, `**` matches any number of components.
#[derive(Clone, Debug, PartialEq)]
pub struct Glob {
    text: String,
    alternatives: Vec<Vec<Component>>,
}

/// The error for text that is not a glob.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{pattern:?} is not a glob: {why}")]
pub struct GlobError {
    /// The pattern, cut to 100 characters.
    pub pattern: String,
    /// The rule that the pattern breaks.
    pub why: &'static str,
}

/// What stands between two slashes of a pattern.
#[derive(Clone, Debug, PartialEq)]
enum Component {
    /// `**`: zero or more components.
    Components,
    /// One component.
    One(Vec<Token>),
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Char(char),
    AnyChar,
    AnyChars,
    Class { negated: bool, ranges: Vec<(char, char)> },
}

impl Glob {
    /// Parses a pattern: `*`, `**`, `?`, `[a-z]`, `[^a]`, `[!a]`, `{a,b}` and `\` before a character to be taken as it is.
    ///
    /// `**` has its meaning only as a whole component; elsewhere it is `*`, as in doublestar.
    ///
    /// # Errors
    /// The pattern is malformed, is longer than [`PATTERN_MAX`], or has more than [`ALTERNATIVES_MAX`] alternatives.
    pub fn parse(pattern: &str) -> Result<Self, GlobError> {
        let refuse = |why| GlobError { pattern: pattern.chars().take(100).collect(), why };
        if pattern.is_empty() || pattern.len() > PATTERN_MAX {
            return Err(refuse("its length must be 1 to 512 bytes"));
        }
        let expanded = expand(pattern).map_err(refuse)?;
        let alternatives =
            expanded.iter().map(|text| components(text)).collect::<Result<_, _>>().map_err(refuse)?;
        Ok(Glob { text: pattern.to_owned(), alternatives })
    }

    /// Whether the pattern matches all of `text`.
    pub fn is_match(&self, text: &str) -> bool {
        let parts: Vec<Vec<char>> = text.split('/').map(|part| part.chars().collect()).collect();
        self.alternatives.iter().any(|alternative| {
            matches(
                alternative,
                &parts,
                |component| *component == Component::Components,
                |component, part: &Vec<char>| component.fits(part),
            )
        })
    }

    /// The names that the pattern matches, or `None` if it has a wildcard and the caller must list what there is.
    pub fn names(&self) -> Option<Vec<String>> {
        let char = |token: &Token| if let Token::Char(char) = token { Some(*char) } else { None };
        let part = |component: &Component| match component {
            Component::Components => None,
            Component::One(tokens) => tokens.iter().map(char).collect::<Option<String>>(),
        };
        let name = |alternative: &Vec<Component>| {
            alternative.iter().map(part).collect::<Option<Vec<_>>>().map(|parts| parts.join("/"))
        };
        self.alternatives.iter().map(name).collect()
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Component {
    fn fits(&self, part: &[char]) -> bool {
        match self {
            Component::Components => true,
            Component::One(tokens) => matches(tokens, part, |token| *token == Token::AnyChars, Token::fits),
        }
    }
}

impl Token {
    fn fits(&self, char: &char) -> bool {
        match self {
            Token::Char(own) => own == char,
            Token::AnyChar | Token::AnyChars => true,
            Token::Class { negated, ranges } => {
                ranges.iter().any(|(low, high)| (low..=high).contains(&char)) != *negated
            }
        }
    }
}

/// Matches a sequence whose elements fit one item each, but for runs, which take any number of items.
///
/// Only the last run is extended on a mismatch. This suffices: an earlier run took the fewest items that let the elements
/// behind it match, so whatever a longer one allows, the last run can reach too. Hence the time is the product of both
/// lengths, with no exponential case.
fn matches<P, T>(
    pattern: &[P],
    text: &[T],
    is_run: impl Fn(&P) -> bool,
    fits: impl Fn(&P, &T) -> bool,
) -> bool {
    let (mut at, mut item) = (0, 0);
    let mut last_run = None;
    loop {
        match (pattern.get(at), text.get(item)) {
            (Some(element), _) if is_run(element) => {
                at += 1;
                last_run = Some((at, item));
            }
            (Some(element), Some(next)) if fits(element, next) => (at, item) = (at + 1, item + 1),
            (None, None) => return true,
            (Some(_), None) => return false,
            (_, Some(_)) => match last_run {
                Some((behind, taken)) => {
                    (at, item) = (behind, taken + 1);
                    last_run = Some((behind, taken + 1));
                }
                None => return false,
            },
        }
    }
}

/// Replaces a pattern with alternatives by one pattern for each of them.
fn expand(pattern: &str) -> Result<Vec<String>, &'static str> {
    let (mut done, mut todo) = (Vec::new(), vec![pattern.to_owned()]);
    while let Some(text) = todo.pop() {
        match split_alternatives(&text)? {
            None => done.push(text),
            Some(one_each) => todo.extend(one_each),
        }
        if done.len() + todo.len() > ALTERNATIVES_MAX {
            return Err("it has more than 128 alternatives");
        }
    }
    Ok(done)
}

/// Replaces the first `{…}` of a pattern by each of its alternatives; `None` if there is none.
fn split_alternatives(text: &str) -> Result<Option<Vec<String>>, &'static str> {
    let mut chars = text.char_indices();
    let (mut depth, mut in_class, mut before, mut start) = (0, false, "", 0);
    let mut alternatives = Vec::new();
    let part = |from: usize, to: usize| text.get(from..to).unwrap_or_default();
    while let Some((at, char)) = chars.next() {
        match char {
            '\\' => drop(chars.next()),
            '[' if depth == 0 => in_class = true,
            ']' if depth == 0 => in_class = false,
            '{' if !in_class => {
                depth += 1;
                if depth == 1 {
                    (before, start) = (part(0, at), at + 1);
                }
            }
            ',' if depth == 1 => {
                alternatives.push(part(start, at));
                start = at + 1;
            }
            '}' if depth > 0 => {
                depth -= 1;
                if depth == 0 {
                    alternatives.push(part(start, at));
                    let behind = part(at + 1, text.len());
                    let whole = |middle: &&str| [before, middle, behind].concat();
                    return Ok(Some(alternatives.iter().map(whole).collect()));
                }
            }
            _ => {}
        }
    }
    if depth > 0 { Err("a '{' has no '}'") } else { Ok(None) }
}

fn components(text: &str) -> Result<Vec<Component>, &'static str> {
    let one =
        |part: &str| if part == "**" { Ok(Component::Components) } else { Ok(Component::One(tokens(part)?)) };
    text.split('/').map(one).collect()
}

fn tokens(part: &str) -> Result<Vec<Token>, &'static str> {
    let mut tokens = Vec::new();
    let mut chars = part.chars();
    while let Some(char) = chars.next() {
        tokens.push(match char {
            '*' => Token::AnyChars,
            '?' => Token::AnyChar,
            '[' => class(&mut chars)?,
            '\\' => Token::Char(chars.next().ok_or("nothing follows a '\\'")?),
            other => Token::Char(other),
        });
    }
    Ok(tokens)
}

/// Parses a class behind its `[`.
fn class(chars: &mut std::str::Chars<'_>) -> Result<Token, &'static str> {
    const OPEN: &str = "a '[' has no ']' in its component";
    let negated = chars.as_str().starts_with(['^', '!']);
    if negated {
        chars.next();
    }
    let mut ranges = Vec::new();
    let member = |chars: &mut std::str::Chars<'_>, first: char| match first {
        '\\' => chars.next().ok_or(OPEN),
        '-' => Err("a '-' in a class stands between two characters, or behind a '\\'"),
        other => Ok(other),
    };
    loop {
        let low = match chars.next().ok_or(OPEN)? {
            ']' if ranges.is_empty() => return Err("a class is empty"),
            ']' => return Ok(Token::Class { negated, ranges }),
            first => member(chars, first)?,
        };
        let mut high = low;
        if chars.as_str().starts_with('-') {
            chars.next();
            high = match chars.next().ok_or(OPEN)? {
                ']' => return Err("a range of a class has no end"),
                first => member(chars, first)?,
            };
        }
        if low > high {
            return Err("a range of a class is empty");
        }
        ranges.push((low, high));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_as_in_doublestar() {
        let table = [
            ("abc", "abc", true),
            ("abc", "abcd", false),
            ("*", "a", true),
            ("*", "a/b", false),
            ("*c", "abc", true),
            ("a*/b", "abc/b", true),
            ("a*/b", "a/c/b", false),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/f", true),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/fff", false),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("a?b", "a\u{263a}b", true),
            ("a???b", "a\u{263a}b", false),
            ("a?b", "a/b", false),
            ("**", "", true),
            ("**", "a/b/c", true),
            ("a/**", "a", true),
            ("a/**", "a/b/c", true),
            ("a/**", "ab", false),
            ("**/c", "c", true),
            ("**/c", "a/b/c", true),
            ("**/c", "a/abc", false),
            ("a/**/b", "a/b", true),
            ("a/**/b", "a/x/y/b", true),
            ("a/**/b/**/c", "a/b/x/b/y/c", true),
            ("a/**/b/**/c", "a/x/c", false),
            ("**/a/*/**", "x/a/b", true),
            ("**/a/*/**", "x/a", false),
            ("a**", "abc", true),
            ("a**", "ab/c", false),
            ("**abc", "xabc", true),
            ("a/\\**", "a/b/c", false),
            ("a/\\**", "a/*b", true),
            ("ab{c,d}", "abd", true),
            ("ab{c,d,*}", "abcde", true),
            ("x{,y}", "x", true),
            ("{a,{b,c}}", "c", true),
            ("{a/**,b}", "a/x/y", true),
            ("{a/**,b}", "a", true),
            ("{a,**}/b", "x/y/b", true),
            ("{a,b}{c,d}", "bc", true),
            ("{a,b}{c,d}", "ab", false),
            ("a\\{b", "a{b", true),
            ("[{]x", "{x", true),
            ("a,b", "a,b", true),
            ("ab[b-d]", "abc", true),
            ("ab[^b-d]", "abc", false),
            ("ab[!b-d]", "abe", true),
            ("[\\-x]", "-", true),
            ("[\\]a]", "]", true),
            ("[^a]b", "/b", false),
            ("[a-\u{3b6}]*", "\u{3b1}", true),
            ("a", "A", false),
        ];
        for (pattern, text, expected) in table {
            let glob = Glob::parse(pattern).expect(pattern);
            assert_eq!(glob.is_match(text), expected, "{pattern} {text}");
            assert_eq!(glob.to_string(), pattern);
        }
        for pattern in
            ["", "[", "[]", "[]a]", "[-]", "[x-]", "[-x]", "[a-b-c]", "[^", "[b-a]", "a[b/c]", "{a", "\\"]
        {
            assert!(Glob::parse(pattern).is_err(), "{pattern}");
        }
    }

    #[test]
    fn a_pattern_without_a_wildcard_is_a_list_of_names() {
        let names =
            |pattern| Glob::parse(pattern).expect("valid").names().map(|mut names| (names.sort(), names).1);
        assert_eq!(names("team/{a,b/c}"), Some(vec!["team/a".to_owned(), "team/b/c".to_owned()]));
        for pattern in ["team/**", "a*", "a?", "[a]", "{a,b*}"] {
            assert_eq!(names(pattern), None, "{pattern}");
        }
    }

    #[test]
    fn a_hostile_pattern_is_refused_or_matches_in_product_time() {
        assert!(Glob::parse(&"{a,b}".repeat(8)).is_err(), "256 alternatives");
        assert!(Glob::parse(&"{".repeat(PATTERN_MAX)).is_err());
        assert!(Glob::parse(&"a".repeat(PATTERN_MAX + 1)).is_err());
        assert!(Glob::parse(&format!("{}{}", "{".repeat(250), "}".repeat(250))).is_ok());
        // Counts comparisons instead of time: backtracking to every star would make more of them than atoms exist.
        let count = std::cell::Cell::new(0);
        let fits = |token: &Token, char: &char| {
            count.set(count.get() + 1);
            token.fits(char)
        };
        let (tokens, text) = (tokens(&"*a".repeat(200)).expect("valid"), vec!['a'; 199]);
        assert!(!matches(&tokens, &text, |token| *token == Token::AnyChars, fits));
        let tokens = super::tokens(&format!("{}b", "*a".repeat(100))).expect("valid");
        assert!(!matches(&tokens, &text, |token| *token == Token::AnyChars, fits));
        assert!(count.get() <= 2 * 400 * 199, "{}", count.get());
        let glob = Glob::parse(&format!("{}b", "**/a*/".repeat(80))).expect("valid");
        assert!(!glob.is_match(&"a/".repeat(500)));
    }

    #[test]
    fn a_match_agrees_with_trying_every_way() {
        fn every_way(pattern: &[u8], text: &[u8]) -> bool {
            match (pattern, text) {
                ([], []) => true,
                ([b'*', rest @ ..], _) => (0..=text.len()).any(|taken| every_way(rest, &text[taken..])),
                ([a, rest @ ..], [b, others @ ..]) => a == b && every_way(rest, others),
                _ => false,
            }
        }
        let words = |letters: &'static [u8], len: u32| {
            (0..letters.len().pow(len)).map(move |n| {
                (0..len).map(|i| letters[n / letters.len().pow(i) % letters.len()]).collect::<Vec<u8>>()
            })
        };
        for pattern in (0..6).flat_map(|len| words(b"ab*", len)) {
            for text in (0..6).flat_map(|len| words(b"ab", len)) {
                let found = matches(&pattern, &text, |byte| *byte == b'*', |a, b| a == b);
                assert_eq!(found, every_way(&pattern, &text), "{pattern:?} {text:?}");
            }
        }
    }
}
