//! What a cursor file of `sampan events` holds, read without the library that writes it. docs/events.md has its layout.

use std::fs;
use std::path::Path;

/// How often the cursor file was written: each write counts in its slot.
pub fn writes(cursor: &Path) -> u32 {
    let bytes = fs::read(cursor).expect("a cursor file");
    let turn = |slot: &[u8]| u32::from_le_bytes(slot[24..28].try_into().expect("four bytes"));
    bytes.chunks(32).map(turn).max().expect("two slots")
}

/// The number in the cursor file; 0 if there is none.
pub fn held(cursor: &Path) -> u64 {
    let bytes = fs::read(cursor).unwrap_or_default();
    let slots = bytes.chunks(32).filter(|slot| slot.len() == 32);
    let newest = slots.max_by_key(|slot| u32::from_le_bytes(slot[24..28].try_into().expect("four bytes")));
    newest.map_or(0, |slot| u64::from_le_bytes(slot[16..24].try_into().expect("eight bytes")))
}
