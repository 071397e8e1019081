//! `sampan image` and its short forms, such as `images`, `pull`, `push`, `save` and `load`; also `login` and `serve`.

pub(crate) mod archives;
pub(crate) mod credentials;
pub(crate) mod history;
pub(crate) mod import;
pub(crate) mod inspect;
pub(crate) mod list;
pub(crate) mod login;
pub(crate) mod output_file;
pub(crate) mod prune;
pub(crate) mod pull;
pub(crate) mod push;
pub(crate) mod remove;
pub(crate) mod serve;
pub(crate) mod tag;
pub(crate) mod transport;
pub(crate) mod verify;
