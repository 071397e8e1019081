//! Reads a tar stream entry by entry: ustar, GNU and PAX, with long names, extended attributes and sparse files.
//!
//! Called by [`crate::unpack`] and by readers of image archives. Never touches a file. `tar::Header` decodes the fields
//! of a header. This module handles the sequence of headers itself: the iterator of the crate `tar` reads long names of
//! any length into memory, and ends a PAX value at the first line break, which `security.capability` may contain.

mod error;
mod pax;

pub use self::error::TarError;
use self::error::{SPARSE_MAX, malformed};
use self::pax::Pax;
use std::io::{self, BufRead, Read};
use tar::{EntryType, Header};

const BLOCK: u64 = 512;
/// Most bytes of PAX headers and long names of one entry. This bounds the memory that a hostile layer can claim.
const META_MAX: u64 = 1 << 20;

/// The file type of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    Regular,
    /// A hard link: another name of an earlier file.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A directory.
    Directory,
    /// A character device.
    Char,
    /// A block device.
    Block,
    /// A FIFO.
    Fifo,
    /// The type byte of a type that no supported form of tar defines. Callers skip such entries.
    Unknown(u8),
}

/// The description of one file in a tar.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The file type.
    pub kind: Kind,
    /// The name, exactly as in the tar.
    pub path: Vec<u8>,
    /// The target of a hard link or symbolic link.
    pub link: Vec<u8>,
    /// The permission bits.
    pub mode: u32,
    /// The owner's user id.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
    /// The modification time: seconds since the epoch, and nanoseconds.
    pub mtime: (i64, u32),
    /// The device number: major, minor.
    pub device: (u32, u32),
    /// The length of the unpacked file, in bytes.
    pub size: u64,
    /// The extended attributes: names and values.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// For a sparse file, its data segments in order, each as `(offset, length)`. `size` may be larger than their sum.
    pub sparse: Option<Vec<(u64, u64)>>,
}

/// Reads the entries of a tar stream.
pub struct TarReader<R> {
    from: R,
    /// Unread bytes of the current entry's content.
    content: u64,
    /// Bytes of padding after the content, up to the next block.
    padding: u64,
}

impl<R: BufRead> TarReader<R> {
    /// Makes a reader; the tar begins at the current position of `from`.
    pub fn new(from: R) -> Self {
        TarReader { from, content: 0, padding: 0 }
    }

    /// Returns the stream at its current position.
    pub fn into_inner(self) -> R {
        self.from
    }

