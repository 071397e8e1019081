//! The requests of docker's clients, from the request line to the operation that would answer.
//!
//! An input is a method and a target in the first line, and the body in the rest. No operation is stepped, so nothing is
//! asked of an engine.

use crate::random::Random;
use http::Request;
use sampan_gateway::call::Started;
use sampan_gateway::exchange::Shared;
use sampan_gateway::query::{Query, unix_time};
use sampan_gateway::route;
use sampan_ipc::paths::Paths;
use std::path::Path;

/// A request leads to an operation, to an answer, or to a refusal that names something; filters are the same in both of
/// their spellings.
pub(super) fn docker(input: &[u8], _: &mut Random) -> bool {
    let end = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
    let (line, body) = input.split_at(end);
    let body = body.get(1..).unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let (method, target) = line.split_once(' ').unwrap_or(("GET", &line));
    let request = Request::builder().method(method).uri(target).header("Content-Type", "application/json");
    let Ok(request) = request.body(body) else { return false };
    let text = request.uri().query().unwrap_or_default();
    check_query(text);
    let nowhere = Path::new("/nonexistent").to_owned();
    let mut shared = Shared::new(Paths { run: nowhere.clone(), state: nowhere.clone(), data: nowhere });
    match route::start(&request, &mut shared) {
        Started::Operation(_) => true,
        Started::Answer(answer) => {
            let status = answer.status;
            assert!((200..600).contains(&status), "{status}");
            !matches!(status, 400 | 404)
        }
    }
}

/// Filters that are valid can be written in either spelling.
fn check_query(text: &str) {
    let query = Query::parse(text);
    for key in ["since", "until", "t", "limit"] {
        let _ = (query.number(key), query.get(key).and_then(unix_time), query.is_set(key));
    }
    let Ok(filters) = query.filters() else { return };
    let list = serde_json::to_string(&filters).expect("JSON");
    let values = |values: &Vec<String>| values.iter().map(|value| (value.clone(), true)).collect();
    let map: std::collections::BTreeMap<String, std::collections::BTreeMap<String, bool>> =
        filters.iter().map(|(key, of)| (key.clone(), values(of))).collect();
    let map = serde_json::to_string(&map).expect("JSON");
    let parse = |text: &str| Query::parse(&format!("filters={}", encode(text))).filters();
    assert_eq!(parse(&list), Ok(filters.clone()));
    let mut sorted = filters;
    for values in sorted.values_mut() {
        values.sort();
        values.dedup();
    }
    assert_eq!(parse(&map), Ok(sorted));
}

fn encode(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
