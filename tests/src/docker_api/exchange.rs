//! Golden exchanges: what docker's clients send and a dockerd answers, captured, with placeholders for what differs from
//! run to run.
//!
//! A file of `tests/exchanges` has a step on each line. N is a connection, which opens with its first request.
//!
//! | line | meaning |
//! |---|---|
//! | `N> METHOD TARGET HTTP/1.1`, `N> Name: value` | a request, and its headers |
//! | `N>> TEXT` | the body of that request |
//! | `N< STATUS`, `N< Name: value` | the status, and headers that the answer must have |
//! | `N<< TEXT` | the body, or the next chunk of it, which must be exactly this |
//! | `N<<* TEXT` | any number of chunks like this |
//! | `N<.` | the last chunk |
//! | `N= TEXT` | the next bytes of a connection that was taken over |
//! | `N~`, `N.` | the client ends its direction; the server has closed the connection |
//!
//! In a text, `<name=KIND>` stands for a value of a kind, which `<name>` repeats from then on; `<KIND>` stands for any
//! value. Kinds: `HEX12`, `HEX64`, `NUMBER`, `TEXT` (a JSON string without quotes), `FIELDS` (of an object that may be
//! empty), `PROGRESS` (docker's bar, or nothing). `\r`, `\n` and `\xNN` are bytes.

use super::http::{Connection, Head};
use std::collections::{HashMap, VecDeque};
use std::fs;
use std::path::Path;

/// Replays the exchange of the file `name` with the server at `socket`; `values` are the first placeholders.
///
/// Panics at the first answer that differs.
pub fn replay(name: &str, socket: &Path, values: &[(&str, &str)]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("exchanges").join(name);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let values = values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let mut replay = Replay { socket, values, connections: HashMap::new() };
    for (nth, line) in text.lines().enumerate().filter(|(_, line)| !line.starts_with('#')) {
        if let Err(difference) = replay.step(line) {
            panic!("{name}, line {}: {line}\n{difference}", nth + 1);
        }
    }
    replay.connections.values_mut().for_each(|client| client.send());
}

struct Replay<'a> {
    socket: &'a Path,
    values: HashMap<String, String>,
    connections: HashMap<String, Client>,
}

/// A connection, with the request that is being put together and the answer that is being compared.
struct Client {
    connection: Connection,
    request: Option<Request>,
    head: Option<Head>,
    method: String,
    /// Chunks that were received for `N<<*` and did not match.
    pending: VecDeque<Option<Vec<u8>>>,
}

#[derive(Default)]
struct Request {
    first: String,
    headers: Vec<(String, String)>,
    body: String,
}

impl Replay<'_> {
    fn step(&mut self, line: &str) -> Result<(), String> {
        let at = line.find(|c: char| !c.is_ascii_digit()).ok_or("a step has a sign")?;
        let (number, rest) = line.split_at(at);
        let (sign, text) = rest.split_once(' ').unwrap_or((rest, ""));
        let socket = self.socket;
        let client = self.connections.entry(number.to_owned()).or_insert_with(|| Client::open(socket));
        match sign {
            ">" | ">>" => {
                let text = fill(text, &self.values);
                client.prepare(sign == ">>", &text);
                Ok(())
            }
            "<" => client.expect_head(text),
            "<<" => {
                let body = client.body()?.ok_or("the body has ended")?;
                matches(text, &body, &mut self.values)
            }
            "<<*" => client.skip(text, &mut self.values),
            "<." => match client.body()? {
                None => Ok(()),
                Some(chunk) => Err(format!("one more chunk: {}", String::from_utf8_lossy(&chunk))),
            },
            "=" => {
                let wanted = unescape(&fill(text, &self.values));
                let bytes = client.connection.exactly(wanted.len()).map_err(|error| error.to_string())?;
                is_equal(&wanted, &bytes)
            }
            "~" => {
                client.send();
                client.connection.half_close();
                Ok(())
            }
            "." => is_equal(b"", &client.connection.rest()),
            other => Err(format!("no sign: '{other}'")),
        }
    }
}

impl Client {
    fn open(socket: &Path) -> Self {
        let connection = Connection::open(socket);
        Client { connection, request: None, head: None, method: String::new(), pending: VecDeque::new() }
    }

    /// Adds a line to the request.
    fn prepare(&mut self, is_body: bool, text: &str) {
        let request = self.request.get_or_insert_default();
        match text.split_once(": ") {
            _ if is_body => request.body = text.to_owned(),
            _ if request.first.is_empty() => request.first = text.to_owned(),
            Some((name, value)) => request.headers.push((name.to_owned(), value.to_owned())),
            None => panic!("no header: '{text}'"),
        }
    }

    /// Sends the request, if one was put together.
    fn send(&mut self) {
        let Some(Request { first, mut headers, body }) = self.request.take() else { return };
        self.method = first.split(' ').next().unwrap_or_default().to_owned();
        let names: Vec<String> = headers.iter().map(|(name, _)| name.to_lowercase()).collect();
        if !names.contains(&"host".to_owned()) {
            headers.push(("Host".to_owned(), "api.moby.localhost".to_owned()));
        }
        if !body.is_empty() {
            headers.push(("Content-Length".to_owned(), body.len().to_string()));
        }
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        self.connection.write(format!("{first}\r\n{headers}\r\n{body}"));
        self.head = None;
    }

