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

/// While this lives, what is typed does not appear on the screen, in the middle of an answer; the next prompt shows it.
pub struct Hidden(());

impl Hidden {
    pub fn begin() -> Self {
        #[cfg(unix)]
        saved::echo(false);
        Self(())
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        #[cfg(unix)]
        saved::echo(true);
    }
}

#[cfg(unix)]
mod saved {
    use std::sync::Mutex;

    use ratatui::crossterm::{event::DisableBracketedPaste, execute};
    use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

    static MODE: Mutex<Option<Termios>> = Mutex::new(None);

    pub fn remember() {
        if let Ok(mut mode) = MODE.lock()
            && mode.is_none()
        {
            *mode = tcgetattr(rustix::stdio::stdin()).ok();
            crate::interrupt::before_exit(restore);
        }
    }

    /// Whether the terminal shows what is typed.
    pub fn echo(yes: bool) {
        if let Ok(mut mode) = tcgetattr(rustix::stdio::stdin()) {
            mode.local_modes.set(LocalModes::ECHO, yes);
            let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &mode);
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
