//! The arithmetic of pieces: their size, their ranges, and the wrapping that Dragonfly's clients expect.
//!
//! Pure. A file is divided into pieces of equal content; the last one may be shorter. Dragonfly's clients see each
//! piece wrapped, and count all positions in wrapped bytes: piece `n` begins at `n` × piece size. In the `source`
//! pattern, pieces are not wrapped. docs/peers.md, "Wire 1".

const MIB: u64 = 1 << 20;
/// Size of the head of a wrapped piece, in bytes.
pub const HEAD: u64 = 4;
/// The last byte of a wrapped piece.
pub const TAIL: u8 = 0x7f;
/// Bytes that the wrapping adds to a piece.
pub const WRAPPING: u64 = HEAD + 1;
/// Size of the largest piece, in bytes.
pub const PIECE_SIZE_MAX: u64 = 15 * MIB;
/// Largest file that can be a task, in bytes: 16 TiB, the largest file of ext4. A bit for each of its pieces takes
/// at most 0.5 MiB.
pub const LENGTH_MAX: u64 = 16 << 40;

/// The size of the pieces of a file of `length` bytes, in bytes: a whole number of MiB, from 4 to 15. The length
/// may be unknown.
pub fn piece_size(length: Option<u64>) -> u64 {
    let hundreds = length.unwrap_or(0) / (100 * MIB);
    match length {
        Some(length) if length > 200 * MIB => (4 * MIB + (hundreds - 2) * MIB).min(PIECE_SIZE_MAX),
        _ => 4 * MIB,
    }
}

/// How a file is divided into pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pieces {
    /// Size of a full piece in wrapped bytes.
    pub size: u64,
    /// Whether pieces are wrapped.
    pub is_wrapped: bool,
}

impl Pieces {
    /// The pieces of a file of `length` bytes, which may be unknown.
    pub fn of(length: Option<u64>, is_wrapped: bool) -> Self {
        Pieces { size: piece_size(length), is_wrapped }
    }

    fn wrapping(self) -> u64 {
        if self.is_wrapped { WRAPPING } else { 0 }
    }

    /// Content of a full piece, in bytes.
    pub fn content(self) -> u64 {
        self.size - self.wrapping()
    }

    /// Number of pieces of a file of `length` bytes. An empty file has one piece.
    pub fn count(self, length: u64) -> u32 {
        u32::try_from(length.div_ceil(self.content()).max(1)).unwrap_or(u32::MAX)
    }

    /// Offset of the content of piece `number` in the file, in bytes.
    pub fn offset(self, number: u32) -> u64 {
        u64::from(number) * self.content()
    }

    /// Length of the content of piece `number` of a file of `length` bytes.
    pub fn content_len(self, number: u32, length: u64) -> u64 {
        length.saturating_sub(self.offset(number)).min(self.content())
    }

    /// Length of piece `number` of a file of `length` bytes, in wrapped bytes.
    pub fn wrapped_len(self, number: u32, length: u64) -> u64 {
        self.content_len(number, length) + self.wrapping()
    }

    /// Length of the whole file in wrapped bytes.
    pub fn file_len(self, length: u64) -> u64 {
        length + u64::from(self.count(length)) * self.wrapping()
    }

    /// The range of piece `number`, as requests have it: `first-last`, in wrapped bytes, never trimmed to the
    /// file.
    pub fn range(self, number: u32) -> String {
        let first = u64::from(number) * self.size;
        format!("{first}-{}", first + self.size - 1)
    }

    /// The number of the piece with the range `text`; `None` if it is not exactly the range of one piece.
    pub fn parse_range(self, text: &str) -> Option<u32> {
        let (first, last) = text.split_once('-')?;
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        let is_piece = first % self.size == 0 && last.checked_sub(first) == Some(self.size - 1);
        is_piece.then(|| u32::try_from(first / self.size).ok())?
    }
}

/// The head of a wrapped piece with `content` bytes of content, from a file with pieces of `size` bytes:
/// big-endian `content | size << 4`. As the size is a whole number of MiB, the first byte is that number.
pub fn head(content: u64, size: u64) -> [u8; 4] {
    u32::try_from(content | size << 4).unwrap_or(u32::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn piece_sizes_are_those_of_dragonfly() {
        for (mib, size) in [(0, 4), (200, 4), (300, 5), (399, 5), (1000, 12), (1300, 15), (90_000, 15)] {
            assert_eq!(piece_size(Some(mib * MIB)), size * MIB, "{mib} MiB");
        }
        assert_eq!(piece_size(Some(200 * MIB + 1)), 4 * MIB);
        assert_eq!(piece_size(None), 4 * MIB);
    }

    #[test]
    fn a_file_of_20_mib_has_a_last_piece_of_30_bytes() {
        let (length, pieces) = (20 * MIB, Pieces::of(Some(20 * MIB), true));
        assert_eq!((pieces.count(length), pieces.file_len(length)), (6, 20_971_550));
        assert_eq!((pieces.content_len(5, length), pieces.wrapped_len(5, length)), (25, 30));
        assert_eq!(pieces.range(5), "20971520-25165823");
        assert_eq!(head(pieces.content(), pieces.size), [0x04, 0x3f, 0xff, 0xfb]);
        assert_eq!(head(25, pieces.size), [0x04, 0x00, 0x00, 0x19]);
        assert_eq!((pieces.count(0), pieces.file_len(0)), (1, 5));
        let plain = Pieces::of(Some(length), false);
        assert_eq!(
            (plain.count(length), plain.file_len(length), plain.wrapped_len(4, length)),
            (5, length, 4 * MIB)
        );
    }

    #[test]
    fn only_the_range_of_a_piece_is_a_piece() {
        let pieces = Pieces::of(Some(20 * MIB), true);
        assert_eq!(pieces.parse_range("4194304-8388607"), Some(1));
        for text in
            ["4194304-8388608", "4194303-8388606", "8388607-4194304", "0", "", "-", "a-b", "-1-4194302"]
        {
            assert_eq!(pieces.parse_range(text), None, "{text}");
        }
    }
}