    /// Returns the next entry, or `None` at the end. Skips unread content of the current entry.
    ///
    /// # Errors
    /// [`TarError`]: the stream failed or is not a valid tar. The reader must not be used afterwards.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        let mut pax = Pax::default();
        let (mut long_name, mut long_link) = (None, None);
        let mut described = false;
        let mut left = META_MAX;
        loop {
            self.skip_content()?;
            let Some(header) = self.header()? else {
                if described {
                    return Err(malformed("it ends after a header that describes a next entry"));
                }
                return Ok(None);
            };
            let size = size_of_content(&header)?;
            match header.entry_type() {
                EntryType::GNULongName => long_name = Some(self.long_text(size, &mut left)?),
                EntryType::GNULongLink => long_link = Some(self.long_text(size, &mut left)?),
                EntryType::XHeader => pax.read(&self.meta(size, &mut left)?)?,
                // Global records are ignored. In practice they are comments: git writes the ID of the commit there.
                EntryType::XGlobalHeader => drop(self.meta(size, &mut { META_MAX })?),
                _ => return self.entry(&header, pax, long_name, long_link).map(Some),
            }
            described = !header.entry_type().is_pax_global_extensions();
        }
    }

    /// Reads bytes of the current entry's content into `into`. Returns the number of bytes; 0 at the end of the
    /// content.
    ///
    /// # Errors
    /// [`TarError::Truncated`]: the stream ends within the content. [`TarError::Read`]: the stream failed.
    pub fn read_content(&mut self, into: &mut [u8]) -> Result<usize, TarError> {
        let part = self.content()?;
        let len = part.len().min(into.len());
        if let (Some(into), Some(part)) = (into.get_mut(..len), part.get(..len)) {
            into.copy_from_slice(part);
        }
        self.consume_content(len);
        Ok(len)
    }

    /// Returns buffered bytes of the current entry's content without a copy; an empty slice at the end of the content.
    /// Returns the same bytes again until [`TarReader::consume_content`] consumes them.
    ///
    /// # Errors
    /// [`TarError::Truncated`]: the stream ends within the content. [`TarError::Read`]: the stream failed.
    pub fn content(&mut self) -> Result<&[u8], TarError> {
        let most = usize::try_from(self.content).unwrap_or(usize::MAX);
        if most == 0 {
            return Ok(&[]);
        }
        while let Err(error) = self.from.fill_buf() {
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(TarError::Read(error));
            }
        }
        let part = self.from.fill_buf().map_err(TarError::Read)?;
        match part.get(..most.min(part.len())).unwrap_or_default() {
            [] => Err(TarError::Truncated),
            part => Ok(part),
        }
    }

    /// Consumes `len` of the bytes that [`TarReader::content`] returned.
    pub fn consume_content(&mut self, len: usize) {
        self.from.consume(len);
        self.content = self.content.saturating_sub(len as u64);
    }

    fn skip_content(&mut self) -> Result<(), TarError> {
        loop {
            match self.content()?.len() {
                0 => break,
                len => self.consume_content(len),
            }
        }
        let padding = std::mem::take(&mut self.padding) as usize;
        // Accept a stream that ends without the padding: 'umoci insert' writes such layers, and Go's tar reader accepts
        // them.
        match fill(&mut self.from, [0; BLOCK as usize].get_mut(..padding).unwrap_or_default())? {
            0 => Ok(()),
            len if len == padding => Ok(()),
            _ => Err(TarError::Truncated),
        }
    }

    /// Reads the next block as a header; `None` for a block of zeroes or at the end of the stream.
    fn header(&mut self) -> Result<Option<Header>, TarError> {
        let mut header = Header::new_old();
        match fill(&mut self.from, header.as_mut_bytes())? {
            0 => return Ok(None),
            512 => {}
            _ => return Err(TarError::Truncated),
        }
        if header.as_bytes().iter().all(|b| *b == 0) {
            return Ok(None);
        }
        if !is_header(&header) {
            return Err(malformed(match compression(header.as_bytes()) {
                Some(name) => {
                    format!("it is compressed with {name}; only plain, gzip and zstd layers can be read")
                }
                None => "a header has a wrong checksum, or it is not a tar".to_owned(),
            }));
        }
        Ok(Some(header))
    }

    /// Reads the content of an entry that describes the next entry. Refuses more than `left` bytes, and subtracts
    /// `size` from `left`.
    fn meta(&mut self, size: u64, left: &mut u64) -> Result<Vec<u8>, TarError> {
        let too_long =
            || malformed(format!("headers that describe one entry have more than {META_MAX} bytes"));
        *left = left.checked_sub(size).ok_or_else(too_long)?;
        self.begin_content(size);
        let mut bytes = vec![0; usize::try_from(size).map_err(|_| too_long())?];
        let mut at = 0;
        while at < bytes.len() {
            at += self.read_content(bytes.get_mut(at..).unwrap_or_default())?;
        }
        Ok(bytes)
    }

    fn long_text(&mut self, size: u64, left: &mut u64) -> Result<Vec<u8>, TarError> {
        let mut text = self.meta(size, left)?;
        let end = text.iter().position(|b| *b == 0).unwrap_or(text.len());
        text.truncate(end);
        Ok(text)
    }

    fn begin_content(&mut self, size: u64) {
        self.content = size;
        self.padding = (BLOCK - size % BLOCK) % BLOCK;
    }

    fn entry(
        &mut self,
        header: &Header,
        pax: Pax,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry, TarError> {
        let field = |e: io::Error| malformed(e.to_string());
        let kind = kind_of(header);
        // Only files have content, but some writers set a size for links too.
        let has_content = matches!(kind, Kind::Regular | Kind::Unknown(_));
        let stored = pax.size.map_or_else(|| size_of_content(header), Ok)?;
        let stored = if has_content { stored } else { 0 };
        let mut sparse = None;
        let mut size = stored;
        if header.entry_type() == EntryType::GNUSparse {
            let (map, real_size) = self.old_sparse(header)?;
            (sparse, size) = (Some(map), real_size);
        }
        self.begin_content(stored);
        if let (true, Some(real)) = (kind == Kind::Regular, pax.sparse.real_size) {
            let map = match (pax.sparse.major, pax.sparse.minor, pax.sparse.map) {
                (Some(1), Some(0), _) => self.sparse_map_in_content()?,
                // Version 0.0 writes no map for a file that consists of a single hole.
                (None | Some(0), _, map) => map.unwrap_or_default(),
                _ => return Err(malformed("a sparse file of an unknown version")),
            };
            (sparse, size) = (Some(map), real);
        }
        if let Some(map) = &sparse {
            check_sparse(map, size, self.content)?;
        }
        let old = header.as_old();
        let number = |digits: &[u8], value: io::Result<u64>| match is_blank(digits) {
            true => Ok(0),
            false => value.map_err(field),
        };
        let owner = |digits: &[u8], value: io::Result<u64>| {
            let id = number(digits, value)?;
            let id = u32::try_from(id).map_err(|_| malformed("an owner of more than 32 bits"))?;
            known_owner(id)
        };
        let path =
            pax.sparse.name.or(pax.path).or(long_name).unwrap_or_else(|| header.path_bytes().into_owned());
        let link = pax
            .link
            .or(long_link)
            .or_else(|| header.link_name_bytes().map(|l| l.into_owned()))
            .unwrap_or_default();
        let device = |part: io::Result<Option<u32>>| part.ok().flatten().unwrap_or(0);
        Ok(Entry {
            kind: if kind == Kind::Regular && path.ends_with(b"/") { Kind::Directory } else { kind },
            path,
            link,
            mode: number(&old.mode, header.mode().map(u64::from))? as u32 & 0o7777,
            uid: pax.uid.map_or_else(|| owner(&old.uid, header.uid()), known_owner)?,
            gid: pax.gid.map_or_else(|| owner(&old.gid, header.gid()), known_owner)?,
            mtime: match pax.mtime {
                Some(mtime) => mtime,
                None => (number(&old.mtime, header.mtime())? as i64, 0),
            },
            device: (device(header.device_major()), device(header.device_minor())),
            size,
            xattrs: pax.xattrs,
            sparse,
        })
    }

    /// Reads the map of an old GNU sparse file: four segments in the header, and further segments in the blocks after
    /// the header. Returns the segments and the length of the unpacked file.
    fn old_sparse(&mut self, header: &Header) -> Result<(Vec<(u64, u64)>, u64), TarError> {
        let field = |e: io::Error| malformed(e.to_string());
        let gnu = header.as_gnu().ok_or_else(|| malformed("a sparse file without a GNU header"))?;
        let mut map = Vec::new();
        let mut add = |segment: &tar::GnuSparseHeader| -> Result<(), TarError> {
            if !segment.is_empty() {
                map.push((segment.offset().map_err(field)?, segment.length().map_err(field)?));
            }
            if map.len() > SPARSE_MAX {
                Err(malformed("a sparse file with too many segments"))
            } else {
                Ok(())
            }
        };
        gnu.sparse.iter().try_for_each(&mut add)?;
        let mut more = gnu.is_extended();
        while more {
            let mut block = tar::GnuExtSparseHeader::new();
            if fill(&mut self.from, block.as_mut_bytes())? != 512 {
                return Err(TarError::Truncated);
            }
            block.sparse().iter().try_for_each(&mut add)?;
            more = block.is_extended();
        }
        Ok((map, gnu.real_size().map_err(field)?))
    }

    /// Reads the map of a PAX 1.0 sparse file: lines of decimal numbers in front of the data, padded to a block.
    fn sparse_map_in_content(&mut self) -> Result<Vec<(u64, u64)>, TarError> {
        let mut block = [0; BLOCK as usize];
        let mut at = block.len();
        let mut number = |tarball: &mut Self| -> Result<u64, TarError> {
            let mut value = 0u64;
            loop {
                if at == block.len() {
                    let mut have = 0;
                    while have < block.len() {
                        match tarball.read_content(block.get_mut(have..).unwrap_or_default())? {
                            0 => return Err(malformed("a sparse file's map is truncated")),
                            len => have += len,
                        }
                    }
                    at = 0;
                }
                let byte = block.get(at).copied().unwrap_or_default();
                at += 1;
                match byte {
                    b'\n' => return Ok(value),
                    b'0'..=b'9' => {
                        value = value
                            .checked_mul(10)
                            .and_then(|v| v.checked_add(u64::from(byte - b'0')))
                            .ok_or_else(|| malformed("a sparse file's map is out of range"))?;
                    }
                    _ => return Err(malformed("a sparse file's map has a character that is not a digit")),
                }
            }
        };
        let count = usize::try_from(number(self)?).unwrap_or(usize::MAX);
        if count > SPARSE_MAX {
            return Err(malformed("a sparse file with too many segments"));
        }
        (0..count).map(|_| Ok((number(self)?, number(self)?))).collect()
    }
}

