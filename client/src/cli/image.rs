//! `sampan image` and its short forms: `images`, `pull`, `push`, `save`, `load`, `login` and their neighbours.

pub mod archives;
pub mod credentials;
pub mod disk_usage;
pub mod import;
pub mod list;
pub mod login;
pub mod output_file;
pub mod pull;
pub mod push;
pub mod transport;
