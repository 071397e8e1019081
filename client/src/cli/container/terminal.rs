//! Puts the terminal into raw mode, and restores its mode however the command ends. Also reads the terminal's size.

use crate::cli::error::Failure;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use std::io;
use std::sync::{Mutex, Once, PoisonError};

/// The terminal's settings before raw mode. The variable is static, so that a panic that aborts can restore them, too.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Keeps the terminal of standard input in raw mode. A drop restores the mode.
#[derive(Debug)]
pub(crate) struct Raw(());

impl Raw {
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
        raw.set().map_err(|error| Failure::new(format!("cannot put the terminal into raw mode: {error}")))?;
        Ok(raw)
    }

    /// Puts the terminal into raw mode, for the first time or after [`Raw::unset`].
    pub(crate) fn set(&self) -> io::Result<()> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        Ok(tcsetattr(io::stdin(), SetArg::TCSANOW, &raw)?)
    }

    /// Restores the mode. [`Raw::set`] puts the terminal into raw mode again.
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

/// Rows and columns of the terminal of standard output, or of standard input if standard output is no terminal; zeros
/// if neither is a terminal.
pub(crate) fn size() -> (u16, u16) {
    let of = terminal_size::terminal_size_of(io::stdout())
        .or_else(|| terminal_size::terminal_size_of(io::stdin()));
    of.map_or((0, 0), |(columns, rows)| (rows.0, columns.0))
}
