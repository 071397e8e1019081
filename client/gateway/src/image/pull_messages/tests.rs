use super::*;
use sampan_client::engine::{Done, Job};
use serde_json::Value;

const DIGEST: &str = "sha256:0123456789abcdef";

fn row(index: u32, phase: Phase, current: u64) -> Row {
    let id = format!("{index:012x}");
    Row {
        index,
        id,
        phase,
        current,
        total: 1000,
        attempt: u32::from(phase != Phase::Waiting),
        note: String::new(),
    }
}

fn image(stored: &[bool], outcome: PullOutcome) -> Answer {
    Answer::PulledImage(PulledImage {
        reference: "docker.io/library/a:t".to_owned(),
        digest: DIGEST.to_owned(),
        stored: stored.to_vec(),
        outcome,
        ..PulledImage::default()
    })
}

fn done(unchanged: bool) -> Answer {
    Answer::Done(Done { unchanged, ..Done::default() })
}

/// A pull whose messages the test reads.
struct Pull {
    messages: PullMessages,
    now: Instant,
}

impl Pull {
    fn new() -> Self {
        Pull { messages: PullMessages::new("a:t".to_owned()), now: Instant::now() }
    }

    fn give(&mut self, answer: Answer) {
        self.messages.on_answer(answer, self.now);
    }

    fn rows(&mut self, rows: &[Row]) {
        self.give(Answer::Rows { job: 1, rows: rows.to_vec() });
    }

    /// Reads all messages that there are, as `ID STATUS [CURRENT/TOTAL]`.
    fn read(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(message) = self.messages.next(self.now) {
            assert!(message.ends_with("}\r\n") && message.matches('\n').count() == 1, "{message:?}");
            let message: Value = serde_json::from_str(&message).expect("JSON");
            let text = |key: &str| message[key].as_str().unwrap_or_default().to_owned();
            let short = text("id").trim_start_matches('0').to_owned();
            let id = if text("id").len() == 12 && short.is_empty() { "0".to_owned() } else { short };
            let detail = &message["progressDetail"];
            let numbers = match detail["total"].as_u64() {
                Some(total) => format!(" {}/{total}", detail["current"]),
                None => String::new(),
            };
            lines.push(format!("{id} {}{numbers}", text("status")).trim_start().to_owned());
        }
        lines
    }
}

#[test]
fn a_pull_has_docker_s_words_in_docker_s_order() {
    let mut pull = Pull::new();
    pull.give(Answer::Job(Job {
        rows: vec![row(0, Phase::Waiting, 0), row(1, Phase::Waiting, 0)],
        ..Job::default()
    }));
    assert!(pull.read().is_empty(), "nothing is known before the manifest");
    pull.give(image(&[false, false], PullOutcome::Running));
    assert_eq!(pull.read(), ["t Pulling from library/a", "0 Pulling fs layer", "1 Pulling fs layer"]);
    pull.rows(&[row(0, Phase::Downloading, 10)]);
    assert_eq!(pull.read(), ["0 Downloading 10/1000", "1 Waiting"]);
    pull.now += NUMBERS_EVERY;
    pull.rows(&[row(0, Phase::Downloading, 20), row(1, Phase::Complete, 1000)]);
    // The upper layer is complete, but docker extracts from the lowest layer on.
    assert_eq!(
        pull.read(),
        ["0 Downloading 20/1000", "1 Downloading 1000/1000", "1 Verifying Checksum", "1 Download complete"]
    );
    pull.rows(&[row(0, Phase::Verifying, 1000)]);
    assert_eq!(pull.read(), ["0 Downloading 1000/1000", "0 Verifying Checksum"]);
    pull.rows(&[row(0, Phase::Extracting, 1000)]);
    assert_eq!(pull.read(), ["0 Download complete", "0 Extracting 1000/1000"]);
    pull.rows(&[row(0, Phase::Complete, 1000)]);
    assert_eq!(pull.read(), ["0 Pull complete", "1 Extracting 1000/1000", "1 Pull complete"]);
    pull.give(image(&[false, false], PullOutcome::New));
    pull.give(done(false));
    assert_eq!(
        pull.read(),
        [format!("Digest: {DIGEST}"), "Status: Downloaded newer image for a:t".to_owned()]
    );
    assert!(pull.messages.is_finished());
}

#[test]
fn a_pull_of_what_is_up_to_date_has_three_messages() {
    let mut pull = Pull::new();
    pull.rows(&[row(0, Phase::Exists, 1000), row(1, Phase::Waiting, 0)]);
    pull.give(image(&[true, true], PullOutcome::Running));
    assert_eq!(pull.read(), ["t Pulling from library/a"]);
    pull.rows(&[row(1, Phase::Exists, 1000)]);
    pull.give(image(&[true, true], PullOutcome::Unchanged));
    pull.give(done(true));
    assert_eq!(pull.read(), [format!("Digest: {DIGEST}"), "Status: Image is up to date for a:t".to_owned()]);
}

