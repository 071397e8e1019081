//! The error of a request to an origin, and whether a later attempt may succeed.

use http::{StatusCode, header};
use sampan_registry::web::{Answer, WebError};
use sampan_registry::{Failed, retry::parse_retry_after};
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

/// Why a file cannot be had from its origin. URLs in it have no query, which may grant access.
#[derive(Debug, thiserror::Error)]
pub enum OriginError {
    /// The URL is not one of an HTTP server.
    #[error("cannot use the URL {url:?}: {why}")]
    Url {
        /// The URL.
        url: String,
        /// Why.
        why: &'static str,
    },
    /// A header of the client cannot be sent.
    #[error("cannot send the header {name:?} to the origin: {why}")]
    Header {
        /// Name of the header.
        name: String,
        /// Why.
        why: &'static str,
    },
    /// The origin has an address that is not public, and that the operator does not list.
    #[error(
        "the origin {host} has the address {address}, which is not public; if it is yours, start the supernode with \
         --allow-origin {host}"
    )]
    Forbidden {
        /// The host in the URL, or the one to which the origin redirects.
        host: String,
        /// Its address.
        address: IpAddr,
    },
    /// The origin has no such file (status 404 or 410).
    #[error("the origin has no file {url}")]
    NotFound {
        /// The URL.
        url: String,
    },
    /// The origin denies access (status 401, 403 or 407).
    #[error("the origin denies access to {url} (status {status})")]
    Denied {
        /// The URL.
        url: String,
        /// HTTP status.
        status: u16,
    },
    /// The file is another version than the one whose validators the caller has.
    #[error("{url} has changed at the origin")]
    Changed {
        /// The URL.
        url: String,
    },
    /// The origin answers with any other status that is no success.
    #[error("the origin answers {status} to a request for {url}")]
    Status {
        /// The URL.
        url: String,
        /// HTTP status.
        status: u16,
        /// The wait that the header `Retry-After` demands.
        retry_after: Option<Duration>,
    },
    /// The answer breaks the protocol.
    #[error("the origin of {url} {problem}")]
    Answer {
        /// The URL.
        url: String,
        /// What the origin does; continues the sentence.
        problem: &'static str,
    },
    /// The network failed before the body of the answer. Errors in the body are errors of its reader.
    #[error("cannot fetch {url} from its origin")]
    Transport {
        /// The URL.
        url: String,
        /// The failure of the network, of TLS or of HTTP.
        source: Failed,
    },
    /// The origin redirects in a way that is not followed, or this host's configuration of proxies and
    /// certificates is wrong.
    #[error("cannot fetch {url} from its origin")]
    Web {
        /// The URL.
        url: String,
        /// What is wrong.
        source: Box<WebError>,
    },
    /// The file is longer than this supernode accepts.
    #[error("{url} has {length} bytes, which is too many")]
    TooLarge {
        /// The URL.
        url: String,
        /// Its length in bytes.
        length: u64,
    },
    /// The caller has cancelled the request.
    #[error("cancelled")]
    Cancelled,
}

impl OriginError {
    /// Whether a later attempt may succeed: the network failed, or the origin is overloaded (408, 425, 429, 5xx).
    pub fn is_temporary(&self) -> bool {
        match self {
            OriginError::Transport { source, .. } => source.is_passing(),
            OriginError::Status { status, .. } => matches!(status, 408 | 425 | 429 | 500 | 502..=504),
            _ => false,
        }
    }

    /// The HTTP status of the origin; 0 if there is no answer. For [`sampan_registry::retry::Waits`].
    pub fn status(&self) -> u16 {
        match self {
            OriginError::Status { status, .. } | OriginError::Denied { status, .. } => *status,
            OriginError::NotFound { .. } => 404,
            _ => 0,
        }
    }

    /// The wait that the origin demands with the header `Retry-After`.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            OriginError::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// The error for an answer whose status is no success.
    pub(super) fn of_status(url: String, answer: &Answer<'_>) -> Self {
        match answer.status {
            StatusCode::NOT_FOUND | StatusCode::GONE => OriginError::NotFound { url },
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                OriginError::Denied { url, status: answer.status.as_u16() }
            }
            status => {
                let demanded = answer.headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
                let retry_after = demanded.and_then(|value| parse_retry_after(value, SystemTime::now()));
                OriginError::Status { url, status: status.as_u16(), retry_after }
            }
        }
    }

    pub(super) fn of_web(url: String, error: WebError) -> Self {
        match error {
            WebError::Refused(refused) => {
                OriginError::Forbidden { host: refused.host, address: refused.address }
            }
            WebError::Transport { source, .. } => OriginError::Transport { url, source },
            WebError::Cancelled => OriginError::Cancelled,
            WebError::Url(_) => OriginError::Url { url, why: "it is no URL of an HTTP server" },
            other => OriginError::Web { url, source: Box::new(other) },
        }
    }
}
