//! Reads a tar stream entry by entry: ustar, GNU and PAX, with long names, extended attributes and sparse files.
//!
//! Header fields are `tar::Header`'s work. The order of headers is ours, since that crate's own iterator reads
//! long names of any length into memory and ends a PAX value at its first line break, which
//! `security.capability` may hold. Called by [`crate::unpack`]. Never touches a file.

mod error;
mod pax;

pub use self::error::TarError;
use self::error::{SPARSE_MAX, malformed};
use self::pax::Pax;
use std::io::{self, BufRead, Read};
use tar::{EntryType, Header};

const BLOCK: u64 = 512;
/// Most bytes of PAX headers and long names of one entry: a hostile layer cannot make us hold more.
const META_MAX: u64 = 1 << 20;
/// What an entry makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file with content.
    Regular,
    /// One more name of an earlier file.
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
    /// Something that this version of the format has no word for; to be passed over.
    Unknown(u8),
}

/// What a tar says of one file.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What it makes.
    pub kind: Kind,
    /// Its name, as it stands there.
    pub path: Vec<u8>,
    /// Where a link leads.
    pub link: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time: seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Device number.
    pub device: (u32, u32),
    /// Length of the file's content in the file system.
    pub size: u64,
    /// Extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Stretches with data, `(offset, length)` in order, if it is sparse; then `size` may be larger than they.
    pub sparse: Option<Vec<(u64, u64)>>,
}

/// A tar stream.
pub struct TarReader<R> {
    from: R,
    /// Bytes of the current entry's content not read yet.
    content: u64,
    /// Zeroes behind it, up to the next block.
    padding: u64,
}

impl<R: BufRead> TarReader<R> {
    /// Reads from the first byte of `from`.
    pub fn new(from: R) -> Self {
        TarReader { from, content: 0, padding: 0 }
    }

    /// The stream, wherever it stands.
    pub fn into_inner(self) -> R {
        self.from
    }

    /// The next entry, or `None` at the end. What was not read of the last one's content is passed over.
    ///
    /// # Errors
    /// [`TarError`]; the stream has no meaning any more then.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        let mut pax = Pax::default();
        let (mut long_name, mut long_link) = (None, None);
        let mut described = false;
        let mut left = META_MAX;
        loop {
            self.skip_content()?;
            let Some(header) = self.header()? else {
                if described {
                    return Err(malformed("it ends behind a header that describes a next entry"));
                }
                return Ok(None);
            };
            let size = size_of_content(&header)?;
            match header.entry_type() {
                EntryType::GNULongName => long_name = Some(self.long_text(size, &mut left)?),
                EntryType::GNULongLink => long_link = Some(self.long_text(size, &mut left)?),
                EntryType::XHeader => pax.read(&self.meta(size, &mut left)?)?,
                // Global records are comments in practice (git writes its commit there).
                EntryType::XGlobalHeader => drop(self.meta(size, &mut { META_MAX })?),
                _ => return self.entry(&header, pax, long_name, long_link).map(Some),
            }
            described = !header.entry_type().is_pax_global_extensions();
        }
    }

    /// Reads of the current entry's content; 0 at its end.
    ///
    /// # Errors
    /// [`TarError::Truncated`] if the stream ends before the content does.
    pub fn read_content(&mut self, into: &mut [u8]) -> Result<usize, TarError> {
        let part = self.content()?;
        let len = part.len().min(into.len());
        if let (Some(into), Some(part)) = (into.get_mut(..len), part.get(..len)) {
            into.copy_from_slice(part);
        }
        self.consume_content(len);
        Ok(len)
    }

    /// What there is at hand of the current entry's content, without a copy; nothing at its end. The next call gives
    /// the same, but for what [`TarReader::consume_content`] took.
    ///
    /// # Errors
    /// As [`TarReader::read_content`].
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

    /// Takes `len` bytes of what [`TarReader::content`] gave.
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
        // A layer may end right behind its last file's content: 'umoci insert' writes such, and Go reads them.
        let padding = usize::try_from(std::mem::take(&mut self.padding)).expect("less than a block");
        match fill(&mut self.from, [0; BLOCK as usize].get_mut(..padding).unwrap_or_default())? {
            0 => Ok(()),
            len if len == padding => Ok(()),
            _ => Err(TarError::Truncated),
        }
    }

    /// The next block as a header; `None` at a block of zeroes or the stream's end.
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
                    format!("it is compressed with {name}, which is not read: plain, gzip and zstd are")
                }
                None => "a header's checksum is wrong, or it is no tar at all".to_owned(),
            }));
        }
        Ok(Some(header))
    }

    /// The content of an entry that describes the next one, of which `left` bytes may come.
    fn meta(&mut self, size: u64, left: &mut u64) -> Result<Vec<u8>, TarError> {
        *left = left.checked_sub(size).ok_or_else(|| {
            malformed(format!("headers that describe one entry have more than {META_MAX} bytes"))
        })?;
        self.begin_content(size);
        let mut bytes = vec![0; usize::try_from(size).expect("at most META_MAX")];
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
        // Only files have content; some writers note a size for links nevertheless.
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
                // Version 0.0 has no record at all for a file that is one hole.
                (None | Some(0), _, map) => map.unwrap_or_default(),
                _ => return Err(malformed("a sparse file of a form that is not known")),
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
            let id = u32::try_from(number(digits, value)?).map_err(|_| malformed("an owner over 32 bits"))?;
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

    /// The map of an old GNU sparse file: four stretches in the header, more in blocks behind it.
    fn old_sparse(&mut self, header: &Header) -> Result<(Vec<(u64, u64)>, u64), TarError> {
        let field = |e: io::Error| malformed(e.to_string());
        let gnu = header.as_gnu().ok_or_else(|| malformed("a sparse file without a GNU header"))?;
        let mut map = Vec::new();
        let mut add = |stretch: &tar::GnuSparseHeader| -> Result<(), TarError> {
            if !stretch.is_empty() {
                map.push((stretch.offset().map_err(field)?, stretch.length().map_err(field)?));
            }
            if map.len() > SPARSE_MAX {
                Err(malformed("a sparse file of too many stretches"))
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

    /// The map of a PAX 1.0 sparse file: decimal lines before the data, filled up to a block.
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
                            0 => return Err(malformed("a sparse file's map is cut")),
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
                    _ => return Err(malformed("a sparse file's map is no number")),
                }
            }
        };
        let count = usize::try_from(number(self)?).unwrap_or(usize::MAX);
        if count > SPARSE_MAX {
            return Err(malformed("a sparse file of too many stretches"));
        }
        (0..count).map(|_| Ok((number(self)?, number(self)?))).collect()
    }
}

