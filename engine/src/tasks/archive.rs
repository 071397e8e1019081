//! Loads and saves as jobs: checks the request, runs the job, announces its events, converts an error into the job's
//! failure.
//!
//! Called by [`crate::server`]; calls [`crate::image::archive::load`] and [`crate::image::archive::save`].

use crate::context::Shared;
use crate::error;
use crate::image::archive::load::{self, LoadError, LoadRequest, LoadedImage};
use crate::image::archive::manifest::ManifestError;
use crate::image::archive::save::{self, SaveError, SaveRequest, SavedImage};
use crate::tasks::task::Task;
use sampan_ipc::engine::{self, Code, Container, Done, Failure};
use sampan_oci::platform::Platform;
use sampan_oci::reference::Reference;
use sampan_os::io_error;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

/// Most images that one save accepts.
const SAVED_MAX: usize = 1000;

/// Checks a load request and takes the descriptor that the client sent with the request.
///
/// # Errors
/// [`Failure`]: the reference or the platform is not valid, or there is not exactly one descriptor.
pub fn load_request(
    shared: &Shared,
    load: engine::Load,
    descriptors: Vec<OwnedFd>,
) -> Result<LoadRequest, Failure> {
    let from = only(descriptors)?;
    let reference =
        load.reference.as_deref().map(Reference::parse).transpose().map_err(|e| error::usage(&e))?;
    if reference.as_ref().is_some_and(|reference| reference.digest().is_some()) {
        return Err(error::new(Code::Usage, "a loaded image cannot be named by digest", "give NAME:TAG"));
    }
    let platform = load.platform.as_deref().map(Platform::parse).transpose().map_err(|e| error::usage(&e))?;
    let is_layout = load.source == Container::OciLayout;
    let (policies, room) = (Arc::clone(&shared.config.policies), shared.room.clone());
    let (select, unpack) = (load.select, !load.no_unpack);
    Ok(LoadRequest { from, is_layout, select, reference, platform, unpack, policies, room })
}

/// Checks a save request of user `uid` and takes the descriptor that the client sent with the request.
///
/// # Errors
/// [`Failure`]: a name is not valid, or there is not exactly one descriptor, or the directory is another user's.
pub fn save_request(
    save: engine::Save,
    descriptors: Vec<OwnedFd>,
    uid: Option<u32>,
) -> Result<SaveRequest, Failure> {
    let to = only(descriptors)?;
    let usage = |message: &str| Err(error::new(Code::Usage, message, ""));
    if save.names.is_empty() || save.names.len() > SAVED_MAX {
        return usage(&format!("{} images are to be saved, expected 1 to {SAVED_MAX}", save.names.len()));
    }
    let rename = match (save.rename, save.target) {
        (Some(name), Container::DockerArchive) => {
            let reference = Reference::parse(&name).map_err(|e| error::usage(&e))?;
            if reference.digest().is_some() {
                return usage("an image in an archive cannot be named by digest");
            }
            Some(reference.to_string())
        }
        (Some(name), _) if !is_ref_name(&name) => {
            return usage(&format!("{:?} is not a valid image name in an OCI layout", cut(&name)));
        }
        (rename, _) => rename,
    };
    if save.target == Container::OciLayout {
        may_write(&to, uid)?;
    }
    Ok(SaveRequest { names: save.names, target: save.target, to, rename })
}

/// The grammar of `org.opencontainers.image.ref.name`. OCI image-spec, "Pre-Defined Annotation Keys".
fn is_ref_name(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"-._:@/+".contains(&b);
    let ends = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    name.len() <= 255 && name.bytes().all(inner) && ends(name.bytes().next()) && ends(name.bytes().last())
}

/// Refuses a directory of another user. The client's descriptor only proves that the client may read the directory, and
/// the engine would write into the directory with the engine's rights.
fn may_write(dir: &OwnedFd, uid: Option<u32>) -> Result<(), Failure> {
    let refuse = |message: String, hint: &str| Err(error::new(Code::Usage, message, hint));
    let meta = match dir.try_clone().and_then(|dir| File::from(dir).metadata()) {
        Ok(meta) if meta.is_dir() => meta,
        Ok(_) => return refuse("the target of the save is not a directory".to_owned(), ""),
        Err(error) => return refuse(format!("cannot stat the target directory: {error}"), ""),
    };
    let engine = nix::unistd::geteuid().as_raw();
    match uid {
        Some(uid) if uid == 0 || uid == engine || uid == meta.uid() => Ok(()),
        _ => refuse("the target directory belongs to another user".to_owned(), "save into one of your own"),
    }
}

fn cut(text: &str) -> String {
    text.chars().take(300).collect()
}

/// Takes the descriptor of a load or save request, which must have exactly one.
fn only(descriptors: Vec<OwnedFd>) -> Result<OwnedFd, Failure> {
    let count = descriptors.len();
    match <[OwnedFd; 1]>::try_from(descriptors) {
        Ok([fd]) => Ok(fd),
        Err(_) => {
            let message = format!("the request needs exactly one descriptor and brings {count}");
            Err(error::new(Code::Usage, message, ""))
        }
    }
}

/// The subject that announcements of a load name. It comes from the request, because the archive's content is not known
/// yet.
pub fn load_subject(request: &LoadRequest) -> String {
    match (&request.reference, &request.select) {
        (Some(reference), _) => reference.to_string(),
        (None, Some(select)) => cut(select),
        (None, None) => "archive".to_owned(),
    }
}

