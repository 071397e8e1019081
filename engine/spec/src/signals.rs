//! Converts between names and numbers of signals. signal(7).

use super::error::SpecError;

/// Lowest and highest number of the real-time signals, without the ones that glibc and musl use themselves.
const RT: (i32, i32) = (34, 64);

/// Linux's signals on most architectures, in the order of their numbers, from 1. signal(7).
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];
const ALIASES: [(&str, i32); 3] = [("CLD", 17), ("IOT", 6), ("POLL", 29)];

/// Parses a signal: `SIGTERM`, `term`, `15`, `RTMIN+3` or `SIGRTMAX-1`.
///
/// # Errors
/// [`SpecError::Option`] if there is no such signal.
pub fn parse(word: &str) -> Result<i32, SpecError> {
    number(word.trim()).ok_or_else(|| {
        let why = "expected a signal's name (TERM, SIGTERM, RTMIN+3) or number, 1 to 64; see signal(7)";
        SpecError::option("signal", word, why)
    })
}

fn number(word: &str) -> Option<i32> {
    if word.bytes().all(|b| b.is_ascii_digit()) {
        return word.parse().ok().filter(|number| (1..=RT.1).contains(number));
    }
    let upper = word.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let plain = || NAMES.iter().zip(1..).find(|(known, _)| **known == name).map(|(_, number)| number);
    let alias = || ALIASES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
    plain().or_else(alias).or_else(|| real_time(name))
}

fn real_time(name: &str) -> Option<i32> {
    let number = match name.split_at_checked(5)? {
        ("RTMIN", "") => RT.0,
        ("RTMAX", "") => RT.1,
        ("RTMIN", more) => RT.0.checked_add(distance(more, '+')?)?,
        ("RTMAX", less) => RT.1.checked_sub(distance(less, '-')?)?,
        _ => return None,
    };
    (RT.0..=RT.1).contains(&number).then_some(number)
}

fn distance(word: &str, sign: char) -> Option<i32> {
    let digits = word.strip_prefix(sign)?;
    digits.parse().ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit()))
}

/// The name of a signal, as docker and `kill -l` write it: `SIGTERM`, `SIGRTMIN+3`. A signal without a name gives its
/// number.
pub fn name(number: i32) -> String {
    let plain = usize::try_from(number).ok().and_then(|n| n.checked_sub(1)).and_then(|at| NAMES.get(at));
    match plain {
        Some(name) => format!("SIG{name}"),
        None if number == RT.0 => "SIGRTMIN".to_owned(),
        None if number == RT.1 => "SIGRTMAX".to_owned(),
        None if (RT.0..=RT.1).contains(&number) => format!("SIGRTMIN+{}", number - RT.0),
        None => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_the_kernels() {
        for (word, number) in
            [("SIGTERM", 15), ("term", 15), ("15", 15), ("KILL", 9), ("sigchld", 17), ("CLD", 17)]
        {
            assert_eq!(parse(word).ok(), Some(number), "{word}");
        }
        for (word, number) in
            [("RTMIN", 34), ("SIGRTMIN+3", 37), ("rtmax-1", 63), ("SIGRTMAX", 64), ("64", 64)]
        {
            assert_eq!(parse(word).ok(), Some(number), "{word}");
        }
        for word in [
            "",
            "0",
            "65",
            "-1",
            "SIG",
            "SIGFOO",
            "RTMIN+31",
            "RTMIN-1",
            "RTMAX+1",
            "RTMIN++1",
            "RTMINé",
            "999999999999",
        ] {
            assert!(parse(word).is_err(), "{word:?}");
        }
    }

    #[test]
    fn every_name_reads_back_as_its_number() {
        for number in (1..=31).chain(34..=64) {
            assert_eq!(parse(&name(number)).ok(), Some(number), "{}", name(number));
        }
        assert_eq!(nix::sys::signal::Signal::SIGSYS as i32, 31);
        assert_eq!((name(37), name(99)), ("SIGRTMIN+3".to_owned(), "99".to_owned()));
    }
}
