//! Text from files, made fit for a terminal.
//!
//! Names, keys, tokens and messages come out of model files, from servers and from other programs. Printed as they are,
//! a control character in them could move the cursor, hide or forge lines, or change the title of the window, and a mark
//! of writing direction could show another name than the one that is there. So such characters appear as escapes.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Characters that steer a terminal or the layout of a line instead of being seen.
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// `text` with every character for which `wanted` holds replaced by what `escape` writes for it.
fn escaped(text: &str, wanted: impl Fn(char) -> bool, escape: impl Fn(char, &mut String)) -> Cow<'_, str> {
    if !text.contains(&wanted) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if wanted(c) { escape(c, &mut safe) } else { safe.push(c) }
    }
    Cow::Owned(safe)
}

fn as_in_rust(c: char, out: &mut String) {
    out.extend(c.escape_default());
}

/// One line: line ends and tabs are escaped, too.
pub fn line(text: &str) -> Cow<'_, str> {
    escaped(text, steers, as_in_rust)
}

/// A word of a command line that is shown to be copied: quoted where a shell would take it apart or replace parts of it.
pub fn word(text: &str) -> Cow<'_, str> {
    let text = line(text);
    let is_plain = |c: char| c.is_alphanumeric() || "_-./=:,@%+~".contains(c);
    let is_word = !text.is_empty() && text.chars().all(is_plain) && !text.starts_with('~');
    if is_word { text } else { Cow::Owned(format!("'{}'", text.replace('\'', "'\\''"))) }
}

/// A command line that is shown to be copied.
pub fn command(words: &[&str]) -> String {
    words.iter().map(|text| word(text)).collect::<Vec<_>>().join(" ")
}

/// The command that this process is, as it can be typed.
pub fn typed() -> String {
    let words: Vec<String> = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    command(&["sherry"].into_iter().chain(words.iter().map(String::as_str)).collect::<Vec<_>>())
}

/// Several lines, as a report has them.
pub fn lines(text: &str) -> Cow<'_, str> {
    escaped(text, |c| steers(c) && !matches!(c, '\n' | '\t'), as_in_rust)
}

/// What a model says. Only controls are escaped: joiners and direction marks belong to some scripts and to emoji.
pub fn answer(text: &str) -> Cow<'_, str> {
    escaped(text, |c| c.is_control() && !matches!(c, '\n' | '\t'), as_in_rust)
}

/// JSON text with the same meaning. Its line ends stand between values, everything else that steers is in strings.
pub fn json(text: &str) -> Cow<'_, str> {
    let escape = |c: char, out: &mut String| {
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(out, "\\u{unit:04x}"); // writing to a string cannot fail
        }
    };
    escaped(text, |c| steers(c) && c != '\n', escape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_steers_a_terminal_passes() {
        let hostile = "a\u{1b}]0;title\u{7}\r\u{9b}2J\u{7f}\u{202e}x\u{2066}\u{200b}\u{feff}\u{e0041}\0";
        for shown in [line(hostile), lines(hostile)] {
            assert!(shown.chars().all(|c| !steers(c)), "{shown:?}");
            assert!(shown.starts_with("a\\u{1b}]0;title\\u{7}\\r\\u{9b}2J"), "{shown}");
        }
        assert!(answer(hostile).chars().all(|c| !c.is_control()));
        assert_eq!(line("a\n\tb"), "a\\n\\tb");
        for keeps_lines in [lines, answer] {
            assert_eq!(keeps_lines("a\n\tb"), "a\n\tb");
        }
    }

    #[test]
    fn other_text_is_left_alone() {
        let text = "naïve 漢字 ▁Ġ€ \u{301} 😀 שלום";
        for same in [line, lines, answer, json] {
            assert!(matches!(same(text), Cow::Borrowed(_)));
        }
        assert_eq!(answer("👨\u{200d}👩\u{200d}👧"), "👨\u{200d}👩\u{200d}👧");
    }

    #[test]
    fn escaped_json_means_the_same() {
        let value = serde_json::json!({ "k\u{9b}\u{202e}": ["\u{1b}\n", "\u{e0041}", "漢"] });
        for text in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
            let shown = json(&text);
            assert!(shown.chars().all(|c| c == '\n' || !steers(c)), "{shown:?}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
        }
    }
}
