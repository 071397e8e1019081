//! What threads send to the event loop.

use crate::cdn::CdnMessage;
use crate::origin::{OriginError, Probed};
use crate::preheat::Resolution;
use crate::registration::AskKey;
use mio::Waker;
use std::sync::Arc;
use std::sync::mpsc::Sender;

/// A message from a thread.
pub enum Message {
    /// Of a fetch, or of a check of a file.
    Cdn(CdnMessage),
    /// An origin has answered.
    Asked {
        /// What the question was about.
        key: AskKey,
        /// The answer.
        answer: Result<Probed, OriginError>,
    },
    /// The layers of an image to preheat are known.
    Preheat(Resolution),
}

/// Sends messages to the event loop and wakes it up. Cheap to clone.
#[derive(Clone)]
pub struct Outbox {
    sender: Sender<Message>,
    waker: Arc<Waker>,
}

impl Outbox {
    /// Makes an outbox that puts messages into `sender` and wakes the event loop through `waker`.
    pub fn new(sender: Sender<Message>, waker: Arc<Waker>) -> Self {
        Outbox { sender, waker }
    }

    /// Sends `message`.
    pub fn send(&self, message: Message) {
        // Sending fails only after the event loop has ended; then nobody waits for this message.
        let _ = self.sender.send(message);
        let _ = self.waker.wake();
    }
}
