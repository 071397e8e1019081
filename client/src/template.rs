//! Go's templates (text/template), as the option `--format` takes them.
//!
//! Used by the command line only. [`Template::parse`] turns text into a template, and [`Template::execute`] applies the
//! template to one JSON document. A template does no I/O and changes nothing.
//!
//! The crate gtmpl was weighed and left out: it has a value type of its own, so that each document is copied, it knows
//! neither methods nor docker's functions, and neither its parser nor its execution has a bound.
//!
//! The documents are JSON, which knows no types. The module `shape` therefore says which members of docker's objects are maps:
//! an absent key of a map prints `<no value>`, and an absent field of any other object is an error, as in Go. A field is
//! found in any case, `.ID` for the member `Id`, since docker's programs name a field otherwise than its JSON.
//!
//! Bounds: the length of a template, the nesting of its parts, and the work of one execution, which counts all nodes
//! that run and all bytes that they read or write. So no template and no document makes an execution hang, exhaust
//! memory or overflow the stack.
//!
//! Modules: `lexer` makes tokens, `parser` makes a tree (`syntax`), `execution` walks the tree, `value` has the values,
//! and `functions` and `verbs` (`printf`) compute.

mod execution;
mod functions;
mod lexer;
mod parser;
mod shape;
mod syntax;
mod value;
mod verbs;

#[cfg(test)]
mod tests;

use serde_json::{Map, Value as Json};
use std::collections::BTreeMap;
use syntax::Node;
use thiserror::Error;

/// Longest template, in bytes.
pub const LENGTH_MAX: usize = 64 << 10;

/// A template that was parsed.
#[derive(Debug)]
pub struct Template {
    source: String,
    root: Vec<Node>,
    /// The templates that `define` and `block` name.
    named: BTreeMap<String, Vec<Node>>,
}

/// What a template is executed on: a JSON document, and the methods that it has.
#[derive(Clone, Copy, Debug)]
pub struct Data<'a> {
    document: &'a Json,
    kind: Kind<'a>,
    /// Fields that are empty text where the document leaves them out.
    optional: &'static [&'static str],
}

#[derive(Clone, Copy, Debug)]
enum Kind<'a> {
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

/// The text of a template is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("cannot parse the template: line {line}, column {column}: {problem}")]
pub struct ParseError {
    /// The line, from 1 on.
    pub line: usize,
    /// The character in the line, from 1 on.
    pub column: usize,
    /// What is wrong.
    pub problem: String,
}

/// A template cannot be applied to an object.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("cannot execute the template: line {line}, column {column}, at <{part}>: {problem}")]
pub struct ExecuteError {
    /// The line, from 1 on.
    pub line: usize,
    /// The character in the line, from 1 on.
    pub column: usize,
    /// The part of the template that failed.
    pub part: String,
    /// Why the part failed.
    pub problem: String,
}

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    /// [`ParseError`] names the place and the problem.
    pub fn parse(source: &str) -> Result<Self, ParseError> {
        parser::parse(source)
    }

    /// Applies the template to `data`, and returns the output.
    ///
    /// # Errors
    /// [`ExecuteError`] names the place and the problem.
    pub fn execute(&self, data: &Data<'_>) -> Result<String, ExecuteError> {
        execution::execute(self, data)
    }
}

/// Returns line and column of the byte `at`, both from 1 on.
fn position(source: &str, at: usize) -> (usize, usize) {
    let before = source.get(..at).unwrap_or(source);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}
