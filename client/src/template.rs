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

mod data;
mod errors;
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

pub use data::Data;
pub use errors::{ExecuteError, ParseError};
pub use parser::LENGTH_MAX;
use syntax::Tree;

/// A template that was parsed.
#[derive(Debug)]
pub struct Template(Tree);

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    /// [`ParseError`] names the place and the problem.
    pub fn parse(source: &str) -> Result<Self, ParseError> {
        parser::parse(source).map(Template)
    }

    /// Applies the template to `data`, and returns the output.
    ///
    /// # Errors
    /// [`ExecuteError`] names the place and the problem.
    pub fn execute(&self, data: &Data<'_>) -> Result<String, ExecuteError> {
        execution::execute(&self.0, data)
    }
}
