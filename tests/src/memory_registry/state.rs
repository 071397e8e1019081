//! The content of a registry in memory, and its answer to each request.

use super::exchange::{Answer, Behaviour, Fault, Guard, RecordedRequest};
use sampan_oci as oci;
use sampan_oci::digest::{Algorithm, Digest, Hasher};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

/// Blobs, manifests and uploads, and what the test has asked for.
#[derive(Default)]
pub(super) struct State {
    /// By repository and digest.
    pub(super) blobs: HashMap<(String, String), Vec<u8>>,
    /// Media type and bytes, by repository and tag or digest.
    pub(super) manifests: BTreeMap<(String, String), (String, Vec<u8>)>,
    pub(super) uploads: HashMap<String, Vec<u8>>,
    /// Number of uploads that were begun.
    pub(super) begun: usize,
    pub(super) requests: Vec<RecordedRequest>,
    pub(super) faults: VecDeque<(String, Fault)>,
    pub(super) guard: Option<Guard>,
    /// The valid tokens, each with the scopes that it was requested for.
    pub(super) tokens: HashMap<String, Vec<String>>,
    pub(super) issued: usize,
    pub(super) redirect: Option<String>,
    pub(super) wrong_digest: bool,
    pub(super) behaviour: Behaviour,
}

/// A path below `/v2/`.
enum Path<'a> {
    FrontPage,
    Catalog,
    Tags(&'a str),
    Referrers(&'a str, &'a str),
    Manifest(&'a str, &'a str),
    /// The start of an upload.
    Uploads(&'a str),
    Upload(&'a str, &'a str),
    Blob(&'a str, &'a str),
    Unknown,
}

impl<'a> Path<'a> {
    fn of(request: &'a RecordedRequest) -> Self {
        let path = request.path.strip_prefix("/v2/").unwrap_or("unknown");
        match path {
            "" => Path::FrontPage,
            "_catalog" => Path::Catalog,
            _ => {
                let split = |word| path.split_once(word);
                if let Some(repository) = path.strip_suffix("/tags/list") {
                    Path::Tags(repository)
                } else if let Some((repository, name)) = split("/manifests/") {
                    Path::Manifest(repository, name)
                } else if let Some((repository, digest)) = split("/referrers/") {
                    Path::Referrers(repository, digest)
                } else if let Some((repository, id)) = split("/blobs/uploads/") {
                    if id.is_empty() { Path::Uploads(repository) } else { Path::Upload(repository, id) }
                } else if let Some((repository, digest)) = split("/blobs/") {
                    Path::Blob(repository, digest)
                } else {
                    Path::Unknown
                }
            }
        }
    }

    fn repository(&self) -> Option<&'a str> {
        match self {
            Path::Tags(repository) | Path::Uploads(repository) => Some(repository),
            Path::Referrers(repository, _)
            | Path::Manifest(repository, _)
            | Path::Upload(repository, _)
            | Path::Blob(repository, _) => Some(repository),
            _ => None,
        }
    }
}

/// The parameters of a query, percent-decoded as far as media types need it.
fn parameters(query: &str) -> HashMap<String, String> {
    let decode = |text: &str| text.replace("%2F", "/").replace("%2B", "+").replace("%3A", ":");
    query.split('&').filter_map(|word| word.split_once('=')).map(|(k, v)| (k.to_owned(), decode(v))).collect()
}

/// The digest of `bytes` with the algorithm of `like`; SHA-256 if `like` is no digest.
fn digest_like(like: &str, bytes: &[u8]) -> String {
    let algorithm = Digest::parse(like).map_or(Algorithm::Sha256, |digest| digest.algorithm());
    let mut hasher = Hasher::new(algorithm);
    hasher.update(bytes);
    hasher.finish().to_string()
}

impl State {
    /// Stores a blob under its SHA-256 digest.
    pub(super) fn put_blob(&mut self, repository: &str, bytes: &[u8]) {
        self.blobs.insert((repository.to_owned(), Digest::of(bytes).to_string()), bytes.to_vec());
    }

