//! The values that a template computes with, and their text.

use super::data::{Data, Kind};
use super::shape::{self, Shape};
use serde_json::{Map, Value as Json};
use std::cmp::Ordering;
use std::fmt::Write as _;
use std::rc::Rc;

#[derive(Clone, Debug)]
pub(super) enum Value<'a> {
    /// What an absent key of a map gives. Prints `<no value>`.
    Nothing,
    /// `null` of a document.
    Null(Shape),
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(Rc<str>),
    /// An array or an object of the document.
    Document(&'a Json, Shape),
    /// A list that a function made.
    List(Rc<[Value<'a>]>),
    /// The data of the execution.
    Root(Data<'a>),
}

impl<'a> Value<'a> {
    pub(super) fn root(data: Data<'a>) -> Self {
        match data.document {
            Json::Object(_) => Value::Root(data),
            other => Value::of("", other),
        }
    }

    /// Returns the value of the member `name`.
    pub(super) fn of(name: &str, json: &'a Json) -> Self {
        match json {
            Json::Null => Value::Null(shape::of(name)),
            Json::Bool(bool) => Value::Bool(*bool),
            Json::Number(number) => number_of(number),
            Json::String(text) => Value::Text(text.as_str().into()),
            Json::Array(_) => Value::Document(json, Shape::List),
            Json::Object(_) => {
                let shape = Some(shape::of(name)).filter(|shape| *shape != Shape::List);
                Value::Document(json, shape.unwrap_or(Shape::Object))
            }
        }
    }

    /// Returns the value of an element of an array or a map.
    pub(super) fn element(shape: Shape, json: &'a Json) -> Self {
        match (json, shape) {
            // An object of docker without a value, such as the ports that are not published, is an empty list.
            (Json::Null, Shape::Map) => Value::Null(Shape::List),
            _ => Value::of("", json),
        }
    }

    pub(super) fn text(text: impl Into<Rc<str>>) -> Self {
        Value::Text(text.into())
    }

    /// Returns the members of an object or a map.
    pub(super) fn members(&self) -> Option<(&'a Map<String, Json>, Shape)> {
        match self {
            Value::Document(Json::Object(map), shape) => Some((map, *shape)),
            Value::Root(data) => match data.document {
                Json::Object(map) if matches!(data.kind, Kind::Headers) => Some((map, Shape::Texts)),
                Json::Object(map) => Some((map, Shape::Object)),
                _ => None,
            },
            _ => None,
        }
    }

    /// Returns the elements of a list.
    pub(super) fn elements(&self) -> Option<Elements<'_, 'a>> {
        match self {
            Value::Document(Json::Array(all), _) => Some(Elements::Json(all)),
            Value::List(all) => Some(Elements::Values(all)),
            Value::Null(Shape::List) => Some(Elements::Values(&[])),
            _ => None,
        }
    }

    /// Whether `if` takes the value for true.
    pub(super) fn is_true(&self) -> bool {
        match self {
            Value::Nothing | Value::Null(_) => false,
            Value::Bool(bool) => *bool,
            Value::Int(number) => *number != 0,
            Value::Float(number) => *number != 0.0,
            Value::Text(text) => !text.is_empty(),
            Value::Document(Json::Object(map), Shape::Map | Shape::Texts) => !map.is_empty(),
            Value::Document(Json::Array(all), _) => !all.is_empty(),
            Value::Document(..) | Value::Root(_) => true,
            Value::List(all) => !all.is_empty(),
        }
    }

    /// The name of the type in messages, in Go's words.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Value::Nothing | Value::Null(Shape::Object) => "nil",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Float(_) => "float64",
            Value::Text(_) => "string",
            Value::Null(Shape::List) | Value::List(_) | Value::Document(Json::Array(_), _) => "list",
            Value::Null(_) | Value::Document(_, Shape::Map | Shape::Texts) => "map",
            Value::Document(..) | Value::Root(_) => "object",
        }
    }

    /// Returns how many bytes the work on the value may read, for the bound of an execution.
    pub(super) fn weight(&self) -> u64 {
        match self {
            Value::Text(text) => text.len() as u64,
            Value::Document(json, _) => weight(json),
            Value::Root(data) => weight(data.document),
            Value::List(all) => all.iter().map(|one| one.weight().saturating_add(16)).sum(),
            _ => 16,
        }
    }

    /// Returns the JSON of the value.
    pub(super) fn json(&self) -> Json {
        match self {
            Value::Nothing | Value::Null(_) => Json::Null,
            Value::Bool(bool) => Json::Bool(*bool),
            Value::Int(number) => i64::try_from(*number)
                .map(Json::from)
                .or_else(|_| u64::try_from(*number).map(Json::from))
                .unwrap_or(Json::Null),
            Value::Float(number) => Json::from(*number),
            Value::Text(text) => Json::from(&**text),
            Value::Document(json, _) => (*json).clone(),
            Value::Root(data) => data.document.clone(),
            Value::List(all) => all.iter().map(Value::json).collect(),
        }
    }

    /// Returns what an action prints for the value.
    pub(super) fn printed(&self) -> String {
        match self {
            Value::Nothing => "<no value>".to_owned(),
            _ => self.shown(),
        }
    }

    /// Returns what the verb `%v` prints for the value.
    pub(super) fn shown(&self) -> String {
        let mut out = String::new();
        self.show(&mut out);
        out
    }

    pub(super) fn show(&self, out: &mut String) {
        match self {
            Value::Nothing | Value::Null(Shape::Object) => out.push_str("<nil>"),
            Value::Null(Shape::List) => out.push_str("[]"),
            Value::Null(_) => out.push_str("map[]"),
            Value::Bool(bool) => out.push_str(if *bool { "true" } else { "false" }),
            Value::Int(number) => {
                let _ = write!(out, "{number}");
            }
            Value::Float(number) => out.push_str(&float(*number)),
            Value::Text(text) => out.push_str(text),
            Value::Document(json, shape) => show_json(out, "", json, Some(*shape)),
            Value::Root(data) => show_json(out, "", data.document, Some(Shape::Object)),
            Value::List(all) => {
                out.push('[');
                for (nth, one) in all.iter().enumerate() {
                    if nth > 0 {
                        out.push(' ');
                    }
                    one.show(out);
                }
                out.push(']');
            }
        }
    }

    /// Compares two values of one basic type; `None` for values that cannot be compared.
    pub(super) fn order(&self, other: &Value<'_>) -> Option<Ordering> {
        match (self, other) {
            (Value::Int(one), Value::Int(other)) => Some(one.cmp(other)),
            (Value::Float(one), Value::Float(other)) => one.partial_cmp(other),
            (Value::Text(one), Value::Text(other)) => Some(one.cmp(other)),
            _ => None,
        }
    }
}

/// The elements of a list.
pub(super) enum Elements<'s, 'a> {
    Json(&'a [Json]),
    Values(&'s [Value<'a>]),
}

impl<'a> Elements<'_, 'a> {
    pub(super) fn len(&self) -> usize {
        match self {
            Elements::Json(all) => all.len(),
            Elements::Values(all) => all.len(),
        }
    }

    pub(super) fn get(&self, nth: usize) -> Option<Value<'a>> {
        match self {
            Elements::Json(all) => all.get(nth).map(|json| Value::element(Shape::List, json)),
            Elements::Values(all) => all.get(nth).cloned(),
        }
    }
}

