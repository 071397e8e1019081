//! The templates of `--format`, and the documents that they are applied to.
//!
//! An input is a template, then a NUL and a JSON document. Without a document that can be parsed, the template is applied
//! to a container.

use crate::random::Random;
use sampan_client::template::{Data, Template};
use serde_json::{Value, json};

/// Words of a template.
pub(super) const WORDS: &[&str] = &[
    "{{",
    "}}",
    "{{- ",
    " -}}",
    "{{if ",
    "{{else}}",
    "{{else if ",
    "{{range $i, $e := .Mounts}}",
    "{{range 9}}",
    "{{with ",
    "{{end}}",
    "{{break}}",
    "{{define \"a\"}}",
    "{{template \"a\" .}}",
    "{{/* */}}",
    "$x := ",
    "$x = ",
    "index ",
    "slice ",
    "printf \"%5.3f %-9q %x %*d\" ",
    "json ",
    "join ",
    "split ",
    "truncate ",
    "pad ",
    "eq ",
    "and ",
    "html ",
    "print $x $x",
    ".State.Status",
    ".Config.Labels",
    ".Label \"a\"",
    "nil",
    "(",
    ")",
    "|",
    "0x7fffffffffffffff",
    "-1",
    "1e308",
    "'a'",
    "`a`",
    "\\u00e4",
    "\0",
];

/// Most bytes of output: the bound on the work of one execution.
const OUTPUT_MAX: usize = 16 << 20;

/// A template that is parsed is executed or refused, in bounded time and with a bounded output, and each time alike.
pub(super) fn template(input: &[u8], _: &mut Random) -> bool {
    let text = String::from_utf8_lossy(input);
    let (source, document) = text.split_once('\0').unwrap_or((&text, ""));
    let document = serde_json::from_str(document).unwrap_or_else(|_| container());
    let template = match Template::parse(source) {
        Ok(template) => template,
        Err(error) => {
            assert!(error.line >= 1 && error.column >= 1 && !error.problem.is_empty(), "{error:?}");
            return false;
        }
    };
    let labels = json!({"a": "1", "com.x-y": "z"});
    let labels = labels.as_object().expect("an object");
    for data in [Data::object(&document), Data::row(&document, labels), Data::headers(&document)] {
        match template.execute(&data) {
            Ok(output) => assert!(output.len() <= OUTPUT_MAX, "{}", output.len()),
            Err(error) => assert!(error.line >= 1 && !error.problem.is_empty(), "{error:?}"),
        }
    }
    true
}

fn container() -> Value {
    json!({
        "Id": "0123456789abcdef", "Name": "/web", "Number": 3, "Ratio": 2.5,
        "State": {"Status": "running", "Pid": 4711, "Health": null},
        "Config": {"Labels": {"b": "2", "a": "1"}, "Env": ["A=1", "B=2"], "Entrypoint": null},
        "Mounts": [{"Source": "/src", "RW": true}, {"Source": "/b", "RW": false}],
    })
}
