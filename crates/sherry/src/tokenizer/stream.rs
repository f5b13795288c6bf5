//! Text of an answer while it is being generated: whole characters only.

use std::ops::Deref;

use super::Tokenizer;

/// Turns token ids into text piece by piece. A character spread over several tokens comes out when its last byte is
/// there; the concatenation of all pieces equals [`Tokenizer::decode`] without control tokens.
///
/// The tokenizer is borrowed (`&Tokenizer`) or shared (`Arc<Tokenizer>`).
pub struct TokenStream<T> {
    tokenizer: T,
    pending: Vec<u8>,
    at_start: bool,
}

impl<T: Deref<Target = Tokenizer>> TokenStream<T> {
    /// A stream for a whole text from its beginning (`at_start`: a SentencePiece vocabulary's first space is dropped)
    /// or for the continuation of a prompt.
    pub fn new(tokenizer: T, at_start: bool) -> Self {
        Self { tokenizer, pending: Vec::new(), at_start }
    }

    /// The text that became complete with `id`; often empty. Control tokens and ids without a text have none.
    pub fn push(&mut self, id: u32) -> String {
        if self.tokenizer.is_control(id) {
            return String::new();
        }
        self.tokenizer.push_text(id, &mut self.at_start, &mut self.pending);
        let ready = self.pending.len() - incomplete_tail(&self.pending);
        let text = String::from_utf8_lossy(&self.pending[..ready]).into_owned();
        self.pending.drain(..ready);
        text
    }

    /// What is left when no more tokens come: U+FFFD for an unfinished character.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }
}

/// How many bytes at the end may still become a character with more bytes to come (0 to 3).
fn incomplete_tail(bytes: &[u8]) -> usize {
    let from = bytes.len().saturating_sub(3);
    for at in (from..bytes.len()).rev() {
        if bytes[at] < 0x80 {
            return 0;
        }
        if bytes[at] >= 0xC0 {
            let tail = &bytes[at..];
            return match std::str::from_utf8(tail) {
                // No error length: the bytes are fine so far but end too early.
                Err(err) if err.error_len().is_none() => tail.len(),
                _ => 0,
            };
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::incomplete_tail;

    #[test]
    fn only_possible_beginnings_are_held_back() {
        assert_eq!(incomplete_tail(b""), 0);
        assert_eq!(incomplete_tail(b"abc"), 0);
        let emoji = "😀".as_bytes();
        for cut in 1..4 {
            assert_eq!(incomplete_tail(&emoji[..cut]), cut);
        }
        assert_eq!(incomplete_tail(emoji), 0);
        assert_eq!(incomplete_tail("é".as_bytes()), 0);
        assert_eq!(incomplete_tail(&[0x80, 0x80, 0x80]), 0);
        assert_eq!(incomplete_tail(&[0xFF]), 0);
        assert_eq!(incomplete_tail(&[0xE0, 0x80]), 0); // overlong: never valid
        assert_eq!(incomplete_tail(&[0xF0, 0x9F, b'a']), 0);
    }
}