#[test]
fn layers_of_another_image_exist_already_and_equal_layers_share_a_line() {
    let mut pull = Pull::new();
    let repeated = Row { id: row(1, Phase::Waiting, 0).id, ..row(2, Phase::Waiting, 0) };
    pull.rows(&[row(0, Phase::Waiting, 0), row(1, Phase::Waiting, 0), repeated.clone()]);
    pull.give(image(&[true, false, false], PullOutcome::Running));
    assert_eq!(pull.read(), ["t Pulling from library/a", "1 Pulling fs layer"]);
    pull.rows(&[row(0, Phase::Exists, 1000)]);
    assert_eq!(pull.read(), ["0 Already exists"]);
    pull.rows(&[row(1, Phase::Complete, 1000), Row { phase: Phase::Exists, ..repeated }]);
    let words = [
        "Downloading 1000/1000",
        "Verifying Checksum",
        "Download complete",
        "Extracting 1000/1000",
        "Pull complete",
    ];
    assert_eq!(pull.read(), words.map(|word| format!("1 {word}")));
}

#[test]
fn a_stored_blob_is_only_extracted() {
    let mut pull = Pull::new();
    pull.rows(&[row(0, Phase::Extracting, 300)]);
    pull.give(image(&[true], PullOutcome::Running));
    assert_eq!(
        pull.read(),
        ["t Pulling from library/a", "0 Pulling fs layer", "0 Download complete", "0 Extracting 300/1000"]
    );
    // The engine compares digests at the end of the pass.
    pull.rows(&[row(0, Phase::Verifying, 1000)]);
    assert_eq!(pull.read(), [""; 0]);
    pull.rows(&[row(0, Phase::Complete, 1000)]);
    assert_eq!(pull.read(), ["0 Extracting 1000/1000", "0 Pull complete"]);
}

#[test]
fn numbers_come_at_most_every_100_ms_and_the_newest_one_is_not_lost() {
    let mut pull = Pull::new();
    pull.rows(&[row(0, Phase::Downloading, 1)]);
    pull.give(image(&[false], PullOutcome::Running));
    assert_eq!(pull.read().last().map(String::as_str), Some("0 Downloading 1/1000"));
    for current in 2..50 {
        pull.now += Duration::from_millis(1);
        pull.rows(&[row(0, Phase::Downloading, current)]);
        assert_eq!(pull.read(), [""; 0]);
    }
    pull.now = pull.messages.due().expect("the held number is due");
    assert_eq!(pull.read(), ["0 Downloading 49/1000"]);
    assert_eq!(pull.messages.due(), None);
}

#[test]
fn retries_are_counted_down_and_then_the_download_goes_on() {
    let mut pull = Pull::new();
    pull.rows(&[row(0, Phase::Downloading, 500)]);
    pull.give(image(&[false], PullOutcome::Running));
    pull.read();
    let note = retry_note::format(2, "connection reset");
    pull.rows(&[Row { attempt: 2, note, ..row(0, Phase::Downloading, 500) }]);
    assert_eq!(pull.read(), ["0 Retrying in 2 seconds"]);
    pull.now = pull.messages.due().expect("the next second");
    assert_eq!(pull.read(), ["0 Retrying in 1 second"]);
    pull.now = pull.messages.due().expect("the end of the wait");
    assert_eq!((pull.read(), pull.messages.due()), (vec![], None));
    pull.rows(&[Row { attempt: 2, ..row(0, Phase::Downloading, 600) }]);
    assert_eq!(pull.read(), ["0 Downloading", "0 Downloading 600/1000"]);
}

#[test]
fn all_tags_have_their_own_messages_and_a_failed_tag_is_left() {
    let mut pull = Pull::new();
    let tag = |index: u32, name: &str, outcome| {
        let image = PulledImage {
            index,
            reference: format!("r:5000/a:{name}"),
            digest: DIGEST.to_owned(),
            first_row: index,
            stored: vec![false],
            outcome,
        };
        Answer::PulledImage(image)
    };
    pull.rows(&[row(0, Phase::Complete, 1000)]);
    pull.give(tag(0, "one", PullOutcome::New));
    pull.rows(&[row(1, Phase::Failed, 5)]);
    pull.give(tag(1, "two", PullOutcome::Running));
    pull.rows(&[row(2, Phase::Exists, 1000)]);
    pull.give(tag(2, "three", PullOutcome::New));
    let lines = pull.read();
    let digest = format!("Digest: {DIGEST}");
    assert_eq!(lines.iter().filter(|line| **line == digest).count(), 2);
    let begun: Vec<&String> = lines.iter().filter(|line| line.contains("Pulling from")).collect();
    assert_eq!(begun, ["one Pulling from a", "two Pulling from a", "three Pulling from a"]);
    assert_eq!(lines.last(), Some(&digest));
}

