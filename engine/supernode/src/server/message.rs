//! The messages that threads send to the event loop.
//!
//! The loop owns the receiver, and gives each thread an [`Outbox`]. The channel has no bound: the number of
//! threads has one, and a thread sends a few messages for each piece at most.

use crate::cdn::CdnMessage;
use crate::origin::{OriginError, ProbeResult};
use crate::preheat::Resolution;
use crate::registration::ProbeKey;
use mio::Waker;
use std::sync::Arc;
use std::sync::mpsc::Sender;

/// A message from a thread.
pub enum Message {
    /// A fetch, or a check of a file, has a result.
    Cdn(CdnMessage),
    /// An origin has answered.
    Probed {
        /// The task and the credential that the origin was asked about.
        key: ProbeKey,
        /// The answer of the origin.
        answer: Result<ProbeResult, OriginError>,
    },
    /// A registry has answered which blobs an image to preheat has.
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

    /// Sends `message`. Without effect after the event loop has ended.
    pub fn send(&self, message: Message) {
        // Sending fails only after the event loop has ended; then nobody waits for this message.
        let _ = self.sender.send(message);
        let _ = self.waker.wake();
    }
}
