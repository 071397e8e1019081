//! Requests to a supernode, and the strict reading of its answers.
//!
//! An answer that dfget could not use is a [`WireError`]. The names and types of all fields must be exact.

use crate::http_client::HttpClient;
use serde::Deserialize;
use serde_json::{Value, json};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

/// Longest time for which dfget waits for an answer.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// Shortest client ID of a holder with which dfget is safe: it cuts the text there in a log line.
const CID_MIN: usize = 25;

/// Why an answer is no answer.
#[derive(Debug)]
pub enum WireError {
    /// There is no complete answer in time.
    Transport(std::io::Error),
    /// The status is not 200.
    Status(u16, String),
    /// dfget would crash, hang or lose data.
    Broken(String),
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WireError::Transport(error) => write!(f, "no answer: {error}"),
            WireError::Status(status, body) => write!(f, "status {status}: {body}"),
            WireError::Broken(why) => f.write_str(why),
        }
    }
}

/// What a registration gives.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Registered {
    /// ID of the task.
    pub task_id: String,
    /// Length of the file, or -1 if it is unknown.
    pub file_length: i64,
    /// Size of a piece.
    pub piece_size: i32,
    /// `supernode` or `source`.
    pub cdn_source: String,
}

/// A piece that the client is to get.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Offer {
    /// Range of the piece.
    pub range: String,
    /// Number of the piece.
    pub piece_num: i64,
    /// Size of a piece.
    pub piece_size: i32,
    /// MD5 and length of the piece.
    pub piece_md5: String,
    /// Client ID of the holder.
    pub cid: String,
    /// Address of the holder.
    pub peer_ip: String,
    /// Port of the holder.
    pub peer_port: u16,
    /// Path of the file at the holder.
    pub path: String,
    /// Not used.
    pub down_link: i64,
}

impl Offer {
    /// True if the supernode itself is the holder.
    pub fn is_from_supernode(&self) -> bool {
        self.cid.starts_with("cdnnode:")
    }
}

/// What a pull gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pulled {
    /// All pieces are there; the file's MD5, which may be empty, and its length in wrapped bytes.
    Finished(String, i64),
    /// Get these pieces.
    Get(Vec<Offer>),
    /// Ask again later.
    Wait,
    /// Any other code.
    Other(i64),
}

/// One report, or none, with which a client asks for pieces.
#[derive(Clone, Debug, Default)]
pub struct Pull {
    /// Client ID of the holder of the reported piece.
    pub dst: String,
    /// Range of the reported piece.
    pub range: String,
    /// Result: 500, 502 or 503.
    pub result: u16,
    /// Status: 700 or 701.
    pub status: u16,
    /// ID of the task.
    pub task: String,
}

/// Connection of one client to one supernode.
#[derive(Debug)]
pub struct Wire {
    http: HttpClient,
}

#[derive(Deserialize)]
struct Envelope {
    code: Option<i64>,
    #[serde(default)]
    data: Value,
}

impl Wire {
    /// Makes a client at `ip` of the supernode at `supernode`.
    pub fn new(ip: Ipv4Addr, supernode: SocketAddrV4) -> Self {
        Wire { http: HttpClient::from(ip, supernode).with_timeout(PATIENCE) }
    }

    fn get(&mut self, target: &str) -> Result<Envelope, WireError> {
        read(self.http.get(target).map_err(WireError::Transport)?)
    }

    /// Registers with this body; returns the code, and the data if the code is 200.
    ///
    /// # Errors There is no answer that dfget could use.
    pub fn register(&mut self, body: &Value) -> Result<(i64, Option<Registered>), WireError> {
        let response = self.http.post("/peer/registry", body).map_err(WireError::Transport)?;
        let envelope = read(response)?;
        match envelope.code {
            Some(200) => Ok((200, Some(typed(envelope.data)?))),
            Some(code) => Ok((code, None)),
            None => Err(WireError::Broken("a registration is answered without a code".to_owned())),
        }
    }

    /// Reports a piece, and asks for more.
    ///
    /// # Errors There is no answer that dfget could use.
    pub fn pull(&mut self, cid: &str, pull: &Pull) -> Result<Pulled, WireError> {
        let Pull { dst, range, result, status, task } = pull;
        let envelope = self.get(&format!(
            "/peer/task?srcCid={cid}&dstCid={dst}&range={range}&result={result}&status={status}&taskId={task}"
        ))?;
        match envelope.code {
            Some(600) => {
                #[derive(Deserialize)]
                #[serde(rename_all = "camelCase")]
                struct Finish {
                    md5: String,
                    file_length: i64,
                }
                let finish: Finish = typed(envelope.data)?;
                Ok(Pulled::Finished(finish.md5, finish.file_length))
            }
            Some(601) if envelope.data.is_null() => Ok(Pulled::Get(Vec::new())),
            Some(601) => {
                let offers: Vec<Offer> = typed(envelope.data)?;
                if let Some(short) = offers.iter().find(|offer| offer.cid.len() < CID_MIN) {
                    return Err(WireError::Broken(format!("the client ID {} is too short", short.cid)));
                }
                Ok(Pulled::Get(offers))
            }
            Some(602) => Ok(Pulled::Wait),
            Some(code) => Ok(Pulled::Other(code)),
            None => Err(WireError::Broken("a pull is answered without a code".to_owned())),
        }
    }

    /// Reports that the piece `range` from `dst` is on the client's disk; true if the supernode accepts it.
    pub fn success(&mut self, task: &str, cid: &str, dst: &str, range: &str) -> bool {
        let target = format!("/peer/piece/suc?taskId={task}&cid={cid}&dstCid={dst}&pieceRange={range}");
        self.get(&target).is_ok_and(|envelope| envelope.code == Some(611))
    }

    /// Reports that the client serves the task no more; true if the supernode accepts it.
    pub fn down(&mut self, task: &str, cid: &str) -> bool {
        let target = format!("/peer/service/down?taskId={task}&cid={cid}");
        self.get(&target).is_ok_and(|envelope| envelope.code == Some(612))
    }

    /// Reports a piece that is missing, or whose MD5 is not the expected one.
    pub fn error(&mut self, query: &str) {
        // dfget ignores the answer.
        let _ = self.http.get(&format!("/peer/piece/error?{query}"));
    }

    /// Reports the end of a download, twice if the answer is not 1.
    pub fn metrics(&mut self, cid: &str, ip: Ipv4Addr, port: u16, task: &str, length: i64, success: bool) {
        let body = json!({
            "IP": ip.to_string(), "port": port, "cID": cid, "taskId": task, "fileLength": length, "duration": 1.0,
            "success": success, "backsourceReason": "0", "callSystem": "",
        });
        for _ in 0..2 {
            let Ok(response) = self.http.post("/task/metrics", &body) else { continue };
            if read(response).is_ok_and(|envelope| envelope.code == Some(1)) {
                return;
            }
        }
    }
}

fn read(response: crate::http_client::Response) -> Result<Envelope, WireError> {
    if response.status != 200 {
        return Err(WireError::Status(response.status, response.text()));
    }
    serde_json::from_slice(&response.body)
        .map_err(|error| WireError::Broken(format!("{error} in '{}'", response.text())))
}

fn typed<T: for<'de> Deserialize<'de>>(data: Value) -> Result<T, WireError> {
    let text = data.to_string();
    serde_json::from_value(data).map_err(|error| WireError::Broken(format!("{error} in '{text}'")))
}
