//! The wire of Dragonfly 1: names, codes, envelopes. docs/peers.md, "Wire 1".
//!
//! Pure: parses bodies and queries, and makes the bodies of answers. Gives no request a meaning.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::HashMap;

/// Codes of answers.
pub mod code {
    /// The request has succeeded.
    pub const SUCCESS: u16 = 200;
    /// A parameter is missing or wrong.
    pub const PARAM_ERROR: u16 = 501;
    /// The client or the task is not known.
    pub const TARGET_NOT_FOUND: u16 = 502;
    /// The client has all pieces.
    pub const FINISH: u16 = 600;
    /// The client gets pieces, or fetches as many as it may.
    pub const CONTINUE: u16 = 601;
    /// The client asks again later.
    pub const WAIT: u16 = 602;
    /// The file could not be stored.
    pub const CDN_FAIL: u16 = 604;
    /// The task ID belongs to another file.
    pub const TASK_CONFLICT: u16 = 606;
    /// The origin has no such file.
    pub const URL_NOT_REACHABLE: u16 = 607;
    /// The origin wants credentials.
    pub const NEED_AUTH: u16 = 608;
    /// The origin has not answered yet; the client registers again.
    pub const WAIT_AUTH: u16 = 609;
    /// The origin has failed.
    pub const SOURCE_ERROR: u16 = 610;
    /// The piece is recorded.
    pub const PEER_PIECE_SUCCESS: u16 = 611;
    /// The end of the upload server is recorded.
    pub const PEER_DOWN: u16 = 612;
}

/// What a client says about a piece. `result` of `/peer/task`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PieceResult {
    /// The piece could not be fetched.
    Failed,
    /// The client has the piece, in memory or on its disk.
    Received,
    /// No piece is reported.
    None,
}

impl PieceResult {
    /// Parses the number; anything that is no result reports no piece.
    pub fn parse(text: &str) -> Self {
        match text {
            "500" => PieceResult::Failed,
            "501" | "503" => PieceResult::Received,
            _ => PieceResult::None,
        }
    }
}

/// Longest text of a field, in bytes.
pub const TEXT_MAX: usize = 8 << 10;
/// Longest client ID, host name, path and version, in bytes.
pub const NAME_MAX: usize = 512;
/// Most headers of a registration.
pub const HEADERS_MAX: usize = 64;

/// The body of `POST /peer/registry`. Keys are accepted in any case; keys that are not named here are ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Registration {
    /// The URL to fetch.
    #[serde(rename = "rawurl")]
    pub raw_url: String,
    /// The URL without the parameters that do not distinguish files.
    #[serde(rename = "taskurl")]
    pub task_url: String,
    /// The ID that the client has given itself.
    pub cid: String,
    /// The address of the client's upload server.
    pub ip: String,
    /// The port of the client's upload server; 0 if it has none.
    #[serde(deserialize_with = "number")]
    pub port: u64,
    /// The path of the file at the client's upload server.
    pub path: String,
    /// The name of the client's host.
    #[serde(rename = "hostname")]
    pub host_name: String,
    /// The version of the client.
    pub version: String,
    /// The address by which the client knows this supernode.
    #[serde(rename = "supernodeip")]
    pub supernode_ip: String,
    /// The MD5 that the file must have.
    pub md5: String,
    /// What distinguishes files of one URL.
    pub identifier: String,
    /// The program for which the client downloads.
    #[serde(rename = "callsystem")]
    pub call_system: String,
    /// Headers for the origin, each `NAME:VALUE`.
    #[serde(deserialize_with = "texts")]
    pub headers: Vec<String>,
    /// Whether `dfdaemon` started the client.
    #[serde(deserialize_with = "boolean")]
    pub dfdaemon: bool,
}

impl Registration {
    /// What distinguishes files of one URL: the MD5, or else the identifier.
    pub fn sign(&self) -> &str {
        if self.md5.is_empty() { &self.identifier } else { &self.md5 }
    }

    /// What is wrong with the registration; `None` if nothing is.
    pub fn problem(&self) -> Option<String> {
        let is_url = |url: &str| {
            let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
            rest.is_some_and(|rest| !rest.is_empty())
                && url.len() <= TEXT_MAX
                && !url.contains(|c: char| c.is_control())
        };
        let short =
            [&self.cid, &self.path, &self.host_name, &self.version, &self.supernode_ip, &self.call_system];
        if !is_url(&self.raw_url) {
            return Some(format!("rawUrl is {:?}, expected an HTTP URL", head(&self.raw_url)));
        }
        if !self.task_url.is_empty() && !is_url(&self.task_url) {
            return Some(format!("taskUrl is {:?}, expected an HTTP URL", head(&self.task_url)));
        }
        if !self.task_url.is_empty() && !crate::url::is_filtered_from(&self.task_url, &self.raw_url) {
            return Some("taskUrl must be rawUrl, or rawUrl without some of its query parameters".to_owned());
        }
        if self.cid.is_empty() || self.path.is_empty() {
            return Some("cid and path must not be empty".to_owned());
        }
        if self.port != 0 && !(15_000..=65_000).contains(&self.port) {
            return Some(format!("port is {}, expected 0, or 15000 to 65000", self.port));
        }
        if self.ip.parse::<std::net::IpAddr>().is_err() {
            return Some(format!("ip is {:?}, expected an address", head(&self.ip)));
        }
        if short.iter().any(|text| text.len() > NAME_MAX || text.contains(|c: char| c.is_control())) {
            return Some(format!(
                "cid, path, hostName, version and callSystem have at most {NAME_MAX} bytes"
            ));
        }
        if self.headers.len() > HEADERS_MAX || self.headers.iter().any(|header| header.len() > TEXT_MAX) {
            return Some(format!("at most {HEADERS_MAX} headers of {TEXT_MAX} bytes are allowed"));
        }
        if self.md5.len() > NAME_MAX || self.identifier.len() > TEXT_MAX {
            return Some("md5 or identifier is too long".to_owned());
        }
        None
    }
}

