//! The functions of templates: those of Go, and those that docker adds.
//!
//! `and` and `or` are not here, since [`super::execution`] evaluates their arguments one by one.

use super::shape::Shape;
use super::value::Value;
use super::verbs;
use std::cmp::Ordering;
use std::fmt::Write as _;

/// Number of arguments of each function: the fewest, and the most.
const FUNCTIONS: [(&str, usize, usize); 26] = [
    ("and", 1, usize::MAX),
    ("eq", 2, usize::MAX),
    ("ge", 2, 2),
    ("gt", 2, 2),
    ("html", 0, usize::MAX),
    ("index", 1, usize::MAX),
    ("join", 2, 2),
    ("js", 0, usize::MAX),
    ("json", 1, 1),
    ("le", 2, 2),
    ("len", 1, 1),
    ("lower", 1, 1),
    ("lt", 2, 2),
    ("ne", 2, 2),
    ("not", 1, 1),
    ("or", 1, usize::MAX),
    ("pad", 3, 3),
    ("print", 0, usize::MAX),
    ("printf", 1, usize::MAX),
    ("println", 0, usize::MAX),
    ("slice", 1, 4),
    ("split", 2, 2),
    ("title", 1, 1),
    ("truncate", 2, 2),
    ("upper", 1, 1),
    ("urlquery", 0, usize::MAX),
];

/// Whether a template may call a function of this name.
pub(super) fn is_function(name: &str) -> bool {
    FUNCTIONS.iter().any(|(function, ..)| *function == name)
}

/// Whether the function reads no more of its arguments than their first level.
pub(super) fn is_shallow(name: &str) -> bool {
    matches!(name, "index" | "len" | "not" | "slice" | "and" | "or")
}

/// Says what is wrong with the number of arguments, if anything is.
pub(super) fn count_problem(name: &str, count: usize) -> Option<String> {
    let (_, fewest, most) = FUNCTIONS.iter().find(|(function, ..)| *function == name)?;
    let wanted = match (fewest, most) {
        _ if (*fewest..=*most).contains(&count) => return None,
        (fewest, &usize::MAX) => format!("at least {fewest}"),
        (fewest, most) if fewest == most => format!("{fewest}"),
        (fewest, most) => format!("{fewest} to {most}"),
    };
    Some(format!("wrong number of arguments for {name}: want {wanted} got {count}"))
}

/// Calls a function. `is_header` says that the data are the headers of a table, which docker's functions leave as they
/// are.
pub(super) fn call<'a>(name: &str, arguments: &[Value<'a>], is_header: bool) -> Result<Value<'a>, String> {
    let first = arguments.first().cloned().unwrap_or(Value::Nothing);
    let second = arguments.get(1).cloned().unwrap_or(Value::Nothing);
    if is_header
        && matches!(name, "json" | "title" | "lower" | "upper" | "truncate" | "pad" | "join" | "split")
    {
        return Ok(first);
    }
    Ok(match name {
        "eq" => Value::Bool(equals_any(arguments)?),
        "ne" => Value::Bool(!is_equal(&first, &second)?),
        "lt" => Value::Bool(order(&first, &second)? == Some(Ordering::Less)),
        "le" => Value::Bool(matches!(order(&first, &second)?, Some(Ordering::Less | Ordering::Equal))),
        "gt" => Value::Bool(order(&first, &second)? == Some(Ordering::Greater)),
        "ge" => Value::Bool(matches!(order(&first, &second)?, Some(Ordering::Greater | Ordering::Equal))),
        "not" => Value::Bool(!first.is_true()),
        "len" => Value::Int(len(&first)?),
        "index" => index(&first, arguments.get(1..).unwrap_or_default())?,
        "slice" => slice(&first, arguments.get(1..).unwrap_or_default())?,
        "print" => Value::text(print(arguments)),
        "println" => Value::text(words(arguments) + "\n"),
        "printf" => Value::text(verbs::format(&text(name, &first)?, arguments.get(1..).unwrap_or_default())),
        "html" => Value::text(html(&joined(arguments))),
        "js" => Value::text(js(&joined(arguments))),
        "urlquery" => Value::text(url_query(&joined(arguments))),
        "json" => Value::text(first.json().to_string()),
        "join" => Value::text(join(&first, &text(name, &second)?)?),
        "split" => split(&text(name, &first)?, &text(name, &second)?),
        "title" => Value::text(title(&text(name, &first)?)),
        "lower" => Value::text(text(name, &first)?.to_lowercase()),
        "upper" => Value::text(text(name, &first)?.to_uppercase()),
        "pad" => Value::text(pad(&text(name, &first)?, &second, arguments.get(2))?),
        "truncate" => Value::text(truncate(&text(name, &first)?, &second)?),
        _ => return Err(format!("function {name:?} not defined")),
    })
}

