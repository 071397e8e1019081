//! File content of the benchmark's images: bytes that compress like those of real root file systems.
//!
//! There are three kinds: words (scripts, documents, tables), machine code (recurring opcodes, varying operands), and
//! compressed data. A seed determines all of it. This module does not know archives.

use sampan_tests::random::Random;

/// Number of different words in text.
const WORDS: usize = 2500;
/// Number of different opcodes in machine code.
const OPCODES: usize = 400;

/// A generator of content.
pub struct Content {
    random: Random,
    words: Vec<Vec<u8>>,
    opcodes: Vec<Vec<u8>>,
}

impl Content {
    /// Makes a generator; an equal `seed` gives equal content.
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(0x5a3b_a4c0);
        let words = (0..WORDS)
            .map(|_| {
                let len = 2 + random.below(5) + random.below(6);
                (0..len).map(|_| *random.pick(b"etaoinshrdlucmfwygpbvkxqjz_.=/0123456789")).collect()
            })
            .collect();
        let opcodes = (0..OPCODES)
            .map(|_| {
                let len = 1 + random.below(4);
                random.bytes(len)
            })
            .collect();
        Content { random: Random::new(seed), words, opcodes }
    }

    /// The random numbers that also determine names and sizes of files.
    pub fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    /// Appends `len` bytes of one kind to `into`.
    pub fn fill(&mut self, len: usize, into: &mut Vec<u8>) {
        into.clear();
        match self.random.below(100) {
            0..46 => self.text(len, into),
            46..94 => self.code(len, into),
            _ => self.noise(len, into),
        }
        into.truncate(len);
    }

    /// Returns a number below `count`; low numbers are far more frequent.
    fn skewed(&mut self, count: usize) -> usize {
        let bound = self.random.below(count) + 1;
        self.random.below(bound)
    }

    /// Appends a copy of earlier bytes of `into`, as idioms, licences and tables repeat in real files.
    fn recall(&mut self, longest: usize, into: &mut Vec<u8>) {
        let len = 6 + self.random.below(longest);
        let back = len + self.random.below(16 << 10);
        if let Some(start) = into.len().checked_sub(back) {
            into.extend_from_within(start..start + len);
        }
    }

    fn text(&mut self, len: usize, into: &mut Vec<u8>) {
        while into.len() < len {
            if self.random.below(3) > 0 {
                self.recall(140, into);
            }
            for _ in 0..2 + self.random.below(8) {
                let word = self.skewed(WORDS);
                into.extend_from_slice(&self.words[word]);
                into.push(b' ');
            }
            into.push(b'\n');
        }
    }

    fn code(&mut self, len: usize, into: &mut Vec<u8>) {
        while into.len() < len {
            if self.random.below(3) == 0 {
                self.recall(40, into);
            }
            let opcode = self.skewed(OPCODES);
            into.extend_from_slice(&self.opcodes[opcode]);
            let number = self.random.number().to_le_bytes();
            match self.random.below(16) {
                0..8 => {}
                8..13 => into.push(number[0] & 0x3c),
                13..15 => into.extend_from_slice(&[number[0], 0, 0, 0]),
                _ => into.extend_from_slice(&[number[0], number[1], 0xff, 0xff]),
            }
        }
    }

    fn noise(&mut self, len: usize, into: &mut Vec<u8>) {
        while into.len() < len {
            into.extend_from_slice(&self.random.number().to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use std::io::Write;

    fn ratio(fill: impl Fn(&mut Content, &mut Vec<u8>)) -> f64 {
        let mut content = Content::new(7);
        let mut encoder = GzEncoder::new(Vec::new(), Compression::new(6));
        let (mut all, mut bytes) = (0, Vec::new());
        for _ in 0..400 {
            bytes.clear();
            fill(&mut content, &mut bytes);
            all += bytes.len();
            encoder.write_all(&bytes).expect("to memory");
        }
        all as f64 / encoder.finish().expect("to memory").len() as f64
    }

    #[test]
    fn content_compresses_as_real_root_file_systems_do() {
        let text = ratio(|content, bytes| content.text(16 << 10, bytes));
        let code = ratio(|content, bytes| content.code(16 << 10, bytes));
        let mixed = ratio(|content, bytes| content.fill(16 << 10, bytes));
        assert!((2.2..2.8).contains(&mixed), "{mixed:.2}, of text {text:.2}, of code {code:.2}");
    }

    #[test]
    fn the_same_seed_makes_the_same_content() {
        let (mut one, mut two) = (Vec::new(), Vec::new());
        Content::new(3).fill(100_000, &mut one);
        Content::new(3).fill(100_000, &mut two);
        assert!(one == two && one.len() == 100_000);
    }
}
