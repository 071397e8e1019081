//! What a template is executed on.

use serde_json::{Map, Value as Json};

/// What a template is executed on: a JSON document, and the methods that it has.
#[derive(Clone, Copy, Debug)]
pub struct Data<'a> {
    pub(super) document: &'a Json,
    pub(super) kind: Kind<'a>,
    /// Fields that are empty text where the document leaves them out.
    pub(super) optional: &'static [&'static str],
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Kind<'a> {
    /// An object of the API.
    Object,
    /// A row of a list, whose method `.Label "KEY"` finds the value of a label.
    Row(&'a Map<String, Json>),
    /// The headers of a list's columns. Functions do not change them.
    Headers,
}

impl<'a> Data<'a> {
    /// Makes the data of an object without methods.
    pub fn object(document: &'a Json) -> Self {
        Data { document, kind: Kind::Object, optional: &[] }
    }

    /// Makes the data of a row with the method `.Label "KEY"`.
    pub fn row(document: &'a Json, labels: &'a Map<String, Json>) -> Self {
        Data { document, kind: Kind::Row(labels), optional: &[] }
    }

    /// Makes the data for the first line of a table: the header of each column by the name of its field.
    pub fn headers(document: &'a Json) -> Self {
        Data { document, kind: Kind::Headers, optional: &[] }
    }

    /// Makes these fields empty text where the document leaves them out, as Go does with its structs.
    #[must_use]
    pub fn with_optional(self, optional: &'static [&'static str]) -> Self {
        Data { optional, ..self }
    }
}
