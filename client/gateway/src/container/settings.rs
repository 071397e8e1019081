//! What a session or a log needs to know about a container, read from the engine's document.

use crate::refusal::Refusal;
use sampan_client::engine::{Answer, Request};
use serde_json::Value;

/// The settings of a container that a session needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// 64 hexadecimal digits.
    pub id: String,
    /// docker's word for the container's phase.
    pub status: String,
    /// Whether the container has a terminal.
    pub is_terminal: bool,
    /// Whether the container's stdin is open.
    pub open_stdin: bool,
    /// Whether the container's stdin ends with that of the first client.
    pub stdin_once: bool,
    /// `User` of the container.
    pub user: String,
    /// The keys that detach a terminal; empty means docker's default.
    pub detach_keys: String,
    /// Labels and their values, in the order of their names.
    pub labels: Vec<(String, String)>,
    /// The options of the log driver.
    pub log_options: Vec<(String, String)>,
    /// `KEY=value` of the container's environment.
    pub environment: Vec<String>,
}

impl Settings {
    /// The request whose answers [`Settings::from_answers`] reads.
    pub fn request(container: &str) -> Request {
        Request::InspectContainer { container: container.to_owned(), size: false }
    }

    /// Reads the settings from the engine's answers.
    ///
    /// # Errors
    /// The engine has sent no document.
    pub fn from_answers(answers: &[Answer]) -> Result<Self, Refusal> {
        let json = answers.iter().find_map(|answer| match answer {
            Answer::Json(json) => Some(json),
            _ => None,
        });
        let json =
            json.ok_or_else(|| Refusal::new(500, "the engine sent no description of the container"))?;
        let document: Value = serde_json::from_str(json).map_err(|error| {
            Refusal::new(500, format!("cannot read the engine's description of the container: {error}"))
        })?;
        // The engine sends an array of one document, as docker's `inspect` prints it.
        let document = document.get(0).unwrap_or(&document);
        let of = |path: &str| document.pointer(path);
        let text = |path: &str| of(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        let flag = |path: &str| of(path).and_then(Value::as_bool).unwrap_or(false);
        let pairs = |path: &str| {
            let pairs = of(path).and_then(Value::as_object).into_iter().flatten();
            pairs.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
        };
        let environment = of("/Config/Env").and_then(Value::as_array).into_iter().flatten();
        Ok(Settings {
            id: text("/Id"),
            status: text("/State/Status"),
            is_terminal: flag("/Config/Tty"),
            open_stdin: flag("/Config/OpenStdin"),
            stdin_once: flag("/Config/StdinOnce"),
            user: text("/Config/User"),
            detach_keys: text("/Config/DetachKeys"),
            labels: pairs("/Config/Labels"),
            log_options: pairs("/HostConfig/LogConfig/Config"),
            environment: environment.filter_map(|value| Some(value.as_str()?.to_owned())).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_and_absent_ones_have_defaults() {
        let json = r#"[{"Id":"ab","State":{"Status":"running"},"Config":{"Tty":true,"Labels":{"a":"b"}}}]"#;
        let settings = Settings::from_answers(&[Answer::Json(json.to_owned())]).expect("a document");
        assert_eq!((settings.id.as_str(), settings.status.as_str()), ("ab", "running"));
        assert!(settings.is_terminal && !settings.open_stdin && !settings.stdin_once);
        assert_eq!(settings.labels, [("a".to_owned(), "b".to_owned())]);
        assert_eq!(Settings::from_answers(&[]).map_err(|refusal| refusal.status), Err(500));
        let broken = Settings::from_answers(&[Answer::Json("{".to_owned())]);
        assert_eq!(broken.map_err(|refusal| refusal.status), Err(500));
    }
}
