//! Containers: what they are, where they are kept, and who looks after them.
//!
//! From above to below: [`table`] is what the event loop knows of all containers, [`requests`] what clients may ask
//! of it and [`news`] what shims and threads tell it; [`create`], [`start`], [`removal`] and [`recovery`] are what
//! its threads do; [`listing`] and [`inspect`] describe containers. [`link`] is a connection to a shim, [`home`] the
//! directories of a container, and [`definition`] how it was made. The shim itself is in [`crate::shim`].

pub mod create;
pub mod definition;
pub mod etc;
pub mod home;
pub mod inspect;
pub mod link;
pub mod listing;
pub mod logs;
pub mod news;
pub mod recovery;
pub mod removal;
pub mod requests;
pub mod start;
pub mod table;
pub mod workers;