fn number_of<'a>(number: &serde_json::Number) -> Value<'a> {
    match (number.as_i64(), number.as_u64()) {
        (Some(number), _) => Value::Int(number.into()),
        (None, Some(number)) => Value::Int(number.into()),
        (None, None) => Value::Float(number.as_f64().unwrap_or_default()),
    }
}

fn weight(json: &Json) -> u64 {
    match json {
        Json::String(text) => text.len() as u64 + 16,
        Json::Array(all) => all.iter().map(weight).sum::<u64>() + 16,
        Json::Object(map) => map.iter().map(|(key, one)| key.len() as u64 + weight(one)).sum::<u64>() + 16,
        _ => 16,
    }
}

/// Appends the text of a document. serde_json bounds its depth.
fn show_json(out: &mut String, name: &str, json: &Json, shape: Option<Shape>) {
    let shape = shape.unwrap_or_else(|| match Value::of(name, json) {
        Value::Document(_, shape) => shape,
        _ => Shape::Object,
    });
    match json {
        Json::Array(all) => {
            out.push('[');
            for (nth, one) in all.iter().enumerate() {
                if nth > 0 {
                    out.push(' ');
                }
                show_json(out, "", one, None);
            }
            out.push(']');
        }
        Json::Object(map) if map.is_empty() && shape == Shape::Object => out.push_str("{}"),
        Json::Object(map) => {
            let mut members: Vec<_> = map.iter().collect();
            members.sort_by_key(|(key, _)| *key);
            out.push_str("map[");
            for (nth, (key, one)) in members.into_iter().enumerate() {
                if nth > 0 {
                    out.push(' ');
                }
                out.push_str(key);
                out.push(':');
                match (one, shape) {
                    (Json::Null, Shape::Map) => out.push_str("[]"),
                    (_, Shape::Object) => show_json(out, key, one, None),
                    _ => show_json(out, "", one, None),
                }
            }
            out.push(']');
        }
        scalar => Value::of(name, scalar).show(out),
    }
}

/// Prints a number as Go's `%v` does: the shortest digits, with an exponent for very large and very small numbers.
pub(super) fn float(number: f64) -> String {
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let size = number.abs();
    if size != 0.0 && !(1e-4..1e21).contains(&size) {
        return with_exponent(&format!("{number:e}"), 'e');
    }
    format!("{number}")
}

/// Writes Rust's `1.5e-7` as Go's `1.5e-07`.
pub(super) fn with_exponent(text: &str, letter: char) -> String {
    let (digits, exponent) = text.split_once('e').unwrap_or((text, "0"));
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
    format!("{digits}{letter}{sign}{exponent:0>2}")
}
