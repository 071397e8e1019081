//! Schedules: five fields as in crontab(5) and a time zone, from which the next run is computed.
//!
//! Used by `file` and by the scheduler, which gives the time; this module never asks for it. It reads the zone's file once,
//! when the policy is read. The crate croner is not used: it adds 58 KiB, and on the days when clocks change it neither
//! runs `*/20 2 * * *` at the end of the gap nor runs a doubled time once.

use sampan_os::small_file;
use std::fmt;
use std::path::Path;
use tz::datetime::FoundDateTimeKind;
use tz::{DateTime, TimeZone, UtcDateTime};

/// Largest zone file in bytes; those of the time zone database are below 4 KiB.
const ZONE_FILE_MAX: u64 = 1 << 20;
const ZONES: &str = "/usr/share/zoneinfo";
/// Nanoseconds.
const SECOND: i64 = 1_000_000_000;
const DAY_SECONDS: i64 = 24 * 60 * 60;
/// How far ahead a run is searched: 29 February comes at least every eight years (1896 to 1904, 2096 to 2104).
const SEARCH_DAYS: i64 = 9 * 366;

/// When a policy runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    text: String,
    zone: Zone,
    /// In each field, bit N stands for the value N.
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Both days and weekdays are limited: crontab(5) then runs on a day that is in either of them.
    is_either_day: bool,
}

/// A time zone with its rules.
#[derive(Clone, Debug, PartialEq)]
pub struct Zone {
    name: String,
    rules: TimeZone,
}

/// The error for text that is not a schedule, or for a time zone that cannot be used; says what is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ScheduleError(String);

impl Zone {
    /// The time zone `name` of the time zone database, such as `Europe/Berlin`; without a name, this host's.
    ///
    /// `UTC` needs no file. A host without `/etc/localtime` is in UTC. localtime(5).
    ///
    /// # Errors
    /// [`ScheduleError`]: there is no such zone, or its file cannot be read or is damaged.
    pub fn of_host(name: Option<&str>) -> Result<Self, ScheduleError> {
        let path = match name {
            None if !Path::new("/etc/localtime").exists() => return Ok(Zone::utc()),
            None => Path::new("/etc/localtime").to_owned(),
            Some("UTC") => return Ok(Zone::utc()),
            Some(name) => {
                let is_part = |part: &str| part.starts_with(|first: char| first.is_ascii_alphabetic());
                let is_good =
                    |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'_' | b'-' | b'+');
                if name.len() > 100 || !name.split('/').all(is_part) || !name.bytes().all(is_good) {
                    return Err(ScheduleError(format!("{name:?} is not the name of a time zone")));
                }
                Path::new(ZONES).join(name)
            }
        };
        let unusable = |why: &dyn fmt::Display| {
            let name = name.unwrap_or("of this host");
            ScheduleError(format!("cannot use time zone {name}: {}: {why}", path.display()))
        };
        let file = small_file::open(&path).map_err(|error| unusable(&error))?;
        let bytes = small_file::read(file, ZONE_FILE_MAX).map_err(|error| unusable(&error))?;
        let rules = TimeZone::from_tz_data(&bytes).map_err(|error| unusable(&error))?;
        Ok(Zone { name: name.unwrap_or("local").to_owned(), rules })
    }

    /// Coordinated universal time.
    pub fn utc() -> Self {
        Zone { name: "UTC".to_owned(), rules: TimeZone::utc() }
    }

    /// Makes a zone from a rule such as `CET-1CEST,M3.5.0,M10.5.0/3`. POSIX, environment variable `TZ`.
    ///
    /// # Errors
    /// [`ScheduleError`] if `rule` is not one.
    pub fn from_rule(name: &str, rule: &str) -> Result<Self, ScheduleError> {
        let rules = TimeZone::from_posix_tz(rule).map_err(|error| ScheduleError(error.to_string()))?;
        Ok(Zone { name: name.to_owned(), rules })
    }

    /// The clock in this zone at the time `at`, as the seconds that a clock of UTC would show then.
    fn clock(&self, at: i64) -> Option<i64> {
        at.checked_add(i64::from(self.rules.find_local_time_type(at).ok()?.ut_offset()))
    }

    /// The time at which the clock in this zone first shows `clock`, or the end of the gap that skips it.
    fn first_time(&self, clock: i64) -> Option<i64> {
        let date = UtcDateTime::from_timespec(clock, 0).ok()?;
        let (hour, minute, second) = (date.hour(), date.minute(), date.second());
        let rules = self.rules.as_ref();
        let found =
            DateTime::find(date.year(), date.month(), date.month_day(), hour, minute, second, 0, rules);
        let times = found.ok()?.into_inner();
        times.into_iter().next().map(|time| match time {
            FoundDateTimeKind::Normal(time) => time.unix_time(),
            FoundDateTimeKind::Skipped { after_transition, .. } => after_transition.unix_time(),
        })
    }
}

