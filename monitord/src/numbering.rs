//! Whose sequence numbers these are: the lineage of this boot, and where earlier ones ended.
//!
//! Owned by the journal, which writes it into the header of each segment. A number means something only together with its
//! lineage, since a power cut can take back events that readers saw: docs/events.md, "Lineages". No I/O.

/// How many earlier lineages are remembered: a reader that was away for more boots begins at the oldest event.
const EARLIER: usize = 8;
/// Bytes of its encoded form.
pub const LEN: usize = 24 + EARLIER * 16;
/// What stands for a boot where the kernel does not tell: equal to no boot, not even to itself.
pub const NO_BOOT: [u8; 16] = [0; 16];

/// The lineage of the numbers that are given out, and those before it.
///
/// Layout: `lineage u64 LE · boot 16 bytes · 8 × (lineage u64 LE · end u64 LE)`, the latest first, zeroes where there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbering {
    /// Drawn at random.
    pub lineage: u64,
    /// The boot that it is of, as /proc/sys/kernel/random/boot_id tells it.
    boot: [u8; 16],
    /// Earlier lineages, and the number behind the last one of each.
    earlier: [(u64, u64); EARLIER],
}

impl Numbering {
    /// The first lineage of a journal.
    pub fn first(boot: [u8; 16]) -> Self {
        Numbering { lineage: sampan_ipc::sender::random(), boot, earlier: [(0, 0); EARLIER] }
    }

    /// The lineage of `boot`: this one if it is of that boot, else one that follows it at the number `end`.
    pub fn in_boot(self, boot: [u8; 16], end: u64) -> Self {
        if self.boot == boot && boot != NO_BOOT {
            return self;
        }
        let mut next = Numbering::first(boot);
        next.earlier[0] = (self.lineage, end);
        next.earlier[1..].copy_from_slice(&self.earlier[..EARLIER - 1]);
        next
    }

    /// The number behind the last one of an earlier lineage; `None` if it is not known.
    pub fn end_of(&self, lineage: u64) -> Option<u64> {
        let known = self.earlier.iter().find(|(known, end)| *known == lineage && *end > 0);
        known.map(|(_, end)| *end)
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.lineage.to_le_bytes().to_vec();
        bytes.extend(self.boot);
        for (lineage, end) in self.earlier {
            bytes.extend(lineage.to_le_bytes());
            bytes.extend(end.to_le_bytes());
        }
        bytes
    }

    /// Reads what [`Numbering::encode`] wrote.
    pub fn parse(bytes: &[u8; LEN]) -> Self {
        let long = |at: usize| {
            let part = bytes.get(at..at + 8).and_then(|part| part.try_into().ok());
            part.map_or(0, u64::from_le_bytes)
        };
        let mut boot = NO_BOOT;
        boot.copy_from_slice(&bytes[8..24]);
        let mut earlier = [(0, 0); EARLIER];
        for (nth, pair) in earlier.iter_mut().enumerate() {
            *pair = (long(24 + nth * 16), long(32 + nth * 16));
        }
        Numbering { lineage: long(0), boot, earlier }
    }
}

/// Identity of this boot. proc(5), /proc/sys/kernel/random/boot_id.
pub fn boot() -> [u8; 16] {
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