    /// Stores a manifest under `name` and under its SHA-256 digest.
    pub(super) fn put_manifest(&mut self, repository: &str, name: &str, media_type: &str, bytes: &[u8]) {
        for name in [name.to_owned(), Digest::of(bytes).to_string()] {
            self.manifests.insert((repository.to_owned(), name), (media_type.to_owned(), bytes.to_vec()));
        }
    }

    /// Answers a request for a token.
    pub(super) fn token(&mut self, request: &RecordedRequest) -> Answer {
        let guard = self.guard.clone().unwrap_or_default();
        let secret = &guard.secret;
        let form = String::from_utf8_lossy(&request.body);
        let is_known = secret.is_empty()
            || request.header("authorization") == format!("Basic {secret}")
            || form.split('&').any(|word| word == format!("refresh_token={secret}"));
        let scopes: Vec<String> = request
            .query
            .split('&')
            .filter_map(|word| word.strip_prefix("scope="))
            .map(|scope| scope.replace("%2C", ",").replace("%2A", "*"))
            .collect();
        if !is_known || self.behaviour.refused_scope.as_ref().is_some_and(|refused| scopes.contains(refused))
        {
            return Answer::of(401);
        }
        self.issued += 1;
        let token = format!("token-{}", self.issued);
        self.tokens.insert(token.clone(), scopes);
        Answer::json(&json!({"token": token, "expires_in": 300}))
    }

    /// Refuses a request that has no valid token, if tokens are required.
    pub(super) fn refuse(&self, request: &RecordedRequest, address: &str) -> Option<Answer> {
        let guard = self.guard.as_ref()?;
        let word = request.header("authorization").strip_prefix("Bearer ").unwrap_or_default();
        let wanted = needed_scope(request).filter(|_| self.behaviour.checks_scopes);
        match (self.tokens.get(word), &wanted) {
            (Some(scopes), Some((resource, action))) if !allows(scopes, resource, action) => {}
            (Some(_), _) => return None,
            (None, _) => {}
        }
        let realm = guard.realm.clone().unwrap_or_else(|| format!("http://{address}/token"));
        let scope =
            wanted.map_or(String::new(), |(resource, action)| format!(", scope=\"{resource}:{action}\""));
        Some(
            Answer::error(401, "UNAUTHORIZED")
                .with("WWW-Authenticate", "Negotiate abc==, Digest realm=\"a, b\"")
                .with("WWW-Authenticate", format!("Bearer realm=\"{realm}\", service=\"a, test\"{scope}")),
        )
    }

    /// Answers a request that is allowed. Only a part of its body has arrived if it is not `whole`.
    pub(super) fn answer(&mut self, request: &RecordedRequest, whole: bool) -> Answer {
        match Path::of(request) {
            Path::FrontPage => Answer::of(200),
            Path::Catalog => self.catalog(request),
            Path::Tags(repository) => self.tags(request, repository),
            Path::Referrers(repository, digest) => self.referrers(request, repository, digest),
            Path::Manifest(repository, name) => match request.method.as_str() {
                "PUT" => self.receive_manifest(request, repository, name),
                "DELETE" => self.delete_manifest(repository, name),
                _ => self.manifest(repository, name),
            },
            Path::Uploads(repository) => self.begin(request, repository),
            Path::Upload(repository, id) => self.upload(request, repository, id, whole),
            Path::Blob(repository, digest) => self.blob(request, repository, digest),
            Path::Unknown => Answer::of(404),
        }
    }

    fn catalog(&self, request: &RecordedRequest) -> Answer {
        if let Some(status) = self.behaviour.catalog_status {
            return Answer::of(status);
        }
        let names: BTreeSet<&String> = self
            .manifests
            .keys()
            .map(|(repository, _)| repository)
            .chain(self.blobs.keys().map(|(r, _)| r))
            .collect();
        self.list(request, names.into_iter().cloned().collect(), |page| json!({"repositories": page}))
    }

