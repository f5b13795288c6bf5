//! Standard output: the results.
//!
//! A reader that goes away (`sherry ... | head`) is no error: what is written afterwards goes nowhere, and the command
//! comes to its own end with its own exit code. Any other failure, a full disk for example, is an error.

use std::fmt;
use std::io::{self, IsTerminal, StdoutLock, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;
use serde_json::Value;

use super::{message, printable};

/// Version of what `--json` writes, as docs/json.md describes it. It rises when a field goes or changes its meaning.
const JSON_VERSION: u64 = 1;
/// Whether the reader went away.
static CLOSED: AtomicBool = AtomicBool::new(false);

/// Writing results failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output: {0}")]
pub struct StdoutError(#[source] io::Error);

type Result<T> = std::result::Result<T, StdoutError>;

/// Standard output, held for a while.
pub struct Stdout(StdoutLock<'static>);

impl Stdout {
    /// Nobody else writes until it is dropped.
    pub fn lock() -> Self {
        Self(io::stdout().lock())
    }

    /// Whether the reader went away: producing more makes no sense where the output is all that is wanted.
    pub fn is_closed() -> bool {
        CLOSED.load(Ordering::Relaxed)
    }

    /// Text for people, by `write!` and `writeln!`; what steers a terminal is escaped.
    pub fn write_fmt(&mut self, text: fmt::Arguments<'_>) -> Result<()> {
        self.bytes(printable::lines(&text.to_string()).as_bytes())
    }

    /// A document on several lines, with the version of its form.
    pub fn json(&mut self, value: &impl Serialize) -> Result<()> {
        self.json_text(versioned(value).and_then(|value| serde_json::to_string_pretty(&value)))
    }

    /// The same on one line.
    pub fn json_line(&mut self, value: &impl Serialize) -> Result<()> {
        self.json_text(versioned(value).and_then(|value| serde_json::to_string(&value)))
    }

    fn json_text(&mut self, text: serde_json::Result<String>) -> Result<()> {
        let text = text.map_err(|error| StdoutError(error.into()))?;
        self.bytes(printable::json(&text).as_bytes())?;
        self.bytes(b"\n")
    }

    /// A part of a model's answer, shown at once. Files and other programs get exactly what the model said.
    pub fn answer(&mut self, text: &str) -> Result<()> {
        if self.0.is_terminal() {
            self.bytes(printable::answer(text).as_bytes())?;
        } else {
            self.bytes(text.as_bytes())?;
        }
        self.flush()
    }

    /// A path on a line of its own, for a person or for a script that goes there.
    pub fn path(&mut self, path: &Path) -> Result<()> {
        if self.0.is_terminal() {
            return writeln!(self, "{}", printable::line(&path.display().to_string()));
        }
        self.bytes(&[path.as_os_str().as_encoded_bytes(), b"\n"].concat())
    }

    /// Bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        if Self::is_closed() { Ok(()) } else { unless_closed(self.0.write_all(bytes)) }
    }

    /// Hands over what is still held back.
    pub fn flush(&mut self) -> Result<()> {
        if Self::is_closed() { Ok(()) } else { unless_closed(self.0.flush()) }
    }
}

/// `value` with [`JSON_VERSION`] as the first field; of a list in every object.
fn versioned(value: &impl Serialize) -> serde_json::Result<Value> {
    let add = |value: &mut Value| {
        if let Value::Object(fields) = value {
            fields.shift_insert(0, "json_version".to_owned(), JSON_VERSION.into());
        }
    };
    let mut value = serde_json::to_value(value)?;
    match &mut value {
        Value::Array(list) => list.iter_mut().for_each(add),
        value => add(value),
    }
    Ok(value)
}

fn unless_closed(result: io::Result<()>) -> Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            CLOSED.store(true, Ordering::Relaxed);
            Ok(())
        }
        other => other.map_err(StdoutError),
    }
}

/// Shows what the parser of the command line has to say: help and version on stdout, mistakes on stderr.
pub fn usage(said: &clap::Error) -> ExitCode {
    let shown = said.print();
    if said.use_stderr() {
        return ExitCode::from(2); // whether or not anybody could read it
    }
    match unless_closed(shown.and_then(|()| io::stdout().flush())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            message(&format!("error: {error}"));
            ExitCode::from(2)
        }
    }
}
