//! What the user sees: results on stdout, progress and messages on stderr. Nothing else in this program writes to
//! either, so that what must hold for all output holds: a message never ends a job, and nothing from a file steers the
//! terminal.

#![allow(clippy::disallowed_methods)] // the room that the others must use

pub mod printable;
mod progress;
mod stdout;
mod table;
pub mod wrap;

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

pub use progress::Console;
pub use stdout::{Stdout, usage};
pub use table::{Align, Table, bytes};

/// Writes one line to stderr. Where that is closed or full the message is lost, but not the work it belongs to.
pub fn message(text: &str) {
    let line = format!("{}\n", printable::line(text));
    let _ = io::stderr().lock().write_all(line.as_bytes());
}

/// Like [`message`], with words kept whole where it is wider than the window. A line that begins with blanks is a command or
/// a row of a table, which stays as it is.
pub fn paragraph(text: &str) {
    if text.starts_with(' ') || !io::stderr().is_terminal() {
        return message(text);
    }
    let text = printable::line(text);
    let text = wrap::wrapped(&text, wrap::window());
    if text.is_empty() { message("") } else { text.lines().for_each(message) }
}

/// Writes the beginning of a line that somebody is to go on with, to stderr.
pub fn prompt(text: &str) {
    let _ = io::stderr().lock().write_all(printable::line(text).as_bytes());
}

/// Asks a person at the terminal a question; an empty answer means `yes`. `None` where nobody is there to answer.
///
/// # Errors
/// Reading the answer failed.
pub fn ask(question: &str, yes: bool) -> io::Result<Option<bool>> {
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Ok(None);
    }
    prompt(&format!("{question} {} ", if yes { "[Y/n]" } else { "[y/N]" }));
    // Nothing is at work that would notice a signal.
    crate::interrupt::end_at_once(true);
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    crate::interrupt::end_at_once(false);
    Ok(Some(match (read?, answer.trim().to_ascii_lowercase().as_str()) {
        (0, _) => false, // the end of the input
        (_, "") => yes,
        (_, answer) => matches!(answer, "y" | "yes"),
    }))
}

/// Whether results appear on a terminal.
pub fn stdout_is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Lines of a log, as [`message`]s: writing them never fails.
pub struct LogLines;

impl io::Write for LogLines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        message(String::from_utf8_lossy(bytes).trim_end_matches('\n'));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
