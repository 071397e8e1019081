//! The errors of a template, and their places.

use thiserror::Error;

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

/// Returns line and column of the byte `at`, both from 1 on.
pub(super) fn position(source: &str, at: usize) -> (usize, usize) {
    let before = source.get(..at).unwrap_or(source);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}
