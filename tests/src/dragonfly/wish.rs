//! What to download, and how.

use std::time::Duration;

/// What to download, and how.
#[derive(Clone, Debug)]
pub struct Wish {
    /// The URL.
    pub url: String,
    /// The URL without the parameters that change from request to request; the URL itself if it is empty.
    pub task_url: String,
    /// The file's MD5.
    pub md5: Option<String>,
    /// A word that distinguishes files of one URL.
    pub identifier: Option<String>,
    /// Headers for the origin: `NAME:VALUE`.
    pub headers: Vec<String>,
    /// Most bytes a second.
    pub rate: Option<u64>,
    /// Longest time of the download.
    pub patience: Duration,
}

impl Wish {
    /// The file at `url`.
    pub fn of(url: &str) -> Self {
        Wish {
            url: url.to_owned(),
            task_url: String::new(),
            md5: None,
            identifier: None,
            headers: Vec::new(),
            rate: None,
            patience: Duration::from_secs(60),
        }
    }
}
