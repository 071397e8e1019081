//! Checks single values of options: lengths, counts, characters, paths, resource limits.
//!
//! Called by `validate` and by the modules that make parts of `config.json`. Never sees a whole request.

use crate::error::SpecError;

/// Longest argument, label or variable, in bytes. execve(2), MAX_ARG_STRLEN.
const WORD_MAX: usize = 128 << 10;
/// Most bytes of all arguments and variables together: the limit of execve(2) with the usual stack limit of 8 MiB.
pub const WORDS_MAX: usize = 2 << 20;
/// Most entries of a list.
const COUNT_MAX: usize = 4096;
/// Longest path. limits.h, PATH_MAX.
const PATH_MAX: usize = 4095;
/// Names of resource limits, as in docker. setrlimit(2).
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

/// Checks a resource limit; -1 means no limit.
///
/// # Errors
/// [`SpecError::Option`] if the name or a number is not valid, or if the soft limit is above the hard limit.
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

/// Checks that `path` is an absolute path, in the container or on the host.
///
/// # Errors
/// [`SpecError::Option`] if the path is relative or too long, or contains control characters.
pub fn absolute(option: &'static str, path: &str) -> Result<(), SpecError> {
    printable(option, path)?;
    match path {
        _ if !path.starts_with('/') => Err(SpecError::option(option, path, "expected an absolute path")),
        _ if path.len() > PATH_MAX => Err(SpecError::option(option, path, "a path has at most 4095 bytes")),
        _ => Ok(()),
    }
}

/// Checks that `word` contains no control characters, and is not too long.
///
/// # Errors
/// [`SpecError::Option`] if `word` contains a control character, which the error names, or if it is too long.
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

/// Checks the number of entries of a list.
///
/// # Errors
/// [`SpecError::Option`] if there are more than 4096 entries.
pub fn count(option: &'static str, count: usize) -> Result<(), SpecError> {
    match count {
        0..=COUNT_MAX => Ok(()),
        _ => Err(SpecError::option(option, &format!("{count} times"), "more than 4096 are too many")),
    }
}

/// Checks the arguments of a command, which may contain any characters that execve(2) accepts.
///
/// # Errors
/// [`SpecError::Option`] if an argument contains NUL or is too long, or if all arguments together are too long.
pub fn words(option: &'static str, words: &[String]) -> Result<(), SpecError> {
    for word in words {
        if word.contains('\0') {
            return Err(SpecError::option(option, word, "an argument cannot have a NUL"));
        }
        if word.len() >= WORD_MAX {
            return Err(SpecError::option(option, word, "an argument has less than 128 KiB"));
        }
    }
    match words.iter().fold(words.len(), |sum, word| sum.saturating_add(word.len())) {
        0..=WORDS_MAX => Ok(()),
        _ => Err(SpecError::option(option, "", "it has more than 2 MiB")),
    }
}

/// Checks variables `KEY=value`. A value may contain line feeds, a key may not.
///
/// # Errors
/// [`SpecError::Option`] if a variable has no key, a key contains control characters, or the variables are too long.
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

/// Checks labels: keys and values contain no control characters, and all together have at most `max` bytes.
///
/// # Errors
/// [`SpecError::Option`] if a label breaks a rule, or if there are too many labels.
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
            format!("all of them together have {bytes} bytes, at most {max} are possible"),
        )),
    }
}
