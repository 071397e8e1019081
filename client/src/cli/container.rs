//! `sampan container` and its short forms, such as `run`, `ps`, `logs` and `stop`.

pub(crate) mod attach_session;
pub(crate) mod become_shim;
pub(crate) mod inspect;
pub(crate) mod lifecycle;
pub(crate) mod logs;
pub(crate) mod options;
pub(crate) mod prune;
pub(crate) mod ps;
pub(crate) mod run;
pub(crate) mod systemd_unit;
pub(crate) mod terminal;
pub(crate) mod top;
