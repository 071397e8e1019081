//! Writes small files that another process may read during the replacement: the `process.json` of an execution. The
//! container's PID file is at a path that a person has chosen, so `sampan_ipc::named_file` writes that file.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Replaces the content of the file at `path` by `bytes`. Writes a temporary file in the same directory and renames
/// it, so that a reader sees either the complete old content or the complete new content.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    let temporary = Path::new(&name);
    let _ = std::fs::remove_file(temporary);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(temporary)?;
    file.write_all(bytes)?;
    std::fs::rename(temporary, path)
}
