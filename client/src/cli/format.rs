//! The option `--format`: a table, JSON, or a template of Go.
//!
//! Commands of lists give their rows to [`ListFormat::text`], and commands of one object use [`ObjectFormat`]. docs/format.md
//! describes the option.

use crate::cli::error::{BAD_TEMPLATE, Failure, USAGE};
use crate::cli::json;
use crate::cli::output;
use crate::cli::table::Table;
use sampan_client::template::{Data, ExecuteError, ParseError, Template};
use sampan_ipc::event::is_hidden;
use serde::Serialize;
use serde_json::{Map, Value};
use std::io::IsTerminal as _;

/// How a list is printed.
#[derive(Debug)]
pub(crate) enum ListFormat {
    /// The command's own table.
    Table,
    /// One JSON object per line.
    Json,
    /// A table with the columns of a template.
    Columns(Template),
    /// The text of a template for each row.
    Rows(Template),
}

/// How an object is printed.
#[derive(Debug)]
pub(crate) enum ObjectFormat {
    /// The command's own form.
    Own,
    Json,
    Template(Template),
}

/// A row of a list: an object with the columns, and the labels of what the row is about.
#[derive(Debug)]
pub(crate) struct ListRow {
    columns: Value,
    labels: Map<String, Value>,
}

impl ListRow {
    pub(crate) fn new(columns: &impl Serialize) -> Self {
        // The columns of all lists are structs of texts and numbers, which JSON can hold.
        ListRow { columns: serde_json::to_value(columns).unwrap_or_default(), labels: Map::new() }
    }

    pub(crate) fn with_labels<'a>(
        mut self,
        labels: impl IntoIterator<Item = (&'a String, &'a String)>,
    ) -> Self {
        let labels = labels.into_iter();
        self.labels = labels.map(|(key, value)| (key.clone(), Value::from(value.as_str()))).collect();
        self
    }
}

impl ListFormat {
    /// Parses the value of `--format`.
    pub(crate) fn parse(text: Option<&str>) -> Result<Self, Failure> {
        let text = text.unwrap_or_default().trim_matches(' ');
        // docker's lists take these two for a tab and a line feed, since a shell passes them on as they are.
        let unescaped = |text: &str| text.trim_matches(' ').replace("\\t", "\t").replace("\\n", "\n");
        match text.strip_prefix("table") {
            Some("") => Ok(ListFormat::Table),
            Some(columns) if columns.starts_with([' ', '\t', '{']) || columns.starts_with("\\t") => {
                Ok(ListFormat::Columns(template(&unescaped(columns.trim_start_matches([' ', '\t'])))?))
            }
            _ if text.is_empty() => Ok(ListFormat::Table),
            _ if text == "json" => Ok(ListFormat::Json),
            _ => Ok(ListFormat::Rows(template(&unescaped(text))?)),
        }
    }

    /// Whether the format shows the column `name`, so that its value must be found.
    pub(crate) fn shows(text: Option<&str>, name: &str) -> bool {
        text.is_some_and(|text| text.contains(&format!(".{name}")))
    }

    /// Returns the text of all rows, or `None` for the command's own table. `headers` are the names of the columns, and
    /// their headers in a table.
    pub(crate) fn text(&self, rows: &[ListRow], headers: &[(&str, &str)]) -> Result<Option<String>, Failure> {
        let mut text = String::new();
        match self {
            ListFormat::Table => return Ok(None),
            ListFormat::Json => {
                for row in rows {
                    text.push_str(&json::line(&row.columns));
                    text.push('\n');
                }
            }
            ListFormat::Rows(template) => {
                for row in rows {
                    text.push_str(&execute(template, &Data::row(&row.columns, &row.labels))?);
                    text.push('\n');
                }
            }
            ListFormat::Columns(template) => {
                let names = headers.iter().map(|(name, header)| ((*name).to_owned(), Value::from(*header)));
                let names = Value::Object(names.collect());
                let header = execute(template, &Data::headers(&names))?;
                let mut table = Table::new(&header.split('\t').collect::<Vec<_>>());
                for row in rows {
                    let line = execute(template, &Data::row(&row.columns, &row.labels))?;
                    table.row(line.split('\t').map(str::to_owned).collect());
                }
                text = table.text();
            }
        }
        Ok(Some(text))
    }
}

