//! `POST /images/create?fromSrc=`.

use super::job_stream::{JobStream, Messages};
use super::load;
use super::message;
use super::name::Name;
use super::upload::Upload;
use crate::call::{self, Call, Started};
use crate::exchange::Shared;
use crate::refusal::Refusal;
use sampan_client::engine::{Answer, Import, Request, Row};
use serde::Deserialize;
use std::time::Instant;

/// Starts the operation.
///
/// # Errors
/// The request is not valid, or asks for something that the engine's import does not have.
pub fn start(call: &Call<'_>, _: &mut Shared) -> call::Result {
    if call.query.get("fromSrc") != Some("-") {
        return Err(Refusal::missing("the import from a URL (fromSrc)"));
    }
    if call.query.get("message").is_some() {
        return Err(Refusal::missing("a commit message (message) of an import"));
    }
    let Some(repository) = call.query.get("repo") else {
        return Err(Refusal::missing("an import without a name for the image (repo)"));
    };
    let mut name = Name::parse(repository)?;
    if let Some(tag) = call.query.get("tag") {
        name.tag = Some(tag.to_owned());
    }
    let mut import =
        Import { reference: name.full(), layers: 1, platform: load::platform(call)?, ..Import::default() };
    for change in call.query.all("changes") {
        apply(&mut import, change)?;
    }
    let stream = JobStream::new(Request::Import(import), ImportMessages::default());
    Ok(Started::Operation(Box::new(stream.with_upload(Upload::new()?))))
}

/// Applies a line in the language of Dockerfiles.
fn apply(import: &mut Import, change: &str) -> Result<(), Refusal> {
    let (word, rest) = change.trim().split_once(char::is_whitespace).unwrap_or((change.trim(), ""));
    let rest = rest.trim();
    match word.to_ascii_uppercase().as_str() {
        "CMD" => {
            import.cmd = match serde_json::from_str(rest) {
                Ok(words) => words,
                Err(_) => ["/bin/sh", "-c", rest].map(str::to_owned).to_vec(),
            };
        }
        "ENV" => {
            import.env.extend(pairs(change, rest)?.into_iter().map(|(key, value)| format!("{key}={value}")))
        }
        "LABEL" => import.labels.extend(pairs(change, rest)?),
        other => {
            return Err(Refusal::bad(format!("change {other:?} of an import is not supported by sampan")));
        }
    }
    Ok(())
}

/// `KEY=VALUE …`, where words may be quoted, or `KEY VALUE`.
fn pairs(change: &str, text: &str) -> Result<Vec<(String, String)>, Refusal> {
    let invalid = || Refusal::bad(format!("change {change:?} is not valid: expected KEY=VALUE"));
    let words = words(text).ok_or_else(invalid)?;
    let is_old_form = words.first().is_some_and(|word| !word.contains('='));
    if is_old_form {
        let (key, value) = text.split_once(char::is_whitespace).ok_or_else(invalid)?;
        return Ok(vec![(key.to_owned(), value.trim().to_owned())]);
    }
    let split = |word: &String| {
        let (key, value) = word.split_once('=')?;
        (!key.is_empty()).then(|| (key.to_owned(), value.to_owned()))
    };
    let pairs: Option<Vec<_>> = words.iter().map(split).collect();
    pairs.filter(|pairs| !pairs.is_empty()).ok_or_else(invalid)
}

/// Splits at blanks. Quotes keep blanks, a backslash keeps the next character. `None` if a quote is open at the end.
fn words(text: &str) -> Option<Vec<String>> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\\', None | Some('"')) => word.get_or_insert_default().extend(chars.next()),
            (c, Some(open)) if c == open => quote = None,
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

/// The messages of an import: the number of bytes, and the ID of the image.
#[derive(Default)]
struct ImportMessages {
    row: Option<Row>,
    reference: Option<String>,
    id: Option<String>,
}

impl Messages for ImportMessages {
    fn on_answer(&mut self, answer: Answer, _: Instant) {
        match answer {
            Answer::Rows { mut rows, .. } => self.row = rows.pop().filter(|row| row.current > 0),
            Answer::Done(done) if !done.digest.is_empty() => self.reference = Some(done.digest),
            Answer::Json(json) => self.id = Some(image_id(&json)),
            _ => {}
        }
    }

    fn on_end(&mut self) -> Option<Request> {
        self.reference.take().map(|name| Request::Inspect { name })
    }

    fn next(&mut self, _: Instant) -> Option<String> {
        match self.row.take() {
            Some(row) => Some(message::numbers("Importing", "", row.current, row.total)),
            None => self.id.take().map(|id| message::plain(&id, "")),
        }
    }
}

/// The ID in the engine's description of an image.
pub(super) fn image_id(json: &str) -> String {
    #[derive(Deserialize, Default)]
    #[serde(default, rename_all = "PascalCase")]
    struct Described {
        id: String,
    }
    serde_json::from_str(json).unwrap_or_else(|_| Described::default()).id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_those_of_dockerfiles() {
        let mut import = Import::default();
        for change in [
            r#"CMD ["sh", "-c", "x"]"#,
            r#"ENV A=1 B="two words" C=a\ b"#,
            "env OLD the form  of old",
            "LABEL k='v w'",
        ] {
            apply(&mut import, change).expect(change);
        }
        assert_eq!(import.cmd, ["sh", "-c", "x"]);
        assert_eq!(import.env, ["A=1", "B=two words", "C=a b", "OLD=the form  of old"]);
        assert_eq!(import.labels, [("k".to_owned(), "v w".to_owned())]);
        apply(&mut import, "CMD echo $A").expect("the form for a shell");
        assert_eq!(import.cmd, ["/bin/sh", "-c", "echo $A"]);
        for change in ["ENTRYPOINT x", "ENV", "ENV =x", "LABEL a='b", "", "EXPOSE 80"] {
            assert_eq!(apply(&mut import, change).expect_err(change).status, 400, "{change:?}");
        }
    }
}
