//! A client of Dragonfly 1, written for these tests from the description of its wire.
//!
//! It behaves as `dfget` does where a supernode can tell the difference: it reports what dfget reports and leaves out
//! what dfget leaves out, waits as dfget waits, moves to the next supernode when dfget would, and uploads pieces as
//! dfget's server does. Where dfget would crash, hang, or lose the file without a word, this client ends with
//! [`End::Broken`] and says why. So a test that ends with [`End::Complete`] shows that dfget would have been content.
//!
//! | module | what it owns |
//! |---|---|
//! | `wire` | requests to a supernode, and the strict reading of its answers |
//! | `uploader` | the server from which other clients get pieces |
//! | `queue` | a queue between the threads of a download |
//! | `wish`, `outcome` | what to download, and how it went |
//! | `piece` | what the threads of a download share, and how one of them gets a piece |
//! | `download` | one download: reports, and moves between supernodes |
//! | `peer` | a host: an address, an uploader, and its downloads |

mod download;
mod outcome;
mod peer;
mod piece;
mod queue;
#[cfg(test)]
mod scripted;
mod uploader;
mod wire;
mod wish;

pub use outcome::{Counts, End, Outcome, assert_complete};
pub use peer::{Download, Peer};
pub use uploader::{Upload, unwrap};
pub use wire::{Offer, Pull, Pulled, Registered, Wire, WireError};
pub use wish::Wish;
