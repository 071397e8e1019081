//! Reads the cursor file of `sampan events` without the library that writes it. docs/events.md describes its layout.

use std::fs;
use std::path::Path;

/// Number of writes to the cursor file: each write increments a counter in its slot.
pub fn writes(cursor: &Path) -> u32 {
    let bytes = fs::read(cursor).expect("a cursor file");
    let turn = |slot: &[u8]| u32::from_le_bytes(slot[24..28].try_into().expect("four bytes"));
    bytes.chunks(32).map(turn).max().expect("two slots")
}

/// The sequence number in the cursor file; 0 if there is no file.
pub fn held(cursor: &Path) -> u64 {
    let bytes = fs::read(cursor).unwrap_or_default();
    let slots = bytes.chunks(32).filter(|slot| slot.len() == 32);
    let newest = slots.max_by_key(|slot| u32::from_le_bytes(slot[24..28].try_into().expect("four bytes")));
    newest.map_or(0, |slot| u64::from_le_bytes(slot[16..24].try_into().expect("eight bytes")))
}
