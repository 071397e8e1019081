//! The record of a task on the disk: which file it is, and whether all of it is there.
//!
//! Written by the thread of a fetch, read by the event loop at start. Holds no header of a client, since headers
//! hold credentials. Other small state of a task, which changes often, is in [`Access`].
//!
//! Layout: `magic "SMPTASK\x01"`, `crc32c: u32` and `len: u32`, little-endian, then `len` bytes of JSON. The
//! checksum is that of the JSON. A record with a wrong checksum counts as missing: the task is fetched anew.

use super::digests::expected_sha256;
use crate::origin::Validators;
use crate::piece::{LENGTH_MAX, PIECE_SIZE_MAX, Pieces};
use crate::task_id::TaskId;
use sampan_ipc::named_file;
use sampan_os::small_file;
use serde::{Deserialize, Serialize};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The first bytes of a record; the last of them is the version.
const MAGIC: [u8; 8] = *b"SMPTASK\x01";
/// Bytes before the JSON.
const HEAD: usize = 16;
/// Largest record in bytes.
pub(super) const RECORD_MAX: u64 = 64 << 10;
/// Mode of all files of this module. URLs may hold credentials, too.
pub(super) const MODE: u32 = 0o600;

/// Which file a task is: all that decides whether bytes from the disk are bytes of the file that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileInfo {
    /// The URL to fetch, with all parameters.
    pub url: String,
    /// The URL that identifies the file.
    pub task_url: String,
    /// MD5 of the content, as the first client gave it.
    pub md5: Option<[u8; 16]>,
    /// The text that distinguishes files of one URL, as the first client gave it.
    pub identifier: Option<String>,
    /// The value of the client's `Range` header, if the file is a part of what the origin has. The origin then
    /// sends this part as if it were the whole.
    pub range: Option<String>,
    /// How the file is divided.
    pub pieces: Pieces,
    /// Length of the content in bytes, if it is known.
    pub length: Option<u64>,
    /// The version of the file at the origin.
    pub validators: Validators,
    /// Whether the origin sends parts of the file.
    pub takes_ranges: bool,
    /// Whether the file was fetched with credentials.
    pub is_protected: bool,
}

impl FileInfo {
    /// Whether `other` describes the same version of the file; `None` if that cannot be known.
    pub fn is_same(&self, other: &FileInfo) -> Option<bool> {
        let is_other_length = self.length.zip(other.length).is_some_and(|(length, other)| length != other);
        let is_other = self.pieces != other.pieces || self.range != other.range || self.md5 != other.md5;
        if is_other_length || is_other { Some(false) } else { self.validators.is_same(&other.validators) }
    }

    /// Whether the content is compared with a digest when it is complete.
    pub fn has_digest(&self) -> bool {
        self.md5.is_some() || self.expected_sha256().is_some()
    }

    /// Whether the supernode could not notice that the rest of the file is of another version.
    pub(super) fn has_no_version(&self) -> bool {
        self.validators.is_empty() && !self.has_digest()
    }

    /// The SHA-256 that the content must have; `None` if the URL names none.
    pub fn expected_sha256(&self) -> Option<[u8; 32]> {
        expected_sha256(&self.url).filter(|_| self.range.is_none())
    }
}

/// A task on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The task.
    pub id: TaskId,
    /// The file.
    pub file: FileInfo,
    /// Whether all pieces were there, verified and durable, when the record was written.
    pub is_complete: bool,
    /// MD5 of the whole content, if the file is complete.
    pub content_md5: Option<[u8; 16]>,
    /// When the task was made, in seconds since 1970.
    pub created: u64,
    /// The boot of the host in which the record was written. Pieces of an incomplete file from another boot may
    /// have been lost in a power failure.
    pub boot_id: Option<String>,
}

/// The JSON of a record.
#[derive(Serialize, Deserialize)]
struct Json {
    task: String,
    url: String,
    task_url: String,
    md5: Option<[u8; 16]>,
    identifier: Option<String>,
    range: Option<String>,
    piece_size: u64,
    is_wrapped: bool,
    length: Option<u64>,
    validators: Validators,
    takes_ranges: bool,
    is_protected: bool,
    is_complete: bool,
    content_md5: Option<[u8; 16]>,
    created: u64,
    boot_id: Option<String>,
}

impl Record {
    /// Whether the record was written in this boot of the host.
    pub(super) fn is_of_boot(&self, boot_id: Option<&str>) -> bool {
        boot_id.is_some() && self.boot_id.as_deref() == boot_id
    }

