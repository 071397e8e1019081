//! One request to the engine inside an operation that does more than that: collects the answers without blocking.
//!
//! An operation that only asks the engine and answers uses `engine_call`.

use crate::exchange::Exchange;
use mio::Interest;
use sampan_client::EngineError;
use sampan_client::engine::{self, Answers, Next, Request};
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// A request that the engine has not answered completely.
pub struct Question {
    answers: Answers,
    collected: Vec<engine::Answer>,
}

impl Question {
    /// Sends `request` with the descriptors `fds`, and steps the operation when answers come.
    ///
    /// # Errors
    /// No engine listens, or the request cannot be sent.
    pub fn ask(
        exchange: &Exchange<'_>,
        request: Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Self, EngineError> {
        let answers = exchange.shared.engine.request(request, fds)?;
        exchange.watch(&answers, Interest::READABLE).map_err(EngineError::System)?;
        Ok(Question { answers, collected: Vec::new() })
    }

    /// The answers, once the engine has sent the last one; `None` before.
    ///
    /// # Errors
    /// The engine has refused the request, or the connection has broken off.
    pub fn poll(&mut self) -> Result<Option<Vec<engine::Answer>>, EngineError> {
        loop {
            match self.answers.next_within(Duration::ZERO)? {
                Next::Nothing => return Ok(None),
                Next::End => return Ok(Some(std::mem::take(&mut self.collected))),
                Next::Answer(answer) => self.collected.push(answer),
            }
        }
    }
}
