//! The terminal as it was, for when a signal ends the program while a message is edited.

/// While this lives a signal ends the program at once, and the terminal gets its mode back.
pub struct Prompt(());

impl Prompt {
    pub fn begin() -> Self {
        #[cfg(unix)]
        saved::remember();
        crate::interrupt::end_at_once(true);
        Self(())
    }
}

impl Drop for Prompt {
    fn drop(&mut self) {
        crate::interrupt::end_at_once(false);
    }
}

/// Columns of the window; a line of any length where nobody knows.
pub fn width() -> usize {
    ratatui::crossterm::terminal::size().map_or(usize::MAX, |(columns, _)| usize::from(columns))
}

#[cfg(unix)]
mod saved {
    use std::sync::Mutex;

    use ratatui::crossterm::{event::DisableBracketedPaste, execute};
    use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

    static MODE: Mutex<Option<Termios>> = Mutex::new(None);

    pub fn remember() {
        if let Ok(mut mode) = MODE.lock()
            && mode.is_none()
        {
            *mode = tcgetattr(rustix::stdio::stdin()).ok();
            crate::interrupt::before_exit(restore);
        }
    }

    #[expect(clippy::disallowed_methods, reason = "an escape sequence, not a message")]
    fn restore() {
        if let Ok(mode) = MODE.lock()
            && let Some(mode) = mode.as_ref()
        {
            let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, mode);
            let _ = execute!(std::io::stderr(), DisableBracketedPaste);
        }
    }
}