/// The name of the compression format that the first bytes indicate, if [`crate::decompress`] does not support the
/// format.
fn compression(start: &[u8]) -> Option<&'static str> {
    match start {
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some("xz"),
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => Some("bzip2"),
        [0x04, 0x22, 0x4d, 0x18, ..] => Some("lz4"),
        [b'P', b'K', 3, 4, ..] => Some("zip"),
        _ => None,
    }
}

/// Whether the header's checksum is right. Also accepts the sum of signed bytes, which some old writers compute.
fn is_header(header: &Header) -> bool {
    let Ok(checksum) = header.cksum() else { return false };
    // The checksum field itself, bytes 148 to 155, counts as eight spaces.
    let bytes = header.as_bytes().iter().enumerate();
    let sum = bytes.map(|(at, b)| if (148..156).contains(&at) { 32 } else { u32::from(*b) }).sum::<u32>();
    checksum == sum || i64::from(checksum) == i64::from(sum) - 256 * i64::from(bytes_over_127(header))
}

fn bytes_over_127(header: &Header) -> u32 {
    let bytes = header.as_bytes().iter().enumerate();
    bytes.map(|(at, b)| u32::from(!(148..156).contains(&at) && *b > 127)).sum()
}

/// The length of the content that the header gives. Refuses binary numbers that are negative or have more than 64 bits.
fn size_of_content(header: &Header) -> Result<u64, TarError> {
    let [first, rest @ ..] = header.as_old().size;
    let is_binary = first & 0x80 != 0;
    if is_binary && (first != 0x80 || !rest.starts_with(&[0; 3])) {
        return Err(malformed("a size that no file can have"));
    }
    header.entry_size().map_err(|e| malformed(e.to_string()))
}