/// What bytes that are no tar are compressed with, by their first ones, if we do not decompress it.
fn compression(start: &[u8]) -> Option<&'static str> {
    match start {
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some("xz"),
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => Some("bzip2"),
        [0x04, 0x22, 0x4d, 0x18, ..] => Some("lz4"),
        [b'P', b'K', 3, 4, ..] => Some("zip"),
        _ => None,
    }
}

/// True if the header's checksum is right, by bytes without a sign or, as some old writers have it, with one.
fn is_header(header: &Header) -> bool {
    let Ok(said) = header.cksum() else { return false };
    // The checksum counts its own field as eight spaces.
    let bytes = header.as_bytes().iter().enumerate();
    let sum = bytes.map(|(at, b)| if (148..156).contains(&at) { 32 } else { u32::from(*b) }).sum::<u32>();
    said == sum || i64::from(said) == i64::from(sum) - 256 * i64::from(bytes_over_127(header))
}

fn bytes_over_127(header: &Header) -> u32 {
    let bytes = header.as_bytes().iter().enumerate();
    bytes.map(|(at, b)| u32::from(!(148..156).contains(&at) && *b > 127)).sum()
}

/// The length that a header says of its content; a binary number that has more than 64 bits, or a sign, is none.
fn size_of_content(header: &Header) -> Result<u64, TarError> {
    let [first, rest @ ..] = header.as_old().size;
    let is_binary = first & 0x80 != 0;
    if is_binary && (first != 0x80 || !rest.starts_with(&[0; 3])) {
        return Err(malformed("a size that no file can have"));
    }
    header.entry_size().map_err(|e| malformed(e.to_string()))
}

/// No file has the owner 4294967295: chown(2) reads it as "leave it", and the file would stay root's.
fn known_owner(id: u32) -> Result<u32, TarError> {
    if id == u32::MAX { Err(malformed("an owner that no file can have: 4294967295")) } else { Ok(id) }
}

/// True if a file that begins with `start` may be a tar: a header, or the end mark of an empty one.
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
        end = stop.ok_or_else(|| malformed("a sparse file's stretches overlap or leave it"))?;
        data += len;
    }
    if data == stored { Ok(()) } else { Err(malformed("a sparse file's map does not fit its data")) }
}

impl<R: io::BufRead + io::Seek> TarReader<R> {
    /// Passes over the current entry's content without reading it; gives its offset and length. What lies beyond
    /// the stream's end is noticed by the caller, who knows where that is.
    ///
    /// # Errors
    /// [`TarError::Read`].
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

/// Reads until `into` is full or the stream ends; how many bytes came.
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

/// True for a numeric field that nobody filled in: it stands for 0, as in GNU tar.
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
    fn every_cut_and_every_changed_byte_is_an_answer_and_no_panic() {
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
    fn sparse_stretches_that_overlap_or_do_not_fit_are_refused() {
        assert!(check_sparse(&[(0, 5), (10, 5)], 20, 10).is_ok());
        assert!(check_sparse(&[(0, 5), (4, 5)], 20, 10).is_err());
        assert!(check_sparse(&[(0, 5)], 4, 5).is_err());
        assert!(check_sparse(&[(u64::MAX, 5)], u64::MAX, 5).is_err());
        assert!(check_sparse(&[(0, 5)], 20, 6).is_err());
    }

    #[test]
    fn fields_that_nobody_filled_in_are_zero() {
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
        let said = sum(i64::from(header.cksum().expect("just set")));
        header.as_old_mut().cksum.copy_from_slice(format!("{said:06o}\0 ").as_bytes());
        let mut bytes = [header.as_bytes().as_slice(), content].concat();
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }

    #[test]
    fn an_empty_pax_value_leaves_what_the_header_says() {
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
    fn numbers_that_do_not_fit_are_refused_and_not_cut() {
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
