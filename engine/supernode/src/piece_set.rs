//! A growing set of small numbers, as bits: the pieces that a client has, or the members of a swarm that have a
//! piece.
//!
//! A second level has one bit for each word of the first that is not zero. So the next number in a set, or in two
//! sets at once, is found in a few words, however large the set is.

/// Bits in a word.
const WORD: usize = 64;

/// A set of numbers. Memory grows with the largest number: a bit for each, and one more bit for each 64.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PieceSet {
    words: Vec<u64>,
    /// Bit `n` is set if word `n` is not zero.
    summary: Vec<u64>,
    len: u32,
}

impl PieceSet {
    /// The number of members.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether the set has no member.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether `number` is in the set.
    pub fn contains(&self, number: u32) -> bool {
        let (word, mask) = place(number);
        self.words.get(word).is_some_and(|bits| bits & mask != 0)
    }

    /// Adds `number`; returns false if it was in the set.
    pub fn insert(&mut self, number: u32) -> bool {
        let (word, mask) = place(number);
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
            self.summary.resize(word / WORD + 1, 0);
        }
        let Some(bits) = self.words.get_mut(word).filter(|bits| **bits & mask == 0) else { return false };
        *bits |= mask;
        if let Some(summary) = self.summary.get_mut(word / WORD) {
            *summary |= 1 << (word % WORD);
        }
        self.len += 1;
        true
    }

    /// Removes `number`; returns false if it was not in the set.
    pub fn remove(&mut self, number: u32) -> bool {
        let (word, mask) = place(number);
        let Some(bits) = self.words.get_mut(word).filter(|bits| **bits & mask != 0) else { return false };
        *bits &= !mask;
        if *bits == 0
            && let Some(summary) = self.summary.get_mut(word / WORD)
        {
            *summary &= !(1 << (word % WORD));
        }
        self.len -= 1;
        true
    }

    /// Removes all members and keeps the memory.
    pub fn clear(&mut self) {
        self.words.fill(0);
        self.summary.fill(0);
        self.len = 0;
    }

    /// The smallest member that is at least `from`.
    pub fn next(&self, from: u32) -> Option<u32> {
        find(from, |word| self.word(word), |index| self.summary.get(index).copied(), self.words.len())
    }

    /// The smallest member of both sets that is at least `from`.
    pub fn next_in_both(&self, other: &PieceSet, from: u32) -> Option<u32> {
        let summary = |index: usize| Some(self.summary.get(index)? & other.summary.get(index)?);
        let words = self.words.len().min(other.words.len());
        find(from, |word| self.word(word) & other.word(word), summary, words)
    }

    /// The number of members that are not in `other`.
    pub fn len_without(&self, other: &PieceSet) -> u32 {
        let words = self.words.iter().enumerate();
        words.map(|(at, word)| (word & !other.word(at)).count_ones()).sum()
    }

    /// The memory for the members, in bytes.
    pub fn memory(&self) -> u64 {
        ((self.words.len() + self.summary.len()) * size_of::<u64>()) as u64
    }

    /// A number above all members: the end of the range in which they are.
    pub fn end(&self) -> u32 {
        u32::try_from(self.words.len() * WORD).unwrap_or(u32::MAX)
    }

    /// All members, in order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let mut from = Some(0);
        std::iter::from_fn(move || {
            let found = self.next(from?)?;
            from = found.checked_add(1);
            Some(found)
        })
    }

    /// The set as bytes: number `n` is bit `n` mod 8 of byte `n` / 8.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
        bytes
    }

    /// The set whose [`PieceSet::to_bytes`] are `bytes`, without its numbers from `end` on.
    pub fn from_bytes(bytes: &[u8], end: u32) -> Self {
        let mut set = PieceSet::default();
        for (index, byte) in bytes.iter().enumerate() {
            for bit in (0..8).filter(|bit| byte & 1 << bit != 0) {
                match u32::try_from(index * 8 + bit) {
                    Ok(number) if number < end => {
                        set.insert(number);
                    }
                    _ => return set,
                }
            }
        }
        set
    }

    fn word(&self, index: usize) -> u64 {
        self.words.get(index).copied().unwrap_or(0)
    }
}

fn place(number: u32) -> (usize, u64) {
    (number as usize / WORD, 1 << (number as usize % WORD))
}

/// The first set bit at or after `from`, in `words` words with their `summary`.
fn find(
    from: u32,
    word: impl Fn(usize) -> u64,
    summary: impl Fn(usize) -> Option<u64>,
    words: usize,
) -> Option<u32> {
    let (first, mask) = place(from);
    if first >= words {
        return None;
    }
    let bits = word(first) & !(mask - 1);
    if bits != 0 {
        return number(first, bits);
    }
    let mut at = first + 1;
    while at < words {
        let below = (1u64 << (at % WORD)) - 1;
        match summary(at / WORD)? & !below {
            0 => at = (at / WORD + 1) * WORD,
            bits => {
                at = at / WORD * WORD + bits.trailing_zeros() as usize;
                match word(at) {
                    // Of two sets, both have a bit in this word, but not the same one.
                    0 => at += 1,
                    bits => return number(at, bits),
                }
            }
        }
    }
    None
}

fn number(word: usize, bits: u64) -> Option<u32> {
    u32::try_from(word * WORD + bits.trailing_zeros() as usize).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// A small generator: `seed` gives the same numbers each time.
    fn numbers(mut seed: u64) -> impl FnMut(u32) -> u32 {
        move |below| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed % u64::from(below)) as u32
        }
    }

    #[test]
    fn a_set_of_bits_is_a_set() {
        for seed in 1..=20 {
            let mut random = numbers(seed * 0x9e37_79b9);
            let range = [70, 700, 9000][seed as usize % 3];
            let (mut set, mut other) = (PieceSet::default(), PieceSet::default());
            let (mut model, mut second) = (BTreeSet::new(), BTreeSet::new());
            for _ in 0..2000 {
                let number = random(range);
                match random(4) {
                    0 => assert_eq!(set.remove(number), model.remove(&number), "seed {seed}"),
                    1 => assert_eq!(other.insert(number), second.insert(number), "seed {seed}"),
                    _ => assert_eq!(set.insert(number), model.insert(number), "seed {seed}"),
                }
                let from = random(range + 100);
                assert_eq!(set.next(from), model.range(from..).next().copied(), "seed {seed}");
                let both = model.intersection(&second).copied().find(|n| *n >= from);
                assert_eq!(set.next_in_both(&other, from), both, "seed {seed}");
                assert_eq!(set.contains(from), model.contains(&from));
            }
            assert_eq!(set.len() as usize, model.len());
            assert_eq!(set.len_without(&other) as usize, model.difference(&second).count());
            assert!(set.iter().eq(model.iter().copied()));
            assert!(PieceSet::from_bytes(&set.to_bytes(), range).iter().eq(model.iter().copied()));
            set.clear();
            assert!(set.is_empty() && set.next(0).is_none());
        }
    }

    #[test]
    fn bytes_have_the_lowest_bit_first() {
        let set = PieceSet::from_bytes(&[0b101, 0, 0x80], 100);
        assert!(set.iter().eq([0, 2, 23]));
        assert_eq!(set.to_bytes(), [0b101, 0, 0x80]);
        assert!(PieceSet::from_bytes(&[0xff; 4], 10).iter().eq(0..10), "cut at the number of pieces");
        assert_eq!(PieceSet::from_bytes(&[0xff; 2], 9).to_bytes(), [0xff, 1]);
    }
}
