//! The request for a preheat: the body of `POST /preheats`, checked, and its ID.
//!
//! Pure. Called for each request, and by `manager`, which makes requests for the blobs of an image.

use crate::task_id::TaskId;
use crate::url::{filter_url, printable_url};
use crate::v1;
use http::{HeaderName, HeaderValue, Uri};
use sampan_oci::platform::Platform;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Fewest bytes of a URL, as in Dragonfly.
const URL_MIN: usize = 3;

/// Headers for the origin, each as name and value. The blobs of an image share one list, because a token is long.
pub type Headers = Arc<Vec<(String, String)>>;

/// What is downloaded in advance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One file.
    File,
    /// All blobs of an image, for one platform or for all.
    Image,
}

impl Kind {
    /// The word in requests and answers.
    pub fn word(self) -> &'static str {
        match self {
            Kind::File => "file",
            Kind::Image => "image",
        }
    }
}

/// A checked request.
#[derive(Clone, PartialEq, Eq)]
pub struct PreheatRequest {
    /// What is downloaded.
    pub kind: Kind,
    /// The URL of the file, or of the image's manifest or index.
    pub url: String,
    /// The names of the parameters of the URL that do not distinguish files, joined by `&`.
    pub filter: String,
    /// What distinguishes files of one URL.
    pub identifier: String,
    /// Headers for the origin. They may contain a credential, so they are never shown.
    pub headers: Headers,
    /// The platform whose image is downloaded; `None` means all platforms.
    pub platform: Option<Platform>,
}

/// Why a preheat is not begun, or not found. [`PreheatError::status`] is the status of the answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PreheatError {
    /// The request is wrong.
    #[error("{0}")]
    Bad(String),
    /// The preheat has succeeded before.
    #[error("preheat task already exists, id:{0}")]
    Done(TaskId),
    /// There is no such preheat.
    #[error("preheat task {0:?} is not found")]
    NotFound(String),
    /// The preheat belongs to another one that has not ended.
    #[error("preheat task {0} belongs to preheat task {1}, which has not ended")]
    Busy(TaskId, TaskId),
    /// There are too many preheats, none of which has ended.
    #[error("too many preheats are running: wait until one of them has ended, or delete one")]
    Full,
}

