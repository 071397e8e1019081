//! From the text of a template to tokens: text outside of `{{ }}`, and words, signs and literals inside.

use super::errors::{ParseError, position};

/// One token.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token<'a> {
    /// Text outside of actions.
    Text(&'a str),
    /// `{{`
    Open,
    /// `}}`
    Close,
    /// `.`
    Dot,
    /// `.NAME`, without the dot.
    Field(&'a str),
    /// `$` or `$NAME`, with the dollar.
    Variable(&'a str),
    /// A keyword, a constant's name or a function's name.
    Word(&'a str),
    /// A string, without quotes and escapes.
    Quoted(String),
    Int(i128),
    Float(f64),
    Pipe,
    /// `:=`
    Declare,
    /// `=`
    Assign,
    Comma,
    LeftParen,
    RightParen,
}

/// A token with its place.
#[derive(Clone, Debug)]
pub(super) struct Lexeme<'a> {
    pub token: Token<'a>,
    /// The first byte in the source.
    pub at: usize,
    /// The byte behind the last one.
    pub end: usize,
    /// Whether a space comes before the token.
    pub is_spaced: bool,
}

struct Lexer<'a> {
    source: &'a str,
    at: usize,
    found: Vec<Lexeme<'a>>,
    /// Whether the text that follows loses its first spaces, because of `-}}`.
    trims: bool,
}

/// Returns all tokens of `source`.
pub(super) fn lex(source: &str) -> Result<Vec<Lexeme<'_>>, ParseError> {
    let mut lexer = Lexer { source, at: 0, found: Vec::new(), trims: false };
    while lexer.text()? {
        while lexer.inside()? {}
    }
    Ok(lexer.found)
}

/// Whether Go's templates take a character for a space.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

