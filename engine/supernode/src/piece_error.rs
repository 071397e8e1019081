//! Reports of clients that a piece from the supernode is bad: which of them lead to a check of the file.
//!
//! Owned by the event loop, which carries out the [`Repair`]s with [`crate::cdn`] and reports their end. Pure.
//! Reports come from anyone, so each must fit what the supernode knows, and a check begins with the piece that is
//! named. Never removes anything: bad pieces are fetched again, and the others stay.

use crate::cdn::PieceDigest;
use crate::hex;
use crate::task_id::TaskId;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Most tasks that are being checked, or were lately. Further reports are ignored: clients repeat them.
pub const TASKS_MAX: usize = 100;
/// For how long after a check further reports of the task are ignored: clients send several for one bad piece.
pub const QUIET: Duration = Duration::from_secs(3);
/// Longest time of a check. Later reports are taken again, even if nobody has reported its end.
pub const CHECK_MAX: Duration = Duration::from_secs(600);

/// What is wrong with a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The download port has no such file.
    FileNotExist,
    /// The bytes do not have the MD5 of the piece.
    FileMd5NotMatch,
}

impl Kind {
    /// Parses `FILE_NOT_EXIST` or `FILE_MD5_NOT_MATCH`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "FILE_NOT_EXIST" => Some(Kind::FileNotExist),
            "FILE_MD5_NOT_MATCH" => Some(Kind::FileMd5NotMatch),
            _ => None,
        }
    }
}

/// A report. The holder that it names is the supernode.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// What is wrong.
    pub kind: Kind,
    /// The task.
    pub task: TaskId,
    /// Number of the piece, if the report names one.
    pub number: Option<u32>,
    /// MD5 of the bytes that the client got: `MD5` or `MD5:LENGTH`, or empty.
    pub real_md5: &'a str,
    /// MD5 that the supernode gave to the client: `MD5` or `MD5:LENGTH`, or empty.
    pub expected_md5: &'a str,
}

/// What the event loop does about a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// Check all pieces, if the file on the disk is missing or has a wrong length.
    CheckFile,
    /// Check this piece, and all others if it is bad.
    CheckPieces {
        /// Number of the piece.
        first: u32,
    },
}

/// The tasks that are being checked, or were lately.
#[derive(Debug, Default)]
pub struct PieceErrors {
    /// Until when further reports of a task are ignored.
    tasks: HashMap<TaskId, Instant>,
}

impl PieceErrors {
    /// Records a report; `known` are the digests of the piece that the report names. Returns the repair; `None` if
    /// the report is a duplicate or cannot be true. The caller ends each repair with [`PieceErrors::on_checked`].
    pub fn report(
        &mut self,
        report: &Report<'_>,
        known: Option<&PieceDigest>,
        now: Instant,
    ) -> Option<Repair> {
        self.tasks.retain(|_, until| now < *until);
        if self.tasks.contains_key(&report.task) || self.tasks.len() >= TASKS_MAX {
            return None;
        }
        let repair = match (report.kind, report.number) {
            (Kind::FileNotExist, _) => Repair::CheckFile,
            (Kind::FileMd5NotMatch, Some(first)) => {
                // A client that was told another MD5 has pieces of an earlier version of the file. One that got
                // the right bytes has no reason to report.
                let is_wrong = parse_md5(report.real_md5).is_none_or(|md5| md5 != known_md5(known));
                let was_told = parse_md5(report.expected_md5).is_none_or(|md5| md5 == known_md5(known));
                (known.is_some() && is_wrong && was_told).then_some(Repair::CheckPieces { first })?
            }
            (Kind::FileMd5NotMatch, None) => return None,
        };
        self.tasks.insert(report.task, now + CHECK_MAX);
        Some(repair)
    }

    /// Records that a check of `task` has ended, or that there is nothing to check.
    pub fn on_checked(&mut self, task: &TaskId, now: Instant) {
        if let Some(until) = self.tasks.get_mut(task) {
            *until = now + QUIET;
        }
    }