impl PreheatError {
    /// The HTTP status of the answer.
    pub fn status(&self) -> u16 {
        match self {
            PreheatError::Bad(_) => 400,
            PreheatError::Done(_) => 208,
            PreheatError::NotFound(_) => 404,
            PreheatError::Busy(..) => 409,
            PreheatError::Full => 503,
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Body {
    r#type: String,
    url: String,
    filter: String,
    identifier: String,
    headers: BTreeMap<String, String>,
    platform: String,
}

impl PreheatRequest {
    /// Parses the body of `POST /preheats`. Keys are accepted in any case; keys that are not known are ignored.
    ///
    /// # Errors
    /// [`PreheatError::Bad`]: the body is no JSON, or a field is missing, wrong or too long.
    pub fn parse(body: &[u8]) -> Result<Self, PreheatError> {
        let body: Body = v1::parse_body(body, "application/json").map_err(PreheatError::Bad)?;
        let bad = |problem: String| Err(PreheatError::Bad(problem));
        let kind = match body.r#type.to_ascii_lowercase().as_str() {
            "file" => Kind::File,
            "image" => Kind::Image,
            _ => return bad(format!("type is {:?}, expected file or image", head(&body.r#type))),
        };
        if body.url.len() < URL_MIN || body.url.len() > v1::TEXT_MAX || !is_http(&body.url) {
            return bad(format!("url is {:?}, expected an HTTP URL", head(&body.url)));
        }
        if body.filter.len() > v1::TEXT_MAX || body.identifier.len() > v1::TEXT_MAX {
            return bad("filter or identifier is too long".to_owned());
        }
        if kind == Kind::Image && ImageUrl::parse(&body.url).is_none() {
            return bad(format!(
                "url is {:?}, expected SCHEME://HOST/v2/NAME/manifests/TAG-OR-DIGEST for an image",
                head(&body.url)
            ));
        }
        let size: usize = body.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        if body.headers.len() > v1::HEADERS_MAX || size > 2 * v1::TEXT_MAX {
            return bad(format!("at most {} headers are allowed", v1::HEADERS_MAX));
        }
        for (name, value) in &body.headers {
            if HeaderName::from_bytes(name.as_bytes()).is_err() || HeaderValue::from_str(value).is_err() {
                return bad(format!("headers contain {:?}, which is no header", head(name)));
            }
        }
        let platform = match (kind, body.platform.as_str()) {
            (_, "") => None,
            (Kind::File, _) => return bad("a file has no platform".to_owned()),
            (Kind::Image, text) => {
                Some(Platform::parse(text).map_err(|error| PreheatError::Bad(error.to_string()))?)
            }
        };
        Ok(PreheatRequest {
            kind,
            url: body.url,
            filter: body.filter,
            identifier: body.identifier,
            headers: Arc::new(body.headers.into_iter().collect()),
            platform,
        })
    }

    /// The request for the file at `url`, with `headers` for its origin.
    pub fn file(url: String, headers: Headers) -> Self {
        PreheatRequest {
            kind: Kind::File,
            url,
            filter: String::new(),
            identifier: String::new(),
            headers,
            platform: None,
        }
    }

    /// The URL without the parameters that the filter names.
    pub fn task_url(&self) -> String {
        filter_url(&self.url, &self.filter)
    }

    /// The URL for lists and messages: without user, password and query, which may grant access.
    pub fn printable_url(&self) -> String {
        printable_url(&self.url)
    }

    /// The ID of the preheat. That of a file is the ID of its task.
    pub fn id(&self) -> TaskId {
        let mut sign = self.identifier.clone();
        if let Some(platform) = &self.platform {
            // No client registers a task for a platform, so this ID belongs to the preheat alone.
            sign.push_str(&format!(" {platform}"));
        }
        TaskId::new(&self.task_url(), &sign, self.header("Range"))
    }

    /// The value of the header with exactly this name; empty if there is none.
    fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }
}

impl std::fmt::Debug for PreheatRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The headers and the whole URL may contain a credential.
        let url = self.printable_url();
        write!(f, "{} {url:?} {:?} {:?}", self.kind.word(), self.filter, self.identifier)
    }
}

/// The parts of the URL of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageUrl {
    /// `http` or `https`.
    pub scheme: &'static str,
    /// The host, and the port if there is one.
    pub host: String,
    /// The repository.
    pub repository: String,
    /// The tag or the digest.
    pub target: String,
}

impl ImageUrl {
    /// Parses `SCHEME://HOST/v2/NAME/manifests/TAG-OR-DIGEST`; `None` if `url` is anything else.
    pub fn parse(url: &str) -> Option<Self> {
        let (scheme, rest) = match url.split_once("://")? {
            ("http", rest) => ("http", rest),
            ("https", rest) => ("https", rest),
            _ => return None,
        };
        let (host, path) = rest.split_once('/')?;
        let (repository, target) = path.strip_prefix("v2/")?.rsplit_once("/manifests/")?;
        let is_word = |text: &str, others: &str| {
            !text.is_empty()
                && text.len() <= 255
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || others.as_bytes().contains(&b))
        };
        let is_path = |text: &str| {
            is_word(text, "-._/") && text.split('/').all(|part| !matches!(part, "" | "." | ".."))
        };
        let is_known = is_word(host, "-.:[]") && is_path(repository) && is_word(target, "-._:+");
        let (host, repository, target) = (host.to_owned(), repository.to_owned(), target.to_owned());
        is_known.then_some(ImageUrl { scheme, host, repository, target })
    }

    /// The URL of the blob `digest` of this repository.
    pub fn blob(&self, digest: &str) -> String {
        format!("{}://{}/v2/{}/blobs/{digest}", self.scheme, self.host, self.repository)
    }
}

fn is_http(url: &str) -> bool {
    let uri: Option<Uri> = url.parse().ok();
    uri.is_some_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some())
}

