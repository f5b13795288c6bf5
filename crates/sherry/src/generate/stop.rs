//! Ending an answer at a given text, wherever the token boundaries fall.

use crate::{Error, Result};

/// Most stop strings of a request.
const MAX_STRINGS: usize = 64;
/// Longest stop string in bytes: bounds the text that is held back.
const MAX_BYTES: usize = 4096;

/// Looks for stop strings in text that arrives in pieces. Text that may be the beginning of one is held back until
/// that is decided, so that no part of a stop string is ever shown.
///
/// ```
/// use sherry::generate::StopStrings;
/// let mut stop = StopStrings::new(["User:".to_owned()])?;
/// assert_eq!(stop.push("Yes.\nUs"), "Yes.\n");
/// assert_eq!(stop.push("er: And"), "");
/// assert!(stop.found());
/// # Ok::<(), sherry::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct StopStrings {
    strings: Vec<String>,
    held: String,
    found: bool,
}

impl StopStrings {
    /// Stops at the first occurrence of any of `strings`.
    ///
    /// # Errors
    /// [`Error::Invalid`]: more than 64 strings, an empty one, or one longer than 4096 bytes.
    pub fn new(strings: impl IntoIterator<Item = String>) -> Result<Self> {
        let strings: Vec<String> = strings.into_iter().take(MAX_STRINGS + 1).collect();
        if strings.len() > MAX_STRINGS {
            return Err(Error::Invalid(format!("more than {MAX_STRINGS} stop strings")));
        }
        if let Some(bad) = strings.iter().find(|text| text.is_empty() || text.len() > MAX_BYTES) {
            return Err(Error::Invalid(format!("a stop string has {} bytes; expected 1 to {MAX_BYTES}", bad.len())));
        }
        Ok(Self { strings, held: String::new(), found: false })
    }

    /// Takes the next piece of text and returns what can be shown now. After a stop string nothing more comes out.
    pub fn push(&mut self, piece: &str) -> String {
        if self.found {
            return String::new();
        }
        self.held.push_str(piece);
        // The occurrence that ends first counts, so that the result does not depend on how the text arrived.
        let ends = |text: &String| self.held.find(text.as_str()).map(|at| (at + text.len(), at));
        if let Some((_, at)) = self.strings.iter().filter_map(ends).min() {
            self.found = true;
            self.held.truncate(at);
            return std::mem::take(&mut self.held);
        }
        let kept = self.possible_start();
        let rest = self.held.split_off(kept);
        std::mem::replace(&mut self.held, rest)
    }

    /// Where the earliest possible beginning of a stop string is: at most its length from the end.
    fn possible_start(&self) -> usize {
        let longest = self.strings.iter().map(String::len).max().unwrap_or(0);
        let from = self.held.len().saturating_sub(longest.saturating_sub(1));
        (from..self.held.len())
            .filter(|at| self.held.is_char_boundary(*at))
            .find(|at| self.strings.iter().any(|text| text.starts_with(&self.held[*at..])))
            .unwrap_or(self.held.len())
    }

    /// Whether a stop string has been found.
    pub fn found(&self) -> bool {
        self.found
    }

    /// The text still held back, when no more comes: the beginning of a stop string that never finished.
    pub fn finish(self) -> String {
        self.held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(strings: &[&str], pieces: &[&str]) -> (String, bool) {
        let mut stop = StopStrings::new(strings.iter().map(|text| (*text).to_string())).unwrap();
        let mut shown = String::new();
        for piece in pieces {
            shown.push_str(&stop.push(piece));
        }
        let found = stop.found();
        shown.push_str(&stop.finish());
        (shown, found)
    }

    #[test]
    fn stops_across_pieces() {
        assert_eq!(run(&["STOP"], &["ab S", "TO", "P cd", "more"]), ("ab ".into(), true));
        assert_eq!(run(&["STOP"], &["ab STO", "x"]), ("ab STOx".into(), false));
        assert_eq!(run(&["STOP"], &["ab STO"]), ("ab STO".into(), false));
        assert_eq!(run(&["aab"], &["a", "a", "a", "b", "c"]), ("a".into(), true));
        assert_eq!(run(&["\n\n", "User:"], &["x\n", "Us", "er", ": y"]), ("x\n".into(), true));
        assert_eq!(run(&["bc", "abcd"], &["ab", "cd"]), ("a".into(), true));
        assert_eq!(run(&["bc", "abcd"], &["abcd"]), ("a".into(), true));
        assert_eq!(run(&[], &["a", "b"]), ("ab".into(), false));
        assert_eq!(run(&["é😀"], &["x", "é", "😀y"]), ("x".into(), true));
    }

    #[test]
    fn nothing_of_a_stop_string_is_shown_early_and_nothing_else_is_held() {
        let mut stop = StopStrings::new(["</s>".to_string()]).unwrap();
        assert_eq!(stop.push("hi <"), "hi ");
        assert_eq!(stop.push("b"), "<b");
        assert_eq!(stop.push("</"), "");
        assert_eq!(stop.push("</s"), "</");
        assert_eq!(stop.push(">tail"), "");
        assert!(stop.found());
        assert_eq!(stop.push("more"), "");
        assert_eq!(stop.finish(), "");
    }

    #[test]
    fn every_split_of_a_text_gives_the_same() {
        let text = "abcabcabd<e>nd";
        for at in 0..=text.len() {
            for to in at..=text.len() {
                let pieces = [&text[..at], &text[at..to], &text[to..]];
                assert_eq!(run(&["abcabd"], &pieces), ("abc".into(), true), "{pieces:?}");
            }
        }
    }

    #[test]
    fn unusable_strings_are_refused() {
        assert!(StopStrings::new([String::new()]).is_err());
        assert!(StopStrings::new(["x".repeat(5000)]).is_err());
        assert!(StopStrings::new(vec!["x".to_string(); 65]).is_err());
    }
}