    fn tags(&self, request: &RecordedRequest, repository: &str) -> Answer {
        let names = self.manifests.keys().filter(|(of, _)| of == repository).map(|(_, name)| name);
        let all: Vec<String> = names.cloned().collect();
        if all.is_empty() {
            return Answer::error(404, "NAME_UNKNOWN");
        }
        let tags = all.into_iter().filter(|name| !name.contains(':')).collect();
        self.list(request, tags, |page| json!({"name": repository, "tags": page}))
    }

    /// Answers with a page of a sorted list.
    fn list(
        &self,
        request: &RecordedRequest,
        mut names: Vec<String>,
        body: impl Fn(&[String]) -> Value,
    ) -> Answer {
        if self.behaviour.lists_unsorted {
            names.reverse();
            let half = names.len() / 2;
            names.rotate_left(half);
            return Answer::json(&body(&names));
        }
        let words = parameters(&request.query);
        let wanted: Option<usize> = words.get("n").and_then(|n| n.parse().ok());
        let max = self.behaviour.page_max;
        if self.behaviour.refuses_long_pages && wanted.zip(max).is_some_and(|(wanted, max)| wanted > max) {
            return Answer::error(400, "PAGINATION_NUMBER_INVALID");
        }
        if let Some(last) = words.get("last") {
            names.retain(|name| name > last);
        }
        let len = wanted.into_iter().chain(max).min().unwrap_or(names.len()).min(names.len());
        let answer = Answer::json(&body(&names[..len]));
        match names[..len].last() {
            Some(last) if len < names.len() && !self.behaviour.omits_links => {
                let link = format!("<{}?n={len}&last={last}>; rel=\"next\"", request.path);
                answer.with("Link", link)
            }
            _ => answer,
        }
    }

    fn referrers(&self, request: &RecordedRequest, repository: &str, digest: &str) -> Answer {
        if self.behaviour.has_no_referrers {
            return Answer { body: b"404 page not found\n".to_vec(), ..Answer::of(404) }
                .with("Content-Type", "text/plain; charset=utf-8");
        }
        let words = parameters(&request.query);
        let wanted = words.get("artifactType").filter(|_| !self.behaviour.ignores_filters);
        let own =
            self.manifests.iter().filter(|((of, name), _)| of == repository && name.starts_with("sha256:"));
        let all = own.filter_map(|((_, name), (kind, bytes))| {
            let document: Value = serde_json::from_slice(bytes).ok()?;
            let artifact = document["artifactType"].as_str().or(document["config"]["mediaType"].as_str());
            let artifact = artifact.unwrap_or_default();
            let is_listed =
                document["subject"]["digest"] == digest && wanted.is_none_or(|wanted| wanted == artifact);
            is_listed.then(|| {
                let mut descriptor = json!({
                    "mediaType": kind, "digest": name, "size": bytes.len(), "artifactType": artifact,
                });
                if document["annotations"].is_object() {
                    descriptor["annotations"] = document["annotations"].clone();
                }
                descriptor
            })
        });
        let from: usize = words.get("from").and_then(|from| from.parse().ok()).unwrap_or_default();
        let all: Vec<Value> = all.skip(from).collect();
        let len = self.behaviour.page_max.unwrap_or(all.len()).min(all.len());
        let page = json!({"schemaVersion": 2, "mediaType": oci::INDEX, "manifests": all[..len]});
        let mut answer = Answer { body: page.to_string().into_bytes(), ..Answer::of(200) };
        if len < all.len() {
            let kind =
                request.query.split('&').find(|word| word.starts_with("artifactType=")).unwrap_or("x=y");
            answer =
                answer.with("Link", format!("<{}?{kind}&from={}>; rel=\"next\"", request.path, from + len));
        }
        if wanted.is_some() {
            answer = answer.with("OCI-Filters-Applied", "artifactType");
        }
        answer.with("Content-Type", oci::INDEX)
    }

    fn manifest(&self, repository: &str, name: &str) -> Answer {
        let Some((kind, bytes)) = self.manifests.get(&(repository.to_owned(), name.to_owned())) else {
            return Answer::error(404, "MANIFEST_UNKNOWN");
        };
        let kind = self.behaviour.content_type.as_ref().unwrap_or(kind);
        let answer = Answer { body: bytes.clone(), ..Answer::of(200) }.with("Content-Type", kind);
        match self.behaviour.states_no_digest {
            true => answer,
            false => answer.with("Docker-Content-Digest", Digest::of(bytes).to_string()),
        }
    }

