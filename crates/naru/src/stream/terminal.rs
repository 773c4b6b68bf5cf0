//! The terminal: its size, raw mode, and getting out of it however the program ends.

use std::io::IsTerminal as _;
use std::sync::Mutex;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// The state before raw mode; kept where a panic can reach it.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// Whether stdin is a terminal.
pub fn stdin_is_terminal() -> bool {
    std::io::stdin().is_terminal()
}

/// Whether stdout is a terminal.
pub fn stdout_is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// Rows and columns of stdout's terminal; zero when it is none.
pub fn size() -> (u16, u16) {
    match tcgetwinsize(std::io::stdout()) {
        Ok(size) => (size.ws_row, size.ws_col),
        Err(_) => (0, 0),
    }
}

/// Raw mode of stdin, until dropped.
pub struct Raw(());

impl Raw {
    /// Enters raw mode when stdin is a terminal.
    pub fn enter() -> Option<Self> {
        let saved = tcgetattr(std::io::stdin()).ok()?;
        let mut raw = saved.clone();
        raw.make_raw();
        *SAVED.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(saved);
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore();
            hook(info);
        }));
        tcsetattr(std::io::stdin(), OptionalActions::Now, &raw).ok()?;
        Some(Self(()))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// Leaves raw mode, if it was entered.
pub fn restore() {
    if let Some(saved) = SAVED.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take() {
        // Nothing can be done when the terminal is gone.
        let _gone = tcsetattr(std::io::stdin(), OptionalActions::Drain, &saved);
    }
}

/// A question on the terminal; anything but `y` is no.
pub fn confirm(question: &str) -> crate::cli::error::Result<bool> {
    crate::output::write(format!("{question} [y/N] ").as_bytes())?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(answer.trim().eq_ignore_ascii_case("y"))
}