/// Whether a name may have the character.
fn is_name(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        self.source.get(self.at..).unwrap_or_default()
    }

    fn push(&mut self, token: Token<'a>, len: usize, is_spaced: bool) {
        let end = self.at + len;
        self.found.push(Lexeme { token, at: self.at, end, is_spaced });
        self.at = end;
    }

    fn wrong<T>(&self, problem: impl Into<String>) -> Result<T, ParseError> {
        let (line, column) = position(self.source, self.at);
        Err(ParseError { line, column, problem: problem.into() })
    }

    /// Reads text up to the next action that is no comment. Returns whether there is one.
    fn text(&mut self) -> Result<bool, ParseError> {
        loop {
            let rest = self.rest();
            let (text, has_action) = rest.split_once("{{").map_or((rest, false), |(text, _)| (text, true));
            let after = rest.get(text.len() + 2..).unwrap_or_default();
            let has_trim = after.starts_with('-') && after.chars().nth(1).is_some_and(is_space);
            let whole = text.len();
            let mut text = if self.trims { text.trim_start_matches(is_space) } else { text };
            if has_trim {
                text = text.trim_end_matches(is_space);
            }
            self.trims = false;
            if !text.is_empty() {
                let at = self.at;
                self.found.push(Lexeme { token: Token::Text(text), at, end: at + whole, is_spaced: false });
            }
            self.at += whole;
            if !has_action {
                return Ok(false);
            }
            let marker = if has_trim { 2 } else { 0 };
            let Some(comment) = after.get(marker..).and_then(|after| after.strip_prefix("/*")) else {
                self.push(Token::Open, 2 + marker, false);
                return Ok(true);
            };
            self.comment(comment, 2 + marker)?;
        }
    }

    /// Skips a comment. `comment` is the text behind `/*`.
    fn comment(&mut self, comment: &str, before: usize) -> Result<(), ParseError> {
        let Some((said, after)) = comment.split_once("*/") else {
            return self.wrong("unclosed comment");
        };
        let marker = after.len() - after.trim_start_matches(is_space).len();
        let end = match after.get(marker..).and_then(|after| after.strip_prefix('-')) {
            Some(close) if marker > 0 && close.starts_with("}}") => {
                self.trims = true;
                marker + 3
            }
            _ if after.starts_with("}}") => 2,
            _ => return self.wrong("the comment ends before the closing }}"),
        };
        self.at += before + 2 + said.len() + 2 + end;
        Ok(())
    }

    /// Reads one token inside of an action. Returns false at the action's end.
    fn inside(&mut self) -> Result<bool, ParseError> {
        let before = self.at;
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start_matches(is_space).len();
        let (rest, is_spaced) = (self.rest(), self.at > before);
        if rest.starts_with("}}") {
            self.push(Token::Close, 2, is_spaced);
            return Ok(false);
        }
        if is_spaced && rest.starts_with("-}}") {
            self.push(Token::Close, 3, is_spaced);
            self.trims = true;
            return Ok(false);
        }
        let Some(first) = rest.chars().next() else { return self.wrong("unclosed action") };
        let second = rest.chars().nth(1);
        match first {
            ':' if second == Some('=') => self.push(Token::Declare, 2, is_spaced),
            '=' => self.push(Token::Assign, 1, is_spaced),
            '|' => self.push(Token::Pipe, 1, is_spaced),
            ',' => self.push(Token::Comma, 1, is_spaced),
            '(' => self.push(Token::LeftParen, 1, is_spaced),
            ')' => self.push(Token::RightParen, 1, is_spaced),
            '"' => self.quoted(is_spaced)?,
            '\'' => self.character(is_spaced)?,
            '`' => {
                let Some((raw, _)) = rest.get(1..).and_then(|rest| rest.split_once('`')) else {
                    return self.wrong("unterminated raw quoted string");
                };
                self.push(Token::Quoted(raw.to_owned()), raw.len() + 2, is_spaced);
            }
            '.' if second.is_some_and(|c| c.is_ascii_digit()) => self.number(is_spaced)?,
            '+' | '-' | '0'..='9' => self.number(is_spaced)?,
            '.' | '$' => self.name(first, is_spaced)?,
            c if is_name(c) => self.name(first, is_spaced)?,
            c => return self.wrong(format!("unexpected character {c:?}")),
        }
        Ok(true)
    }

    /// Reads a field, a variable or a word.
    fn name(&mut self, first: char, is_spaced: bool) -> Result<(), ParseError> {
        let rest = self.rest();
        let sign = usize::from(matches!(first, '.' | '$'));
        let named = rest.get(sign..).unwrap_or_default();
        let len = named.find(|c| !is_name(c)).unwrap_or(named.len());
        let (name, after) = named.split_at_checked(len).unwrap_or((named, ""));
        let ends = after.is_empty()
            || after.starts_with("}}")
            || after.starts_with(|c| is_space(c) || matches!(c, '.' | ',' | '|' | ':' | '=' | '(' | ')'));
        if !ends {
            let bad = after.chars().next().unwrap_or_default();
            self.at += sign + len;
            return self.wrong(match bad {
                '-' => "unexpected character '-'; write (index .Labels \"a-b\") for a key with other characters than letters and digits".to_owned(),
                _ => format!("unexpected character {bad:?}"),
            });
        }
        let token = match first {
            '.' if name.is_empty() => Token::Dot,
            '.' => Token::Field(name),
            '$' => Token::Variable(rest.get(..sign + len).unwrap_or_default()),
            _ => Token::Word(name),
        };
        self.push(token, sign + len, is_spaced);
        Ok(())
    }

    fn number(&mut self, is_spaced: bool) -> Result<(), ParseError> {
        let rest = self.rest();
        let mut previous = ' ';
        let len = rest
            .find(|c: char| {
                // A sign belongs to the number at its beginning and behind an exponent.
                let is_sign = matches!(c, '+' | '-') && matches!(previous, ' ' | 'e' | 'E');
                let ends = !(is_sign || c == '.' || is_name(c));
                previous = c;
                ends
            })
            .unwrap_or(rest.len());
        let text = rest.get(..len).unwrap_or_default();
        match parse_number(text) {
            Some(token) => self.push(token, len, is_spaced),
            None => return self.wrong(format!("bad number syntax: {text:?}")),
        }
        Ok(())
    }

    fn character(&mut self, is_spaced: bool) -> Result<(), ParseError> {
        let Some((bytes, len)) = unquote(self.rest(), '\'') else {
            return self.wrong("unterminated or malformed character constant");
        };
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let mut chars = text.chars();
        match (chars.next(), chars.next()) {
            (Some(c), None) => self.push(Token::Int(i128::from(u32::from(c))), len, is_spaced),
            _ => return self.wrong("a character constant has one character"),
        }
        Ok(())
    }

    fn quoted(&mut self, is_spaced: bool) -> Result<(), ParseError> {
        let Some((bytes, len)) = unquote(self.rest(), '"') else {
            return self.wrong("unterminated or malformed quoted string");
        };
        self.push(Token::Quoted(String::from_utf8_lossy(&bytes).into_owned()), len, is_spaced);
        Ok(())
    }
}