impl Task {
    /// Runs the load job `request`; call it on a thread of its own.
    pub fn load(self, request: LoadRequest) {
        let subject = load_subject(&request);
        let shared = &self.shared;
        shared.announcer.job("start", self.job, "load", &subject, &[]);
        let is_layout = request.is_layout;
        let loaded = load::load(&shared.store, &shared.limits, request, &self.progress, &self.cancel);
        let outcome = match loaded {
            Ok(images) => {
                images.iter().for_each(|image| self.announce_loaded(image));
                Ok(loaded_done(&images))
            }
            Err(error) => {
                let failure = load_failure(&error, is_layout);
                self.announce_failure("load-error", &subject, &failure);
                Err(failure)
            }
        };
        self.end("load", &subject, outcome);
    }

    /// Runs the save job `request`; call it on a thread of its own.
    pub fn save(self, request: SaveRequest) {
        let subject = cut(&request.names.join(" "));
        let shared = &self.shared;
        shared.announcer.job("start", self.job, "save", &subject, &[]);
        let saved = save::save(&shared.store, &shared.limits, request, &self.progress, &self.cancel);
        let outcome = match saved {
            Ok(images) => {
                for image in &images {
                    let (digest, id) = (image.digest.to_string(), image.id.to_string());
                    let facts = [("digest", digest.as_str()), ("imageId", &id)];
                    shared.announcer.image("save", &image.name, &facts, Some(&image.labels));
                }
                Ok(saved_done(images))
            }
            Err(error) => {
                let failure = save_failure(&subject, error);
                self.announce_failure("save-error", &subject, &failure);
                Err(failure)
            }
        };
        self.end("save", &subject, outcome);
    }

    fn announce_loaded(&self, image: &LoadedImage) {
        let (digest, id, size) = (image.digest.to_string(), image.id.to_string(), image.size.to_string());
        let unchanged = if image.unchanged { "true" } else { "" };
        let facts =
            [("digest", digest.as_str()), ("imageId", &id), ("size", &size), ("unchanged", unchanged)];
        for name in names(image) {
            self.shared.announcer.image("load", &name, &facts, Some(&image.labels));
        }
    }
}

/// The references of an image, or the image's ID if it has no reference.
fn names(image: &LoadedImage) -> Vec<String> {
    match image.references.is_empty() {
        true => vec![image.id.to_string()],
        false => image.references.iter().map(Reference::to_string).collect(),
    }
}

fn loaded_done(images: &[LoadedImage]) -> Done {
    let references: Vec<String> = images.iter().flat_map(names).collect();
    let unchanged = images.iter().all(|image| image.unchanged);
    match images {
        // The answer for a single image also contains the image's digest.
        [image] => {
            let reference = image.references.first().map(Reference::to_string).unwrap_or_default();
            Done { reference, digest: image.digest.to_string(), unchanged, references, ..Done::default() }
        }
        _ => Done { unchanged, references, ..Done::default() },
    }
}

fn load_failure(error: &LoadError, is_layout: bool) -> Failure {
    let source = if is_layout { "layout" } else { "archive" };
    let message = format!("cannot load the {source}: {}", sampan_ipc::report::chain(error));
    let (code, hint) = match error {
        LoadError::Cancelled(_) => (Code::Cancelled, ""),
        LoadError::Platform { .. } => (Code::Failed, "--platform selects another one"),
        LoadError::Several(_) => {
            (Code::Usage, "choose one: 'sampan pull docker-archive:FILE:REF', or oci-archive: or oci:")
        }
        full if io_error::is_full(full) => (Code::Failed, error::FULL_DISK_HINT),
        LoadError::Store(_) => (Code::Failed, ""),
        LoadError::DiskSpace(_) | LoadError::Full(_) => {
            (Code::Failed, "'sampan image prune' removes unused images")
        }
        LoadError::Policy { .. } => (
            Code::Failed,
            "if you trust it, give it another name with 'sampan load --name'; nothing was stored",
        ),
        LoadError::Manifest(ManifestError::NoSuch { .. }) => (Code::NotFound, ""),
        LoadError::Archive(_) | LoadError::Manifest(_) | LoadError::Wrong { .. } if is_layout => (
            Code::Failed,
            "the layout must be complete, as 'skopeo copy' or 'sampan save --format oci-dir' writes it; nothing was stored",
        ),
        LoadError::Archive(_) | LoadError::Manifest(_) | LoadError::Wrong { .. } => (
            Code::Failed,
            "the archive must be complete, as 'docker save' or 'podman save' writes it; nothing was stored",
        ),
    };
    error::new(code, message, hint)
}

fn saved_done(images: Vec<SavedImage>) -> Done {
    let digest = match images.as_slice() {
        [image] => image.digest.to_string(),
        _ => String::new(),
    };
    let references: Vec<String> = images.into_iter().map(|image| image.name).collect();
    let reference = references.first().filter(|name| !name.starts_with("sha256:")).cloned();
    let reference = reference.filter(|_| !digest.is_empty()).unwrap_or_default();
    Done { reference, digest, references, ..Done::default() }
}

fn save_failure(names: &str, error: SaveError) -> Failure {
    let why = sampan_ipc::report::chain(&error);
    let message = format!("cannot save {names}: {why}");
    match error {
        SaveError::Cancelled(_) => error::new(Code::Cancelled, message, ""),
        SaveError::Image(error) => Failure { message: error::crop(message), ..error::explain(error) },
        SaveError::Several(_) => {
            error::new(Code::Usage, message, "save one image, or give no name for the archive")
        }
        SaveError::Digest { .. } => {
            error::new(Code::Failed, message, "the store is damaged; remove the image and pull it again")
        }
        SaveError::Write { .. } | SaveError::Store(_) => error::new(Code::Failed, message, ""),
    }
}