fn head(text: &str) -> String {
    text.chars().take(100).collect()
}

/// Parses a JSON object into `T`, with keys in any case, or a form if `content_type` says so.
///
/// # Errors
/// A text that says what is wrong with the body.
pub fn parse_body<T: for<'a> Deserialize<'a>>(body: &[u8], content_type: &str) -> Result<T, String> {
    // curl(1) sends the type of a form with each body, unless it is told another type.
    let is_form = content_type.trim().starts_with("application/x-www-form-urlencoded");
    let object = if is_form && !body.trim_ascii_start().starts_with(b"{") {
        let text = std::str::from_utf8(body).map_err(|error| error.to_string())?;
        parse_query(text)
            .into_iter()
            .map(|(key, value)| (key.to_ascii_lowercase(), Value::String(value)))
            .collect()
    } else {
        let object: Map<String, Value> = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        // Dragonfly's programs write a missing value as null.
        let known = object.into_iter().filter(|(_, value)| !value.is_null());
        known.map(|(key, value)| (key.to_ascii_lowercase(), value)).collect::<Map<_, _>>()
    };
    serde_json::from_value(Value::Object(object)).map_err(|error| error.to_string())
}

/// A number, in JSON or in text; absent text is 0.
fn number<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Number(number) => number.as_u64().ok_or_else(|| serde::de::Error::custom("expected a number")),
        Value::String(text) if text.is_empty() => Ok(0),
        Value::String(text) => text.parse().map_err(serde::de::Error::custom),
        _ => Err(serde::de::Error::custom("expected a number")),
    }
}

/// A truth value, in JSON or in text.
fn boolean<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Bool(is) => Ok(is),
        Value::String(text) => Ok(text == "true"),
        _ => Err(serde::de::Error::custom("expected true or false")),
    }
}

/// A list of texts, or one text.
fn texts<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::String(text) if text.is_empty() => Ok(Vec::new()),
        Value::String(text) => Ok(vec![text]),
        other => serde_json::from_value(other).map_err(serde::de::Error::custom),
    }
}

/// Parses the query of a URL. Values may be escaped or not; a key that is given twice has its first value.
pub fn parse_query(query: &str) -> HashMap<String, String> {
    let mut values = HashMap::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        values.entry(unescape(key)).or_insert_with(|| unescape(value));
    }
    values
}

/// Decodes `%XX` and `+`. Other text stays as it is: `dfget` does not escape values.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let digit = |at: usize| rest.clone().nth(at).and_then(|byte| (byte as char).to_digit(16));
        match (byte, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push(u8::try_from(high * 16 + low).unwrap_or(b'?'));
                rest.nth(1);
            }
            (b'+', ..) => bytes.push(b' '),
            _ => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The answer to a registration.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RegistrationData {
    /// The ID of the task.
    pub task_id: String,
    /// The length of the file in bytes; −1 if it is unknown.
    pub file_length: i64,
    /// The size of a wrapped piece in bytes.
    pub piece_size: u64,
    /// `supernode` or `source`.
    pub cdn_source: &'static str,
    /// Always false.
    pub as_seed: bool,
    /// Always empty.
    #[serde(rename = "seedTaskID")]
    pub seed_task_id: &'static str,
}

/// A piece that a client is to fetch.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PieceTask {
    /// The range in wrapped bytes.
    pub range: String,
    /// The number of the piece.
    pub piece_num: u32,
    /// The size of a wrapped piece in bytes.
    pub piece_size: u64,
    /// `MD5:LENGTH` of the wrapped piece; empty if it is not known.
    pub piece_md5: String,
    /// The holder's client ID.
    pub cid: String,
    /// The holder's address.
    pub peer_ip: String,
    /// The holder's port.
    pub peer_port: u16,
    /// The path of the file at the holder.
    pub path: String,
    /// Always 0.
    pub down_link: u32,
}

/// The data of a finished download.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FinishedTask {
    /// The MD5 of the content; empty if each piece has been verified.
    pub md5: String,
    /// The length of the file in wrapped bytes.
    pub file_length: u64,
}

