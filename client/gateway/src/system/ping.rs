//! `GET /_ping` and `HEAD /_ping`: whether the gateway serves, and which version of the API it speaks.

use crate::call::{self, Call, Started};
use http::Method;
use sampan_http::answer::Answer;

/// Answers the ping. The headers tell a client how to go on; docker's command line sends `HEAD /_ping` first.
///
/// # Errors
/// None.
pub fn start(call: &Call<'_>) -> call::Result {
    let body = if *call.request.method() == Method::HEAD { "" } else { "OK" };
    let mut answer = Answer::new(200, "text/plain; charset=utf-8", body);
    let headers = [
        // A cached ping would tell nothing about the gateway.
        ("cache-control", "no-cache, no-store, must-revalidate"),
        ("pragma", "no-cache"),
        // 2 would make `docker build` look for BuildKit; with 1 it sends POST /build, which tells what to use instead.
        ("builder-version", "1"),
        ("swarm", "inactive"),
    ];
    answer.headers.extend(headers.map(|(name, value)| (name, value.to_owned())));
    Ok(Started::Answer(answer))
}