/// Refuses the ID 4294967295: chown(2) takes this number for "do not change", so the file would keep root as its owner.
fn known_owner(id: u32) -> Result<u32, TarError> {
    if id == u32::MAX { Err(malformed("an owner that no file can have: 4294967295")) } else { Ok(id) }
}

/// Whether a file that begins with `start` may be a tar: it starts with a header, or with the end mark of an empty tar.
pub fn begins_tar(start: &[u8]) -> bool {
    let mut header = Header::new_old();
    let Some(block) = start.get(..BLOCK as usize) else { return false };
    header.as_mut_bytes().copy_from_slice(block);
    block.iter().all(|b| *b == 0) || is_header(&header)
}

fn check_sparse(map: &[(u64, u64)], size: u64, stored: u64) -> Result<(), TarError> {
    let mut end = 0u64;
    let mut data = 0u64;
    for (offset, len) in map {
        let stop = offset.checked_add(*len).filter(|stop| *offset >= end && *stop <= size);
        end = stop.ok_or_else(|| malformed("a sparse file's segments overlap or exceed its size"))?;
        data += len;
    }
    if data == stored { Ok(()) } else { Err(malformed("a sparse file's map does not fit its data")) }
}

impl<R: io::BufRead + io::Seek> TarReader<R> {
    /// Skips the current entry's content by seeking; returns its offset and length. Does not check that the content
    /// lies within the stream; the caller knows the stream's length and checks that.
    ///
    /// # Errors
    /// [`TarError::Truncated`]: the end of the content is no valid offset. [`TarError::Read`]: the seek failed.
    pub fn pass_content(&mut self) -> Result<(u64, u64), TarError> {
        let (content, padding) = (std::mem::take(&mut self.content), std::mem::take(&mut self.padding));
        let offset = self.from.stream_position().map_err(TarError::Read)?;
        let end = offset.checked_add(content).and_then(|end| end.checked_add(padding));
        let end = end.filter(|end| i64::try_from(*end).is_ok()).ok_or(TarError::Truncated)?;
        self.from.seek_relative((end - offset) as i64).map_err(TarError::Read)?;
        Ok((offset, content))
    }
}

