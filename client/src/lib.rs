//! Watch the events of a Sampan host, emit events, and send requests to the engine.
//!
//! Three parts that do not depend on each other:
//!
//! - [`Watch`] opens a [`Subscription`]: an iterator over past and future events that survives restarts of monitord
//!   and of your program without losing or repeating an event;
//! - [`Emitter`] writes events of your own and never blocks your program;
//! - [`Engine`] sends requests to the engine: run containers, pull, import, list, tag, remove or serve images;
//!   [`Streams`] follows the answers to several requests in one loop.
//!
//! Each of them first checks that root, your own user, or (for events) monitord's user owns the other side:
//! [`sampan_ipc::trust`].
//!
//! The command `sampan` is built on this library. The library installs no signal handler and starts no thread, but for
//! the thread of an [`Emitter`], which lives while events wait to be written.
//!
//! ```no_run
//! use sampan_client::{Item, Watch};
//!
//! let mut events = Watch::new()
//!     .filter("type=container")
//!     .filter("event=die")
//!     .cursor_file("/var/lib/mydaemon/cursor") // continue after the last event that an earlier run committed
//!     .start()?;
//! while let Some(item) = events.next() {
//!     match item? {
//!         Item::Event(event) => {
//!             println!("{} ended: {:?}", event.id, event.attributes.get("exitCode"));
//!             events.commit(event.seq)?; // the work is done: no later run gets this event again
//!         }
//!         Item::Lost { first, last } => eprintln!("events {first} to {last} are lost"),
//!         Item::Replaced { .. } => eprintln!("monitord has another journal; all its events follow"),
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

#[cfg(feature = "docker")]
pub mod container_log;
pub mod detach_keys;
#[cfg(feature = "docker")]
pub mod docker;
pub mod engine;
pub mod streams;
#[cfg(feature = "docker")]
pub mod template;

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
