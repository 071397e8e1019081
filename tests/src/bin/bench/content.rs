//! What the files of a benchmark's images hold: bytes that compress as those of real root file systems do.
//!
//! Three sorts: words (scripts, documents, tables), machine code (opcodes that recur, operands that do not), and
//! what is compressed already. All of it follows from a seed. Knows nothing of archives.

use sampan_tests::random::Random;

/// Words that text is made of.
const WORDS: usize = 6000;
/// Opcode-like beginnings that machine code is made of.
const OPCODES: usize = 400;

/// Makes content.
pub struct Content {
    random: Random,
    words: Vec<Vec<u8>>,
    opcodes: Vec<Vec<u8>>,
}

impl Content {
    /// Content that follows from `seed`.
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

    /// The numbers that everything else about the files follows from, too.
    pub fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    /// `len` bytes of one sort, into `into`.
    pub fn fill(&mut self, len: usize, into: &mut Vec<u8>) {
        into.clear();
        match self.random.below(100) {
            0..43 => self.text(len, into),
            43..90 => self.code(len, into),
            _ => self.noise(len, into),
        }
        into.truncate(len);
    }

    /// One of `count` things, the first ones far more often.
    fn skewed(&mut self, count: usize) -> usize {
        let bound = self.random.below(count) + 1;
        self.random.below(bound)
    }

    fn text(&mut self, len: usize, into: &mut Vec<u8>) {
        while into.len() < len {
            for _ in 0..4 + self.random.below(10) {
                let word = self.skewed(WORDS);
                into.extend_from_slice(&self.words[word]);
                into.push(b' ');
            }
            into.push(b'\n');
        }
    }

    fn code(&mut self, len: usize, into: &mut Vec<u8>) {
        while into.len() < len {
            let opcode = self.skewed(OPCODES);
            into.extend_from_slice(&self.opcodes[opcode]);
            let number = self.random.number().to_le_bytes();
            match self.random.below(8) {
                0..3 => {}
                3..6 => into.push(number[0]),
                6 => into.extend_from_slice(&[number[0], 0, 0, 0]),
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
