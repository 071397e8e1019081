//! The verbs of `printf`, as in Go's package fmt.

use super::value::{Value, float, with_exponent};
use std::fmt::Write as _;
use std::iter::Peekable;
use std::slice::Iter;
use std::str::Chars;

/// Largest width and precision, as in Go.
const AMOUNT_MAX: i64 = 1_000_000;
/// Most digits behind the point; a number of 64 bits has no more.
const DIGITS_MAX: usize = 1100;

#[derive(Debug, Default)]
struct Flags {
    is_left: bool,
    has_plus: bool,
    has_space: bool,
    has_zero: bool,
    is_sharp: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

/// Formats `arguments` as `pattern` says. A mistake shows in the text, as in Go: `%!d(string=x)`.
pub(super) fn format(pattern: &str, arguments: &[Value<'_>]) -> String {
    let mut out = String::new();
    let mut rest = pattern.chars().peekable();
    let mut next = arguments.iter();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let flags = flags(&mut rest, &mut next, &mut out);
        match rest.next() {
            None => out.push_str("%!(NOVERB)"),
            Some('%') => out.push('%'),
            Some(verb) => match next.next() {
                Some(value) => out.push_str(&one(verb, value, &flags)),
                None => {
                    let _ = write!(out, "%!{verb}(MISSING)");
                }
            },
        }
    }
    let extra: Vec<String> = next.map(|value| format!("{}={}", value.kind(), value.shown())).collect();
    if !extra.is_empty() {
        let _ = write!(out, "%!(EXTRA {})", extra.join(", "));
    }
    out
}

/// Reads the flags, the width and the precision between `%` and the verb.
fn flags(rest: &mut Peekable<Chars<'_>>, next: &mut Iter<'_, Value<'_>>, out: &mut String) -> Flags {
    let mut flags = Flags::default();
    while let Some(flag) = rest.next_if(|c| matches!(c, '-' | '+' | ' ' | '0' | '#')) {
        match flag {
            '-' => flags.is_left = true,
            '+' => flags.has_plus = true,
            ' ' => flags.has_space = true,
            '0' => flags.has_zero = true,
            _ => flags.is_sharp = true,
        }
    }
    match amount(rest, next) {
        Ok(width) => {
            flags.is_left |= width.is_some_and(|width| width < 0);
            flags.width = width.map(i64::unsigned_abs).and_then(|width| usize::try_from(width).ok());
        }
        Err(()) => out.push_str("%!(BADWIDTH)"),
    }
    if rest.next_if_eq(&'.').is_some() {
        match amount(rest, next) {
            // A point without digits means no digits; a negative precision means none was given.
            Ok(precision) => flags.precision = usize::try_from(precision.unwrap_or(0)).ok(),
            Err(()) => out.push_str("%!(BADPREC)"),
        }
    }
    flags
}

/// Reads a width or a precision: digits, or `*` for the next argument. `None` if there is neither.
fn amount(rest: &mut Peekable<Chars<'_>>, next: &mut Iter<'_, Value<'_>>) -> Result<Option<i64>, ()> {
    if rest.next_if_eq(&'*').is_some() {
        return match next.next() {
            Some(Value::Int(number)) if number.unsigned_abs() <= u128::from(AMOUNT_MAX.unsigned_abs()) => {
                Ok(i64::try_from(*number).ok())
            }
            _ => Err(()),
        };
    }
    let mut digits = None;
    while let Some(digit) = rest.next_if(char::is_ascii_digit) {
        let digit = i64::from(digit.to_digit(10).unwrap_or(0));
        digits = Some(digits.unwrap_or(0_i64).saturating_mul(10).saturating_add(digit).min(AMOUNT_MAX));
    }
    Ok(digits)
}

/// Formats one value.
fn one(verb: char, value: &Value<'_>, flags: &Flags) -> String {
    if let Some(all) = value.elements().filter(|_| !matches!(verb, 'v' | 'T')) {
        let parts = (0..all.len()).filter_map(|nth| all.get(nth)).map(|value| one(verb, &value, flags));
        return format!("[{}]", parts.collect::<Vec<_>>().join(" "));
    }
    let text = match (verb, value) {
        ('T', value) => Some(pad(value.kind().to_owned(), flags)),
        ('v', Value::Int(number)) => Some(integer(*number, 10, false, flags)),
        ('v', Value::Float(number)) => Some(pad(plus(float(*number), flags), flags)),
        ('v', Value::Text(text)) if flags.is_sharp => Some(pad(quote(text), flags)),
        ('v', value) => Some(pad(cut(value.shown(), flags), flags)),
        ('t', Value::Bool(bool)) => Some(pad(bool.to_string(), flags)),
        ('d', Value::Int(number)) => Some(integer(*number, 10, false, flags)),
        ('x', Value::Int(number)) => Some(integer(*number, 16, false, flags)),
        ('X', Value::Int(number)) => Some(integer(*number, 16, true, flags)),
        ('o', Value::Int(number)) => Some(integer(*number, 8, false, flags)),
        ('b', Value::Int(number)) => Some(integer(*number, 2, false, flags)),
        ('c', Value::Int(number)) => Some(pad(character(*number).to_string(), flags)),
        ('q', Value::Int(number)) => Some(pad(format!("'{}'", character(*number).escape_debug()), flags)),
        ('U', Value::Int(number)) => Some(pad(format!("U+{number:04X}"), flags)),
        ('e' | 'E' | 'f' | 'F' | 'g' | 'G', Value::Float(number)) => Some(real(verb, *number, flags)),
        ('s', Value::Text(text)) => Some(pad(cut(text.to_string(), flags), flags)),
        ('q', Value::Text(text)) => Some(pad(quote(&cut(text.to_string(), flags)), flags)),
        ('x' | 'X', Value::Text(text)) => {
            let text = cut(text.to_string(), flags);
            let digits = text.bytes().fold(String::new(), |mut out, byte| {
                let _ = if verb == 'x' { write!(out, "{byte:02x}") } else { write!(out, "{byte:02X}") };
                out
            });
            Some(pad(digits, flags))
        }
        ('s' | 'd', value) if value.members().is_some() => Some(pad(value.shown(), flags)),
        _ => None,
    };
    text.unwrap_or_else(|| match value {
        Value::Nothing | Value::Null(_) => format!("%!{verb}(<nil>)"),
        _ => format!("%!{verb}({}={})", value.kind(), value.shown()),
    })
}

fn character(number: i128) -> char {
    u32::try_from(number).ok().and_then(char::from_u32).unwrap_or('\u{fffd}')
}

fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        let _ = match c {
            '"' | '\\' => write!(out, "\\{c}"),
            '\n' => write!(out, "\\n"),
            '\r' => write!(out, "\\r"),
            '\t' => write!(out, "\\t"),
            c if c.is_ascii_control() => write!(out, "\\x{:02x}", u32::from(c)),
            c if c.is_control() => write!(out, "\\u{:04x}", u32::from(c)),
            c => write!(out, "{c}"),
        };
    }
    out.push('"');
    out
}

