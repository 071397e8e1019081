//! Judges single words of a request: lengths, counts, characters, paths, limits.
//!
//! Below all that judges options or makes parts of `config.json`; knows no request. What it lets pass can be shown to people.

use crate::error::SpecError;

/// Longest word, label, or variable, in bytes: what execve(2) takes, MAX_ARG_STRLEN.
const WORD_MAX: usize = 128 << 10;
/// Most bytes of all words and variables together: execve(2) takes as much, with the usual stack.
pub const WORDS_MAX: usize = 2 << 20;
/// Most entries of a list.
const COUNT_MAX: usize = 4096;
/// Longest path. limits.h, PATH_MAX.
const PATH_MAX: usize = 4095;
/// Names of limits, as docker has them. setrlimit(2).
pub const ULIMITS: [&str; 16] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// Checks a limit; -1 is no limit.
///
/// # Errors
/// [`SpecError::Option`].
pub fn ulimit(option: &'static str, name: &str, soft: i64, hard: i64) -> Result<(), SpecError> {
    let shown = format!("{name}={soft}:{hard}");
    if !ULIMITS.contains(&name) {
        return Err(SpecError::option(option, &shown, format!("expected one of {}", ULIMITS.join(", "))));
    }
    let of = |limit| if limit == -1 { u64::MAX } else { u64::try_from(limit).unwrap_or(0) };
    match (soft, hard) {
        _ if soft < -1 || hard < -1 => {
            Err(SpecError::option(option, &shown, "a limit is a number; -1 is none"))
        }
        _ if of(soft) > of(hard) => {
            Err(SpecError::option(option, &shown, "the soft limit is above the hard one"))
        }
        _ => Ok(()),
    }
}

/// Checks an absolute path in the container, or of the host.
///
/// # Errors
/// [`SpecError::Option`].
pub fn absolute(option: &'static str, path: &str) -> Result<(), SpecError> {
    printable(option, path)?;
    match path {
        _ if !path.starts_with('/') => Err(SpecError::option(option, path, "expected an absolute path")),
        _ if path.len() > PATH_MAX => Err(SpecError::option(option, path, "a path has at most 4095 bytes")),
        _ => Ok(()),
    }
}

/// Checks that `word` can be shown to people, and is not too long.
///
/// # Errors
/// [`SpecError::Option`] with the character that cannot.
pub fn printable(option: &'static str, word: &str) -> Result<(), SpecError> {
    if word.len() > WORD_MAX {
        return Err(SpecError::option(option, word, "it has more than 128 KiB"));
    }
    match word.chars().find(|c| c.is_control()) {
        Some(c) => {
            Err(SpecError::option(option, word, format!("the control character {c:?} cannot be in it")))
        }
        None => Ok(()),
    }
}

/// Checks how many entries a list has.
///
/// # Errors
/// [`SpecError::Option`].
pub fn count(option: &'static str, count: usize) -> Result<(), SpecError> {
    match count {
        0..=COUNT_MAX => Ok(()),
        _ => Err(SpecError::option(option, &format!("{count} times"), "more than 4096 are too many")),
    }
}

/// Checks words of a command, which may hold anything that execve(2) takes.
///
/// # Errors
/// [`SpecError::Option`].
pub fn words(option: &'static str, words: &[String]) -> Result<(), SpecError> {
    for word in words {
        if word.contains('\0') {
            return Err(SpecError::option(option, word, "no word can hold a NUL"));
        }
        if word.len() >= WORD_MAX {
            return Err(SpecError::option(option, word, "a word has less than 128 KiB"));
        }
    }
    match words.iter().fold(words.len(), |sum, word| sum.saturating_add(word.len())) {
        0..=WORDS_MAX => Ok(()),
        _ => Err(SpecError::option(option, "", "it has more than 2 MiB")),
    }
}

/// Checks `KEY=value`; a value may be of several lines, a key may not.
///
/// # Errors
/// [`SpecError::Option`].
pub fn variables(option: &'static str, list: &[String]) -> Result<(), SpecError> {
    words(option, list)?;
    for variable in list {
        let key = variable.split('=').next().unwrap_or_default();
        if key.is_empty() {
            return Err(SpecError::option(option, variable, "expected KEY=value"));
        }
        printable(option, key)?;
    }
    Ok(())
}

/// Checks labels: neither key nor value holds control characters, and all of them have at most `max` bytes.
///
/// # Errors
/// [`SpecError::Option`].
pub fn pairs(option: &'static str, pairs: &[(String, String)], max: usize) -> Result<(), SpecError> {
    count(option, pairs.len())?;
    for (key, value) in pairs {
        if key.is_empty() {
            return Err(SpecError::option(option, value, "expected KEY=value"));
        }
        printable(option, key)?;
        printable(option, value)?;
    }
    let bytes = pairs.iter().fold(0usize, |sum, (key, value)| sum.saturating_add(key.len() + value.len()));
    match bytes <= max {
        true => Ok(()),
        false => Err(SpecError::option(
            option,
            "",
            format!("all of them have {bytes} bytes, at most {max} can be"),
        )),
    }
}
