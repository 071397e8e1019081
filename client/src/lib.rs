//! Watch what happens on a Sampan host, tell it what happens, and ask the engine for work.
//!
//! Three things, each of which needs nothing of the other two:
//!
//! - [`Watch`] opens a [`Subscription`]: an iterator over events, past and future, that survives restarts of
//!   either side without losing or repeating one;
//! - [`Emitter`] writes events of your own, without ever blocking your program;
//! - [`Engine`] asks the engine to pull, import, list, tag, remove or serve images; [`Streams`] follows several
//!   such requests in one loop.
//!
//! Nothing is sent before it is known that root or the own user listens, or monitord's user where events come from:
//! [`sampan_ipc::trust`].
//!
//! The command `sampan` is built on this library. Nothing here starts a thread (an [`Emitter`] does for as long
//! as something waits to be written) or installs a signal handler.
//!
//! ```no_run
//! use sampan_client::{Item, Watch};
//!
//! let mut events = Watch::new()
//!     .filter("type=container")
//!     .filter("event=die")
//!     .cursor_file("/var/lib/mydaemon/cursor") // go on behind what the last run has seen
//!     .start()?;
//! while let Some(item) = events.next() {
//!     match item? {
//!         Item::Event(event) => {
//!             println!("{} ended: {:?}", event.id, event.attributes.get("exitCode"));
//!             events.commit(event.seq)?; // the work is done: no later run meets this event again
//!         }
//!         Item::Lost { first, last } => eprintln!("events {first} to {last} are gone"),
//!         Item::Replaced { .. } => eprintln!("monitord's journal is another one: what it has comes now"),
//!     }
//! }
//! # Ok::<(), sampan_client::WatchError>(())
//! ```
//!
//! ```no_run
//! use sampan_client::{Emitter, Event, Paths};
//!
//! let emitter = Emitter::new(Paths::from_env().emit_fifo());
//! emitter.send(Event::new("backup", "done", "nightly").with("bytes", 4096))?;
//! # Ok::<(), sampan_client::RecordError>(())
//! ```
#![forbid(unsafe_code)]
#![warn(unreachable_pub)]
#![warn(clippy::expect_used, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::expect_used, clippy::indexing_slicing))]

pub mod engine;
pub mod streams;

pub use engine::{Answers, Engine, EngineError};
pub use sampan_ipc::event::{Event, Origin, Pairs};
pub use sampan_ipc::filter::{FilterError, FilterSet};
pub use sampan_ipc::paths::Paths;
pub use sampan_ipc::record::RecordError;
pub use sampan_ipc::sender::FifoSender as Emitter;
pub use sampan_ipc::status::status;
pub use sampan_ipc::subscription::{
    self, Committer, CursorError, Item, Stopper, Subscription, Watch, WatchError,
};
pub use sampan_ipc::time;
pub use streams::{Happened, Streams};
