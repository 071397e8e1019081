//! Asks the engine and monitord about their state, then answers the client.
//!
//! monitord is asked for a number that a report can do without, so an absent or a slow monitord delays no report for
//! longer than `PATIENCE`, and fails none.

use crate::exchange::{Exchange, Operation, Progress};
use crate::refusal::Refusal;
use mio::Interest;
use sampan_client::Answers;
use sampan_client::engine::{Answer, EngineDetails, Next, Request};
use sampan_http::answer::Answer as HttpAnswer;
use sampan_ipc::connection::{Connection, Received, Stop};
use sampan_ipc::frame;
use sampan_ipc::trust::Server;
use sampan_ipc::watch::{self, Item, Status};
use std::time::{Duration, Instant};

/// Longest time to wait for monitord after the engine has answered.
const PATIENCE: Duration = Duration::from_millis(500);

/// Makes the answer of the engine's state, and of monitord's if it is known.
type Finish = Box<dyn FnOnce(&EngineDetails, Option<&Status>) -> Result<HttpAnswer, Refusal>>;

/// A request about the state of both daemons.
pub struct DaemonCall {
    finish: Option<Finish>,
    engine: Option<Answers>,
    details: Option<Box<EngineDetails>>,
    monitord: Option<(Connection, Stop)>,
    status: Option<Box<Status>>,
    has_begun: bool,
    deadline: Option<Instant>,
}

impl DaemonCall {
    /// Makes the operation; `finish` makes the answer.
    pub fn start(
        finish: impl FnOnce(&EngineDetails, Option<&Status>) -> Result<HttpAnswer, Refusal> + 'static,
    ) -> Box<dyn Operation> {
        Box::new(DaemonCall {
            finish: Some(Box::new(finish)),
            engine: None,
            details: None,
            monitord: None,
            status: None,
            has_begun: false,
            deadline: None,
        })
    }

    fn begin(&mut self, exchange: &mut Exchange<'_>) -> Result<(), Refusal> {
        self.has_begun = true;
        let answers = exchange.shared.engine.request(Request::EngineDetails, &[])?;
        exchange.watch(&answers, Interest::READABLE)?;
        self.engine = Some(answers);
        let Ok(request) = watch::opening(watch::Request::Status) else { return Ok(()) };
        let socket = exchange.shared.paths.events_socket();
        match Connection::open(&socket, Server::Monitord, &request, &[]) {
            Ok(connection) => {
                exchange.watch(&connection, Interest::READABLE)?;
                self.monitord = Some((connection, Stop::new()?));
            }
            Err(error) => log::debug!("cannot ask monitord at {} for its state: {error}", socket.display()),
        }
        Ok(())
    }

    /// Reads what the engine has sent.
    fn read_engine(&mut self) -> Result<(), Refusal> {
        while let Some(answers) = &mut self.engine {
            match answers.next_within(Duration::ZERO)? {
                Next::Nothing => return Ok(()),
                Next::Answer(Answer::EngineDetails(details)) => self.details = Some(details),
                Next::Answer(_) => {}
                Next::End => self.engine = None,
            }
        }
        match self.details {
            Some(_) => Ok(()),
            None => Err(Refusal::new(500, "the engine did not report its state")),
        }
    }

    /// Reads what monitord has sent. A monitord that does not speak correctly counts as absent.
    fn read_monitord(&mut self) {
        while let Some((connection, stop)) = &mut self.monitord {
            match connection.buffered() {
                Ok(Some(body)) => {
                    if let Ok(Item::Status(status)) = frame::parse(body) {
                        self.status = Some(status);
                    }
                    self.monitord = None;
                }
                Ok(None) => match connection.fill(stop, Some(Instant::now())) {
                    Ok(Received::Message(())) => {}
                    Ok(Received::Timeout) => return,
                    Ok(_) | Err(_) => self.monitord = None,
                },
                Err(_) => self.monitord = None,
            }
        }
    }
}

impl Operation for DaemonCall {
    fn step(&mut self, exchange: &mut Exchange<'_>) -> Result<Progress, Refusal> {
        if !self.has_begun {
            self.begin(exchange)?;
        }
        self.read_engine()?;
        self.read_monitord();
        let is_late = self.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        let (None, Some(details)) = (&self.engine, &self.details) else { return Ok(Progress::Waits) };
        if self.monitord.is_some() && !is_late {
            self.deadline.get_or_insert_with(|| Instant::now() + PATIENCE);
            return Ok(Progress::Waits);
        }
        let Some(finish) = self.finish.take() else { return Ok(Progress::Ended) };
        let answer = finish(details, self.status.as_deref())?;
        Ok(exchange.answer(answer))
    }

    fn deadline(&self) -> Option<Instant> {
        self.deadline
    }
}
