//! Decompresses a layer as a stream. The layer may be gzip (with any number of members), zstd, or uncompressed.
//!
//! Called by the jobs that unpack or verify a layer. Detects the format by the first bytes, never by the media type:
//! registries and tools disagree about media types. The caller's check of the diff ID proves the content.

use sampan_oci as oci;
use std::io::{self, BufRead, BufReader, Cursor, Read};

/// Part of the zstd library's error message for a window above the limit.
const TOO_MUCH_MEMORY: &str = "too much memory";
/// Number of bytes that are read from the source at a time.
const INPUT: usize = 64 << 10;

/// The compression of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The layer is not compressed.
    Plain,
    /// The layer is compressed by gzip. RFC 1952.
    Gzip,
    /// The layer is compressed by zstd. RFC 8878.
    Zstd,
}

impl Format {
    /// Detects the format of a layer that begins with the bytes `magic`.
    pub fn of(magic: &[u8]) -> Self {
        match magic {
            [0x1f, 0x8b, ..] => Format::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Format::Zstd,
            _ => Format::Plain,
        }
    }

    /// The OCI media type of a layer in this format.
    pub fn media_type(self) -> &'static str {
        let [plain, gzip, zstd] = oci::LAYER;
        match self {
            Format::Plain => plain,
            Format::Gzip => gzip,
            Format::Zstd => zstd,
        }
    }
}

/// Detects the format of `from` and returns a reader of the decompressed bytes.
///
/// The reader fails if a zstd window is larger than 2 to the power of `window_log` bytes, because the decompressor
/// needs memory for the whole window.
///
/// # Errors
/// The first bytes cannot be read, or the decompressor cannot be set up.
pub fn open<'a>(
    from: impl Read + Send + 'a,
    window_log: u32,
) -> io::Result<(Format, Box<dyn Read + Send + 'a>)> {
    open_buffered(BufReader::with_capacity(INPUT, from), window_log)
}

/// Detects the format of a buffered source and returns a reader of the decompressed bytes, like [`open`].
///
/// # Errors
/// The first bytes cannot be read, or the decompressor cannot be set up.
pub fn open_buffered<'a>(
    mut from: impl BufRead + Send + 'a,
    window_log: u32,
) -> io::Result<(Format, Box<dyn Read + Send + 'a>)> {
    let mut magic = [0; 4];
    let mut have = 0;
    while have < magic.len() {
        match from.read(magic.get_mut(have..).unwrap_or_default()) {
            Ok(0) => break,
            Ok(len) => have += len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let start = magic.get(..have).unwrap_or_default();
    let format = Format::of(start);
    let all = Cursor::new(start.to_vec()).chain(from);
    Ok((
        format,
        match format {
            Format::Plain => Box::new(all),
            Format::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(all)),
            Format::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(all)?;
                decoder.window_log_max(window_log)?;
                Box::new(Bounded { decoder, window_log })
            }
        },
    ))
}

/// A reader that replaces the zstd library's error for a too large window by a message that names the limit.
struct Bounded<R> {
    decoder: R,
    window_log: u32,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.decoder.read(into).map_err(|error| match error.to_string().contains(TOO_MUCH_MEMORY) {
            true => {
                let mib = (1_u64 << self.window_log.min(63)) as f64 / f64::from(1 << 20);
                let message = format!("its zstd window is larger than {mib} MiB, the limit of this engine");
                io::Error::new(io::ErrorKind::InvalidData, message)
            }
            false => error,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use std::io::Write;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).expect("to memory");
        encoder.finish().expect("to memory")
    }

    fn decoded(bytes: &[u8]) -> io::Result<(Format, Vec<u8>)> {
        let (format, mut reader) = open(bytes, 26)?;
        let mut out = Vec::new();
        reader.read_to_end(&mut out)?;
        Ok((format, out))
    }

    #[test]
    fn formats_are_detected_by_their_first_bytes() {
        assert_eq!(decoded(b"plain").expect("good"), (Format::Plain, b"plain".to_vec()));
        assert_eq!(decoded(b"").expect("good"), (Format::Plain, Vec::new()));
        let members = [gzip(b"one "), gzip(b"two")].concat();
        assert_eq!(decoded(&members).expect("good"), (Format::Gzip, b"one two".to_vec()));
        let zstd = zstd::encode_all(b"zstd".as_slice(), 3).expect("to memory");
        assert_eq!(decoded(&zstd).expect("good"), (Format::Zstd, b"zstd".to_vec()));
        assert!(decoded(&members[..members.len() - 3]).is_err());
    }

    #[test]
    fn a_zstd_window_over_the_limit_is_refused() {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).expect("to memory");
        encoder.window_log(27).expect("allowed");
        encoder.write_all(&vec![7; 1 << 20]).expect("to memory");
        let bytes = encoder.finish().expect("to memory");
        let error = decoded(&bytes).expect_err("too large");
        assert_eq!(error.to_string(), "its zstd window is larger than 64 MiB, the limit of this engine");
    }
}
