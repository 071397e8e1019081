//! What the three commands `inspect` share: they print all objects that they find, then say which they did not find.

use crate::cli::engine::each;
use crate::cli::error::Failure;
use crate::cli::format::{self, ObjectFormat};
use crate::cli::json;
use crate::cli::output::print;
use serde_json::Value;

/// Prints the objects of `names` as `shape`, the value of `--format`, says.
pub(crate) fn show(
    names: &[String],
    shape: Option<&str>,
    mut document: impl FnMut(&String) -> Result<Value, Failure>,
) -> Result<(), Failure> {
    let shape = ObjectFormat::parse(shape)?;
    let mut documents = Vec::new();
    let outcome = each(names, |name| {
        documents.push(document(name)?);
        Ok(())
    });
    // Print the objects that were found even if some names were not found, as docker-inspect(1) does.
    match &shape {
        ObjectFormat::Own => print(&(json::pretty(&documents) + "\n"))?,
        ObjectFormat::Json => print(&(json::line(&documents) + "\n"))?,
        ObjectFormat::Template(_) => {
            for document in &documents {
                format::print(&shape.text(document)?.unwrap_or_default())?;
            }
        }
    }
    outcome
}