impl ObjectFormat {
    /// Parses the value of `--format`.
    pub(crate) fn parse(text: Option<&str>) -> Result<Self, Failure> {
        match text {
            None | Some("") => Ok(ObjectFormat::Own),
            Some("json") => Ok(ObjectFormat::Json),
            Some(text) => Ok(ObjectFormat::Template(template(text)?)),
        }
    }

    /// Returns the text of an object, or `None` for the command's own form.
    pub(crate) fn text(&self, object: &Value) -> Result<Option<String>, Failure> {
        match self {
            ObjectFormat::Own => Ok(None),
            ObjectFormat::Json => Ok(Some(json::line(object) + "\n")),
            ObjectFormat::Template(template) => Ok(Some(execute(template, &Data::object(object))? + "\n")),
        }
    }
}

/// Parses a template. A word without an action is a mistake: it would print itself for each row.
pub(crate) fn template(text: &str) -> Result<Template, Failure> {
    if !text.contains("{{") {
        return Err(Failure::new(format!("there is no format {text:?}"))
            .hint("write json, or a template of Go, such as '{{.ID}}'; lists also have table")
            .status(USAGE));
    }
    Template::parse(text)
        .map_err(|error: ParseError| Failure::new(format!("--format {text:?}: {error}")).status(BAD_TEMPLATE))
}

/// Applies a template.
pub(crate) fn execute(template: &Template, data: &Data<'_>) -> Result<String, Failure> {
    template.execute(data).map_err(|error: ExecuteError| Failure::new(error.to_string()))
}

/// Prints the text of a template. A terminal gets no character that would control it; a file or a program gets each
/// byte.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    output::print(&for_output(text))
}

/// Escapes the characters that control a terminal, if the output is one.
pub(crate) fn for_output(text: &str) -> String {
    if !std::io::stdout().is_terminal() {
        return text.to_owned();
    }
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => shown.push(c),
            c if is_hidden(c) => shown.extend(c.escape_default()),
            c => shown.push(c),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const HEADERS: [(&str, &str); 2] = [("ID", "CONTAINER ID"), ("Names", "NAMES")];

    fn text(format: &str) -> String {
        let (key, value) = ("tier".to_owned(), "front".to_owned());
        let row = |id: &str, name: &str| {
            ListRow::new(&json!({"ID": id, "Names": name})).with_labels([(&key, &value)])
        };
        let format = ListFormat::parse(Some(format)).expect("a format");
        format.text(&[row("1", "web"), row("22", "db")], &HEADERS).expect("text").expect("no own table")
    }

    #[test]
    fn a_list_is_json_lines_rows_or_a_table() {
        assert_eq!(text("json"), "{\"ID\":\"1\",\"Names\":\"web\"}\n{\"ID\":\"22\",\"Names\":\"db\"}\n");
        assert_eq!(text(r"{{.ID}}\t{{.Names}}"), "1\tweb\n22\tdb\n");
        assert_eq!(text(r"{{.ID}}\n{{.Label `tier`}}"), "1\nfront\n22\nfront\n");
        let table = "CONTAINER ID  NAMES  tier\n1             WEB    front\n22            DB     front\n";
        assert_eq!(text(r#"table {{.ID}}\t{{upper .Names}}\t{{.Label "tier"}}"#), table);
        assert!(matches!(ListFormat::parse(None), Ok(ListFormat::Table)));
        assert!(matches!(ListFormat::parse(Some("table")), Ok(ListFormat::Table)));
    }

    #[test]
    fn a_mistake_has_the_status_that_docker_gives_it() {
        let status = |text: &str| ListFormat::parse(Some(text)).expect_err("a mistake").status;
        assert_eq!(status("{{.ID"), BAD_TEMPLATE);
        assert_eq!((status("yaml"), status("tables")), (USAGE, USAGE));
        let format = ListFormat::parse(Some("{{.Foo}}")).expect("a template");
        let failure = format.text(&[ListRow::new(&json!({"ID": "1"}))], &HEADERS).expect_err("no such field");
        assert!(
            failure.message.contains("can't evaluate field Foo; the fields are ID"),
            "{}",
            failure.message
        );
    }
}