fn kind_of(header: &Header) -> Kind {
    match header.entry_type() {
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => Kind::Regular,
        EntryType::Link => Kind::HardLink,
        EntryType::Symlink => Kind::Symlink,
        EntryType::Directory => Kind::Directory,
        EntryType::Char => Kind::Char,
        EntryType::Block => Kind::Block,
        EntryType::Fifo => Kind::Fifo,
        other => Kind::Unknown(other.as_byte()),
    }
}

fn read(from: &mut impl Read, into: &mut [u8]) -> Result<usize, TarError> {
    loop {
        match from.read(into) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other.map_err(TarError::Read),
        }
    }
}

/// Reads until `into` is full or the stream ends; returns the number of bytes read.
fn fill(from: &mut impl Read, into: &mut [u8]) -> Result<usize, TarError> {
    let mut have = 0;
    while have < into.len() {
        match read(from, into.get_mut(have..).unwrap_or_default())? {
            0 => break,
            len => have += len,
        }
    }
    Ok(have)
}

/// Whether a numeric field is blank. GNU tar reads a blank field as 0.
fn is_blank(digits: &[u8]) -> bool {
    digits.iter().all(|byte| matches!(byte, 0 | b' '))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &[u8]) -> Result<Vec<Entry>, TarError> {
        let mut tarball = TarReader::new(bytes);
        let mut entries = Vec::new();
        while let Some(entry) = tarball.next_entry()? {
            entries.push(entry);
        }
        Ok(entries)
    }

    fn record(key: &str, value: &[u8]) -> Vec<u8> {
        let rest = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
        let mut len = rest.len() + 1;
        while len.to_string().len() + rest.len() != len {
            len = len.to_string().len() + rest.len();
        }
        [len.to_string().as_bytes(), &rest].concat()
    }

    fn block(kind: EntryType, name: &str, content: &[u8]) -> Vec<u8> {
        let mut header = Header::new_ustar();
        header.set_path(name).expect("short");
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1);
        header.set_cksum();
        let mut bytes = [header.as_bytes().as_slice(), content].concat();
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }

    #[test]
    fn a_pax_value_may_hold_line_breaks_and_zeroes() {
        let records = [
            record("SCHILY.xattr.security.capability", b"\x01\n\x00\n=\xff"),
            record("mtime", b"-1.25"),
            record("path", "a/long\nname".as_bytes()),
            record("uid", b"4000000000"),
        ]
        .concat();
        let bytes =
            [block(EntryType::XHeader, "x", &records), block(EntryType::Regular, "f", b"hi")].concat();
        let entries = all(&bytes).expect("good");
        let [entry] = entries.as_slice() else { panic!("{entries:?}") };
        assert_eq!(entry.xattrs, [(b"security.capability".to_vec(), b"\x01\n\x00\n=\xff".to_vec())]);
        assert_eq!(entry.mtime, (-2, 750_000_000));
        assert_eq!(
            (entry.path.as_slice(), entry.uid, entry.size),
            (b"a/long\nname".as_slice(), 4_000_000_000, 2)
        );
    }

    #[test]
    fn a_header_that_asks_for_much_memory_is_refused() {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::GNULongName);
        header.set_size(1 << 40);
        header.set_cksum();
        assert!(matches!(all(header.as_bytes()), Err(TarError::Malformed(_))));
    }

    #[test]
    fn many_headers_for_one_entry_are_refused_as_one_long_one_is() {
        let one = block(EntryType::XHeader, "x", &record("SCHILY.xattr.user.a", &[b'a'; 60 << 10]));
        let with = |count: usize| [one.repeat(count), block(EntryType::Regular, "f", b"hi")].concat();
        assert_eq!(all(&with(16)).expect("little enough").len(), 1);
        let error = all(&with(18)).expect_err("too much for one entry").to_string();
        assert!(error.contains("more than 1048576 bytes"), "{error}");
        let several = with(10).repeat(10);
        assert_eq!(all(&several).expect("each has little").len(), 10);
    }

    #[test]
    fn every_truncation_and_every_changed_byte_gives_a_result_and_no_panic() {
        let bytes = [
            block(EntryType::XHeader, "x", &record("GNU.sparse.major", b"1")),
            block(EntryType::Regular, "f", b"hello"),
            block(EntryType::Directory, "d/", b""),
            vec![0; 1024],
        ]
        .concat();
        for cut in 0..bytes.len() {
            let _ = all(&bytes[..cut]);
        }
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x15;
            let _ = all(&bad);
        }
    }

    #[test]
    fn sparse_segments_that_overlap_or_do_not_fit_are_refused() {
        assert!(check_sparse(&[(0, 5), (10, 5)], 20, 10).is_ok());
        assert!(check_sparse(&[(0, 5), (4, 5)], 20, 10).is_err());
        assert!(check_sparse(&[(0, 5)], 4, 5).is_err());
        assert!(check_sparse(&[(u64::MAX, 5)], u64::MAX, 5).is_err());
        assert!(check_sparse(&[(0, 5)], 20, 6).is_err());
    }

    #[test]
    fn blank_fields_are_zero() {
        let mut header = Header::new_ustar();
        header.set_path("blank").expect("short");
        header.set_size(0);
        header.set_entry_type(EntryType::Regular);
        header.as_old_mut().uid.fill(0);
        header.as_old_mut().gid.fill(b' ');
        header.as_old_mut().mtime.fill(0);
        header.as_old_mut().mode.fill(0);
        header.set_cksum();
        let bytes = [header.as_bytes().as_slice(), &[0; 1024]].concat();
        let mut tarball = TarReader::new(bytes.as_slice());
        let entry = tarball.next_entry().expect("readable").expect("an entry");
        assert_eq!((entry.uid, entry.gid, entry.mtime, entry.mode), (0, 0, (0, 0), 0));
    }

    fn checked(mut header: Header, content: &[u8], sum: impl Fn(i64) -> i64) -> Vec<u8> {
        header.set_size(content.len() as u64);
        header.set_cksum();
        let checksum = sum(i64::from(header.cksum().expect("just set")));
        header.as_old_mut().cksum.copy_from_slice(format!("{checksum:06o}\0 ").as_bytes());
        let mut bytes = [header.as_bytes().as_slice(), content].concat();
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }

    #[test]
    fn an_empty_pax_value_leaves_the_header_field_valid() {
        let empty = ["path", "linkpath", "size", "uid", "gid", "mtime"].map(|key| record(key, b"")).concat();
        let before = ["path", "uid"].map(|key| record(key, b"7")).concat();
        for records in [empty.clone(), [before, empty].concat()] {
            let bytes =
                [block(EntryType::XHeader, "x", &records), block(EntryType::Regular, "f", b"hi")].concat();
            let entries = all(&bytes).expect("good");
            let [entry] = entries.as_slice() else { panic!("{entries:?}") };
            assert_eq!((entry.path.as_slice(), entry.size, entry.uid), (b"f".as_slice(), 2, 0));
            assert_eq!(entry.mtime, (1, 0));
        }
    }

    #[test]
    fn a_checksum_of_bytes_with_a_sign_is_as_good() {
        let mut header = Header::new_ustar();
        header.as_old_mut().name[..3].copy_from_slice(b"h\xe4\xf6");
        assert_eq!(all(&checked(header.clone(), b"", |sum| sum - 512)).expect("old, and good").len(), 1);
        assert_eq!(all(&checked(header.clone(), b"", |sum| sum)).expect("good").len(), 1);
        assert!(all(&checked(header, b"", |sum| sum - 256)).is_err());
    }

    #[test]
    fn numbers_that_do_not_fit_are_refused_and_not_truncated() {
        for start in [[0x80, 1], [0xff, 0xff], [0x81, 0]] {
            let mut header = Header::new_gnu();
            header.set_path("f").expect("short");
            header.set_size(5);
            header.as_old_mut().size = [start[0], start[1], 0, 0, 0, 0, 0, 0, 0, 0, 0, 5];
            header.set_cksum();
            let error = all(&[header.as_bytes().as_slice(), &[0; 1536]].concat()).expect_err("refused");
            assert!(error.to_string().contains("size"), "{error}");
        }
        let nobody = record("uid", b"4294967295");
        let bytes = [block(EntryType::XHeader, "x", &nobody), block(EntryType::Regular, "f", b"")].concat();
        assert!(all(&bytes).expect_err("refused").to_string().contains("owner"));
    }

    #[test]
    fn sparse_files_of_the_oldest_pax_form_have_a_record_for_each_number() {
        let sparse = |records: &[(&str, &[u8])], content: &[u8]| {
            let records: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
            all(&[block(EntryType::XHeader, "x", &records), block(EntryType::Regular, "f", content)].concat())
        };
        let size: (&str, &[u8]) = ("GNU.sparse.size", b"9000");
        let stretch =
            |at: &'static [u8]| [("GNU.sparse.offset", at), ("GNU.sparse.numbytes", b"5".as_slice())];
        let records = [&[size], stretch(b"0").as_slice(), stretch(b"4096").as_slice()].concat();
        let entries = sparse(&records, b"helloworld").expect("good");
        assert_eq!(entries[0].sparse, Some(vec![(0, 5), (4096, 5)]));
        assert_eq!(entries[0].size, 9000);
        for hole in [vec![size], vec![size, ("GNU.sparse.map", b"")]] {
            assert_eq!(sparse(&hole, b"").expect("one hole")[0].sparse, Some(Vec::new()));
        }
        assert!(sparse(&[size, ("GNU.sparse.numbytes", b"5")], b"hello").is_err());
    }
}
