//! The words of docker for a container's state and for spans of time, as `docker ps` prints them.

use sampan_ipc::container::{Phase, Summary};

/// Nanoseconds in a second.
const SECOND: i64 = 1_000_000_000;

/// Returns the status in docker's words, at the time `now` in nanoseconds: `Up 5 minutes`, `Exited (0) 3 seconds ago`.
pub fn container(container: &Summary, now: i64) -> String {
    let since = |at: i64| span(now.saturating_sub(at));
    match container.phase {
        Phase::Created => "Created".to_owned(),
        Phase::Running => format!("Up {}", since(container.started)),
        Phase::Paused => format!("Up {} (Paused)", since(container.started)),
        Phase::Restarting => {
            format!("Restarting ({}) {} ago", container.exit_code, since(container.finished))
        }
        Phase::Exited => format!("Exited ({}) {} ago", container.exit_code, since(container.finished)),
        Phase::Removing => "Removal In Progress".to_owned(),
        Phase::Dead => "Dead".to_owned(),
    }
}

/// Returns a duration in docker's words: `Less than a second`, `About a minute`, `3 hours`.
pub fn span(nanos: i64) -> String {
    let seconds = nanos.max(0) / SECOND;
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match (seconds, minutes, hours) {
        (0, ..) => "Less than a second".to_owned(),
        (1, ..) => "1 second".to_owned(),
        (2..60, ..) => format!("{seconds} seconds"),
        (_, 1, _) => "About a minute".to_owned(),
        (_, 2..60, _) => format!("{minutes} minutes"),
        (.., 1) => "About an hour".to_owned(),
        (.., 2..48) => format!("{hours} hours"),
        (.., 48..336) => format!("{} days", hours / 24),
        (.., 336..1440) => format!("{} weeks", hours / 24 / 7),
        (.., 1440..17_520) => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_of_time_have_dockers_words() {
        let cases = [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (3599, "59 minutes"),
            (3600, "About an hour"),
            (7200, "2 hours"),
            (172_800, "2 days"),
            (1_209_600, "2 weeks"),
            (5_184_000, "2 months"),
            (63_072_000, "2 years"),
        ];
        for (seconds, words) in cases {
            assert_eq!(span(seconds * SECOND), words, "{seconds}");
        }
        assert_eq!(span(-5), "Less than a second");
    }

    #[test]
    fn the_status_is_told_in_dockers_words() {
        let of = |phase| Summary { phase, started: 1, finished: SECOND, exit_code: 3, ..Summary::default() };
        let told = |phase| container(&of(phase), 4 * SECOND);
        assert_eq!(told(Phase::Created), "Created");
        assert_eq!(told(Phase::Running), "Up 3 seconds");
        assert_eq!(told(Phase::Paused), "Up 3 seconds (Paused)");
        assert_eq!(told(Phase::Exited), "Exited (3) 3 seconds ago");
        assert_eq!(told(Phase::Restarting), "Restarting (3) 3 seconds ago");
    }
}