/// Returns an argument that must be text.
fn text(function: &str, value: &Value<'_>) -> Result<String, String> {
    match value {
        Value::Text(text) => Ok(text.to_string()),
        other => {
            Err(format!("wrong type for an argument of {function}: expected string; got {}", other.kind()))
        }
    }
}

fn number(value: &Value<'_>) -> Result<i128, String> {
    match value {
        Value::Int(number) => Ok(*number),
        other => Err(format!("cannot index with a value of type {}", other.kind())),
    }
}

fn equals_any(arguments: &[Value<'_>]) -> Result<bool, String> {
    let Some((first, others)) = arguments.split_first() else { return Ok(false) };
    for other in others {
        if is_equal(first, other)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_equal(one: &Value<'_>, other: &Value<'_>) -> Result<bool, String> {
    let is_nil = |value: &Value<'_>| matches!(value, Value::Nothing | Value::Null(_));
    match (one, other) {
        (Value::Bool(one), Value::Bool(other)) => Ok(one == other),
        (Value::Float(one), Value::Float(other)) => Ok(one == other),
        _ if is_nil(one) || is_nil(other) => Ok(is_nil(one) && is_nil(other)),
        _ => match one.order(other) {
            Some(order) => Ok(order == Ordering::Equal),
            None => Err(incomparable(one, other)),
        },
    }
}

fn order(one: &Value<'_>, other: &Value<'_>) -> Result<Option<Ordering>, String> {
    match (one, other) {
        (Value::Float(one), Value::Float(other)) => Ok(one.partial_cmp(other)),
        _ => one.order(other).map(Some).ok_or_else(|| incomparable(one, other)),
    }
}

fn incomparable(one: &Value<'_>, other: &Value<'_>) -> String {
    match one.kind() == other.kind() {
        true => format!("values of type {} cannot be compared", one.kind()),
        false => format!("incompatible types for comparison: {} and {}", one.kind(), other.kind()),
    }
}

fn len(value: &Value<'_>) -> Result<i128, String> {
    let len = match value {
        Value::Text(text) => Some(text.len()),
        Value::Null(Shape::Map | Shape::Texts) => Some(0),
        other => other.elements().map(|all| all.len()).or_else(|| other.members().map(|(map, _)| map.len())),
    };
    let len = len.ok_or_else(|| format!("len of type {}", value.kind()))?;
    Ok(i128::try_from(len).unwrap_or(i128::MAX))
}

fn index<'a>(value: &Value<'a>, indexes: &[Value<'a>]) -> Result<Value<'a>, String> {
    let mut value = value.clone();
    for index in indexes {
        value = index_once(&value, index)?;
    }
    Ok(value)
}

fn index_once<'a>(value: &Value<'a>, index: &Value<'a>) -> Result<Value<'a>, String> {
    let beyond = |nth: i128| format!("index out of range: {nth}");
    if let Value::Text(text) = value {
        let nth = number(index)?;
        let byte = usize::try_from(nth).ok().and_then(|nth| text.as_bytes().get(nth));
        return byte.map(|byte| Value::Int((*byte).into())).ok_or_else(|| beyond(nth));
    }
    if let Some(all) = value.elements() {
        let nth = number(index)?;
        return usize::try_from(nth).ok().and_then(|nth| all.get(nth)).ok_or_else(|| beyond(nth));
    }
    let (map, shape) = match value {
        Value::Null(shape @ (Shape::Map | Shape::Texts)) => (None, *shape),
        other => match other.members() {
            Some((map, shape)) => (Some(map), shape),
            None => return Err(format!("cannot index a value of type {}", value.kind())),
        },
    };
    let Value::Text(key) = index else {
        return Err(format!("the key of a map has type string; got {}", index.kind()));
    };
    Ok(match (map.and_then(|map| map.get(&**key)), shape) {
        (Some(found), Shape::Object) => Value::of(key, found),
        (Some(found), shape) => Value::element(shape, found),
        (None, Shape::Texts) => Value::text(""),
        // An absent port has no bindings, and an absent object is a pointer to nothing.
        (None, Shape::Map) => Value::Null(Shape::Object),
        (None, _) => Value::Nothing,
    })
}

fn slice<'a>(value: &Value<'a>, indexes: &[Value<'a>]) -> Result<Value<'a>, String> {
    let len = match value {
        Value::Text(text) => text.len(),
        other => match other.elements() {
            Some(all) => all.len(),
            None => return Err(format!("cannot slice a value of type {}", other.kind())),
        },
    };
    let mut bounds = [0, len, len];
    for (bound, index) in bounds.iter_mut().zip(indexes) {
        let nth = number(index)?;
        *bound = usize::try_from(nth)
            .ok()
            .filter(|nth| *nth <= len)
            .ok_or_else(|| format!("index out of range: {nth}"))?;
    }
    let [from, to, capacity] = bounds;
    if from > to || to > capacity {
        return Err(format!("invalid slice index: {from} > {to}"));
    }
    if let Value::Text(text) = value {
        if indexes.len() > 2 {
            return Err("cannot slice a string with three indexes".to_owned());
        }
        let bytes = text.as_bytes().get(from..to).unwrap_or_default();
        return Ok(Value::text(String::from_utf8_lossy(bytes)));
    }
    let all = value.elements();
    Ok(Value::List((from..to).filter_map(|nth| all.as_ref().and_then(|all| all.get(nth))).collect()))
}

/// Joins values as Go's Sprint does: with a space between two values of which none is text.
fn print(arguments: &[Value<'_>]) -> String {
    let mut out = String::new();
    let mut previous: Option<&Value<'_>> = None;
    for value in arguments {
        if previous
            .is_some_and(|previous| !matches!((previous, value), (Value::Text(_), _) | (_, Value::Text(_))))
        {
            out.push(' ');
        }
        value.show(&mut out);
        previous = Some(value);
    }
    out
}

/// Joins values with a space between any two.
fn words(arguments: &[Value<'_>]) -> String {
    arguments.iter().map(Value::shown).collect::<Vec<_>>().join(" ")
}

/// The text that an escaping function works on.
fn joined(arguments: &[Value<'_>]) -> String {
    match arguments {
        [Value::Text(text)] => text.to_string(),
        [Value::Nothing] => "<no value>".to_owned(),
        _ => print(arguments),
    }
}

fn join(list: &Value<'_>, separator: &str) -> Result<String, String> {
    let Some(all) = list.elements() else {
        return Err(format!(
            "wrong type for the first argument of join: expected a list; got {}",
            list.kind()
        ));
    };
    let mut out = String::new();
    for nth in 0..all.len() {
        if nth > 0 {
            out.push_str(separator);
        }
        if let Some(value) = all.get(nth) {
            value.show(&mut out);
        }
    }
    Ok(out)
}

fn split<'a>(text: &str, separator: &str) -> Value<'a> {
    match separator {
        "" => Value::List(text.chars().map(|c| Value::text(c.to_string())).collect()),
        _ => Value::List(text.split(separator).map(Value::text).collect()),
    }
}

/// Makes the first letter of each word a capital.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut is_inside = false;
    for c in text.chars() {
        match is_inside {
            true => out.push(c),
            false => out.extend(c.to_uppercase()),
        }
        is_inside = c.is_alphanumeric() || c == '_' || c == '\'';
    }
    out
}

/// Most spaces that `pad` adds on one side.
const PAD_MAX: i128 = 1 << 20;

fn pad(text: &str, before: &Value<'_>, after: Option<&Value<'_>>) -> Result<String, String> {
    let count = |value: &Value<'_>| match value {
        Value::Int(count @ 0..=PAD_MAX) => Ok(usize::try_from(*count).unwrap_or(0)),
        Value::Int(count) => Err(format!("pad cannot add {count} spaces")),
        other => Err(format!("wrong type for an argument of pad: expected int; got {}", other.kind())),
    };
    let (before, after) = (count(before)?, count(after.unwrap_or(&Value::Int(0)))?);
    Ok(match text {
        "" => String::new(),
        _ => " ".repeat(before) + text + &" ".repeat(after),
    })
}

/// Cuts text to a number of bytes, as docker does, and never inside a character.
fn truncate(text: &str, length: &Value<'_>) -> Result<String, String> {
    let Value::Int(length) = length else {
        return Err(format!("wrong type for an argument of truncate: expected int; got {}", length.kind()));
    };
    let length = usize::try_from(*length).map_err(|_| format!("truncate to {length} bytes"))?;
    let end = (0..=length.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    Ok(text.get(..end.unwrap_or(0)).unwrap_or_default().to_owned())
}

fn html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\0' => out.push('\u{fffd}'),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            c => out.push(c),
        }
    }
    out
}

fn js(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let _ = match c {
            '\\' | '\'' | '"' => write!(out, "\\{c}"),
            '<' | '>' | '&' | '=' => write!(out, "\\u{:04X}", u32::from(c)),
            c if c.is_control() => write!(out, "\\u{:04X}", u32::from(c)),
            c => write!(out, "{c}"),
        };
    }
    out
}

fn url_query(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        let _ = match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                write!(out, "{}", char::from(byte))
            }
            b' ' => write!(out, "+"),
            _ => write!(out, "%{byte:02X}"),
        };
    }
    out
}
