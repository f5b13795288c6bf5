//! Words wrapped at the width of the window.
//!
//! Text comes in pieces, as a model says it. A word is held back until it has ended, then put on the line where it fits.
//! Code between fences of three backticks stays as it is.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Narrower windows are left to wrap by themselves.
const NARROWEST: usize = 20;

/// What is known of the line that is being written.
pub struct Wrapper {
    width: usize,
    /// Columns in use.
    column: usize,
    /// Line ends and blanks that stand before what comes next; those at the very beginning and end are left out.
    gap: String,
    word: String,
    /// Whether anything has been shown.
    begun: bool,
    /// What has come of this line of the text, as long as it could become a fence.
    head: Option<String>,
    in_code: bool,
}

impl Wrapper {
    /// For a window of `width` columns.
    pub fn new(width: usize) -> Self {
        let width = if width < NARROWEST { usize::MAX } else { width };
        let (gap, word, head) = (String::new(), String::new(), Some(String::new()));
        Self { width, column: 0, gap, word, begun: false, head, in_code: false }
    }

    /// Takes more text, and gives what is to be shown now.
    pub fn push(&mut self, text: &str) -> String {
        let mut out = String::new();
        for c in text.chars() {
            self.note_fence(c);
            match c {
                '\n' => {
                    self.flush(&mut out);
                    // Blanks before a line end are not seen.
                    self.gap.truncate(self.gap.trim_end_matches([' ', '\t']).len());
                    self.gap.push('\n');
                }
                ' ' | '\t' => {
                    self.flush(&mut out);
                    self.gap.push(c);
                }
                // Scripts that are written without blanks can be broken between any two of their wide characters.
                _ if c.width() == Some(2) => {
                    self.flush(&mut out);
                    self.word.push(c);
                }
                _ => self.word.push(c),
            }
        }
        out
    }

    /// What is still held back.
    pub fn finish(&mut self) -> String {
        let mut out = String::new();
        self.flush(&mut out);
        out
    }

    fn flush(&mut self, out: &mut String) {
        if self.word.is_empty() {
            return;
        }
        let gap = if self.begun { std::mem::take(&mut self.gap) } else { String::new() };
        let blanks = match gap.rfind('\n') {
            Some(last) => {
                self.column = 0;
                out.push_str(&gap[..=last]);
                &gap[last + 1..]
            }
            None => &gap,
        };
        // A tab reaches to the next multiple of eight, so eight columns cover it.
        let room = blanks.width() + 8 * blanks.matches('\t').count();
        let word = self.word.width();
        if !self.in_code && self.column > 0 && self.column.saturating_add(room + word) > self.width {
            out.push('\n');
            self.column = 0;
        } else {
            out.push_str(blanks);
            self.column = self.column.saturating_add(room);
        }
        out.push_str(&self.word);
        self.column = self.column.saturating_add(word);
        if self.column > self.width {
            // The terminal has broken a word that is wider than the window.
            self.column = (self.column - 1) % self.width + 1;
        }
        self.gap.clear();
        self.word.clear();
        self.begun = true;
    }

    /// A line that begins with three backticks begins or ends code.
    fn note_fence(&mut self, c: char) {
        if c == '\n' {
            self.head = Some(String::new());
        } else if let Some(head) = &mut self.head {
            head.push(c);
            let begun = head.trim_start();
            if begun == "```" {
                self.in_code = !self.in_code;
                self.head = None;
            } else if !"```".starts_with(begun) {
                self.head = None;
            }
        }
    }
}

/// Columns of the window; a line of any length where nobody knows.
pub fn window() -> usize {
    ratatui::crossterm::terminal::size().map_or(usize::MAX, |(columns, _)| usize::from(columns))
}

/// A whole text, wrapped.
pub fn wrapped(text: &str, width: usize) -> String {
    let mut wrapper = Wrapper::new(width);
    wrapper.push(text) + &wrapper.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stay_whole_and_lines_short() {
        assert_eq!(wrapped("the quick brown fox jumps over", 20), "the quick brown fox\njumps over");
        assert_eq!(wrapped("one two three four five six", 1000), "one two three four five six");
        assert_eq!(wrapped("a  b   c", 20), "a  b   c");
        // A word that is wider than the window is not cut by us; the next one knows where it ended.
        let long = "x".repeat(30);
        assert_eq!(wrapped(&format!("ab {long} cd 0123456789"), 20), format!("ab\n{long} cd\n0123456789"));
        // Lines of the text stay lines; what stands before a word at their beginning stays.
        assert_eq!(wrapped(" - a\n  - b \n\nc \n", 20), "- a\n  - b\n\nc");
        // Windows that are too narrow to read in are left alone.
        assert_eq!(wrapped("the quick brown fox", 5), "the quick brown fox");
    }

    #[test]
    fn wide_and_combining_characters_count_as_they_are_shown() {
        let wide = "日本語の文章は単語の間に空白を置かない";
        let shown = wrapped(wide, 20);
        assert!(shown.lines().all(|line| line.width() <= 20), "{shown}");
        assert_eq!(shown.replace('\n', ""), wide);
        let combining = "e\u{301}".repeat(9);
        assert_eq!(wrapped(&format!("{combining} {combining}x"), 20), format!("{combining} {combining}x"));
        assert_eq!(wrapped(&format!("{combining} {combining}xy"), 20), format!("{combining}\n{combining}xy"));
    }

    #[test]
    fn code_is_left_alone() {
        let code = "```python\nfor   i in range(10):  print(\"a long line of code that goes on and on\")\n```\n";
        let text = format!("{code}after the code come words that are wrapped again");
        let shown = wrapped(&text, 30);
        assert!(shown.starts_with(code), "{shown}");
        assert_eq!(&shown[code.len()..], "after the code come words that\nare wrapped again");
    }

    #[test]
    fn pieces_give_what_the_whole_gives() {
        let text =
            "Some words, 日本語 and `code`:\n\n```\nlet   x = 1; // quite a long line\n```\n  * the end of it all ";
        for width in [20, 23, 40, usize::MAX] {
            let whole = wrapped(text, width);
            let mut wrapper = Wrapper::new(width);
            let mut pieces: String = text.chars().map(|c| wrapper.push(&c.to_string())).collect();
            pieces += &wrapper.finish();
            assert_eq!(pieces, whole, "{width}");
        }
    }
}
