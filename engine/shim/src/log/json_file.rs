//! The json-file log: one JSON object per line, byte for byte as docker's json-file driver writes it.
//!
//! All lines from one read of the container's output go to the file in one write, so that a crash loses no complete
//! line of earlier reads. A full file is rotated by renaming.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    bytes_max: u64,
    files_max: u32,
    pending: Vec<u8>,
}

impl LogFile {
    /// Opens the file at `path`, or creates it; refuses a symbolic link. Rotates a file of `bytes_max` bytes, or never
    /// if `bytes_max` is 0. Keeps at most `files_max` files, including the current file.
    pub(crate) fn open(path: &Path, bytes_max: u64, files_max: u32) -> io::Result<Self> {
        let file = append(path)?;
        let bytes = file.metadata()?.len();
        Ok(LogFile { path: path.to_owned(), file, bytes, bytes_max, files_max, pending: Vec::new() })
    }

    /// Adds a line or a part of a line, which the next [`LogFile::flush`] writes.
    pub(crate) fn add(&mut self, line: &[u8], is_end: bool, stream: &str, time: &str) -> io::Result<()> {
        if self.bytes_max > 0 && self.bytes + self.pending.len() as u64 >= self.bytes_max {
            self.flush()?;
            self.rotate()?;
        }
        let out = &mut self.pending;
        out.extend_from_slice(b"{\"log\":\"");
        escape(line, out);
        out.extend_from_slice(if is_end { b"\\n\",\"stream\":\"" } else { b"\",\"stream\":\"" });
        out.extend_from_slice(stream.as_bytes());
        out.extend_from_slice(b"\",\"time\":\"");
        out.extend_from_slice(time.as_bytes());
        out.extend_from_slice(b"\"}\n");
        Ok(())
    }

    /// Writes the lines that [`LogFile::add`] has added.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        let pending = std::mem::take(&mut self.pending);
        self.bytes += pending.len() as u64;
        self.file.write_all(&pending)
    }

    /// Renames `path` to `path.1`, `path.1` to `path.2`, and so on, and removes the oldest file.
    fn rotate(&mut self) -> io::Result<()> {
        let numbered = |nth: u32| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{nth}"));
            PathBuf::from(name)
        };
        for nth in (1..self.files_max.saturating_sub(1)).rev() {
            rename_if_there(&numbered(nth), &numbered(nth + 1))?;
        }
        if self.files_max > 1 {
            rename_if_there(&self.path, &numbered(1))?;
        } else {
            std::fs::remove_file(&self.path)?;
        }
        self.file = append(&self.path)?;
        self.bytes = 0;
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).custom_flags(libc::O_NOFOLLOW).open(path)
}

fn rename_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match std::fs::rename(from, to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Appends `line` in the form that it has inside a JSON string. Each byte that is not UTF-8 becomes one U+FFFD.
/// Escapes `<`, `>` and `&` as Go does.
fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    for chunk in bytes.utf8_chunks() {
        escape_text(chunk.valid(), out);
        for _ in chunk.invalid() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
}

fn escape_text(text: &str, out: &mut Vec<u8>) {
    // The beginning of the text that needs no escape, which is copied in one piece.
    let mut plain = 0;
    for (at, letter) in text.char_indices() {
        let escaped: &[u8] = match letter {
            '"' => b"\\\"",
            '\\' => b"\\\\",
            '\n' => b"\\n",
            '\r' => b"\\r",
            '\0'..='\x1f' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                &format!("\\u{:04x}", letter as u32).into_bytes()
            }
            _ => continue,
        };
        out.extend_from_slice(text.get(plain..at).unwrap_or_default().as_bytes());
        out.extend_from_slice(escaped);
        plain = at + letter.len_utf8();
    }
    out.extend_from_slice(text.get(plain..).unwrap_or_default().as_bytes());
}

/// Formats a time as RFC 3339 in UTC, with up to nine digits of a second and no trailing zeros, as Go's RFC3339Nano.
/// `nanos` is in nanoseconds since the epoch.
pub(crate) fn utc(nanos: i64) -> String {
    let (seconds, fraction) = (nanos.div_euclid(1_000_000_000), nanos.rem_euclid(1_000_000_000));
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = date(days);
    let mut text = format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}",
        second / 3600,
        second / 60 % 60,
        second % 60
    );
    if fraction != 0 {
        text += format!(".{fraction:09}").trim_end_matches('0');
    }
    text + "Z"
}

/// The date (year, month, day of the month) that is `days` days after 1970-01-01. Howard Hinnant, "chrono-Compatible
/// Low-Level Date Algorithms", civil_from_days.
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year + era * 400 + i64::from(month <= 2), month, of_year - (153 * shifted + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_as_go_writes_them() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(1_000_000_010), "1970-01-01T00:00:01.00000001Z");
        assert_eq!(utc(1_709_210_096_120_000_000), "2024-02-29T12:34:56.12Z");
        assert_eq!(utc(-1), "1969-12-31T23:59:59.999999999Z");
        assert_eq!(utc(4_102_444_799_000_000_001), "2099-12-31T23:59:59.000000001Z");
    }

    #[test]
    fn a_line_is_escaped_as_docker_does_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("log");
        let mut log = LogFile::open(&path, 0, 0).expect("opened");
        log.add(b"a\t\"\\\xff\xe2\x82<\xc3\xa9\r\x1b", true, "stdout", "T").expect("added");
        log.add(b"part", false, "stderr", "T").expect("added");
        log.flush().expect("written");
        let expected = concat!(
            r#"{"log":"a\u0009\"\\\ufffd\ufffd\ufffd\u003cé\r\u001b\n","stream":"stdout","time":"T"}"#,
            "\n",
            r#"{"log":"part","stream":"stderr","time":"T"}"#,
            "\n"
        );
        assert_eq!(std::fs::read_to_string(&path).expect("read"), expected);
    }

    #[test]
    fn a_full_file_is_rotated_and_at_most_files_max_are_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("log");
        let mut log = LogFile::open(&path, 100, 3).expect("opened");
        for nth in 0..20 {
            log.add(format!("line {nth}").as_bytes(), true, "stdout", "T").expect("added");
        }
        log.flush().expect("written");
        let mut names: Vec<_> =
            std::fs::read_dir(dir.path()).expect("read").map(|e| e.expect("read").file_name()).collect();
        names.sort();
        assert_eq!(names, ["log", "log.1", "log.2"]);
        let last = |name: &str| {
            let text = std::fs::read_to_string(dir.path().join(name)).expect("read");
            text.lines().last().map(str::to_owned).unwrap_or_default()
        };
        assert!(last("log").contains("line 19") && last("log.1").contains("line 17"), "{}", last("log.1"));
    }

    #[test]
    fn a_link_in_the_place_of_the_log_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        std::os::unix::fs::symlink("/etc/hostname", dir.path().join("log")).expect("a link");
        assert!(LogFile::open(&dir.path().join("log"), 0, 0).is_err());
    }
}