#[derive(Serialize)]
struct Envelope<'a, T> {
    code: u16,
    #[serde(skip_serializing_if = "str::is_empty")]
    msg: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<T>,
}

/// The body of an answer with `data`.
pub fn envelope<T: Serialize>(code: u16, msg: &str, data: Option<T>) -> Vec<u8> {
    serde_json::to_vec(&Envelope { code, msg, data }).unwrap_or_default()
}

/// The body of an answer without data.
pub fn message(code: u16, msg: &str) -> Vec<u8> {
    envelope::<()>(code, msg, None)
}

/// The body of an answer that is an error by its HTTP status.
pub fn error(status: u16, message: &str) -> Vec<u8> {
    serde_json::to_vec(&serde_json::json!({ "code": status, "message": message })).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_accepted_in_any_case_and_in_a_form() {
        let json = br#"{"superNodeIp":"10.0.0.1","rawUrl":"http://h/f?a=1","TASKURL":"http://h/f","cID":"c","IP":"10.0.0.2",
            "hostName":"h","port":15001,"path":"/peer/file/f","version":"1.0.6","headers":["A:b","Range:bytes=0-9"],"md5":null,
            "dfdaemon":false,"insecure":true,"unknown":{}}"#;
        let registration: Registration = parse_body(json, "application/json").expect("good");
        assert_eq!(registration.problem(), None);
        assert_eq!((registration.cid.as_str(), registration.port), ("c", 15001));
        assert_eq!(registration.headers, ["A:b", "Range:bytes=0-9"]);
        let form = b"rawURL=http%3A%2F%2Fh%2Ff%3Fa%3D1&taskUrl=http://h/f&cid=c&ip=10.0.0.2&port=15001&path=/p&headers=A:b";
        let form: Registration =
            parse_body(form, "application/x-www-form-urlencoded; charset=utf-8").expect("good");
        assert_eq!((form.raw_url.as_str(), form.port, form.headers.len()), ("http://h/f?a=1", 15001, 1));
        for bad in [&b"[]"[..], b"{\"port\":\"x\"}", b"{\"port\":-1}", b"{", b"\xff"] {
            assert!(parse_body::<Registration>(bad, "").is_err());
        }
    }

    #[test]
    fn a_bad_registration_is_refused_by_its_field() {
        let good = Registration {
            raw_url: "http://h/f".to_owned(),
            cid: "c".to_owned(),
            ip: "10.0.0.2".to_owned(),
            path: "/p".to_owned(),
            ..Registration::default()
        };
        assert_eq!(good.problem(), None);
        let with = |change: &dyn Fn(&mut Registration)| {
            let mut bad = good.clone();
            change(&mut bad);
            bad.problem().expect("refused")
        };
        assert!(with(&|r| r.raw_url = "file:///etc/passwd".to_owned()).contains("rawUrl"));
        assert!(with(&|r| r.task_url = "x".to_owned()).contains("taskUrl"));
        assert!(with(&|r| r.port = 80).contains("port is 80"));
        assert!(with(&|r| r.ip = "host".to_owned()).contains("ip is"));
        assert!(with(&|r| r.cid.clear()).contains("cid"));
        assert!(with(&|r| r.path = "p".repeat(600)).contains("512 bytes"));
        assert!(with(&|r| r.headers = vec![String::new(); 65]).contains("64 headers"));
    }

    #[test]
    fn queries_are_read_as_dragonfly_does() {
        let query = parse_query(
            "srcCid=127.0.0.2-1-1.5&dstCid=cdnnode:1~T&range=0-9&range=x&a%20b=c%2Fd+e&bad=%zz&end=%4",
        );
        assert_eq!(query.get("dstCid").map(String::as_str), Some("cdnnode:1~T"));
        assert_eq!(query.get("range").map(String::as_str), Some("0-9"));
        assert_eq!(query.get("a b").map(String::as_str), Some("c/d e"));
        assert_eq!(query.get("bad").map(String::as_str), Some("%zz"));
        assert_eq!(query.get("end").map(String::as_str), Some("%4"));
    }

    #[test]
    fn answers_have_the_keys_of_dragonfly() {
        assert_eq!(message(code::WAIT, ""), br#"{"code":602}"#);
        assert_eq!(error(404, "no"), br#"{"code":404,"message":"no"}"#);
        let done = FinishedTask { md5: String::new(), file_length: 30 };
        assert_eq!(
            envelope(600, "success", Some(done)),
            br#"{"code":600,"msg":"success","data":{"md5":"","fileLength":30}}"#
        );
        let registered = RegistrationData {
            task_id: "t".to_owned(),
            file_length: -1,
            piece_size: 4 << 20,
            cdn_source: "supernode",
            as_seed: false,
            seed_task_id: "",
        };
        let text = String::from_utf8(envelope(200, "success", Some(registered))).expect("text");
        assert!(text.contains(r#""cdnSource":"supernode","asSeed":false,"seedTaskID":"""#), "{text}");
    }
}