    fn receive_manifest(&mut self, request: &RecordedRequest, repository: &str, name: &str) -> Answer {
        let Ok(document) = serde_json::from_slice::<Value>(&request.body) else {
            return Answer::error(400, "MANIFEST_INVALID");
        };
        if name.contains(':') && digest_like(name, &request.body) != name {
            return Answer::error(400, "DIGEST_INVALID");
        }
        let field = |name: &str| document[name].as_array().cloned().unwrap_or_default();
        let digest = |descriptor: &Value| {
            (repository.to_owned(), descriptor["digest"].as_str().unwrap_or_default().to_owned())
        };
        let is_foreign = |layer: &Value| layer["urls"].as_array().is_some_and(|urls| !urls.is_empty());
        let config = document.get("config").cloned();
        let mut blobs = field("layers").into_iter().filter(|layer| !is_foreign(layer)).chain(config);
        let has_blobs = blobs.all(|blob| self.blobs.contains_key(&digest(&blob)));
        let has_children = field("manifests").iter().all(|child| self.manifests.contains_key(&digest(child)));
        if !has_blobs || !has_children {
            return Answer::error(400, "MANIFEST_BLOB_UNKNOWN");
        }
        self.put_manifest(repository, name, request.header("content-type"), &request.body);
        let answer = Answer::of(201).with("Location", request.path.clone());
        let answer = match self.behaviour.states_no_digest {
            true => answer,
            false => answer.with("Docker-Content-Digest", self.says(&request.body)),
        };
        match document["subject"]["digest"].as_str() {
            Some(subject) if !self.behaviour.has_no_referrers => answer.with("OCI-Subject", subject),
            _ => answer,
        }
    }

    fn delete_manifest(&mut self, repository: &str, name: &str) -> Answer {
        if let Some(status) = self.behaviour.delete_status {
            return Answer::error(status, "UNSUPPORTED");
        }
        let is_digest = name.contains(':');
        if !is_digest && self.behaviour.refuses_tag_deletes {
            return Answer::error(400, "DIGEST_INVALID");
        }
        let Some((_, deleted)) = self.manifests.remove(&(repository.to_owned(), name.to_owned())) else {
            return Answer::error(404, "MANIFEST_UNKNOWN");
        };
        if is_digest {
            self.manifests.retain(|(of, _), (_, bytes)| of != repository || *bytes != deleted);
        }
        Answer::of(202)
    }

    fn says(&self, bytes: &[u8]) -> String {
        let bytes = if self.wrong_digest { b"something else" } else { bytes };
        Digest::of(bytes).to_string()
    }

    fn blob(&self, request: &RecordedRequest, repository: &str, digest: &str) -> Answer {
        let Some(bytes) = self.blobs.get(&(repository.to_owned(), digest.to_owned())) else {
            return Answer::error(404, "BLOB_UNKNOWN");
        };
        if let Some(address) = self.redirect.as_ref().filter(|_| request.method == "GET") {
            return Answer::of(307).with("Location", format!("http://{address}{}", request.path));
        }
        let from = request.header("range").strip_prefix("bytes=").and_then(|range| range.strip_suffix('-'));
        match from.and_then(|from| from.parse::<usize>().ok()) {
            Some(from) if from < bytes.len() => {
                let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
                Answer { body: bytes[from..].to_vec(), ..Answer::of(206) }.with("Content-Range", range)
            }
            _ => Answer { body: bytes.clone(), ..Answer::of(200) },
        }
    }

