//! Lineages of sequence numbers: the present lineage, and the ends of earlier ones.
//!
//! The journal owns the numbering and writes it into the header of each segment. Each boot begins a lineage, since a
//! power cut can remove events that readers have seen, and other events then get their numbers. Therefore a number
//! identifies an event only together with its lineage: docs/events.md, "Lineages". Only [`boot`] does I/O.

/// Number of earlier lineages that are stored. A reader that was away for more boots begins at the oldest event.
const EARLIER: usize = 8;
/// Bytes of an encoded [`Numbering`].
pub(crate) const LEN: usize = 24 + EARLIER * 16;
/// The identity of a boot that cannot be read. Such a boot counts as different from every other boot.
pub(crate) const NO_BOOT: [u8; 16] = [0; 16];

/// The lineage of new sequence numbers, and the lineages before it.
///
/// Layout: `lineage u64 LE · boot 16 bytes · 8 × (lineage u64 LE · end u64 LE)`. The eight pairs are earlier lineages,
/// the latest first; unused pairs are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Numbering {
    /// Random identity of the lineage.
    pub(crate) lineage: u64,
    /// The boot that the lineage belongs to, see [`boot`].
    boot: [u8; 16],
    /// Earlier lineages, each with the number after its last event.
    earlier: [(u64, u64); EARLIER],
}

impl Numbering {
    /// The first lineage of a journal.
    pub(crate) fn first(boot: [u8; 16]) -> Self {
        Numbering { lineage: sampan_ipc::sender::random(), boot, earlier: [(0, 0); EARLIER] }
    }

    /// Returns this numbering if it belongs to `boot`; otherwise a new lineage whose first number is `end`.
    pub(crate) fn in_boot(self, boot: [u8; 16], end: u64) -> Self {
        if self.boot == boot && boot != NO_BOOT {
            return self;
        }
        let mut next = Numbering::first(boot);
        let earlier = std::iter::once((self.lineage, end)).chain(self.earlier);
        for (slot, pair) in next.earlier.iter_mut().zip(earlier) {
            *slot = pair;
        }
        next
    }

    /// The number after the last event of an earlier lineage; `None` if that lineage is not known.
    pub(crate) fn end_of(&self, lineage: u64) -> Option<u64> {
        let known = self.earlier.iter().find(|(known, end)| *known == lineage && *end > 0);
        known.map(|(_, end)| *end)
    }

    /// Encodes the numbering as [`LEN`] bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = self.lineage.to_le_bytes().to_vec();
        bytes.extend(self.boot);
        for (lineage, end) in self.earlier {
            bytes.extend(lineage.to_le_bytes());
            bytes.extend(end.to_le_bytes());
        }
        bytes
    }

    /// Decodes the bytes that [`Numbering::encode`] returns; every value is valid.
    pub(crate) fn parse(bytes: &[u8; LEN]) -> Self {
        let long = |at: usize| {
            let part = bytes.get(at..at + 8).and_then(|part| part.try_into().ok());
            part.map_or(0, u64::from_le_bytes)
        };
        let boot = bytes.get(8..24).and_then(|part| part.try_into().ok()).unwrap_or(NO_BOOT);
        let mut earlier = [(0, 0); EARLIER];
        for (nth, pair) in earlier.iter_mut().enumerate() {
            *pair = (long(24 + nth * 16), long(32 + nth * 16));
        }
        Numbering { lineage: long(0), boot, earlier }
    }
}

/// Identity of this boot, or [`NO_BOOT`] if it cannot be read. proc(5), /proc/sys/kernel/random/boot_id.
pub(crate) fn boot() -> [u8; 16] {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits = u128::from_str_radix(&text.trim().replace('-', ""), 16);
    digits.map_or(NO_BOOT, u128::to_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earlier_lineages_are_known_for_eight_boots() {
        let mut lineages = vec![Numbering::first([1; 16])];
        assert_eq!(lineages[0].in_boot([1; 16], 50), lineages[0], "the same boot goes on");
        for boot in 2..12 {
            let next = lineages[lineages.len() - 1].in_boot([boot; 16], u64::from(boot) * 10);
            assert_eq!(Numbering::parse(next.encode().as_slice().try_into().expect("its length")), next);
            lineages.push(next);
        }
        let last = lineages[lineages.len() - 1];
        let ends: Vec<Option<u64>> = lineages.iter().map(|known| last.end_of(known.lineage)).collect();
        assert_eq!(ends[..3], [None, None, Some(40)]);
        assert_eq!(ends[9..], [Some(110), None]);
        assert_eq!(last.end_of(0), None);
        assert_ne!(last.in_boot(NO_BOOT, 1).in_boot(NO_BOOT, 2).lineage, last.in_boot(NO_BOOT, 1).lineage);
    }
}
