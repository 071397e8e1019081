//! Asks registries which blobs images have, each on a thread of its own.
//!
//! Owned by the event loop, which starts a request for [`Action::Resolve`](super::Action::Resolve) and gets its
//! [`Resolution`] as a message. The requests use what `sampan_registry` knows: credentials, certificates, proxies,
//! and the filter of addresses. `manager` limits their number.

use super::action::ImageBlobs;
use super::image::{self, BLOBS_MAX, ImageError, MANIFESTS_MAX, References};
use super::request::{Headers, ImageUrl, PreheatRequest};
use http::HeaderValue;
use http::header::{AUTHORIZATION, InvalidHeaderValue};
use sampan_job::cancel::Cancel;
use sampan_oci::digest::Digest;
use sampan_registry::{Access, Registry, RegistryError, retry};
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

/// Stack size of a thread, in bytes.
const STACK: usize = 1 << 20;
/// Most indexes inside each other.
const DEPTH_MAX: u32 = 2;

/// The answer to the request `run`.
#[derive(Debug)]
pub struct Resolution {
    /// Number of the request.
    pub run: u64,
    /// The blobs of the image, or why there are none.
    pub result: Result<ImageBlobs, String>,
}

type SendResolution = Arc<dyn Fn(Resolution) + Send + Sync>;

/// The requests that run.
pub struct Resolver {
    access: Access,
    send: SendResolution,
    running: HashMap<u64, Arc<Cancel>>,
}

#[derive(Debug, thiserror::Error)]
enum ResolveError {
    #[error("{0:?} is not the URL of a manifest")]
    Url(String),
    #[error("the Authorization header cannot be sent")]
    Header(#[from] InvalidHeaderValue),
    #[error(
        "the registry {host} has the address {address}, which is not public; if it is yours, start the supernode with \
         --allow-origin {host}"
    )]
    Forbidden { host: String, address: IpAddr },
    #[error(transparent)]
    Registry(RegistryError),
    #[error("{what} cannot be used")]
    Image { what: String, source: ImageError },
    #[error("the image has {0}")]
    Size(&'static str),
    #[error("cancelled")]
    Cancelled,
}

impl Resolver {
    /// Asks no registry yet. `access` has the credentials, certificates and filters for all registries. `send`
    /// passes a message to the event loop, and is called on other threads.
    pub fn new(access: Access, send: impl Fn(Resolution) + Send + Sync + 'static) -> Self {
        Resolver { access, send: Arc::new(send), running: HashMap::new() }
    }

    /// Starts a request. Its [`Resolution`] comes later, also if the thread cannot be started.
    pub fn start(&mut self, run: u64, request: PreheatRequest) {
        let cancel = Arc::new(Cancel::default());
        let (access, send, watched) = (self.access.clone(), Arc::clone(&self.send), Arc::clone(&cancel));
        let work = move || {
            let result = resolve(&request, &access, &watched);
            send(Resolution { run, result: result.map_err(|error| sampan_ipc::report::chain(&error)) });
        };
        match sampan_os::thread::spawn("preheat", STACK, work) {
            Ok(_) => {
                self.running.insert(run, cancel);
            }
            Err(error) => {
                let result = Err(format!("cannot start a thread: {error}"));
                (self.send)(Resolution { run, result });
            }
        }
    }

    /// Aborts a request. Its [`Resolution`] still comes.
    pub fn cancel(&self, run: u64) {
        if let Some(cancel) = self.running.get(&run) {
            cancel.cancel();
        }
    }

    /// Forgets a request whose [`Resolution`] has come.
    pub fn on_resolution(&mut self, run: u64) {
        self.running.remove(&run);
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.running.values().for_each(|cancel| cancel.cancel());
    }
}

fn is_authorization(name: &str) -> bool {
    name.eq_ignore_ascii_case(AUTHORIZATION.as_str())
}

/// Reads the manifest, or the index and the manifests that it names, and lists the blobs.
fn resolve(request: &PreheatRequest, access: &Access, cancel: &Cancel) -> Result<ImageBlobs, ResolveError> {
    let url = ImageUrl::parse(&request.url).ok_or_else(|| ResolveError::Url(request.url.clone()))?;
    let given = request.headers.iter().find(|(name, _)| is_authorization(name));
    let authorization = given.map(|(_, value)| HeaderValue::from_str(value)).transpose()?;
    let is_own_token = authorization.is_none();
    let is_https = url.scheme == "https";
    let registry = Registry::at_url(is_https, &url.host, &url.repository, authorization, access);
    let registry = Arc::new(registry);
    let to_shut = Arc::clone(&registry);
    let _link = cancel.link(move || to_shut.shutdown());
    let digests = read(&registry, &url, request, cancel)?;
    if digests.is_empty() {
        return Err(ResolveError::Size("no blobs"));
    }
    let mut headers: Vec<(String, String)> =
        request.headers.iter().filter(|(name, _)| !is_authorization(name)).cloned().collect();
    let in_use = registry.authorization_in_use();
    let is_own_token = is_own_token && in_use.is_some();
    headers.extend(in_use.map(|value| ("Authorization".to_owned(), value)));
    let urls = digests.iter().map(|digest| url.blob(&digest.to_string())).collect();
    Ok(ImageBlobs { urls, headers: Headers::new(headers), is_own_token })
}

fn read(
    registry: &Registry,
    url: &ImageUrl,
    request: &PreheatRequest,
    cancel: &Cancel,
) -> Result<BTreeSet<Digest>, ResolveError> {
    let on_retry = |message: &str| log::debug!("preheat of {}: {message}", request.printable_url());
    let mut blobs = BTreeSet::new();
    let mut seen = BTreeSet::from([url.target.clone()]);
    let mut waiting = vec![(url.target.clone(), 0)];
    while let Some((target, depth)) = waiting.pop() {
        cancel.check().map_err(|_| ResolveError::Cancelled)?;
        let raw = retry::persist(cancel, &on_retry, || registry.manifest(&target));
        let raw = raw.map_err(|error| match cancel.is_cancelled() {
            true => ResolveError::Cancelled,
            false => registry_error(error),
        })?;
        let found = image::parse(&raw.bytes, request.platform.as_ref());
        if depth > 0 && matches!(found, Err(ImageError::Platform(_))) {
            // Another index inside the same index may have the platform.
            continue;
        }
        let found =
            found.map_err(|source| ResolveError::Image { what: format!("manifest {target}"), source });
        match found? {
            References::Manifests(_) if depth >= DEPTH_MAX => {
                return Err(ResolveError::Size("too many indexes inside each other"));
            }
            References::Manifests(digests) => {
                let digests = digests.iter().map(Digest::to_string);
                let new: Vec<String> = digests.filter(|digest| seen.insert(digest.clone())).collect();
                waiting.extend(new.into_iter().map(|digest| (digest, depth + 1)));
                if seen.len() > MANIFESTS_MAX + 1 {
                    return Err(ResolveError::Size("too many manifests"));
                }
            }
            References::Blobs(digests) => {
                blobs.extend(digests);
                if blobs.len() > BLOBS_MAX {
                    return Err(ResolveError::Size("too many blobs"));
                }
            }
        }
    }
    Ok(blobs)
}

fn registry_error(error: RegistryError) -> ResolveError {
    let refused = match error.last() {
        RegistryError::Transport { source, .. } => source.refused(),
        _ => None,
    };
    match refused {
        Some(refused) => ResolveError::Forbidden { host: refused.host.clone(), address: refused.address },
        None => ResolveError::Registry(error),
    }
}

#[cfg(test)]
mod tests;