/// Parses a number as Go writes it: `12`, `-0x1f`, `0b1`, `0o17`, `1_000`, `1.5`, `1e3`.
fn parse_number(text: &str) -> Option<Token<'static>> {
    let digits = text.replace('_', "");
    let (sign, unsigned) = match digits.strip_prefix('-') {
        Some(unsigned) => (-1, unsigned),
        None => (1, digits.strip_prefix('+').unwrap_or(&digits)),
    };
    if !unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    let lower = unsigned.to_ascii_lowercase();
    let radix = [("0x", 16), ("0b", 2), ("0o", 8)];
    for (prefix, radix) in radix {
        if let Some(digits) = lower.strip_prefix(prefix) {
            let number = u64::from_str_radix(digits, radix).ok().filter(|_| !digits.starts_with('+'))?;
            return Some(Token::Int(sign * i128::from(number)));
        }
    }
    if lower.len() > 1 && lower.starts_with('0') && lower.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Token::Int(sign * i128::from(u64::from_str_radix(&lower, 8).ok()?)));
    }
    if lower.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Token::Int(sign * i128::from(lower.parse::<u64>().ok()?)));
    }
    // Rust also parses "inf", "nan" and "infinity", which begin with no digit.
    let number: f64 = lower.parse().ok().filter(|number: &f64| number.is_finite())?;
    Some(Token::Float(if sign < 0 { -number } else { number }))
}

/// Removes the quotes and the escapes of Go's string or character at the beginning of `text`. Returns its bytes, and
/// its length in `text`.
fn unquote(text: &str, quote: char) -> Option<(Vec<u8>, usize)> {
    let mut bytes = Vec::new();
    let mut rest = text.get(1..)?;
    loop {
        let c = rest.chars().next()?;
        rest = rest.get(c.len_utf8()..)?;
        match c {
            '\n' => return None,
            c if c == quote => return Some((bytes, text.len() - rest.len())),
            '\\' => rest = escape(rest, quote, &mut bytes)?,
            c => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

/// Appends what an escape means. `rest` is the text behind the backslash; returns the text behind the escape.
fn escape<'a>(rest: &'a str, quote: char, bytes: &mut Vec<u8>) -> Option<&'a str> {
    let c = rest.chars().next()?;
    let after = rest.get(c.len_utf8()..)?;
    let plain = match c {
        'a' => Some(7),
        'b' => Some(8),
        'f' => Some(12),
        'n' => Some(b'\n'),
        'r' => Some(b'\r'),
        't' => Some(b'\t'),
        'v' => Some(11),
        '\\' => Some(b'\\'),
        c if c == quote => u8::try_from(c).ok(),
        _ => None,
    };
    if let Some(byte) = plain {
        bytes.push(byte);
        return Some(after);
    }
    let (digits, radix, len, after) = match c {
        'x' => (after.get(..2)?, 16, 2, after),
        'u' => (after.get(..4)?, 16, 4, after),
        'U' => (after.get(..8)?, 16, 8, after),
        '0'..='7' => (rest.get(..3)?, 8, 3, rest),
        _ => return None,
    };
    let number = u32::from_str_radix(digits, radix).ok().filter(|_| !digits.starts_with('+'))?;
    match c {
        'u' | 'U' => {
            bytes.extend_from_slice(char::from_u32(number)?.encode_utf8(&mut [0; 4]).as_bytes());
        }
        _ => bytes.push(u8::try_from(number).ok()?),
    }
    after.get(len..)
}