    fn begin(&mut self, request: &RecordedRequest, repository: &str) -> Answer {
        let words = parameters(&request.query);
        if let (Some(digest), Some(from)) = (words.get("mount"), words.get("from"))
            && let Some(bytes) = self.blobs.get(&(from.clone(), digest.clone())).cloned()
            && !self.behaviour.refuses_mounts
            && self.may_mount(request, from)
        {
            self.blobs.insert((repository.to_owned(), digest.clone()), bytes);
            return Answer::of(201).with("Docker-Content-Digest", digest);
        }
        // A counter, not the number of recorded requests: two concurrent uploads are both recorded before either gets a
        // reply.
        self.begun += 1;
        let id = format!("upload-{}", self.begun);
        self.uploads.insert(id.clone(), Vec::new());
        let answer = Answer::of(202)
            .with("Location", format!("/v2/{repository}/blobs/uploads/{id}?_state=a"))
            .with("Range", "0-0");
        match self.behaviour.chunk_min {
            Some(bytes) => answer.with("OCI-Chunk-Min-Length", bytes.to_string()),
            None => answer,
        }
    }

    /// Whether the token of the request allows a pull from the repository `from`.
    fn may_mount(&self, request: &RecordedRequest, from: &str) -> bool {
        let is_scoped = self.guard.is_some() && self.behaviour.checks_scopes;
        let word = request.header("authorization").strip_prefix("Bearer ").unwrap_or_default();
        let allowed = |scopes: &Vec<String>| allows(scopes, &format!("repository:{from}"), "pull");
        !is_scoped || self.tokens.get(word).is_some_and(allowed)
    }

    fn upload(&mut self, request: &RecordedRequest, repository: &str, id: &str, whole: bool) -> Answer {
        let Some(mut bytes) = self.uploads.remove(id) else {
            return Answer::error(404, "BLOB_UPLOAD_UNKNOWN");
        };
        if !whole && self.behaviour.loses_cut_uploads {
            return Answer::of(404);
        }
        let location = format!("/v2/{repository}/blobs/uploads/{id}?_state={}", self.requests.len());
        let going_on = |state: &mut State, status: u16, bytes: Vec<u8>| {
            let range = format!("0-{}", bytes.len().saturating_sub(1));
            state.uploads.insert(id.to_owned(), bytes);
            Answer::of(status).with("Location", location.clone()).with("Range", range)
        };
        match request.method.as_str() {
            "GET" => going_on(self, 204, bytes),
            "PATCH" => {
                let range = request.header("content-range");
                let from = range.split_once('-').map_or("", |(from, _)| from);
                if !range.is_empty() && from.parse() != Ok(bytes.len()) {
                    return going_on(self, 416, bytes);
                }
                bytes.extend(&request.body);
                going_on(self, 202, bytes)
            }
            "PUT" => {
                bytes.extend(&request.body);
                let digest = parameters(&request.query).remove("digest").unwrap_or_default();
                if digest_like(&digest, &bytes) != digest {
                    // The upload stays, so that the client can end it, as at docker-registry 2.8.2.
                    self.uploads.insert(id.to_owned(), bytes);
                    return Answer::error(400, "DIGEST_INVALID");
                }
                let says = self.says(&bytes);
                self.blobs.insert((repository.to_owned(), digest), bytes.clone());
                self.put_blob(repository, &bytes);
                Answer::of(201).with("Docker-Content-Digest", says)
            }
            "DELETE" => Answer::of(204),
            _ => Answer::of(405),
        }
    }
}

/// The resource and the action that a token needs for a request; `None` if any token is good.
fn needed_scope(request: &RecordedRequest) -> Option<(String, &'static str)> {
    let path = Path::of(request);
    if let Path::Catalog = path {
        return Some(("registry:catalog".to_owned(), "*"));
    }
    let action = match (request.method.as_str(), &path) {
        (_, Path::Uploads(_) | Path::Upload(..)) | ("PUT", _) => "push",
        ("DELETE", _) => "delete",
        _ => "pull",
    };
    path.repository().map(|repository| (format!("repository:{repository}"), action))
}

/// Whether one of `scopes` allows `action` on `resource`.
fn allows(scopes: &[String], resource: &str, action: &str) -> bool {
    let own = scopes.iter().filter_map(|scope| scope.rsplit_once(':')).filter(|(of, _)| *of == resource);
    own.flat_map(|(_, actions)| actions.split(',')).any(|allowed| allowed == action)
}