fn head(text: &str) -> String {
    text.chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(body: &str) -> String {
        match PreheatRequest::parse(body.as_bytes()) {
            Err(error) => {
                assert_eq!(error.status(), 400);
                error.to_string()
            }
            Ok(request) => panic!("{request:?}"),
        }
    }

    #[test]
    fn a_file_has_the_id_of_its_task() {
        let body = br#"{"Type":"FILE","URL":"http://h/f?sig=1&v=1","filter":"sig","identifier":"i",
            "headers":{"Range":"bytes=0-9","Authorization":"Bearer x"},"later":[]}"#;
        let request = PreheatRequest::parse(body).expect("good");
        assert_eq!(request.task_url(), "http://h/f?v=1");
        assert_eq!(request.id(), TaskId::new("http://h/f?v=1", "i", "bytes=0-9"));
        assert!(!format!("{request:?}").contains("Bearer"));
        let plain = PreheatRequest::parse(br#"{"type":"file","url":"http://h/f","headers":null}"#);
        assert_eq!(plain.expect("good").id(), TaskId::new("http://h/f", "", ""));
    }

    #[test]
    fn what_grants_access_is_not_printed() {
        for (url, printed) in [
            ("https://u:p@h:1/a@b?sig=1#x", "https://h:1/a@b"),
            ("http://h?sig=a/b@c", "http://h"),
            ("http://h/f", "http://h/f"),
        ] {
            assert_eq!(PreheatRequest::file(url.to_owned(), Headers::default()).printable_url(), printed);
        }
    }

    #[test]
    fn platforms_of_an_image_have_ids_of_their_own() {
        let id = |platform: &str| {
            let body = format!(
                r#"{{"type":"image","url":"https://r.example/v2/a/b/manifests/latest","platform":"{platform}"}}"#
            );
            PreheatRequest::parse(body.as_bytes()).expect("good").id()
        };
        assert_eq!(id(""), TaskId::new("https://r.example/v2/a/b/manifests/latest", "", ""));
        assert_ne!(id(""), id("linux/arm64"));
        assert_eq!(id("linux/aarch64"), id("linux/arm64"));
    }

    #[test]
    fn a_bad_request_is_refused_by_its_field() {
        for (body, part) in [
            ("{", "EOF"),
            ("[]", "invalid type"),
            (r#"{"url":"http://h/f"}"#, "type is"),
            (r#"{"type":"dir","url":"http://h/f"}"#, "type is"),
            (r#"{"type":"file"}"#, "url is"),
            (r#"{"type":"file","url":"file:///etc/passwd"}"#, "url is"),
            (r#"{"type":"file","url":"http://h/a b"}"#, "url is"),
            (r#"{"type":"image","url":"http://h/v2/a/b"}"#, "for an image"),
            (r#"{"type":"file","url":"http://h/f","headers":{"a b":"c"}}"#, "no header"),
            (r#"{"type":"file","url":"http://h/f","headers":{"a":"c\nd"}}"#, "no header"),
            (r#"{"type":"file","url":"http://h/f","headers":["a:b"]}"#, "invalid type"),
            (r#"{"type":"file","url":"http://h/f","platform":"linux/arm64"}"#, "no platform"),
            (r#"{"type":"image","url":"http://h/v2/a/manifests/b","platform":"arm64"}"#, "not a platform"),
        ] {
            assert!(problem(body).contains(part), "{body}: {}", problem(body));
        }
        let long = "x".repeat(v1::TEXT_MAX);
        assert!(problem(&format!(r#"{{"type":"file","url":"http://h/{long}"}}"#)).len() < 200);
        let body = format!(r#"{{"type":"file","url":"http://h/f","headers":{{"a":"{long}","b":"{long}"}}}}"#);
        assert!(problem(&body).contains("headers"));
    }

    #[test]
    fn the_url_of_a_manifest_is_taken_apart() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (url, parts) in [
            ("https://r.example/v2/a/manifests/1.0", Some(("https", "r.example", "a", "1.0"))),
            ("http://[::1]:5000/v2/a/b/manifests/x", Some(("http", "[::1]:5000", "a/b", "x"))),
            ("http://h/v2/a/manifests/b/manifests/c", Some(("http", "h", "a/manifests/b", "c"))),
            (&format!("http://h/v2/a/manifests/{digest}"), Some(("http", "h", "a", digest.as_str()))),
            ("ftp://h/v2/a/manifests/b", None),
            ("http://u:p@h/v2/a/manifests/b", None),
            ("http://h/v1/a/manifests/b", None),
            ("http://h/v2//manifests/b", None),
            ("http://h/v2/a/../manifests/b", None),
            ("http://h/v2/a/manifests/", None),
            ("http://h/v2/a/manifests/b?c", None),
            ("http:///v2/a/manifests/b", None),
        ] {
            let found = ImageUrl::parse(url);
            let found =
                found.as_ref().map(|u| (u.scheme, u.host.as_str(), u.repository.as_str(), u.target.as_str()));
            assert_eq!(found, parts, "{url}");
        }
        let url = ImageUrl::parse("https://r.example/v2/a/manifests/1.0").expect("good");
        assert_eq!(url.blob("sha256:1"), "https://r.example/v2/a/blobs/sha256:1");
    }
}