    /// Forgets a task.
    pub fn forget(&mut self, task: &TaskId) {
        self.tasks.remove(task);
    }

    /// The number of tasks that are being checked, or were lately.
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Whether no task is being checked.
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }
}

fn known_md5(known: Option<&PieceDigest>) -> [u8; 16] {
    known.map_or([0; 16], |known| known.md5)
}

fn parse_md5(text: &str) -> Option<[u8; 16]> {
    hex::parse(text.split(':').next()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: PieceDigest = PieceDigest { md5: [7; 16], sha256: [8; 32], content_len: 9 };

    fn task(number: u32) -> TaskId {
        TaskId::new(&format!("http://origin/{number}"), "", "")
    }

    fn report(task: TaskId) -> Report<'static> {
        let kind = Kind::FileMd5NotMatch;
        Report { kind, task, number: Some(3), real_md5: "", expected_md5: "" }
    }

    #[test]
    fn a_bad_piece_is_checked_once_until_3_seconds_after() {
        let (mut errors, now) = (PieceErrors::default(), Instant::now());
        let expected = format!("{}:14", hex::encode(&KNOWN.md5));
        let report = Report { expected_md5: &expected, real_md5: "00", ..report(task(1)) };
        assert_eq!(errors.report(&report, Some(&KNOWN), now), Some(Repair::CheckPieces { first: 3 }));
        let end = now + Duration::from_secs(500);
        assert_eq!(errors.report(&report, Some(&KNOWN), end), None, "the check still runs");
        errors.on_checked(&task(1), end);
        assert_eq!(errors.report(&report, Some(&KNOWN), end + QUIET / 2), None);
        assert!(errors.report(&report, Some(&KNOWN), end + QUIET).is_some());
        let lost = end + QUIET + CHECK_MAX;
        assert!(errors.report(&report, Some(&KNOWN), lost).is_some(), "the end of a check was lost");
        errors.forget(&task(1));
        assert!(errors.is_empty());
    }

    #[test]
    fn a_report_that_cannot_be_true_is_ignored() {
        let (mut errors, now) = (PieceErrors::default(), Instant::now());
        let (right, other) = (hex::encode(&KNOWN.md5), hex::encode(&[1; 16]));
        let got_right = Report { real_md5: &right, ..report(task(1)) };
        assert_eq!(errors.report(&got_right, Some(&KNOWN), now), None);
        let told_other = Report { expected_md5: &other, ..report(task(1)) };
        assert_eq!(errors.report(&told_other, Some(&KNOWN), now), None);
        assert_eq!(errors.report(&report(task(1)), None, now), None, "no such piece");
        let no_piece = Report { number: None, ..report(task(1)) };
        assert_eq!(errors.report(&no_piece, Some(&KNOWN), now), None);
        assert!(errors.is_empty());
        let missing = Report { kind: Kind::FileNotExist, number: None, ..report(task(1)) };
        assert_eq!(errors.report(&missing, None, now), Some(Repair::CheckFile));
        assert_eq!(Kind::parse("FILE_NOT_EXIST"), Some(Kind::FileNotExist));
        assert_eq!(Kind::parse("FILE_MD5_NOT_MATCH"), Some(Kind::FileMd5NotMatch));
        assert_eq!(Kind::parse("file_not_exist"), None);
    }

    #[test]
    fn a_flood_of_reports_fills_a_bounded_table() {
        let (mut errors, now) = (PieceErrors::default(), Instant::now());
        let taken = (0..1000).filter(|nth| errors.report(&report(task(*nth)), Some(&KNOWN), now).is_some());
        assert_eq!(taken.count(), TASKS_MAX);
        for nth in 0..1000 {
            errors.on_checked(&task(nth), now);
        }
        assert!(errors.report(&report(task(2000)), Some(&KNOWN), now + QUIET).is_some());
        assert_eq!(errors.len(), 1);
    }
}
