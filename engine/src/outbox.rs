//! What threads tell the event loop, and the way there.
//!
//! Every thread has it by way of [`crate::context`]; the event loop has the other end.

use crate::container::outcome::Outcome;
use mio::Waker;
use sampan_ipc::engine::{Answer, Done, Failure};
use std::sync::mpsc::Sender;

/// What a thread tells the event loop.
pub enum Message {
    /// A job is over.
    Ended {
        /// Its number.
        job: u64,
        /// What came of it.
        outcome: Result<Done, Failure>,
    },
    /// A registry listens.
    Serving {
        /// Its job's number.
        job: u64,
        /// Where.
        address: String,
    },
    /// A task has its answers; the last one ends the stream.
    Answers {
        /// The client's token.
        client: usize,
        /// The answers.
        answers: Vec<Answer>,
    },
    /// Something was done about a container.
    Container(Outcome),
}

/// Sends messages to the event loop and wakes it.
pub struct Outbox {
    sender: Sender<Message>,
    waker: Waker,
}

impl Outbox {
    /// Messages go into `sender`; `waker` tells of them.
    pub fn new(sender: Sender<Message>, waker: Waker) -> Self {
        Outbox { sender, waker }
    }

    /// Sends it.
    pub fn send(&self, message: Message) {
        // It fails only when the event loop is gone, and then nobody asks any more.
        let _ = self.sender.send(message);
        let _ = self.waker.wake();
    }
}