    fn expect_head(&mut self, text: &str) -> Result<(), String> {
        self.send();
        let Some((name, wanted)) = text.split_once(": ") else {
            let head = self.connection.try_head().ok_or("the server has closed the connection")?;
            // Every answer says which API answers.
            let is_api = head.status == 101 || head.header("api-version") == Some("1.50");
            let is_right = is_api && head.status.to_string() == text;
            let head = self.head.insert(head);
            return if is_right { Ok(()) } else { Err(format!("{head:?}")) };
        };
        let head = self.head.as_ref().ok_or("a header before the status")?;
        match head.header(name) {
            Some(value) if value == wanted => Ok(()),
            _ => Err(format!("{head:?}")),
        }
    }

    /// The whole body, or its next chunk; `None` after the last chunk.
    fn body(&mut self) -> Result<Option<Vec<u8>>, String> {
        if let Some(chunk) = self.pending.pop_front() {
            return Ok(chunk);
        }
        let head = self.head.as_ref().ok_or("a body before the status")?;
        if head.is_chunked() {
            return self.connection.chunk().map_err(|error| format!("the stream breaks off: {error}"));
        }
        let length = head.header("content-length").and_then(|text| text.parse().ok());
        let length = length.ok_or_else(|| format!("neither chunks nor a length: {head:?}"))?;
        self.connection.exactly(length).map(Some).map_err(|error| error.to_string())
    }

    /// Passes over all chunks that match.
    fn skip(&mut self, text: &str, values: &mut HashMap<String, String>) -> Result<(), String> {
        loop {
            let chunk = self.body()?;
            if chunk.as_ref().is_none_or(|chunk| matches(text, chunk, values).is_err()) {
                self.pending.push_front(chunk);
                return Ok(());
            }
        }
    }
}

/// Replaces the placeholders that have a value.
fn fill(text: &str, values: &HashMap<String, String>) -> String {
    values.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("<{name}>"), value))
}

/// The bytes that `\r`, `\n` and `\xNN` stand for.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        let escape = &rest[at..];
        let hex = || u8::from_str_radix(escape.get(2..4)?, 16).ok();
        let (byte, len) = match escape.as_bytes().get(1) {
            Some(b'r') => (b'\r', 2),
            Some(b'n') => (b'\n', 2),
            Some(b'x') => (hex().expect("two hex digits"), 4),
            _ => (b'\\', 1),
        };
        bytes.push(byte);
        rest = &escape[len..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}

fn is_equal(wanted: &[u8], bytes: &[u8]) -> Result<(), String> {
    let shown = || format!("{:?}", String::from_utf8_lossy(bytes));
    if wanted == bytes { Ok(()) } else { Err(shown()) }
}

/// Compares `bytes` with the pattern, and keeps the values of new names.
fn matches(pattern: &str, bytes: &[u8], values: &mut HashMap<String, String>) -> Result<(), String> {
    let pattern = fill(pattern, values);
    let (mut regex, mut names) = (String::from("(?s)^"), Vec::new());
    let mut rest = pattern.as_str();
    while let Some((before, after)) = rest.split_once('<') {
        regex.push_str(&literal(before));
        let (inner, after) = after.split_once('>').ok_or("a placeholder has no end")?;
        let (name, kind) = inner.split_once('=').unwrap_or(("", inner));
        regex.push_str(&format!("({})", expression(kind)?));
        names.push(name.to_owned());
        rest = after;
    }
    regex.push_str(&literal(rest));
    regex.push('$');
    let regex = regex_lite::Regex::new(&regex).map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(bytes);
    let found = regex.captures(&text).ok_or_else(|| format!("{text:?}"))?;
    for (nth, name) in names.into_iter().enumerate().filter(|(_, name)| !name.is_empty()) {
        values.insert(name, found[nth + 1].to_owned());
    }
    Ok(())
}

/// The expression for this text alone.
fn literal(text: &str) -> String {
    let text = String::from_utf8_lossy(&unescape(text)).into_owned();
    let escape = |c: char| if c.is_ascii_punctuation() { format!("\\{c}") } else { c.to_string() };
    text.chars().map(escape).collect()
}

fn expression(kind: &str) -> Result<&'static str, String> {
    match kind {
        "HEX12" => Ok("[0-9a-f]{12}"),
        "HEX64" => Ok("[0-9a-f]{64}"),
        "NUMBER" => Ok("[0-9]+"),
        "TEXT" => Ok(r#"(?:[^"\\]|\\.)*"#),
        "FIELDS" => Ok(r#"(?:"current":[0-9]+,"total":[0-9]+)?"#),
        "PROGRESS" => Ok(r#"(?:"progress":"[^"]*",)?"#),
        other => Err(format!("no kind of value, and not known yet: '{other}'")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_whole_bodies_and_keeps_its_values() {
        let mut values = HashMap::from([("n".to_owned(), "5".to_owned())]);
        let pattern = r#"{"id":"<id=HEX12>","n":<n>,"t":"<TEXT>"}\r\n"#;
        let body = b"{\"id\":\"0123456789ab\",\"n\":5,\"t\":\"a \\\"b\\\"\"}\r\n";
        assert_eq!(matches(pattern, body, &mut values), Ok(()));
        assert_eq!(values["id"], "0123456789ab");
        assert!(matches(pattern, &body[..body.len() - 1], &mut values).is_err());
        assert!(matches(r#"{"id":"<id>"}"#, br#"{"id":"0123456789ac"}"#, &mut values).is_err());
        assert!(matches("<other>", b"x", &mut values).is_err());
    }

    #[test]
    fn escapes_are_bytes() {
        assert_eq!(unescape(r"\x01\x00hi\n\r"), b"\x01\0hi\n\r");
    }
}
