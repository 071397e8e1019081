//! Creates a container: finds its image, checks the request, writes its directory.
//!
//! Called by the manager, on a thread. Never starts a process.

use super::definition::{Definition, ImageOf};
use super::directory::Directories;
use super::{context, state};
use crate::context::Shared;
use crate::error;
use crate::image::resolve;
use sampan_ipc::container::Create;
use sampan_ipc::engine::{Code, Failure};
use sampan_ipc::report::chain;
use sampan_ipc::shim::State;
use sampan_oci::platform::Platform;
use sampan_spec::security::Labels;
use sampan_spec::{process, signals, validate};
use sampan_store::Pin;
use sampan_store::images::{self, Loaded};

/// The signal that stops a container whose image names none. OCI image-spec, "StopSignal".
const STOP_SIGNAL: i32 = 15;

/// Creates container `id` and announces it; returns its definition, the pin on its image, and warnings for the client.
///
/// # Errors
/// The image is not in the store or not unpacked, or an option is not valid. After an error nothing of the container
/// is left.
pub fn create(
    shared: &Shared,
    directories: &Directories,
    id: &str,
    (name, labels): (String, Labels),
    create: Create,
) -> Result<(Box<Definition>, Pin, Vec<String>), Failure> {
    validate::check(&create).map_err(error::explain)?;
    let typed = resolve::stored(&shared.config, &shared.store, &create.image);
    let (image, pin) = find(shared, &typed)?;
    check_platform(&image, &create)?;
    let mut definition = define(id, name, create, &image, &typed)?;
    definition.selinux = labels;
    definition.rootfs = shared.rootfs.form(&shared.config, &shared.store, directories);
    let mut warnings = context::check(shared, directories, &definition)?;
    // A container that is removed when it ends need not survive a power loss.
    let is_durable = !definition.create.auto_remove;
    let layers = context::layers(&shared.store, &definition);
    let made = directories.make(&mut definition, &layers, &State::default(), is_durable);
    let left_out = made.map_err(|error| {
        error::new(Code::Failed, format!("cannot create container {id}: {}", chain(&error)), "")
    })?;
    state::announce(shared, directories, &definition);
    if left_out > 0 {
        warnings
            .push(format!("{left_out} extended attributes of the image cannot be kept on this file system"));
    }
    warnings.extend(shared.rootfs.take_warning(&shared.config, &shared.store, directories));
    images::touch(&shared.store, &image.entry.digest);
    Ok((Box::new(definition), pin, warnings))
}

/// Finds the image `typed` and pins it, so that it stays in the store.
fn find(shared: &Shared, typed: &str) -> Result<(Loaded, Pin), Failure> {
    let store = &shared.store;
    let (image, pin) = images::find_and_pin(store, typed).map_err(error::explain)?;
    let layers = image.config.chain_ids();
    if let Some(missing) = layers.iter().find(|layer| !store.has_layer(layer)) {
        let message = format!("image {typed:?} is not unpacked: layer {missing} is missing");
        return Err(error::new(Code::Conflict, message, "'sampan pull' it again, without --no-unpack"));
    }
    Ok((image, pin))
}

fn check_platform(image: &Loaded, create: &Create) -> Result<(), Failure> {
    let Some(wanted) = &create.platform else { return Ok(()) };
    let wanted = Platform::parse(wanted).map_err(|error| error::usage(&error))?;
    let actual = image.config.platform();
    match wanted.os == actual.os && wanted.architecture == actual.architecture {
        true => Ok(()),
        false => {
            let message = format!("image {:?} is for {actual}, not for {wanted}", create.image);
            Err(error::new(
                Code::Conflict,
                message,
                "'sampan pull --platform' pulls the image for another platform",
            ))
        }
    }
}

fn define(
    id: &str,
    name: String,
    create: Create,
    image: &Loaded,
    typed: &str,
) -> Result<Definition, Failure> {
    let run = image.config.config.clone();
    let words = process::arguments(&create, &run).map_err(error::explain)?;
    let stop_signal = match create.stop_signal.as_deref().or(run.stop_signal.as_deref()) {
        Some(signal) => signals::parse(signal).map_err(error::explain)?,
        None => STOP_SIGNAL,
    };
    let named = image.references.iter().any(|reference| reference == typed);
    Ok(Definition {
        id: id.to_owned(),
        name,
        created: state::now(),
        image: ImageOf {
            name: if named { typed.to_owned() } else { create.image.clone() },
            id: image.manifest.config.digest.to_string(),
            digest: image.entry.digest.to_string(),
            blobs: image.blobs().cloned().collect(),
            layers: image.config.chain_ids(),
        },
        create,
        run,
        words,
        stop_signal,
        ..Definition::default()
    })
}
