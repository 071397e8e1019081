//! Several streams of answers in one loop, from an engine that the test plays.

use sampan_client::engine::{Answer, Done, Failure, Request};
use sampan_client::{Answers, Engine, EngineError, Happened, Streams};
use sampan_ipc::frame;
use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;
use tempfile::TempDir;

/// Longest wait for what must come.
const PATIENCE: Option<Duration> = Some(Duration::from_secs(30));

/// Where the test listens as the engine.
struct Stage {
    listener: UnixListener,
    engine: Engine,
    _dir: TempDir,
}

impl Stage {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("engine.sock");
        let listener = UnixListener::bind(&socket).expect("bound");
        Stage { listener, engine: Engine::new(socket), _dir: dir }
    }

    /// A request, and the engine's end of its connection.
    fn ask(&self) -> (Answers, UnixStream) {
        let answers = self.engine.request(Request::Info, &[]).expect("somebody listens");
        (answers, self.listener.accept().expect("a connection").0)
    }
}

fn say(to: &mut UnixStream, answer: &Answer) {
    to.write_all(&frame::encode(answer).expect("small")).expect("sent");
}

fn note(to: &mut UnixStream, text: &str) {
    say(to, &Answer::Note(text.to_owned()));
}

/// The next answer: whose, and the note that it is.
fn next_note(streams: &mut Streams) -> (usize, String) {
    match streams.next_within(PATIENCE).expect("it can wait") {
        Happened::Answer { stream, answer: Answer::Note(text) } => (stream, text),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_stream_with_much_to_say_leaves_the_others_their_turn() {
    let stage = Stage::new();
    let mut streams = Streams::new().expect("descriptors");
    let ((first, mut to_first), (second, mut to_second)) = (stage.ask(), stage.ask());
    assert_eq!((streams.add(first), streams.add(second)), (0, 1));
    for nth in 0..3 {
        note(&mut to_first, &nth.to_string());
    }
    note(&mut to_second, "x");
    let heard: Vec<_> = (0..4).map(|_| next_note(&mut streams)).collect();
    let heard: Vec<(usize, &str)> = heard.iter().map(|(stream, text)| (*stream, text.as_str())).collect();
    assert_eq!(heard, [(0, "0"), (1, "x"), (0, "1"), (0, "2")]);
    let nothing = streams.next_within(Some(Duration::ZERO)).expect("it can wait");
    assert!(matches!(nothing, Happened::Nothing));
}

#[test]
fn each_stream_ends_by_itself_and_all_of_them_when_the_last_has() {
    let stage = Stage::new();
    let mut streams = Streams::new().expect("descriptors");
    let (first, mut to_first) = stage.ask();
    let (second, mut to_second) = stage.ask();
    let (third, to_third) = stage.ask();
    for answers in [first, second, third] {
        streams.add(answers);
    }
    say(&mut to_first, &Answer::Error(Failure { message: "no".to_owned(), ..Failure::default() }));
    let next = streams.next_within(PATIENCE).expect("it can wait");
    assert!(
        matches!(&next, Happened::Failed { stream: 0, error: EngineError::Failed(why) } if why.message == "no"),
        "{next:?}"
    );
    drop(to_third);
    let next = streams.next_within(PATIENCE).expect("it can wait");
    assert!(matches!(next, Happened::Failed { stream: 2, error: EngineError::Broken { .. } }), "{next:?}");
    assert_eq!(streams.running(), 1);
    say(&mut to_second, &Answer::Done(Done::default()));
    let next = streams.next_within(PATIENCE).expect("it can wait");
    assert!(matches!(next, Happened::Answer { stream: 1, answer: Answer::Done(_) }), "{next:?}");
    assert!(matches!(streams.next_within(None).expect("it can wait"), Happened::End));
}

#[test]
fn a_waker_interrupts_once_and_a_stopper_for_good() {
    let stage = Stage::new();
    let mut streams = Streams::new().expect("descriptors");
    let (answers, mut engine) = stage.ask();
    streams.add(answers);
    let (waker, stopper) = (streams.waker().expect("a descriptor"), streams.stopper().expect("a descriptor"));
    for _ in 0..3 {
        waker.stop();
    }
    assert!(matches!(streams.next_within(None).expect("it can wait"), Happened::Woken));
    note(&mut engine, "on");
    assert_eq!(next_note(&mut streams), (0, "on".to_owned()));
    stopper.stop();
    note(&mut engine, "not heard");
    for _ in 0..2 {
        assert!(matches!(streams.next_within(None).expect("it can wait"), Happened::End));
    }
}
