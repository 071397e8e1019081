//! Requests to the engine that have a short answer: collects all of the engine's answers, then answers the client.

use crate::exchange::{Exchange, Operation, Progress, Shared};
use crate::refusal::Refusal;
use mio::Interest;
use sampan_client::EngineError;
use sampan_client::engine::{self, Answers, Next, Request};
use sampan_http::answer::Answer;
use std::time::Duration;

/// What follows after the engine has answered.
pub enum Then {
    /// The client gets this answer.
    Answer(Answer),
    /// Another request to the engine, and what to do with its answers.
    Call(Request, Finish),
}

/// Turns the engine's answers, or its failure, into what follows.
pub type Finish =
    Box<dyn FnOnce(Result<Vec<engine::Answer>, EngineError>, &mut Shared) -> Result<Then, Refusal>>;

/// An operation that asks the engine once or several times, and then answers.
pub struct EngineCall {
    next: Option<(Request, Finish)>,
    running: Option<(Answers, Vec<engine::Answer>, Finish)>,
}

impl EngineCall {
    /// Sends `request`, and lets `finish` make the answer of what the engine answers. A failure of the engine is a
    /// refusal.
    pub fn start(
        request: Request,
        finish: impl FnOnce(Vec<engine::Answer>, &mut Shared) -> Result<Then, Refusal> + 'static,
    ) -> Box<dyn Operation> {
        Self::start_with(request, Box::new(|answers, shared| finish(answers?, shared)))
    }

    /// Like [`EngineCall::start`], but `finish` gets the engine's failure, too.
    pub fn start_with(request: Request, finish: Finish) -> Box<dyn Operation> {
        Box::new(EngineCall { next: Some((request, finish)), running: None })
    }
}

impl Operation for EngineCall {
    fn step(&mut self, exchange: &mut Exchange<'_>) -> Result<Progress, Refusal> {
        loop {
            if let Some((request, finish)) = self.next.take() {
                let answers = exchange.shared.engine.request(request, &[])?;
                exchange.watch(&answers, Interest::READABLE)?;
                self.running = Some((answers, Vec::new(), finish));
            }
            let Some((answers, collected, _)) = &mut self.running else { return Ok(Progress::Ended) };
            let result = match answers.next_within(Duration::ZERO) {
                Ok(Next::Nothing) => return Ok(Progress::Waits),
                Ok(Next::Answer(answer)) => {
                    let is_last = matches!(answer, engine::Answer::Done(_));
                    collected.push(answer);
                    if !is_last {
                        continue;
                    }
                    Ok(())
                }
                Ok(Next::End) => Ok(()),
                Err(error) => Err(error),
            };
            let Some((_, collected, finish)) = self.running.take() else { return Ok(Progress::Ended) };
            match finish(result.map(|()| collected), exchange.shared)? {
                Then::Answer(answer) => return Ok(exchange.answer(answer)),
                Then::Call(request, finish) => self.next = Some((request, finish)),
            }
        }
    }
}