impl Schedule {
    /// Parses `MINUTE HOUR DAY MONTH WEEKDAY`, each a list of numbers, ranges, `*` and steps such as `*/15`.
    ///
    /// Months and weekdays may be the first three letters of their English names; weekday 7 is Sunday, as 0 is.
    ///
    /// # Errors
    /// [`ScheduleError`]: a field is not valid, or the date never comes, such as 30 February.
    pub fn parse(text: &str, zone: Zone) -> Result<Self, ScheduleError> {
        let fields: Vec<&str> = text.split_ascii_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields.as_slice() else {
            return Err(ScheduleError(format!(
                "{text:?} has {} fields, not the five of minute, hour, day, month and weekday",
                fields.len()
            )));
        };
        const MONTHS: [&str; 12] =
            ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
        const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
        let weekdays = field("weekday", weekday, 0, 7, &WEEKDAYS)?;
        let schedule = Schedule {
            text: text.to_owned(),
            minutes: field("minute", minute, 0, 59, &[])?,
            hours: field("hour", hour, 0, 23, &[])?,
            days: field("day", day, 1, 31, &[])?,
            months: field("month", month, 1, 12, &MONTHS)?,
            weekdays: weekdays | (weekdays >> 7),
            is_either_day: !day.starts_with('*') && !weekday.starts_with('*'),
            zone: Zone::utc(),
        };
        match schedule.next(0) {
            Some(_) => Ok(Schedule { zone, ..schedule }),
            None => Err(ScheduleError(format!("{text:?} is a date that never comes"))),
        }
    }

    /// Returns the first run after the time `after`; both in nanoseconds since the epoch.
    ///
    /// On a day when the clock is put forward, a run in the skipped time is at the end of the gap: at 03:00 instead of 02:30.
    /// On a day when the clock is put back, a run in the doubled time is in its first pass alone. So each run that the
    /// fields name takes place once, except that runs which fall on one moment are one run.
    ///
    /// Returns `None` if there is none within nine years, which only a time at the end of the calendar can cause.
    pub fn next(&self, after: i64) -> Option<i64> {
        self.next_second(after.div_euclid(SECOND))?.checked_mul(SECOND)
    }

    fn next_second(&self, after: i64) -> Option<i64> {
        let now = self.zone.clock(after)?;
        let today = now.div_euclid(DAY_SECONDS);
        for day in today..today.checked_add(SEARCH_DAYS)? {
            let midnight = day.checked_mul(DAY_SECONDS)?;
            if !self.is_day(&UtcDateTime::from_timespec(midnight, 0).ok()?) {
                continue;
            }
            for hour in (0..24).filter(|hour| self.hours >> hour & 1 == 1) {
                for minute in (0..60).filter(|minute| self.minutes >> minute & 1 == 1) {
                    let clock = midnight + hour * 3600 + minute * 60;
                    // A clock that shows no more than now first did so at `after` or before, in doubled time too.
                    if clock > now
                        && let Some(time) = self.zone.first_time(clock)
                        && time > after
                    {
                        return Some(time);
                    }
                }
            }
        }
        None
    }

    fn is_day(&self, date: &UtcDateTime) -> bool {
        let has = |field: u64, value: u8| field >> value & 1 == 1;
        let (day, weekday) = (has(self.days, date.month_day()), has(self.weekdays, date.week_day()));
        has(self.months, date.month()) && if self.is_either_day { day || weekday } else { day && weekday }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.text, self.zone.name)
    }
}

