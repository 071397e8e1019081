//! Signals that end a command. A command that must clean up (a cursor, a terminal, children) catches the signals,
//! cleans up, and then ends by the signal, as a shell expects. Signals end all other commands at once.

use nix::sys::signal::Signal;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGWINCH};
use signal_hook::{flag, low_level};
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

/// The last signal that a [`Signals`] of this process has caught; 0 if there is none.
static CAUGHT: LazyLock<Arc<AtomicUsize>> = LazyLock::new(Arc::default);

#[derive(Clone, Debug)]
pub(crate) struct Signals {
    caught: Arc<AtomicUsize>,
}

impl Signals {
    /// Catches SIGINT, SIGTERM and SIGHUP. Each of these signals writes a byte to `wake`.
    ///
    /// SIGHUP stays ignored if this process was started with SIGHUP ignored (nohup, a shell's background job).
    pub(crate) fn catch(wake: &UnixStream) -> io::Result<Self> {
        Signals::register(&[SIGINT, SIGTERM, SIGHUP], wake)
    }

    /// Like [`Signals::catch`], but leaves SIGINT to an [`Interrupt`].
    pub(crate) fn catch_but_interrupt(wake: &UnixStream) -> io::Result<Self> {
        Signals::register(&[SIGTERM, SIGHUP], wake)
    }

    fn register(numbers: &[i32], wake: &UnixStream) -> io::Result<Self> {
        let signals = Signals { caught: Arc::clone(&CAUGHT) };
        for &signal in numbers {
            if signal == SIGHUP && is_ignored(signal) {
                continue;
            }
            // Set the flag before the byte is written: a reader of the byte then finds the flag set.
            flag::register_usize(signal, Arc::clone(&signals.caught), signal as usize)?;
            low_level::pipe::register(signal, wake.try_clone()?)?;
        }
        Ok(signals)
    }

    /// Makes each signal also write a byte to `wake`.
    pub(crate) fn also_wake(&self, wake: &UnixStream) -> io::Result<()> {
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            if signal != SIGHUP || !is_ignored(signal) {
                low_level::pipe::register(signal, wake.try_clone()?)?;
            }
        }
        Ok(())
    }

    /// The last signal that was caught; `None` if there is none.
    pub(crate) fn caught(&self) -> Option<i32> {
        number(&self.caught)
    }
}

/// Whether an [`Interrupt`] of this process has come.
static INTERRUPTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// The first SIGINT of a command that goes on after it.
#[derive(Clone, Debug)]
pub(crate) struct Interrupt {
    has_come: Arc<AtomicBool>,
    is_deadly: Arc<AtomicBool>,
}

impl Interrupt {
    /// Catches SIGINT, which writes a byte to `wake`.
    pub(crate) fn catch(wake: &UnixStream) -> io::Result<Self> {
        let interrupt =
            Interrupt { has_come: Arc::clone(&INTERRUPTED), is_deadly: Arc::new(AtomicBool::new(false)) };
        flag::register_conditional_default(SIGINT, Arc::clone(&interrupt.is_deadly))?;
        flag::register(SIGINT, Arc::clone(&interrupt.has_come))?;
        low_level::pipe::register(SIGINT, wake.try_clone()?)?;
        Ok(interrupt)
    }

    /// Lets the next SIGINT end this process. Not before the command has reacted to the first one: some programs pass
    /// on the SIGINT that this process gets from the terminal, too.
    pub(crate) fn let_next_end(&self) {
        self.is_deadly.store(true, Ordering::SeqCst);
    }

    /// Whether the first SIGINT has come.
    pub(crate) fn has_come(&self) -> bool {
        self.has_come.load(Ordering::SeqCst)
    }
}

/// The last signal that this process has caught; always `None` before [`Signals::catch`].
pub(crate) fn caught() -> Option<i32> {
    number(&CAUGHT)
}

/// Whether the first SIGINT of a command that goes on after it has come; always `false` before [`Interrupt::catch`].
pub(crate) fn is_interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

fn number(caught: &AtomicUsize) -> Option<i32> {
    match caught.load(Ordering::SeqCst) {
        0 => None,
        signal => i32::try_from(signal).ok(),
    }
}

pub(crate) fn name(signal: i32) -> &'static str {
    Signal::try_from(signal).map_or("a signal", Signal::as_str)
}

/// Writes a byte to `wake` whenever the terminal's size changes.
pub(crate) fn wake_on_resize(wake: UnixStream) -> io::Result<()> {
    low_level::pipe::register(SIGWINCH, wake).map(drop)
}

/// Ends this process by `signal`, so that its parent sees the cause.
pub(crate) fn die_of(signal: i32) -> ! {
    let _ = low_level::emulate_default_handler(signal);
    low_level::exit(128 + signal)
}

/// Whether this process ignores `signal`. proc(5), "SigIgn".
pub(crate) fn is_ignored(signal: i32) -> bool {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else {
        return false;
    };
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask & 1 << (signal - 1) != 0
}
