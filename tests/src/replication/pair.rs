//! A source and a destination: two registries, each with a recorder in front of it.

use super::client::Client;
use super::compare::{Repository, differences};
use super::recorder::{Recorder, Session};
use super::registry::{Registry, Settings};
use crate::tls;
use sampan_ipc::replication::Execution;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// User of a destination that requires a login.
pub const USERNAME: &str = "ann";
/// Password of that user.
pub const PASSWORD: &str = "a secret";

/// A registry behind a recorder.
pub struct Side {
    /// The registry.
    pub registry: Registry,
    /// The recorder in front of it; all requests by [`Side::address`] pass it.
    pub recorder: Recorder,
    /// `127.0.0.1:PORT`, for the program under test.
    pub address: String,
    /// The certificate to be trusted, if `address` speaks TLS.
    pub certificate: Option<PathBuf>,
}

impl Side {
    /// Starts a registry without TLS below `dir`, and a recorder.
    pub fn plain(dir: &Path, settings: Settings) -> Self {
        let registry = Registry::start(dir, settings);
        let recorder = Recorder::before(&registry.address);
        let address = recorder.address.clone();
        Side { registry, recorder, address, certificate: None }
    }

    /// Starts a registry below `dir` as [`Side::plain`] does, and a proxy in front of the recorder that ends TLS.
    pub fn behind_tls(dir: &Path, settings: Settings) -> Self {
        let registry = Registry::start(dir, settings);
        let recorder = Recorder::behind_tls(&registry.address);
        let (cert, key) = tls::self_signed(dir, "front");
        let address = tls::front(&cert, &key, &recorder.address);
        Side { registry, recorder, address, certificate: Some(cert) }
    }

    /// Starts a registry that speaks TLS itself. No recorder is in front of it; the registry has an access log.
    pub fn own_tls(dir: &Path, settings: Settings) -> Self {
        std::fs::create_dir_all(dir).expect("a directory");
        let (cert, key) = tls::self_signed(dir, "own");
        let registry = Registry::start(dir, Settings { tls: Some((cert.clone(), key)), ..settings });
        let (recorder, address) = (Recorder::before(&registry.address), registry.address.clone());
        Side { registry, recorder, address, certificate: Some(cert) }
    }

    /// A client that talks to the registry itself, so that the recorder does not count its requests.
    pub fn client(&self) -> Client {
        self.registry.client()
    }

    /// `ADDRESS/NAME`, where `name` may have a tag or digest.
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// `docker://ADDRESS/NAME`.
    pub fn url(&self, name: &str) -> String {
        format!("docker://{}/{name}", self.address)
    }

    /// Upload sessions that were opened through the recorder, have not ended, and for which the registry still answers.
    pub fn living_sessions(&self) -> Vec<Session> {
        let open = self.recorder.sessions().into_iter().filter(|session| !session.is_over);
        open.filter(|session| !self.registry.living([session.location.as_str()]).is_empty()).collect()
    }
}

/// A source and a destination.
pub struct Pair {
    /// The source: no login, plain HTTP.
    pub source: Side,
    /// The destination.
    pub destination: Side,
    dir: TempDir,
}

impl Default for Pair {
    fn default() -> Self {
        Pair::start()
    }
}

impl Pair {
    /// Starts a pair whose destination requires a login and speaks TLS.
    pub fn start() -> Self {
        Pair::of(true, login())
    }

    /// Starts a pair whose destination requires a login, and speaks plain HTTP. It is faster, and its faults are not
    /// blurred by TLS.
    pub fn plain() -> Self {
        Pair::of(false, login())
    }

    /// Starts a pair whose destination has these settings.
    pub fn with(settings: Settings) -> Self {
        Pair::of(false, settings)
    }

    /// Starts a pair whose destination requires a login, speaks TLS itself, and has no recorder.
    pub fn with_own_tls() -> Self {
        Pair::made_by(Side::own_tls, login())
    }

    fn of(is_behind_tls: bool, settings: Settings) -> Self {
        Pair::made_by(if is_behind_tls { Side::behind_tls } else { Side::plain }, settings)
    }

    fn made_by(start: fn(&Path, Settings) -> Side, settings: Settings) -> Self {
        let dir = tempfile::Builder::new().prefix("sampan-test.").tempdir().expect("a private directory");
        // The source holds whatever the tests push, also manifests with layers that are elsewhere.
        let open = Settings { allows_foreign_layers: true, ..Settings::default() };
        let source = Side::plain(&dir.path().join("source"), open);
        let destination = start(&dir.path().join("destination"), settings);
        Pair { source, destination, dir }
    }

    /// A path in the pair's directory.
    pub fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    /// Forgets all requests so far on both sides.
    pub fn forget(&self) {
        self.source.recorder.forget();
        self.destination.recorder.forget();
    }

    /// Number of requests since the beginning, or since [`Pair::forget`]: at the source, at the destination.
    pub fn request_counts(&self) -> (usize, usize) {
        (self.source.recorder.requests().len(), self.destination.recorder.requests().len())
    }

    /// Panics with all differences of these tags or digests of two repositories, and all requests, if there are any.
    pub fn assert_same(&self, source: &str, destination: &str, names: &[&str]) {
        let found = self.differences(source, destination, names);
        assert!(
            found.is_empty(),
            "{source} and {destination} differ:\n{}\n{}",
            found.join("\n"),
            self.requests()
        );
    }

    /// All differences of these tags or digests of two repositories.
    pub fn differences(&self, source: &str, destination: &str, names: &[&str]) -> Vec<String> {
        let (there, here) = (self.source.client(), self.destination.client());
        let (there, here) =
            (Repository { client: &there, name: source }, Repository { client: &here, name: destination });
        differences(there, here, names)
    }

    /// Panics unless each upload session at the destination has ended, or the registry has forgotten it and the
    /// execution names it.
    pub fn assert_sessions_ended(&self, execution: &Execution) {
        let left = self.sessions_left(execution);
        assert!(left.is_empty(), "{left:#?}\n{execution:#?}\n{}", self.requests());
    }

    /// The upload sessions that live on, and those that the registry has forgotten although the execution does not name
    /// them.
    pub fn sessions_left(&self, execution: &Execution) -> Vec<Session> {
        let is_named =
            |session: &Session| execution.lost_sessions.iter().any(|lost| lost.contains(&session.path));
        let lives =
            |session: &Session| !self.destination.registry.living([session.location.as_str()]).is_empty();
        let open = self.destination.recorder.sessions().into_iter().filter(|session| !session.is_over);
        open.filter(|session| lives(session) || !is_named(session)).collect()
    }

    /// All requests on both sides, one a line, for the message of a failed assertion.
    pub fn requests(&self) -> String {
        let mut text = String::new();
        for (name, side) in [("source", &self.source), ("destination", &self.destination)] {
            for request in side.recorder.requests() {
                let (up, down) = (request.body_bytes, request.answer_bytes);
                text += &format!("{name}: {} -> {}, {up} up, {down} down\n", request.line(), request.status);
            }
        }
        text
    }
}

/// Settings of a registry that accepts only [`USERNAME`].
pub fn login() -> Settings {
    Settings { login: Some((USERNAME.to_owned(), PASSWORD.to_owned())), ..Settings::default() }
}
