//! The three files that a container's name and network make: `/etc/hostname`, `/etc/hosts`, `/etc/resolv.conf`.
//!
//! Written into the container's directory at each start, and mounted into the container. Never reads what the image
//! has of them.

use super::definition::Definition;
use super::home::{self, HomeError, Homes};
use sampan_ipc::container::Network;
use std::fs::{self, File, Permissions};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Longest file of the host that is copied, in bytes.
const COPY_MAX: u64 = 1 << 20;
/// Loopback, by its names.
const LOOPBACK: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";

/// Where they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// `/etc/hostname`.
    pub hostname: PathBuf,
    /// `/etc/hosts`.
    pub hosts: PathBuf,
    /// `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
}

/// The container's host name.
pub fn hostname(definition: &Definition) -> &str {
    definition.create.hostname.as_deref().unwrap_or_else(|| definition.id.get(..12).unwrap_or_default())
}

/// Where the files of a container are.
pub fn files(homes: &Homes, definition: &Definition) -> Files {
    let dir = homes.dir(&definition.id);
    Files { hostname: dir.join("hostname"), hosts: dir.join("hosts"), resolv_conf: dir.join("resolv.conf") }
}

/// Writes them.
///
/// # Errors
/// [`HomeError::File`].
pub fn write(homes: &Homes, definition: &Definition, network: Network) -> Result<Files, HomeError> {
    let files = files(homes, definition);
    let name = hostname(definition);
    put(&files.hostname, &format!("{name}\n"))?;
    let hosts = match network {
        Network::Host => copy("/etc/hosts").unwrap_or_else(|| LOOPBACK.to_owned()),
        Network::None | Network::Default => format!("{LOOPBACK}127.0.1.1\t{name}\n"),
    };
    put(&files.hosts, &hosts)?;
    put(&files.resolv_conf, &copy("/etc/resolv.conf").unwrap_or_default())?;
    Ok(files)
}

fn put(path: &Path, text: &str) -> Result<(), HomeError> {
    home::write(path, text.as_bytes(), false)?;
    // Every user in the container reads them.
    fs::set_permissions(path, Permissions::from_mode(0o644)).map_err(home::failed("set the mode of", path))
}

/// A file of the host; `None` if there is none, or none that is text.
fn copy(path: &str) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(COPY_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}