/// Cuts text to the precision, in characters.
fn cut(text: String, flags: &Flags) -> String {
    match flags.precision {
        Some(most) => text.chars().take(most).collect(),
        None => text,
    }
}

fn plus(text: String, flags: &Flags) -> String {
    match text.starts_with('-') {
        false if flags.has_plus => format!("+{text}"),
        false if flags.has_space => format!(" {text}"),
        _ => text,
    }
}

fn pad(text: String, flags: &Flags) -> String {
    let missing = flags.width.unwrap_or(0).saturating_sub(text.chars().count());
    match (missing, flags.is_left) {
        (0, _) => text,
        (_, true) => text + &" ".repeat(missing),
        (_, false) => " ".repeat(missing) + &text,
    }
}

/// Pads a number, with zeros behind its sign if the flags say so.
fn pad_number(text: String, flags: &Flags) -> String {
    if !flags.has_zero || flags.is_left {
        return pad(text, flags);
    }
    let missing = flags.width.unwrap_or(0).saturating_sub(text.chars().count());
    let signs = text.len() - text.trim_start_matches(['+', '-', ' ']).len();
    let (sign, digits) = text.split_at_checked(signs).unwrap_or(("", &text));
    format!("{sign}{}{digits}", "0".repeat(missing))
}

fn integer(number: i128, radix: u32, is_upper: bool, flags: &Flags) -> String {
    let size = number.unsigned_abs();
    let (mut digits, prefix) = match (radix, is_upper) {
        (16, false) => (format!("{size:x}"), "0x"),
        (16, true) => (format!("{size:X}"), "0X"),
        (8, _) => (format!("{size:o}"), "0"),
        (2, _) => (format!("{size:b}"), "0b"),
        _ => (size.to_string(), ""),
    };
    if let Some(fewest) = flags.precision {
        digits = "0".repeat(fewest.saturating_sub(digits.len())) + &digits;
    }
    if flags.is_sharp {
        digits.insert_str(0, prefix);
    }
    let signed = if number < 0 { format!("-{digits}") } else { plus(digits, flags) };
    match flags.precision {
        // With a precision, spaces pad a number even if the flags ask for zeros.
        Some(_) => pad(signed, flags),
        None => pad_number(signed, flags),
    }
}

fn real(verb: char, number: f64, flags: &Flags) -> String {
    let digits = flags.precision.unwrap_or(6).min(DIGITS_MAX);
    let text = match verb {
        'e' => with_exponent(&format!("{number:.digits$e}"), 'e'),
        'E' => with_exponent(&format!("{number:.digits$e}"), 'E'),
        'f' | 'F' => format!("{number:.digits$}"),
        _ if flags.precision.is_none() => float(number),
        _ => significant(number, digits.max(1)),
    };
    pad_number(plus(text, flags), flags)
}

/// Prints a number with at most this many digits that count, as `%.3g` does.
fn significant(number: f64, digits: usize) -> String {
    let text = format!("{number:.*e}", digits - 1);
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let shorter = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    let most = i32::try_from(digits).unwrap_or(i32::MAX);
    if exponent < -4 || exponent >= most {
        return with_exponent(&format!("{}e{exponent}", shorter(mantissa)), 'e');
    }
    let after = usize::try_from(most - 1 - exponent).unwrap_or(0);
    shorter(&format!("{number:.after$}"))
}
