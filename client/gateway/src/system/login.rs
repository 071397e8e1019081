//! `POST /auth`.

use crate::call::{self, Call, Started};
use crate::exchange::{Exchange, Operation, Progress, Shared};
use crate::image::name;
use crate::image::registry_auth::RegistryAuth;
use crate::refusal::Refusal;
use mio::Interest;
use sampan_client::engine::{self, Answers, Login, Next, Request};
use sampan_http::answer::Answer;
use serde_json::json;
use std::time::Duration;

/// Docker Hub, as the engine names it, and as the command line of docker does.
const HUB: &str = "docker.io";
const HUB_ADDRESSES: [&str; 4] = ["", "index.docker.io", "registry-1.docker.io", HUB];

/// Starts the operation.
///
/// # Errors
/// The body is no credential.
pub fn start(call: &Call<'_>, _: &mut Shared) -> call::Result {
    let auth: RegistryAuth = serde_json::from_slice(call.request.body())
        .map_err(|error| Refusal::bad(format!("the credential is not valid JSON: {error}")))?;
    let registry = host(&auth.serveraddress);
    let Some(credential) = auth.credential(registry.clone())? else {
        return Err(Refusal::bad(format!("the request has no user name and password for {registry}")));
    };
    let login = Login { credential, insecure: name::is_loopback(&registry) };
    Ok(Started::Operation(Box::new(LoginOperation { login: Some(login), answers: None, status: None })))
}

/// The registry of an address such as `https://index.docker.io/v1/`.
fn host(address: &str) -> String {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or_default();
    if HUB_ADDRESSES.contains(&host) { HUB.to_owned() } else { host.to_owned() }
}

struct LoginOperation {
    login: Option<Login>,
    answers: Option<Answers>,
    /// The status with which the registry has refused.
    status: Option<u16>,
}

impl Operation for LoginOperation {
    fn step(&mut self, exchange: &mut Exchange<'_>) -> Result<Progress, Refusal> {
        if let Some(login) = self.login.take() {
            let answers = exchange.shared.engine.request(Request::LoginWithStatus(login), &[])?;
            exchange.watch(&answers, Interest::READABLE)?;
            self.answers = Some(answers);
        }
        let Some(answers) = &mut self.answers else { return Ok(Progress::Ended) };
        loop {
            match answers.next_within(Duration::ZERO) {
                Ok(Next::Nothing) => return Ok(Progress::Waits),
                Ok(Next::Answer(engine::Answer::RegistryStatus(status))) => self.status = Some(status),
                Ok(Next::Answer(_)) => {}
                Ok(Next::End) => {
                    let body = json!({"IdentityToken": "", "Status": "Login Succeeded"}).to_string();
                    return Ok(exchange.answer(Answer::new(200, "application/json", body)));
                }
                Err(error) => {
                    let refusal = Refusal::from(error);
                    return Err(match self.status {
                        Some(401) => Refusal { status: 401, ..refusal },
                        _ => refusal,
                    });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lead_to_registries() {
        for (address, expected) in [
            ("https://index.docker.io/v1/", "docker.io"),
            ("", "docker.io"),
            ("localhost:5000", "localhost:5000"),
            ("http://r.example/v2/", "r.example"),
        ] {
            assert_eq!(host(address), expected);
        }
    }
}
