//! The three files that a container's name and network make: `/etc/hostname`, `/etc/hosts`, `/etc/resolv.conf`.
//!
//! Written into the container's directory at each start, and mounted into the container. Never reads what the image
//! has of them.

use super::definition::Definition;
use super::directory::{self, Directories, DirectoryError};
use sampan_ipc::container::Network;
use sampan_os::small_file;
use sampan_spec::mounts::Files;
use sampan_spec::relabel;
use std::fs::{self, Permissions};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Longest file of the host that is copied, in bytes.
const COPY_MAX: u64 = 1 << 20;
/// Loopback and the groups of IPv6, by the names that docker gives them.
const LOOPBACK: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
    fe00::0\tip6-localnet\nff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n";

/// Where the files of a container are.
pub fn files(directories: &Directories, definition: &Definition) -> Files {
    let dir = directories.dir(&definition.id);
    Files { hostname: dir.join("hostname"), hosts: dir.join("hosts"), resolv_conf: dir.join("resolv.conf") }
}

/// Writes them; `name` is the container's host name. `label` is the SELinux label that the container can read; empty
/// without SELinux.
///
/// # Errors
/// [`DirectoryError::File`].
pub fn write(
    directories: &Directories,
    definition: &Definition,
    name: &str,
    network: Network,
    label: &str,
) -> Result<(), DirectoryError> {
    let files = files(directories, definition);
    put(&files.hostname, &format!("{name}\n"))?;
    let hosts = match network {
        Network::Host => copy("/etc/hosts").unwrap_or_else(|| LOOPBACK.to_owned()),
        Network::None | Network::Default => format!("{LOOPBACK}127.0.1.1\t{name}\n"),
    };
    put(&files.hosts, &hosts)?;
    put(&files.resolv_conf, &copy("/etc/resolv.conf").unwrap_or_default())?;
    for path in [&files.hostname, &files.hosts, &files.resolv_conf].into_iter().filter(|_| !label.is_empty())
    {
        relabel::label_file(path, label).map_err(|errno| directory::failed("label", path)(errno.into()))?;
    }
    Ok(())
}

fn put(path: &Path, text: &str) -> Result<(), DirectoryError> {
    directory::write(path, text.as_bytes(), false)?;
    // Every user in the container reads them.
    fs::set_permissions(path, Permissions::from_mode(0o644))
        .map_err(directory::failed("set the mode of", path))
}

/// A file of the host; `None` if there is none, or none that is text.
fn copy(path: &str) -> Option<String> {
    let mut text = String::new();
    small_file::open(path.as_ref()).ok()?.take(COPY_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}