    /// The bytes of the record.
    pub(super) fn encode(&self) -> io::Result<Vec<u8>> {
        let file = self.file.clone();
        let json = serde_json::to_vec(&Json {
            task: self.id.to_string(),
            url: file.url,
            task_url: file.task_url,
            md5: file.md5,
            identifier: file.identifier,
            range: file.range,
            piece_size: file.pieces.size,
            is_wrapped: file.pieces.is_wrapped,
            length: file.length,
            validators: file.validators,
            takes_ranges: file.takes_ranges,
            is_protected: file.is_protected,
            is_complete: self.is_complete,
            content_md5: self.content_md5,
            created: self.created,
            boot_id: self.boot_id.clone(),
        })?;
        let mut bytes = MAGIC.to_vec();
        bytes.extend(crc32c::crc32c(&json).to_le_bytes());
        bytes.extend(u32::try_from(json.len()).map_err(io::Error::other)?.to_le_bytes());
        bytes.extend(json);
        match bytes.len() as u64 > RECORD_MAX {
            true => Err(io::Error::other("the record of the task is too long")),
            false => Ok(bytes),
        }
    }

    /// Parses the bytes of a record; `None` if they are torn, of another version or make no sense.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (head, json) = bytes.split_at_checked(HEAD)?;
        let (magic, numbers) = head.split_at_checked(MAGIC.len())?;
        let ([crc, len], []) = numbers.as_chunks::<4>() else { return None };
        let is_whole = magic == MAGIC
            && u32::from_le_bytes(*len) as usize == json.len()
            && u32::from_le_bytes(*crc) == crc32c::crc32c(json);
        let json: Json = is_whole.then(|| serde_json::from_slice(json).ok())??;
        let is_size = json.piece_size > 0
            && json.piece_size <= PIECE_SIZE_MAX
            && json.piece_size.is_multiple_of(1 << 20);
        if !is_size || json.length.is_some_and(|length| length > LENGTH_MAX) {
            return None;
        }
        Some(Record {
            id: TaskId::parse(&json.task)?,
            file: FileInfo {
                url: json.url,
                task_url: json.task_url,
                md5: json.md5,
                identifier: json.identifier,
                range: json.range,
                pieces: Pieces { size: json.piece_size, is_wrapped: json.is_wrapped },
                length: json.length,
                validators: json.validators,
                takes_ranges: json.takes_ranges,
                is_protected: json.is_protected,
            },
            is_complete: json.is_complete && json.length.is_some(),
            content_md5: json.content_md5,
            created: json.created,
            boot_id: json.boot_id,
        })
    }

    /// Reads the record at `path`; `None` if it is missing or cannot be used.
    pub(super) fn read(path: &Path) -> Option<Self> {
        let bytes = small_file::open(path).and_then(|file| small_file::read(file, RECORD_MAX)).ok()?;
        Record::decode(&bytes)
    }

    /// Replaces the record at `path`. It is on the disk when this function returns.
    ///
    /// # Errors
    /// The disk is full or fails; the old record is unchanged.
    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        // One fixed name, so that a killed process leaves at most one such file, which the next write replaces.
        let draft = path.with_extension("new");
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(MODE).open(&draft)?;
        let written = file.write_all(&self.encode()?).and_then(|()| file.sync_all());
        written.and_then(|()| fs::rename(&draft, path)).inspect_err(|_| drop(fs::remove_file(&draft)))?;
        named_file::sync_directory(path);
        Ok(())
    }
}

/// When a task was last used, and how long it had been idle before.
///
/// Layout: two `u64` of seconds and their `crc32c: u32`, little-endian, overwritten in place. Torn bytes are
/// ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct AccessTimes {
    /// The last use, in seconds since 1970.
    pub(super) last: u64,
    /// The time between the last two uses, in seconds.
    pub(super) interval: u64,
}

impl AccessTimes {
    /// Bytes of the file.
    pub(super) const SIZE: usize = 20;

    /// Notes a use at `now`.
    pub(super) fn touch(&mut self, now: SystemTime) {
        let now = seconds(now);
        if self.last > 0 {
            self.interval = now.saturating_sub(self.last);
        }
        self.last = now;
    }

    /// How long the task has been idle at `now`.
    pub(super) fn idle(&self, now: SystemTime) -> Duration {
        Duration::from_secs(seconds(now).saturating_sub(self.last))
    }

    /// The time between the last two uses.
    pub(super) fn interval(&self) -> Duration {
        Duration::from_secs(self.interval)
    }