/// Parses one field to a set of values from `low` to `high`; `names` are other spellings of `low` and the values behind it.
fn field(what: &str, text: &str, low: u64, high: u64, names: &[&str]) -> Result<u64, ScheduleError> {
    let refuse =
        || ScheduleError(format!("{text:?} is not a {what}: expected *, or numbers from {low} to {high}"));
    let value = |word: &str| -> Option<u64> {
        let name = names.iter().position(|name| name.eq_ignore_ascii_case(word));
        let value = match name {
            Some(at) => low + u64::try_from(at).ok()?,
            None if word.bytes().all(|byte| byte.is_ascii_digit()) => word.parse().ok()?,
            None => return None,
        };
        (low..=high).contains(&value).then_some(value)
    };
    let mut set = 0;
    for item in text.split(',') {
        let (range, step) = item.split_once('/').map_or((item, None), |(range, step)| (range, Some(step)));
        let ends = match range.split_once('-') {
            _ if range == "*" => Some((low, high)),
            Some((first, last)) => value(first).zip(value(last)),
            // A step needs a range: crontab(5) gives `5/15` no meaning, and other programs give it different ones.
            None if step.is_some() => None,
            None => value(range).map(|value| (value, value)),
        };
        let (first, last) = ends.filter(|(first, last)| first <= last).ok_or_else(refuse)?;
        let is_step = |step: &usize| (1..=60).contains(step);
        let step = step.map_or(Some(1), |step| step.parse().ok().filter(is_step)).ok_or_else(refuse)?;
        set |= (first..=last).step_by(step).fold(0, |set, value| set | 1 << value);
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn berlin() -> Zone {
        Zone::from_rule("Europe/Berlin", "CET-1CEST,M3.5.0,M10.5.0/3").expect("a rule")
    }

    /// Seconds since the epoch of `2026-03-29T02:30:00+01:00`.
    fn time(text: &str) -> i64 {
        let number = |range: std::ops::Range<usize>| text[range].parse::<i64>().expect("a number");
        let offset = if text.len() > 19 { number(19..22) } else { 0 };
        let small = |range| u8::try_from(number(range)).expect("small");
        let date = UtcDateTime::new(
            i32::try_from(number(0..4)).expect("a year"),
            small(5..7),
            small(8..10),
            small(11..13),
            small(14..16),
            small(17..19),
            0,
        );
        date.expect("a date").unix_time() - offset * 3600
    }

    fn runs(cron: &str, zone: Zone, after: &str, count: usize) -> Vec<i64> {
        let schedule = Schedule::parse(cron, zone).expect(cron);
        let next = |at: &i64| schedule.next_second(*at);
        std::iter::successors(next(&time(after)), next).take(count).collect()
    }

    #[test]
    fn the_next_run_is_that_of_crontab() {
        let table = [
            ("* * * * *", "2026-01-01T00:00:00", "2026-01-01T00:01:00"),
            ("* * * * *", "2026-01-01T00:00:59", "2026-01-01T00:01:00"),
            ("0 3 * * *", "2026-01-01T02:59:59", "2026-01-01T03:00:00"),
            ("0 3 * * *", "2026-01-01T03:00:00", "2026-01-02T03:00:00"),
            ("*/20 1-3,5 * * *", "2026-01-01T03:40:00", "2026-01-01T05:00:00"),
            ("10-50/20 * * * *", "2026-01-01T00:10:00", "2026-01-01T00:30:00"),
            ("0 0 1 jan *", "2026-01-01T00:00:00", "2027-01-01T00:00:00"),
            ("0 0 31 * *", "2026-01-31T00:00:00", "2026-03-31T00:00:00"),
            ("0 0 29 2 *", "2026-01-01T00:00:00", "2028-02-29T00:00:00"),
            ("0 0 29 2 *", "2096-02-29T00:00:00", "2104-02-29T00:00:00"),
            // 2 January 2026 is a Friday.
            ("0 0 * * Fri", "2026-01-01T00:00:00", "2026-01-02T00:00:00"),
            ("0 0 * * 7", "2026-01-01T00:00:00", "2026-01-04T00:00:00"),
            ("0 0 * * 5-7", "2026-01-03T00:00:00", "2026-01-04T00:00:00"),
            ("0 0 13 * 5", "2026-01-02T00:00:00", "2026-01-09T00:00:00"),
            ("0 0 13 * 5", "2026-01-09T00:00:00", "2026-01-13T00:00:00"),
            ("0 0 */2 * 5", "2026-01-01T00:00:00", "2026-01-09T00:00:00"),
            ("0 0 1 1 *", "1969-06-01T00:00:00", "1970-01-01T00:00:00"),
        ];
        for (cron, after, expected) in table {
            assert_eq!(runs(cron, Zone::utc(), after, 1), [time(expected)], "{cron} after {after}");
        }
    }

    #[test]
    fn a_field_out_of_range_or_a_date_that_never_comes_is_refused() {
        for cron in [
            "",
            "* * * *",
            "* * * * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * * 13 *",
            "* * * * 8",
            "5/15 * * * *",
            "*/0 * * * *",
            "*/61 * * * *",
            "5-1 * * * *",
            "1,, * * * *",
            "+1 * * * *",
            "@daily",
            "* * ? * *",
            "0 0 30 2 *",
            "0 0 31 4,6 *",
            "*/ * * * *",
            "* * * foo *",
            "99999999999999999999 * * * *",
        ] {
            assert!(Schedule::parse(cron, Zone::utc()).is_err(), "{cron}");
        }
    }

    #[test]
    fn a_run_in_the_skipped_hour_is_at_the_end_of_the_gap() {
        for (night, day) in [("2026-03-28", "2026-03-29"), ("2027-03-27", "2027-03-28")] {
            let after = format!("{night}T12:00:00+01");
            let at = |clock: &str| time(&format!("{day}T{clock}"));
            let [first, second] = runs("30 2 * * *", berlin(), &after, 2).try_into().expect("two");
            assert_eq!((first, second), (at("03:00:00+02"), at("02:30:00+02") + DAY_SECONDS));
            // Three runs of the gap and the one at its end are one moment, hence one run.
            let found = runs("*/20 2-3 * * *", berlin(), &after, 4);
            let clocks = ["03:00:00+02", "03:20:00+02", "03:40:00+02"].map(at);
            assert_eq!(found[..3], clocks);
            assert_eq!(found[3], at("02:00:00+02") + DAY_SECONDS);
        }
    }

    #[test]
    fn a_run_in_the_doubled_hour_takes_place_once() {
        for (night, day) in [("2026-10-24", "2026-10-25"), ("2027-10-30", "2027-10-31")] {
            let after = format!("{night}T12:00:00+02");
            let at = |clock: &str| time(&format!("{day}T{clock}"));
            let found = runs("30 2 * * *", berlin(), &after, 2);
            assert_eq!(found, [at("02:30:00+02"), at("02:30:00+01") + DAY_SECONDS]);
            let found = runs("30 1-3 * * *", berlin(), &after, 3);
            assert_eq!(found, ["01:30:00+02", "02:30:00+02", "03:30:00+01"].map(at));
            // A scheduler that starts inside the second pass does not repeat the first.
            let schedule = Schedule::parse("15,45 2 * * *", berlin()).expect("valid");
            assert_eq!(schedule.next_second(at("02:30:00+01")), Some(at("02:15:00+01") + DAY_SECONDS));
            assert_eq!(schedule.next_second(at("02:30:00+02")), Some(at("02:45:00+02")));
        }
    }

    #[test]
    fn each_next_run_is_later_and_none_between_is_missed() {
        for zone in
            [berlin(), Zone::from_rule("Lord Howe", "<+1030>-10:30<+11>-11,M10.1.0,M4.1.0").expect("a rule")]
        {
            let schedule = Schedule::parse("*/7 * * * *", zone).expect("valid");
            for (first, last) in [("2026-03-27", "2026-04-07"), ("2026-10-02", "2026-10-27")] {
                let time = |day| time(&format!("{day}T00:00:00"));
                let mut at = time(first);
                while at < time(last) {
                    let next = schedule.next_second(at).expect("a run");
                    // The longest pause is the doubled hour.
                    assert!(next > at && next - at <= 3600 + 7 * 60, "{at} {next}");
                    assert_eq!(schedule.next_second(next - 1), Some(next));
                    at = next;
                }
            }
        }
        let schedule = Schedule::parse("0 3 * * *", berlin()).expect("valid");
        assert_eq!(
            schedule.next(time("2026-01-01T03:00:00+01") * SECOND - 1),
            Some(time("2026-01-01T02:00:00") * SECOND)
        );
        assert_eq!(
            schedule.next(time("2026-01-01T02:00:00") * SECOND),
            Some(time("2026-01-02T02:00:00") * SECOND)
        );
        assert_eq!(Schedule::parse("* * * * *", berlin()).expect("valid").next(i64::MAX), None);
    }

    #[test]
    fn the_name_of_a_zone_cannot_leave_the_database() {
        for name in
            ["", "../../../etc/shadow", "/etc/shadow", "Europe//Berlin", "Europe/..", "a b", "NoSuch/Zone"]
        {
            assert!(Zone::of_host(Some(name)).is_err(), "{name}");
        }
        assert_eq!(Zone::of_host(Some("UTC")), Ok(Zone::utc()));
        assert!(Zone::of_host(None).is_ok());
    }
}
