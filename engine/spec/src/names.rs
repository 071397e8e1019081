//! Names and IDs of containers: checks names that people choose, and generates names and IDs.
//!
//! Does no I/O except to get random bytes. The caller knows which names are in use.

use super::error::SpecError;
use ring::rand::{SecureRandom, SystemRandom};

/// Longest name, in bytes.
pub const NAME_MAX: usize = 128;
/// Number of generated names that are tried. If all are in use, a number is appended to a name.
const TRIES_MAX: usize = 10;

const ADJECTIVES: [&str; 48] = [
    "able", "agile", "amber", "ample", "azure", "bold", "brave", "brisk", "bright", "calm", "clear", "coral",
    "dapper", "deft", "eager", "early", "fair", "fleet", "fresh", "gentle", "glad", "golden", "grand",
    "hardy", "humble", "jolly", "keen", "kind", "level", "light", "lively", "lucky", "mellow", "merry",
    "nimble", "noble", "patient", "plucky", "quick", "quiet", "ready", "serene", "silver", "steady", "sunny",
    "swift", "trim", "warm",
];
const BOATS: [&str; 48] = [
    "barge", "bark", "beacon", "brig", "canoe", "caravel", "carrack", "catboat", "clipper", "cog", "coracle",
    "cutter", "dhow", "dinghy", "dory", "felucca", "ferry", "frigate", "galleon", "gig", "gondola",
    "harbour", "jib", "junk", "kayak", "keel", "ketch", "lagoon", "lighter", "lugger", "mooring", "packet",
    "pinnace", "pirogue", "prow", "punt", "raft", "rudder", "schooner", "scow", "skiff", "sloop", "tender",
    "tide", "trawler", "tug", "whaler", "yawl",
];

/// Checks a name that a person has chosen. docker-create(1): `[a-zA-Z0-9][a-zA-Z0-9_.-]*`.
///
/// # Errors
/// [`SpecError::Option`] if the name is not allowed, or looks like an ID.
pub fn check(name: &str) -> Result<(), SpecError> {
    let bad = |why: &str| Err(SpecError::option("--name", name, why));
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if name.is_empty() {
        return bad("a name has at least one character");
    }
    if name.len() > NAME_MAX {
        return bad("a name has at most 128 characters");
    }
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return bad("a name begins with a letter or a digit");
    }
    match name.chars().find(|&c| !fine(c)) {
        Some(c) => bad(&format!("{c:?} cannot be in a name: letters, digits, '_', '.' and '-' can")),
        // A request could mean the name or the ID of another container.
        None if name.len() == 64 && is_hex(name) => bad("it looks like a container's id"),
        None => Ok(()),
    }
}

/// Whether `word` may be a container's ID, or the beginning of an ID.
pub fn is_hex(word: &str) -> bool {
    !word.is_empty() && word.len() <= 64 && word.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Generates an ID: 64 hexadecimal digits of random bytes.
///
/// # Errors
/// The kernel returns no random bytes.
pub fn id() -> Result<String, SpecError> {
    let digits = |bytes: [u8; 32]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    loop {
        let id = digits(random()?);
        // The short ID must contain a letter: some tools would read a short ID of decimal digits as a number.
        if id.get(..12).is_some_and(|short| short.bytes().any(|b| b.is_ascii_alphabetic())) {
            return Ok(id);
        }
    }
}

/// Generates a name that is not in use, according to `is_taken`.
///
/// # Errors
/// The kernel returns no random bytes.
pub fn generate(is_taken: impl Fn(&str) -> bool) -> Result<String, SpecError> {
    for _ in 0..TRIES_MAX {
        let name = name_of_bytes(random()?);
        if !is_taken(&name) {
            return Ok(name);
        }
    }
    let name = name_of_bytes(random()?);
    let numbered = (1u32..).map(|number| format!("{name}{number}")).find(|name| !is_taken(name));
    Ok(numbered.unwrap_or(name))
}

fn name_of_bytes(bytes: [u8; 2]) -> String {
    let pick = |words: &[&'static str], byte: u8| words.get(usize::from(byte) % words.len()).copied();
    let [adjective, boat] = bytes;
    format!("{}_{}", pick(&ADJECTIVES, adjective).unwrap_or("able"), pick(&BOATS, boat).unwrap_or("barge"))
}

fn random<const N: usize>() -> Result<[u8; N], SpecError> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| SpecError::host("generate an id", "the kernel gives no random bytes", ""))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_what_docker_allows() {
        for name in ["a", "web-1", "A_b.c", "0x", &"n".repeat(128)] {
            assert!(check(name).is_ok(), "{name}");
        }
        for name in ["", "-a", ".a", "_a", "a b", "a/b", "é", "a\n", &"n".repeat(129), &"ab".repeat(32)] {
            assert!(check(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn an_id_has_64_digits_and_none_comes_twice() {
        let ids: HashSet<String> = (0..200).map(|_| id().expect("random bytes")).collect();
        assert_eq!(ids.len(), 200);
        assert!(ids.iter().all(|id| id.len() == 64 && is_hex(id)));
    }

    #[test]
    fn a_generated_name_is_allowed_and_free_even_if_all_plain_ones_are_taken() {
        for byte in 0..=255 {
            assert!(check(&name_of_bytes([byte, byte.wrapping_mul(7)])).is_ok());
        }
        let name = generate(|name| !name.ends_with('3')).expect("random bytes");
        assert!(name.ends_with('3') && check(&name).is_ok(), "{name}");
    }
}