    pub(super) fn encode(&self) -> [u8; AccessTimes::SIZE] {
        let mut bytes = [0; AccessTimes::SIZE];
        let (numbers, crc) = bytes.split_at_mut(16);
        let (last, interval) = numbers.split_at_mut(8);
        last.copy_from_slice(&self.last.to_le_bytes());
        interval.copy_from_slice(&self.interval.to_le_bytes());
        crc.copy_from_slice(&crc32c::crc32c(numbers).to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (numbers, crc) = bytes.split_at_checked(16)?;
        let ([last, interval], []) = numbers.as_chunks::<8>() else { return None };
        let is_whole = crc == crc32c::crc32c(numbers).to_le_bytes();
        is_whole
            .then(|| AccessTimes { last: u64::from_le_bytes(*last), interval: u64::from_le_bytes(*interval) })
    }
}

/// Seconds since 1970.
pub(super) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            id: TaskId::new("http://origin/file", "", ""),
            file: FileInfo {
                url: "http://origin/file?signature=1".to_owned(),
                task_url: "http://origin/file".to_owned(),
                md5: Some([7; 16]),
                identifier: Some("nightly".to_owned()),
                range: Some("bytes=9-".to_owned()),
                pieces: Pieces { size: 5 << 20, is_wrapped: true },
                length: Some(300 << 20),
                validators: Validators { etag: Some("\"1\"".to_owned()), last_modified: None },
                takes_ranges: true,
                is_protected: true,
            },
            is_complete: true,
            content_md5: Some([8; 16]),
            created: 1_000_000,
            boot_id: Some("boot".to_owned()),
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_a_torn_one_is_none() {
        let bytes = record().encode().expect("encoded");
        assert_eq!(Record::decode(&bytes), Some(record()));
        for len in 0..bytes.len() {
            assert_eq!(Record::decode(&bytes[..len]), None);
            let mut flipped = bytes.clone();
            flipped[len] ^= 1;
            assert_eq!(Record::decode(&flipped), None, "byte {len}");
        }
        assert_eq!(Record::decode(&[&bytes[..], &[0]].concat()), None);
    }

    #[test]
    fn a_record_that_makes_no_sense_is_none() {
        let piece_sizes = [0, 1, (1 << 20) + 1, 16 << 20].map(|size| Record {
            file: FileInfo { pieces: Pieces { size, is_wrapped: true }, ..record().file },
            ..record()
        });
        let too_long =
            Record { file: FileInfo { length: Some(LENGTH_MAX + 1), ..record().file }, ..record() };
        for bad in piece_sizes.into_iter().chain([too_long]) {
            assert_eq!(Record::decode(&bad.encode().expect("encoded")), None);
        }
        let url = "u".repeat(70_000);
        assert!(Record { file: FileInfo { url, ..record().file }, ..record() }.encode().is_err());
        let unknown = Record { file: FileInfo { length: None, ..record().file }, ..record() };
        let decoded = Record::decode(&unknown.encode().expect("encoded")).expect("decoded");
        assert!(!decoded.is_complete, "a complete file has a length");
    }

    #[test]
    fn versions_are_compared_as_far_as_they_are_known() {
        let file = record().file;
        assert_eq!(file.is_same(&file), Some(true));
        let unknown = FileInfo { validators: Validators::default(), ..file.clone() };
        assert_eq!((file.is_same(&unknown), unknown.is_same(&file)), (None, None));
        assert_eq!(unknown.is_same(&FileInfo { length: Some(1), ..unknown.clone() }), Some(false));
        assert_eq!(file.is_same(&FileInfo { length: None, ..file.clone() }), Some(true));
        let etag = Some("\"2\"".to_owned());
        let other = FileInfo { validators: Validators { etag, last_modified: None }, ..file.clone() };
        assert_eq!(file.is_same(&other), Some(false));
        assert_eq!(
            file.is_same(&FileInfo { url: "http://origin/file?signature=2".to_owned(), ..file.clone() }),
            Some(true)
        );
    }

    #[test]
    fn access_times_survive_and_torn_ones_do_not() {
        let mut access = AccessTimes::default();
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        access.touch(at(100));
        access.touch(at(160));
        assert_eq!(
            (access.interval(), access.idle(at(200))),
            (Duration::from_secs(60), Duration::from_secs(40))
        );
        assert_eq!(access.idle(at(10)), Duration::ZERO, "the clock was set back");
        let bytes = access.encode();
        assert_eq!(AccessTimes::decode(&bytes), Some(access));
        for index in 0..bytes.len() {
            let mut flipped = bytes;
            flipped[index] ^= 0x40;
            assert_eq!(AccessTimes::decode(&flipped), None);
            assert_eq!(AccessTimes::decode(&bytes[..index]), None);
        }
    }
}
