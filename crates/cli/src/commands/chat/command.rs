//! What can be typed in a conversation besides messages.

use sherry_convert::nearest::nearest;

/// How like a known name a word must be for it to be offered instead.
pub const LIKENESS: f64 = 0.75;

/// A command, its arguments, and what it does.
pub struct Known {
    pub name: &'static str,
    pub arguments: &'static str,
    pub what: &'static str,
}

const fn known(name: &'static str, arguments: &'static str, what: &'static str) -> Known {
    Known { name, arguments, what }
}

/// All commands, in the order of the help.
pub const COMMANDS: [Known; 10] = [
    known("/help", "", "this list"),
    known("/system", "[TEXT]", "show or set the instructions; /system none removes them"),
    known("/set", "[NAME [VALUE]]", "show or change sampling and limits"),
    known("/regenerate", "", "answer the last message again"),
    known("/save", "FILE", "write the conversation as JSON"),
    known("/load", "FILE", "go on with a saved conversation"),
    known("/stats", "", "speed and memory of the last answer, room in the context"),
    known("/clear", "", "forget the conversation, keep the instructions"),
    known("/bye", "", "leave; so do Ctrl-D, and Ctrl-C twice"),
    known("/?", "", "the same as /help"),
];

/// The keys that people cannot guess.
pub const KEYS: &str = "\
Alt-Enter or Ctrl-J, or a backslash at the end of a line, begins a new line of the same message; so does Enter inside of
triple quotes (\"\"\"). A pasted text is one message. Arrow keys edit and recall earlier messages, Ctrl-R searches them, Tab
completes commands. Ctrl-C stops an answer. A blank before a slash makes a message of it.";

/// What was typed.
#[derive(Debug, PartialEq, Eq)]
pub enum Typed<'t> {
    /// Nothing.
    Nothing,
    /// Something to say to the model.
    Message(&'t str),
    /// A command by its full name, and the rest of the line.
    Command(&'static str, &'t str),
    /// A command that does not exist, and the nearest one that does.
    Unknown(&'t str, Option<&'static str>),
}

/// Understands `text`: a command is a slash and a word at the beginning of a single line, or of triple quotes.
pub fn typed(text: &str) -> Typed<'_> {
    let (first, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let is_word =
        first.len() > 1 && first.starts_with('/') && first[1..].chars().all(|c| c.is_alphanumeric() || c == '?');
    let rest = rest.trim();
    if is_word && (!rest.contains('\n') || rest.starts_with(QUOTES)) {
        return match name_of(first) {
            Ok(name) => Typed::Command(name, unquoted(rest)),
            Err(nearest) => Typed::Unknown(first, nearest),
        };
    }
    match unquoted(text.trim()) {
        "" => Typed::Nothing,
        message => Typed::Message(message),
    }
}

fn name_of(word: &str) -> Result<&'static str, Option<&'static str>> {
    let lower = word.to_lowercase();
    match &lower[..] {
        "/?" | "/h" => return Ok("/help"),
        "/exit" | "/quit" | "/q" => return Ok("/bye"),
        "/reset" | "/new" => return Ok("/clear"),
        "/retry" | "/regen" => return Ok("/regenerate"),
        _ => {}
    }
    let names = COMMANDS.iter().map(|command| command.name);
    if let Some(name) = names.clone().find(|name| *name == lower) {
        return Ok(name);
    }
    Err(nearest(&lower, names, LIKENESS))
}

const QUOTES: &str = "\"\"\"";

/// Whether triple quotes that `text` begins with have not been closed.
pub fn is_open(text: &str) -> bool {
    let text = text.trim_start();
    let rest = match text.split_once(char::is_whitespace) {
        Some((first, rest)) if first.starts_with('/') => rest.trim_start(),
        _ => text,
    };
    rest.starts_with(QUOTES) && rest.matches(QUOTES).count() % 2 == 1
}

/// `text` without the triple quotes around all of it.
fn unquoted(text: &str) -> &str {
    let inner = text.strip_prefix(QUOTES).and_then(|text| text.strip_suffix(QUOTES));
    inner.filter(|inner| !inner.contains(QUOTES)).map_or(text, str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_told_from_messages() {
        for (text, expected) in [
            ("", Typed::Nothing),
            (" \n ", Typed::Nothing),
            ("\"\"\"\"\"\"", Typed::Nothing),
            ("hello", Typed::Message("hello")),
            ("/help", Typed::Command("/help", "")),
            ("/? ", Typed::Command("/help", "")),
            ("/QUIT", Typed::Command("/bye", "")),
            ("/set temp 0.5", Typed::Command("/set", "temp 0.5")),
            ("/system \"\"\"Be brief.\nBe kind.\"\"\"", Typed::Command("/system", "Be brief.\nBe kind.")),
            ("/hepl", Typed::Unknown("/hepl", Some("/help"))),
            ("/sytem x", Typed::Unknown("/sytem", Some("/system"))),
            ("/zzzz", Typed::Unknown("/zzzz", None)),
            // Paths, pasted texts and what follows a blank are messages.
            ("/usr/bin is what?", Typed::Message("/usr/bin is what?")),
            (" /help", Typed::Message("/help")),
            ("/set x\nis a line of a script", Typed::Message("/set x\nis a line of a script")),
            ("/", Typed::Message("/")),
            ("\"\"\"a\n\nb\"\"\"", Typed::Message("a\n\nb")),
            ("\"\"\"doc\"\"\"\ncode\n\"\"\"x\"\"\"", Typed::Message("\"\"\"doc\"\"\"\ncode\n\"\"\"x\"\"\"")),
        ] {
            assert_eq!(typed(text), expected, "{text:?}");
        }
    }

    #[test]
    fn open_quotes_ask_for_more() {
        for (text, open) in [
            ("\"\"\"a", true),
            ("\"\"\"a\nb\"\"\"", false),
            ("/system \"\"\"a", true),
            ("say \"\"\"", false),
            ("\"\"", false),
            ("", false),
        ] {
            assert_eq!(is_open(text), open, "{text:?}");
        }
    }
}
