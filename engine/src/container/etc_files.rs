//! The three files that the engine mounts over the image's files: `/etc/hostname`, `/etc/hosts`, `/etc/resolv.conf`.
//!
//! Writes the files into the container's directory at each start, from the container's host name and network. Never
//! reads the files with these names in the image.

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

/// Most bytes that are copied from a file of the host.
const COPY_MAX: u64 = 1 << 20;
/// The entries of a new `/etc/hosts`: loopback and IPv6 multicast groups, as docker writes them.
const LOOPBACK: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
    fe00::0\tip6-localnet\nff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n";

/// Returns the paths of a container's three files on the host.
pub fn files(directories: &Directories, definition: &Definition) -> Files {
    let dir = directories.dir(&definition.id);
    Files { hostname: dir.join("hostname"), hosts: dir.join("hosts"), resolv_conf: dir.join("resolv.conf") }
}

/// Writes the three files. `name` is the container's host name. `label` is the SELinux label with which the container
/// can read the files; empty without SELinux.
///
/// # Errors
/// [`DirectoryError::File`] if a file cannot be written or labelled.
pub fn write(
    directories: &Directories,
    definition: &Definition,
    name: &str,
    network: Network,
    label: &str,
) -> Result<(), DirectoryError> {
    let files = files(directories, definition);
    write_file(&files.hostname, &format!("{name}\n"))?;
    let hosts = match network {
        Network::Host => copy("/etc/hosts").unwrap_or_else(|| LOOPBACK.to_owned()),
        Network::None | Network::Default => format!("{LOOPBACK}127.0.1.1\t{name}\n"),
    };
    write_file(&files.hosts, &hosts)?;
    write_file(&files.resolv_conf, &copy("/etc/resolv.conf").unwrap_or_default())?;
    for path in [&files.hostname, &files.hosts, &files.resolv_conf].into_iter().filter(|_| !label.is_empty())
    {
        relabel::label_file(path, label).map_err(|errno| directory::failed("label", path)(errno.into()))?;
    }
    Ok(())
}

fn write_file(path: &Path, text: &str) -> Result<(), DirectoryError> {
    directory::write(path, text.as_bytes(), false)?;
    // Every user in the container may read the file.
    fs::set_permissions(path, Permissions::from_mode(0o644))
        .map_err(directory::failed("set the mode of", path))
}

/// Reads a file of the host; `None` if the file is missing or not UTF-8.
fn copy(path: &str) -> Option<String> {
    let mut text = String::new();
    small_file::open(path.as_ref()).ok()?.take(COPY_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}
