//! A job of the engine as a stream of messages: engine's answers in, one chunk for each message out.
//!
//! The engine's answers are always read, so that the engine never waits for a slow client. The messages are made when
//! the client has room. A job that fails before the first message is answered with an HTTP status; after that the
//! error is the last message, and the connection breaks off.

use super::message;
use super::upload::Upload;
use crate::exchange::{Exchange, Operation, Progress, Shared};
use crate::refusal::Refusal;
use mio::Interest;
use sampan_client::EngineError;
use sampan_client::engine::{self, Answers, Next, Request};
use sampan_http::answer::Answer;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// Most answers of the engine that are read before the other clients have their turn.
const ANSWERS_PER_STEP: usize = 256;

/// The messages of one job.
pub(crate) trait Messages {
    /// Takes an answer of the engine.
    fn on_answer(&mut self, answer: engine::Answer, now: Instant);

    /// The engine has answered the request completely. Returns the next request, if one is needed.
    fn on_end(&mut self) -> Option<Request> {
        None
    }

    /// The next message for the client.
    fn next(&mut self, now: Instant) -> Option<String>;

    /// When [`Messages::next`] may have a message, even if the engine answers nothing.
    fn due(&self) -> Option<Instant> {
        None
    }
}

/// The operation.
pub(crate) struct JobStream<M> {
    messages: M,
    request: Option<Request>,
    answers: Option<Answers>,
    upload: Option<Upload>,
    /// The status with which a registry has refused.
    registry_status: Option<u16>,
    failed: Option<Refusal>,
    /// Whether the engine has answered the last request completely.
    has_ended: bool,
    /// Whether the client's leaving ends the job, unless others watch it. The end of the gateway does not.
    is_kept: bool,
}

impl<M: Messages> JobStream<M> {
    /// A stream for `request`.
    pub(crate) fn new(request: Request, messages: M) -> Self {
        JobStream {
            messages,
            is_kept: matches!(request, Request::PullKept(_)),
            request: Some(request),
            answers: None,
            upload: None,
            registry_status: None,
            failed: None,
            has_ended: false,
        }
    }

    /// Sends the body of the client's request to the engine, through `upload`.
    pub(crate) fn with_upload(self, upload: Upload) -> Self {
        JobStream { upload: Some(upload), ..self }
    }

    fn begin(&mut self, exchange: &mut Exchange<'_>) -> Result<(), Refusal> {
        let Some(request) = self.request.take() else { return Ok(()) };
        let end = self.upload.as_mut().and_then(Upload::take_read_end);
        let descriptors: Vec<_> = end.iter().map(AsFd::as_fd).collect();
        let answers = exchange.shared.engine.request(request, &descriptors)?;
        exchange.watch(&answers, Interest::READABLE)?;
        if let Some(upload) = &self.upload {
            upload.watch(exchange)?;
        }
        self.answers = Some(answers);
        Ok(())
    }

    /// Reads the engine's answers. Returns true if there may be more.
    fn read(&mut self, now: Instant) -> bool {
        for _ in 0..ANSWERS_PER_STEP {
            let Some(answers) = &mut self.answers else { return false };
            match answers.next_within(Duration::ZERO) {
                Ok(Next::Nothing) => return false,
                Ok(Next::Answer(engine::Answer::RegistryStatus(status))) => {
                    self.registry_status = Some(status);
                }
                Ok(Next::Answer(answer)) => self.messages.on_answer(answer, now),
                Ok(Next::End) => {
                    self.answers = None;
                    self.has_ended = true;
                }
                Err(error) => {
                    self.answers = None;
                    self.failed = Some(self.refusal(error));
                }
            }
        }
        true
    }

    /// The refusal for a failure: docker's status if a registry has refused, otherwise that of the engine's failure.
    fn refusal(&self, error: EngineError) -> Refusal {
        let refusal = Refusal::from(error);
        match self.registry_status {
            Some(status @ (401 | 404 | 429)) => Refusal { status, ..refusal },
            _ => refusal,
        }
    }

    /// Goes on after the last message of a request: with the next request, or with the end of the stream.
    fn end(&mut self, exchange: &mut Exchange<'_>) -> Result<Progress, Refusal> {
        if let Some(failed) = self.failed.take() {
            self.send(exchange, &message::failed(&failed.message));
            return Ok(exchange.break_off());
        }
        self.has_ended = false;
        self.request = self.messages.on_end();
        if self.request.is_some() {
            return Ok(Progress::Again);
        }
        if !exchange.has_begun() {
            return Ok(exchange.answer(Answer::new(200, "application/json", "")));
        }
        Ok(exchange.finish())
    }

    fn send(&mut self, exchange: &mut Exchange<'_>, text: &str) {
        if !exchange.has_begun() {
            exchange.begin(&Answer::new(200, "application/json", ""));
        }
        exchange.send(text.as_bytes());
    }
}

impl<M: Messages> Operation for JobStream<M> {
    fn step(&mut self, exchange: &mut Exchange<'_>) -> Result<Progress, Refusal> {
        let now = Instant::now();
        self.begin(exchange)?;
        let mut has_more = match &mut self.upload {
            Some(upload) => upload.pump(exchange)?,
            None => false,
        };
        has_more |= self.read(now);
        while exchange.room() > 0 {
            if let Some(text) = self.messages.next(now) {
                self.send(exchange, &text);
                continue;
            }
            // The request has failed before there was anything to tell.
            if let Some(failed) = self.failed.take_if(|_| !exchange.has_begun()) {
                return Err(failed);
            }
            if self.failed.is_some() || self.has_ended {
                return self.end(exchange);
            }
            break;
        }
        Ok(if has_more { Progress::Again } else { Progress::Waits })
    }

    fn deadline(&self) -> Option<Instant> {
        self.messages.due()
    }

    fn on_hang_up(&mut self, _: &mut Shared) {
        if self.is_kept
            && let Some(answers) = self.answers.take()
        {
            answers.release();
        }
    }
}
