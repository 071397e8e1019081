//! The tree of a template.

use std::collections::BTreeMap;

/// A template.
#[derive(Debug)]
pub(super) struct Tree {
    pub source: String,
    pub root: Vec<Node>,
    /// The templates that `define` and `block` name.
    pub named: BTreeMap<String, Vec<Node>>,
}

/// A range of bytes of the source, for messages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub at: usize,
    pub end: usize,
}

#[derive(Debug)]
pub(super) enum Node {
    Text(String),
    Action(Pipeline),
    If(Branch),
    With(Branch),
    Range(Branch),
    Break,
    Continue,
    /// `{{template "NAME" PIPELINE}}`
    Template {
        name: String,
        pipeline: Option<Pipeline>,
        place: Place,
    },
}

#[derive(Debug)]
pub(super) struct Branch {
    pub pipeline: Pipeline,
    pub list: Vec<Node>,
    /// The nodes behind `else`.
    pub otherwise: Vec<Node>,
}

#[derive(Debug)]
pub(super) struct Pipeline {
    pub place: Place,
    /// Variables that the pipeline sets, with their dollars: at most one, and at most two for `range`.
    pub variables: Vec<String>,
    /// Whether the variables exist already: `=`, and not `:=`.
    pub assigns: bool,
    pub commands: Vec<Command>,
}

/// An operand, and the arguments behind it.
#[derive(Debug)]
pub(super) struct Command {
    pub first: Operand,
    pub arguments: Vec<Operand>,
}

#[derive(Debug)]
pub(super) struct Operand {
    pub place: Place,
    pub term: Term,
    /// The fields behind the term, `.A.B`.
    pub fields: Vec<String>,
}

#[derive(Debug)]
pub(super) enum Term {
    Dot,
    Nil,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
    Variable(String),
    Function(String),
    Pipeline(Box<Pipeline>),
}