#[test]
fn notes_that_are_no_retries_follow_as_warnings() {
    let mut pull = Pull::new();
    pull.give(Answer::Note("manifest of a: retrying in 3 s: x".to_owned()));
    pull.give(Answer::Note("layer 0: entries skipped: 2".to_owned()));
    pull.give(done(false));
    assert_eq!(
        pull.read(),
        ["Status: Downloaded newer image for a:t", "WARNING: layer 0: entries skipped: 2"]
    );
}

/// A generator of small random numbers. Knuth's constants for 64 bits.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// Moves a row as the engine may move it.
fn walk(row: &mut Row, random: &mut Random) {
    row.note.clear();
    row.phase = match row.phase {
        Phase::Waiting => [Phase::Waiting, Phase::Downloading, Phase::Complete][random.below(3) as usize],
        Phase::Downloading if random.below(8) == 0 => {
            row.attempt += 1;
            row.note = retry_note::format(u128::from(random.below(3)), "cut");
            Phase::Downloading
        }
        Phase::Downloading => {
            [Phase::Downloading, Phase::Downloading, Phase::Verifying][random.below(3) as usize]
        }
        Phase::Verifying => Phase::Extracting,
        Phase::Extracting => [Phase::Extracting, Phase::Complete][random.below(2) as usize],
        other => other,
    };
    row.current = match row.phase {
        Phase::Waiting => 0,
        Phase::Downloading => (row.current + random.below(300)).min(row.total),
        _ => row.total,
    };
    row.attempt = row.attempt.max(u32::from(row.phase != Phase::Waiting));
}

/// The position of a word in docker's order. `Downloading` and `Retrying` alternate.
fn rank(status: &str) -> usize {
    let words = [
        "Pulling fs layer",
        "Waiting",
        "Downloading",
        "Verifying Checksum",
        "Download complete",
        "Extracting",
        "Pull complete",
    ];
    let status = if status.starts_with("Retrying in") { "Downloading" } else { status };
    words.iter().position(|word| status.starts_with(word)).unwrap_or_else(|| panic!("no word: {status}"))
}

#[test]
fn whatever_the_engine_reports_and_however_slowly_the_client_reads_the_order_holds() {
    for seed in 0..300 {
        let mut random = Random(seed);
        let mut pull = Pull::new();
        let count = 1 + random.below(6) as u32;
        let mut rows: Vec<Row> = (0..count).map(|index| row(index, Phase::Waiting, 0)).collect();
        pull.rows(&rows);
        let stored = vec![false; count as usize];
        pull.give(image(&stored, PullOutcome::Running));
        let mut lines = Vec::new();
        while rows.iter().any(|row| row.phase != Phase::Complete) {
            let nth = random.below(u64::from(count)) as usize;
            walk(&mut rows[nth], &mut random);
            pull.rows(&rows[nth..=nth]);
            pull.now += Duration::from_millis(random.below(400));
            if random.below(3) == 0 {
                lines.extend(pull.read());
            }
        }
        pull.give(image(&stored, PullOutcome::New));
        pull.give(done(false));
        lines.extend(pull.read());
        check(&lines, count as usize);
    }
}

/// Checks the messages of a complete pull of `count` new layers.
fn check(lines: &[String], count: usize) {
    let context = lines.join("\n");
    assert_eq!(lines[0], "t Pulling from library/a", "{context}");
    for (nth, line) in lines[1..=count].iter().enumerate() {
        assert_eq!(*line, format!("{nth} Pulling fs layer"), "{context}");
    }
    let (last, layers) = (&lines[lines.len() - 2..], &lines[1..lines.len() - 2]);
    assert!(last[0].starts_with("Digest: ") && last[1].starts_with("Status: "), "{context}");
    let mut complete = 0;
    for nth in 0..count {
        let own: Vec<&str> = layers.iter().filter_map(|line| line.strip_prefix(&format!("{nth} "))).collect();
        assert!(own.is_sorted_by_key(|status| rank(status)), "{nth}\n{context}");
        let numbers = |word: &str| own.iter().rfind(|status| status.starts_with(word)).copied();
        assert_eq!(numbers("Downloading "), Some("Downloading 1000/1000"), "{context}");
        assert_eq!(numbers("Extracting "), Some("Extracting 1000/1000"), "{context}");
        for word in ["Verifying Checksum", "Download complete", "Pull complete"] {
            assert_eq!(own.iter().filter(|status| **status == word).count(), 1, "{nth} {word}\n{context}");
        }
    }
    for line in layers {
        let (id, status) = line.split_once(' ').expect("an ID and a status");
        let nth: usize = id.parse().expect("a number");
        if rank(status) >= rank("Extracting") {
            assert_eq!(nth, complete, "{context}");
        }
        complete += usize::from(status == "Pull complete");
    }
}
