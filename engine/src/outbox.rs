//! The channel from the engine's threads to the event loop.
//!
//! Every thread has its sending end by way of [`crate::context`]; the event loop has the receiving end.

use crate::container::outcome::Outcome;
use crate::replication::triggers::ImageEvent;
use mio::Waker;
use sampan_ipc::engine::{Answer, Done, Failure};
use sampan_replication::journal::Journal;
use std::sync::Arc;
use std::sync::mpsc::Sender;

/// A message from a thread to the event loop.
pub enum Message {
    /// A job has ended.
    Ended {
        /// Number of the job.
        job: u64,
        /// The result or the error.
        outcome: Result<Done, Failure>,
    },
    /// A `serve` job listens and accepts connections.
    Serving {
        /// Number of the job.
        job: u64,
        /// The address that it listens on.
        address: String,
    },
    /// The answers to a short request; the last one ends the client's stream.
    Answers {
        /// The client's token.
        client: usize,
        /// The answers.
        answers: Vec<Answer>,
    },
    /// An execution was written into its journal, or could not be.
    ExecutionBegun {
        /// The number of the execution.
        id: u64,
        /// The name of its policy; empty for a command.
        policy: String,
        /// Its journal; `None` if it was skipped and has ended.
        begun: Result<Option<Arc<Journal>>, Failure>,
        /// The token of the client that waits for this, and whether that client does not follow the execution.
        client: Option<(usize, bool)>,
    },
    /// An image was pushed, pulled or loaded on this host.
    ImageEvent {
        /// The event.
        image: ImageEvent,
        /// Dropped once the executions that the event starts are in their journals.
        seen: Sender<()>,
    },
    /// A step for a container has ended.
    Container(Outcome),
}

/// Sends messages to the event loop and wakes it up.
pub struct Outbox {
    sender: Sender<Message>,
    waker: Waker,
}

impl Outbox {
    /// Makes an outbox that puts messages into `sender` and wakes the event loop through `waker`.
    pub fn new(sender: Sender<Message>, waker: Waker) -> Self {
        Outbox { sender, waker }
    }

    /// Sends `message`.
    pub fn send(&self, message: Message) {
        // Sending fails only after the event loop has ended; then no client waits for this message.
        let _ = self.sender.send(message);
        let _ = self.waker.wake();
    }
}
