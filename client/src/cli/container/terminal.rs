//! The terminal in raw mode, and as it was before, whatever happens.

use crate::cli::error::Failure;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use std::io;
use std::sync::{Mutex, Once, PoisonError};

/// What the terminal was like before; also for a panic, which drops nothing where panics abort.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// The terminal of standard input hands every byte on at once, until this is dropped.
#[derive(Debug)]
pub(crate) struct Raw(());

impl Raw {
    /// Makes it raw.
    pub(crate) fn begin() -> Result<Self, Failure> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let hook = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                restore();
                hook(info);
            }));
        });
        let raw = Raw(());
        raw.set().map_err(|error| Failure::new(format!("cannot make the terminal raw: {error}")))?;
        Ok(raw)
    }

    /// Makes it raw, for the first time or again.
    pub(crate) fn set(&self) -> io::Result<()> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        Ok(tcsetattr(io::stdin(), SetArg::TCSANOW, &raw)?)
    }

    /// As it was before; [`Raw::set`] makes it raw again.
    pub(crate) fn unset(&self) {
        restore();
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    if let Some(before) = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take() {
        let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &before);
    }
}

/// Rows and columns of the terminal, standard output's or else standard input's; 0 and 0 if there is none.
pub(crate) fn size() -> (u16, u16) {
    let of = terminal_size::terminal_size_of(io::stdout())
        .or_else(|| terminal_size::terminal_size_of(io::stdin()));
    of.map_or((0, 0), |(columns, rows)| (rows.0, columns.0))
}
