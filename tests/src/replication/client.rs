//! A plain client of the distribution API: it pushes and reads content byte for byte, and knows no image.
//!
//! Tests fill registries and compare them with it, so it shares no code with the product. A request has a connection of
//! its own. Errors of the network panic: the registries are on this host.

use super::message::{Head, Wire, without_host};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use sampan_oci::digest::Digest;
use std::fmt;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

/// Media types of manifests that a client can be asked to accept.
pub const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// A client of one registry.
#[derive(Clone)]
pub struct Client {
    address: String,
    authorization: Option<String>,
    tls: Option<Arc<ClientConfig>>,
}

/// The answer to a request.
#[derive(Clone)]
pub struct Answer {
    /// Status line and headers.
    pub head: Head,
    /// The body, without the framing of chunks.
    pub body: Vec<u8>,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = String::from_utf8_lossy(&self.body);
        write!(f, "{}: {}", self.head.line, text.chars().take(400).collect::<String>())
    }
}

impl Answer {
    /// The status.
    pub fn status(&self) -> u16 {
        self.head.word(1).parse().unwrap_or(0)
    }

    /// A header; empty if there is none.
    pub fn header(&self, name: &str) -> &str {
        self.head.header(name).unwrap_or_default()
    }
}

impl Client {
    /// A client of the registry at `HOST:PORT`, which speaks plain HTTP and wants no credentials.
    pub fn new(address: &str) -> Self {
        Client { address: address.to_owned(), authorization: None, tls: None }
    }

    /// Adds credentials for Basic authentication.
    pub fn with_login(mut self, username: &str, password: &str) -> Self {
        self.authorization = Some(basic(username, password));
        self
    }

    /// Uses TLS, and trusts this certificate.
    pub fn with_authority(mut self, cert: &Path) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(cert).expect("a certificate")).expect("a certificate");
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        self.tls = Some(Arc::new(config));
        self
    }

    /// Sends a request for a target, such as `/v2/`, and reads the answer.
    pub fn request(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut head = Head { line: format!("{method} {target} HTTP/1.1"), headers: Vec::new() };
        let length = body.len().to_string();
        let own = [("Host", self.address.as_str()), ("Connection", "close"), ("Content-Length", &length)];
        for (name, value) in own.iter().chain(headers) {
            head.headers.push(((*name).to_owned(), (*value).to_owned()));
        }
        if let Some(authorization) = &self.authorization {
            head.headers.push(("Authorization".to_owned(), authorization.clone()));
        }
        let stream = TcpStream::connect(&self.address).expect("the registry listens");
        match &self.tls {
            None => exchange(stream, method, &head, body),
            Some(config) => {
                let (host, _) = self.address.rsplit_once(':').expect("a port");
                let name = ServerName::try_from(host.to_owned()).expect("a name");
                let connection = ClientConnection::new(Arc::clone(config), name).expect("a connection");
                exchange(StreamOwned::new(connection, stream), method, &head, body)
            }
        }
    }

    /// Reads a blob; `None` if the repository does not have it.
    pub fn blob(&self, repository: &str, digest: &str) -> Option<Vec<u8>> {
        let answer = self.request("GET", &format!("/v2/{repository}/blobs/{digest}"), &[], &[]);
        (answer.status() == 200).then_some(answer.body)
    }

    /// Whether the repository has a blob.
    pub fn has_blob(&self, repository: &str, digest: &str) -> bool {
        self.request("HEAD", &format!("/v2/{repository}/blobs/{digest}"), &[], &[]).status() == 200
    }

    /// Reads a manifest by tag or digest; the caller looks at the answer's status.
    pub fn manifest(&self, repository: &str, name: &str) -> Answer {
        self.request("GET", &format!("/v2/{repository}/manifests/{name}"), &[("Accept", ACCEPT)], &[])
    }

    /// The digest that the registry gives for a tag or digest; `None` if it does not have it.
    pub fn digest(&self, repository: &str, name: &str) -> Option<String> {
        let target = format!("/v2/{repository}/manifests/{name}");
        let answer = self.request("HEAD", &target, &[("Accept", ACCEPT)], &[]);
        (answer.status() == 200).then(|| answer.header("docker-content-digest").to_owned())
    }

    /// Uploads a blob as `digest`, by POST and PUT; the last answer, which has status 201 if the blob is stored.
    pub fn push_blob(&self, repository: &str, digest: &str, bytes: &[u8]) -> Answer {
        let started = self.request("POST", &format!("/v2/{repository}/blobs/uploads/"), &[], &[]);
        if started.status() != 202 {
            return started;
        }
        let location = without_host(started.header("location"));
        let joint = if location.contains('?') { '&' } else { '?' };
        let kind = [("Content-Type", "application/octet-stream")];
        self.request("PUT", &format!("{location}{joint}digest={digest}"), &kind, bytes)
    }

    /// Pushes a manifest under a tag or digest.
    pub fn push_manifest(&self, repository: &str, name: &str, media_type: &str, bytes: &[u8]) -> Answer {
        let target = format!("/v2/{repository}/manifests/{name}");
        self.request("PUT", &target, &[("Content-Type", media_type)], bytes)
    }

    /// Deletes a manifest by digest; the status.
    pub fn delete_manifest(&self, repository: &str, digest: &str) -> u16 {
        self.request("DELETE", &format!("/v2/{repository}/manifests/{digest}"), &[], &[]).status()
    }

    /// The tags of a repository, sorted; none if there is no such repository.
    pub fn tags(&self, repository: &str) -> Vec<String> {
        let answer = self.request("GET", &format!("/v2/{repository}/tags/list"), &[], &[]);
        if answer.status() == 404 {
            return Vec::new();
        }
        let list: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
        let tags = list["tags"].as_array().cloned().unwrap_or_default();
        let mut tags: Vec<String> = tags.iter().filter_map(|tag| tag.as_str().map(str::to_owned)).collect();
        tags.sort();
        tags
    }

    /// Pushes an image of [`crate::registry`] as `repository:tag`; panics if the registry refuses it.
    pub fn push_image(&self, repository: &str, tag: &str, image: &crate::registry::Image) {
        for (digest, bytes) in &image.blobs {
            let stored = self.push_blob(repository, &digest.to_string(), bytes);
            assert_eq!(stored.status(), 201, "{stored:?}");
        }
        let stored = self.push_manifest(repository, tag, sampan_oci::MANIFEST, &image.manifest);
        assert_eq!(stored.status(), 201, "{stored:?}");
        assert_eq!(stored.header("docker-content-digest"), Digest::of(&image.manifest).to_string());
    }
}

/// The value of `Authorization` for Basic authentication.
pub fn basic(username: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{username}:{password}")))
}

fn exchange(mut stream: impl Read + Write, method: &str, head: &Head, body: &[u8]) -> Answer {
    stream.write_all(&head.encode()).expect("sent");
    // A registry that refuses the request may have closed before it has read the body; its answer tells.
    let sent = stream.write_all(body).and_then(|()| stream.flush());
    let mut wire = Wire::new(stream);
    let head = loop {
        match wire.head() {
            Ok(Some(head)) if !head.word(1).starts_with('1') => break head,
            Ok(Some(_)) => {}
            other => panic!("no answer to {}: {other:?}, body sent: {sent:?}", head.line),
        }
    };
    let (mut rest, mut content) = (head.answer_body(method), Vec::new());
    while let Some(piece) = wire.piece(&mut rest, u64::MAX).expect("a whole body") {
        content.extend_from_slice(&piece.raw[..piece.content]);
    }
    Answer { head, body: content }
}
