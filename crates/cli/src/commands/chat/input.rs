//! Reading messages: an editor on a terminal, plain lines elsewhere.

use std::io::{self, BufRead as _, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::Result;
use rustyline::completion::{Completer, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{
    Cmd, CompletionType, ConditionalEventHandler, Config, Editor, Event, EventContext, EventHandler, KeyCode, KeyEvent,
    Modifiers, RepeatCount,
};

use super::{command, settings, terminal};
use crate::output::{Console, message};

/// Messages that are remembered.
const HISTORY: usize = 1000;

/// Where messages come from.
pub enum Input {
    /// From a terminal, with editing and history.
    Edited(Box<Edited>),
    /// Line by line, where the answers go to a file.
    Plain,
}

/// A terminal.
pub struct Edited {
    editor: Editor<Helper, FileHistory>,
    history: Option<PathBuf>,
    /// Whether the line was empty when Ctrl-C was pressed.
    was_empty: Arc<AtomicBool>,
    goes_on: GoesOn,
}

/// What stood before the cursor each time that Enter was pressed after a backslash.
type GoesOn = Arc<Mutex<Vec<String>>>;

/// What somebody typed.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    Text(String),
    /// Ctrl-C, and whether the line was empty.
    Interrupted {
        empty: bool,
    },
    /// Ctrl-D, or the end of the input.
    End,
}

impl Input {
    /// An editor if stdin and stdout are terminals; messages are remembered in the file `history`, if there is one.
    pub fn open(history: Option<PathBuf>, console: &Console) -> Result<Self> {
        if !io::stdin().is_terminal() || !crate::output::stdout_is_terminal() {
            return Ok(Self::Plain);
        }
        let config = Config::builder()
            .max_history_size(HISTORY)?
            .completion_type(CompletionType::List)
            .bracketed_paste(true)
            .history_ignore_space(false)
            .build();
        let mut editor = Editor::with_config(config)?;
        editor.set_helper(Some(Helper));
        let goes_on = GoesOn::default();
        for key in [KeyEvent(KeyCode::Enter, Modifiers::ALT), KeyEvent::ctrl('j')] {
            editor.bind_sequence(key, EventHandler::Simple(Cmd::Newline));
        }
        editor.bind_sequence(
            KeyEvent(KeyCode::Enter, Modifiers::NONE),
            EventHandler::Conditional(Box::new(Enter(Arc::clone(&goes_on)))),
        );
        let was_empty = Arc::new(AtomicBool::new(true));
        let interrupt = Interrupt(Arc::clone(&was_empty));
        editor.bind_sequence(KeyEvent::ctrl('c'), EventHandler::Conditional(Box::new(interrupt)));
        let history = history.and_then(|path| match prepare(&mut editor, &path) {
            Ok(()) => Some(path),
            Err(error) => {
                console.say(&format!("{}: messages are not remembered: {error}", path.display()));
                None
            }
        });
        Ok(Self::Edited(Box::new(Edited { editor, history, was_empty, goes_on })))
    }

    /// Whether answers appear on the same terminal.
    pub fn is_edited(&self) -> bool {
        matches!(self, Self::Edited(_))
    }

    /// Reads a message after `prompt`; on a terminal `initial` can be edited.
    pub fn read(&mut self, prompt: &str, initial: &str) -> Result<Line> {
        match self {
            Self::Plain => {
                if io::stdin().is_terminal() {
                    crate::output::prompt(prompt);
                }
                let mut line = String::new();
                if io::stdin().lock().read_line(&mut line)? == 0 {
                    return Ok(Line::End);
                }
                Ok(Line::Text(line.trim_end_matches(['\r', '\n']).to_owned()))
            }
            Self::Edited(edited) => {
                let mode = terminal::Prompt::begin();
                let read = edited.editor.readline_with_initial(prompt, (initial, ""));
                drop(mode);
                let typed = edited.goes_on.lock().map(|mut typed| std::mem::take(&mut *typed)).unwrap_or_default();
                match read {
                    Ok(text) => Ok(Line::Text(without_marks(text, &typed))),
                    Err(ReadlineError::Interrupted) => {
                        Ok(Line::Interrupted { empty: edited.was_empty.load(Ordering::Relaxed) })
                    }
                    Err(ReadlineError::Eof) => Ok(Line::End),
                    // The terminal has gone away.
                    Err(ReadlineError::Io(error)) if error.raw_os_error() == Some(EIO) => Ok(Line::End),
                    Err(error) => Err(error.into()),
                }
            }
        }
    }

    /// Remembers a message.
    pub fn remember(&mut self, text: &str) {
        let Self::Edited(edited) = self else { return };
        if !edited.editor.add_history_entry(text).unwrap_or(false) {
            return;
        }
        if let Some(path) = &edited.history
            && let Err(error) = edited.editor.append_history(path)
        {
            message(&format!("{}: messages are not remembered: {error}", path.display()));
            edited.history = None;
        }
    }

    /// A question to be answered by yes or no; Enter means `yes`. Ctrl-C and Ctrl-D mean no.
    pub fn ask(&mut self, question: &str, yes: bool) -> Result<bool> {
        let prompt = format!("{question} {} ", if yes { "[Y/n]" } else { "[y/N]" });
        loop {
            let Line::Text(text) = self.read(&prompt, "")? else { return Ok(false) };
            match text.trim().to_lowercase().as_str() {
                "" => return Ok(yes),
                "y" | "yes" => return Ok(true),
                "n" | "no" => return Ok(false),
                _ => message("Please answer y or n."),
            }
        }
    }
}

/// What reading a terminal that was closed gives.
const EIO: i32 = 5;

/// Reads the earlier messages, and sees to it that there is a folder for the next ones.
fn prepare(editor: &mut Editor<Helper, FileHistory>, path: &Path) -> Result<()> {
    if path.exists() {
        return Ok(editor.load_history(path)?);
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    Ok(())
}

/// Where messages are remembered: the folder for state of the XDG base directory specification, `%LOCALAPPDATA%` on Windows.
pub fn history_file() -> Option<PathBuf> {
    let given = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = if cfg!(windows) {
        given("LOCALAPPDATA")?
    } else {
        given("XDG_STATE_HOME").or_else(|| Some(given("HOME")?.join(".local").join("state")))?
    };
    Some(folder.join("sherry").join("history"))
}

/// Enter after a backslash begins a new line.
struct Enter(GoesOn);

impl ConditionalEventHandler for Enter {
    fn handle(&self, _: &Event, _: RepeatCount, _: bool, context: &EventContext<'_>) -> Option<Cmd> {
        let (line, at) = (context.line(), context.pos());
        if at < line.len() || !line.ends_with('\\') {
            return None;
        }
        self.0.lock().ok()?.push(line.to_owned());
        Some(Cmd::Newline)
    }
}

/// `text` without the backslashes at the ends of `typed`, its beginnings at which Enter was pressed. Backslashes before
/// other line ends, in a pasted program for example, stay.
fn without_marks(mut text: String, typed: &[String]) -> String {
    for start in typed.iter().rev() {
        if text.strip_prefix(start.as_str()).is_some_and(|rest| rest.starts_with('\n')) {
            text.remove(start.len() - 1);
        }
    }
    text
}

/// Ctrl-C, with a note of what it met.
struct Interrupt(Arc<AtomicBool>);

impl ConditionalEventHandler for Interrupt {
    fn handle(&self, _: &Event, _: RepeatCount, _: bool, context: &EventContext<'_>) -> Option<Cmd> {
        self.0.store(context.line().is_empty(), Ordering::Relaxed);
        Some(Cmd::Interrupt)
    }
}

/// Completes commands, and waits for the end of triple quotes.
struct Helper;

impl rustyline::Helper for Helper {}
impl Highlighter for Helper {}
impl Hinter for Helper {
    type Hint = String;
}

impl Validator for Helper {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(if command::is_open(context.input()) { ValidationResult::Incomplete } else { ValidationResult::Valid(None) })
    }
}

impl Completer for Helper {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        at: usize,
        _: &rustyline::Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Self::Candidate>)> {
        let typed = &line[..at];
        let pairs = |names: &mut dyn Iterator<Item = &'static str>, start: &str| {
            let fitting = names.filter(|name| name.starts_with(start));
            fitting.map(|name| Pair { display: name.to_owned(), replacement: format!("{name} ") }).collect()
        };
        if let Some(start) = typed.strip_prefix("/set ") {
            return Ok((at - start.len(), pairs(&mut settings::names(), start)));
        }
        if typed.starts_with('/') && !typed.contains(char::is_whitespace) {
            return Ok((0, pairs(&mut command::COMMANDS.iter().map(|command| command.name), typed)));
        }
        Ok((at, Vec::new()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_typed_backslashes_are_marks() {
        let typed = |starts: &[&str]| starts.iter().map(|start| (*start).to_owned()).collect::<Vec<_>>();
        let text = "a \\\nb\\\nc".to_owned();
        assert_eq!(without_marks(text.clone(), &typed(&["a \\", "a \\\nb\\"])), "a \nb\nc");
        assert_eq!(without_marks(text.clone(), &typed(&["a \\\nb\\"])), "a \\\nb\nc");
        assert_eq!(without_marks(text.clone(), &[]), text);
        // Edited afterwards: what is no longer there is no mark.
        assert_eq!(without_marks("x \\\nb".to_owned(), &typed(&["a \\"])), "x \\\nb");
    }
}
