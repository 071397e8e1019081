//! `sampan image` and its short forms: `images`, `pull`, `push`, `save`, `load`, `login` and their neighbours.

pub mod archives;
pub mod credentials;
pub mod import;
pub mod inspect;
pub mod list;
pub mod login;
pub mod output_file;
pub mod prune;
pub mod pull;
pub mod push;
pub mod remove;
pub mod serve;
pub mod tag;
pub mod transport;
pub mod verify;
