//! Parses PAX headers: records that extend or replace fields of the next entry's header.
//!
//! Called by [`super::TarReader`], which bounds the length of the headers. Reads no stream. POSIX.1, pax, "pax Header
//! Block"; GNU tar's manual, "Storing Sparse Files", versions 0.0, 0.1 and 1.0.

use super::error::{SPARSE_MAX, TarError, malformed};

/// The values that PAX records give for the next entry.
#[derive(Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: SparseRecords,
}

/// The values of `GNU.sparse.*` records.
#[derive(Default)]
pub(super) struct SparseRecords {
    pub(super) major: Option<u64>,
    pub(super) minor: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    pub(super) real_size: Option<u64>,
    pub(super) map: Option<Vec<(u64, u64)>>,
    /// For version 0.0: the offset of the segment whose length the next record gives.
    offset: Option<u64>,
}

impl SparseRecords {
    /// Adds a segment of version 0.0, which has one record for the segment's offset and another record for its length.
    fn add_segment(&mut self, len: u64) -> Result<(), TarError> {
        let offset = self.offset.take().ok_or_else(|| malformed("a sparse file's segment has no offset"))?;
        let map = self.map.get_or_insert_default();
        if map.len() >= SPARSE_MAX {
            return Err(malformed("a sparse file with too many segments"));
        }
        map.push((offset, len));
        Ok(())
    }
}

impl Pax {
    /// Parses records of the form `LEN KEY=VALUE\n`. POSIX.1, pax, "pax Header Block".
    pub(super) fn read(&mut self, mut bytes: &[u8]) -> Result<(), TarError> {
        let bad = || malformed("a PAX header");
        // Some writers pad the records with zeroes.
        while bytes.first().is_some_and(|b| *b != 0) {
            let space = bytes.iter().position(|b| *b == b' ').ok_or_else(bad)?;
            let len: usize = ascii(bytes.get(..space).unwrap_or_default()).ok_or_else(bad)?;
            let record = bytes
                .get(space + 1..len.max(space + 1))
                .and_then(|r| r.strip_suffix(b"\n"))
                .ok_or_else(bad)?;
            let equals = record.iter().position(|b| *b == b'=').ok_or_else(bad)?;
            let (key, value) = record.split_at(equals);
            self.record(key, value.get(1..).unwrap_or_default())?;
            bytes = bytes.get(len..).unwrap_or_default();
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarError> {
        let bad = || malformed(format!("PAX record {:?}", String::from_utf8_lossy(key)));
        let number = || ascii::<u64>(value).ok_or_else(bad);
        match key {
            // An empty value cancels an earlier record, so that the field of the header counts again. POSIX.1, pax.
            b"path" if value.is_empty() => self.path = None,
            b"linkpath" if value.is_empty() => self.link = None,
            b"size" if value.is_empty() => self.size = None,
            b"uid" if value.is_empty() => self.uid = None,
            b"gid" if value.is_empty() => self.gid = None,
            b"mtime" if value.is_empty() => self.mtime = None,
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(number()?),
            b"uid" => self.uid = Some(ascii(value).ok_or_else(bad)?),
            b"gid" => self.gid = Some(ascii(value).ok_or_else(bad)?),
            b"mtime" => self.mtime = Some(pax_time(value).ok_or_else(bad)?),
            b"GNU.sparse.major" => self.sparse.major = Some(number()?),
            b"GNU.sparse.minor" => self.sparse.minor = Some(number()?),
            b"GNU.sparse.name" => self.sparse.name = Some(value.to_vec()),
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => self.sparse.real_size = Some(number()?),
            b"GNU.sparse.offset" => self.sparse.offset = Some(number()?),
            b"GNU.sparse.numbytes" => self.sparse.add_segment(number()?)?,
            b"GNU.sparse.map" if value.is_empty() => self.sparse.map = Some(Vec::new()),
            b"GNU.sparse.map" => self.sparse.map = Some(sparse_list(value).ok_or_else(bad)?),
            _ => {
                if let Some(name) =
                    key.strip_prefix(b"SCHILY.xattr.").or_else(|| key.strip_prefix(b"LIBARCHIVE.xattr."))
                {
                    // libarchive writes each attribute twice: encoded as base64, and in the plain form used here.
                    if key.starts_with(b"SCHILY") && !name.is_empty() && !name.contains(&0) {
                        self.xattrs.push((name.to_vec(), value.to_vec()));
                    }
                }
            }
        }
        Ok(())
    }
}

/// Parses the map of a PAX 0.1 sparse file: `offset,length,offset,length…`.
fn sparse_list(value: &[u8]) -> Option<Vec<(u64, u64)>> {
    let numbers: Vec<u64> = value.split(|b| *b == b',').map(ascii).collect::<Option<_>>()?;
    let pairs = numbers.chunks_exact(2);
    (pairs.remainder().is_empty() && numbers.len() <= 2 * SPARSE_MAX)
        .then(|| pairs.filter_map(|pair| Some((*pair.first()?, *pair.get(1)?))).collect())
}

fn ascii<T: std::str::FromStr>(bytes: &[u8]) -> Option<T> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

/// Parses a time as `seconds[.fraction]`; it may be negative, that is, before the epoch.
fn pax_time(value: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(value).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let negative = whole.starts_with('-');
    let seconds: i64 = whole.parse().ok()?;
    let mut nanos = 0u32;
    for (nth, digit) in fraction.bytes().enumerate() {
        let digit = u32::from(digit.checked_sub(b'0').filter(|d| *d <= 9)?);
        nanos +=
            digit * 10u32.checked_pow(8u32.checked_sub(u32::try_from(nth).ok()?).unwrap_or(99)).unwrap_or(0);
    }
    match (negative, nanos) {
        (true, 1..) => Some((seconds.checked_sub(1)?, 1_000_000_000 - nanos)),
        _ => Some((seconds, nanos)),
    }
}
