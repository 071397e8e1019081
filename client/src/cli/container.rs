//! `sampan container` and its short forms: `run`, `ps`, `logs`, `stop` and their neighbours.

pub mod attach_session;
pub mod become_shim;
pub mod detach_keys;
pub mod inspect;
pub mod lifecycle;
pub mod logs;
pub mod options;
pub mod prune;
pub mod ps;
pub mod run;
pub mod systemd_unit;
pub mod terminal;
pub mod top;
