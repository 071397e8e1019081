//! Writes small files that another process reads while they may be replaced: the `process.json` of an execution.
//! The container's pid file is written by `sampan_ipc::named_file`, since a person named it.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Replaces the content of the file at `path` by `bytes`. Writes a file beside it and renames that, so that a reader
/// sees either the old content or the new one, whole.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    let temporary = Path::new(&name);
    let _ = std::fs::remove_file(temporary);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(temporary)?;
    file.write_all(bytes)?;
    std::fs::rename(temporary, path)
}
