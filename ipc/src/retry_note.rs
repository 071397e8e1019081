//! The note of a progress row that the job tries again after a wait.
//!
//! The engine writes notes, and programs that count down read the wait from them.

/// Makes a note such as `retrying in 3 s: connection reset`.
pub fn format(seconds: u128, cause: &str) -> String {
    format!("{PREFIX}{seconds}{UNIT}{cause}")
}

/// The seconds of the wait in a note that [`format()`] made; `None` if the note is about something else.
pub fn seconds(note: &str) -> Option<u64> {
    note.strip_prefix(PREFIX)?.split_once(UNIT)?.0.parse().ok()
}

const PREFIX: &str = "retrying in ";
const UNIT: &str = " s: ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_is_read_back_and_other_notes_have_none() {
        assert_eq!(seconds(&format(12, "connection reset: in 3 s: x")), Some(12));
        for note in ["", "retrying in ", "retrying in x s: y", "another job fetches it"] {
            assert_eq!(seconds(note), None, "{note}");
        }
    }
}
