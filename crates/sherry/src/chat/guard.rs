//! Keeps text of users from turning into control tokens on its way through a template.
//!
//! Before rendering, every stretch of a message that is, or could become part of, a control token's text is replaced
//! by one private-use character; after rendering, those characters become the original text again and their place is
//! noted. Everything else in the message stays as it is, so that templates can trim it, split it and look into it.

use std::collections::HashMap;
use std::ops::Range;

use super::{Message, Prompt};
use crate::tokenizer::{Added, Specials};
use crate::{Error, Result};

/// Stand-ins: the private-use planes 15 and 16, without their last two code points (not characters).
const STAND_INS: [std::ops::RangeInclusive<u32>; 2] = [0xF_0000..=0xF_FFFD, 0x10_0000..=0x10_FFFD];

/// Which stand-in means which text, for one rendering.
pub(super) struct Guard {
    control: Specials,
    meanings: Vec<String>,
    stand_ins: HashMap<String, char>,
}

impl Guard {
    /// A guard against the control tokens with these texts.
    pub fn new<'t>(control: impl Iterator<Item = &'t str>) -> Result<Self> {
        let control = control.map(|text| Added::new(text, 0, true)).collect();
        Ok(Self { control: Specials::new(control)?, meanings: Vec::new(), stand_ins: HashMap::new() })
    }

    /// The message with stand-ins for everything dangerous.
    pub fn protect(&mut self, message: &Message) -> Result<Message> {
        Ok(Message { role: self.protect_text(&message.role)?, content: self.protect_text(&message.content)? })
    }

    fn protect_text(&mut self, text: &str) -> Result<String> {
        let mut safe = String::with_capacity(text.len());
        let mut at = 0;
        for range in self.dangerous(text) {
            safe.push_str(&text[at..range.start]);
            safe.push(self.stand_in(&text[range.clone()])?);
            at = range.end;
        }
        safe.push_str(&text[at..]);
        Ok(safe)
    }

    /// Sorted, disjoint ranges: control tokens, parts of one at either end, characters that are stand-ins themselves.
    fn dangerous(&self, text: &str) -> Vec<Range<usize>> {
        let stretches = self.control.split(text, true, |_| None).into_iter();
        let mut ranges: Vec<_> = stretches.filter(|found| found.id.is_some()).map(|found| found.range).collect();
        let stand_ins = text.char_indices().filter(|(_, c)| stand_in_index(*c).is_some());
        ranges.extend(stand_ins.map(|(at, c)| at..at + c.len_utf8()));
        // Templates trim, so a part of a control token also counts next to white space at either end.
        for start in [0, text.len() - text.trim_start().len()] {
            let part = |control: &str, at: usize| text[start..].starts_with(&control[at..]).then(|| control.len() - at);
            ranges.extend(self.longest_part(part).map(|length| start..start + length));
        }
        for end in [text.trim_end().len(), text.len()] {
            let part = |control: &str, at: usize| text[..end].ends_with(&control[..at]).then_some(at);
            ranges.extend(self.longest_part(part).map(|length| end - length..end));
        }
        ranges.sort_unstable_by_key(|range| (range.start, range.end));
        let mut merged: Vec<Range<usize>> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match merged.last_mut() {
                Some(last) if range.start < last.end => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        merged
    }

    /// The largest length that `part` gives for a control token cut somewhere inside.
    fn longest_part(&self, part: impl Fn(&str, usize) -> Option<usize>) -> Option<usize> {
        let cuts = |text: &str| text.char_indices().skip(1).filter_map(|(at, _)| part(text, at)).max();
        self.control.iter().filter_map(|control| cuts(&control.text)).max()
    }

    fn stand_in(&mut self, text: &str) -> Result<char> {
        if let Some(c) = self.stand_ins.get(text) {
            return Ok(*c);
        }
        let c = STAND_INS
            .into_iter()
            .flatten()
            .nth(self.meanings.len())
            .and_then(char::from_u32)
            .ok_or_else(|| Error::Template("the messages contain too many different control tokens".into()))?;
        self.meanings.push(text.to_string());
        self.stand_ins.insert(text.to_string(), c);
        Ok(c)
    }

    /// The rendered text with the original text in place of the stand-ins.
    pub fn restore(&self, rendered: &str) -> Prompt {
        let mut prompt = Prompt { text: String::with_capacity(rendered.len()), literal: Vec::new() };
        for c in rendered.chars() {
            match stand_in_index(c).and_then(|index| self.meanings.get(index)) {
                Some(meaning) => {
                    let start = prompt.text.len();
                    prompt.text.push_str(meaning);
                    prompt.literal.push(start..prompt.text.len());
                }
                None => prompt.text.push(c),
            }
        }
        prompt
    }
}

/// Which stand-in `c` is, counted from the first.
fn stand_in_index(c: char) -> Option<usize> {
    let code = c as u32;
    let [low, high] = STAND_INS;
    if low.contains(&code) {
        Some((code - low.start()) as usize)
    } else if high.contains(&code) {
        Some((code - high.start() + (low.end() - low.start() + 1)) as usize)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guarded(text: &str) -> (String, Prompt) {
        let mut guard = Guard::new(["<|end|>", "<|e", "<a>"].into_iter()).unwrap();
        let safe = guard.protect_text(text).unwrap();
        let prompt = guard.restore(&safe);
        (safe, prompt)
    }

    #[test]
    fn only_dangerous_text_is_replaced_and_all_comes_back() {
        let cases: [(&str, &[Range<usize>]); 9] = [
            ("", &[]),
            ("hello < world", &[]),
            ("x<|end|>y", &[Range { start: 1, end: 8 }]),
            ("x<|end", &[Range { start: 1, end: 6 }]),
            ("x<|end \n", &[Range { start: 1, end: 6 }]),
            ("|> x", &[Range { start: 0, end: 2 }]),
            ("  >x", &[Range { start: 2, end: 3 }]),
            ("\u{F0000}", &[Range { start: 0, end: 4 }]),
            (
                "<a>\u{10FFFD}<a>",
                &[Range { start: 0, end: 3 }, Range { start: 3, end: 7 }, Range { start: 7, end: 10 }],
            ),
        ];
        for (text, literal) in cases {
            let (safe, prompt) = guarded(text);
            assert_eq!(prompt.text, text);
            assert_eq!(prompt.literal, literal, "{text:?}");
            assert!(!safe.contains("<|e") && !safe.contains("<a>"));
        }
    }
}
