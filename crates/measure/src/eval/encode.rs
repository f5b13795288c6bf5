//! From request texts to tokens, as the harness encodes them.

use super::lm::Request;
use super::python::is_space;
use sherry::tokenizer::Tokenizer;
use sherry::{Error, Result};

/// The tokens of one request: what is read and what is scored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Context and continuation.
    pub tokens: Vec<u32>,
    /// Tokens at the end that are scored; at least one.
    pub scored: usize,
}

/// Encodes requests, which mostly repeat the context of the one before.
pub struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    max_length: usize,
    context: String,
    context_tokens: usize,
}

impl<'a> Encoder<'a> {
    /// An encoder for a model that reads at most `max_length` tokens.
    pub fn new(tokenizer: &'a Tokenizer, max_length: usize) -> Self {
        Self { tokenizer, max_length, context: String::new(), context_tokens: 0 }
    }

    /// The tokens of `request`; rules at [`Lm::loglikelihood`](super::Lm::loglikelihood).
    ///
    /// # Errors
    /// [`Error::Invalid`] for a continuation without tokens or longer than the model can read.
    pub fn pair(&mut self, request: &Request) -> Result<Pair> {
        let context = request.context.trim_end_matches(is_space);
        let spaces = &request.context[context.len()..];
        let continuation = format!("{spaces}{}", request.continuation);
        // Of a context of spaces only, the harness finds nothing left and encodes nothing; here it counts as empty.
        let (mut tokens, read) = if context.is_empty() {
            let mut tokens = self.tokenizer.encode(&continuation, false, true)?;
            let prefix = prefix_token(self.tokenizer)?;
            if tokens.first() != Some(&prefix) {
                tokens.insert(0, prefix);
            }
            (tokens, 1)
        } else {
            if self.context_tokens == 0 || self.context != context {
                self.context_tokens = self.encode(context)?.len();
                self.context = context.to_string();
            }
            (self.encode(&format!("{context}{continuation}"))?, self.context_tokens)
        };
        let scored = tokens.len().saturating_sub(read);
        if scored == 0 {
            let problem = format!("the continuation {:?} has no tokens of its own", request.continuation);
            return Err(Error::Invalid(problem));
        }
        if scored > self.max_length {
            return Err(Error::Invalid(format!(
                "a continuation of {scored} tokens does not fit the model's context of {} tokens",
                self.max_length
            )));
        }
        // The last token is scored but not read.
        let surplus = tokens.len().saturating_sub(self.max_length + 1);
        tokens.drain(..surplus);
        Ok(Pair { tokens, scored })
    }

    /// Tokens of a text, with the special tokens the tokenizer adds by itself unless the text brings its own.
    fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let own =
            self.tokenizer.bos().and_then(|bos| self.tokenizer.id_to_token(bos)).is_some_and(|t| text.starts_with(t));
        self.tokenizer.encode(text, !own, true)
    }
}

/// What stands before a text that has nothing before it: beginning of text, or else end of text.
///
/// # Errors
/// [`Error::Tokenizer`] when the tokenizer has neither.
pub fn prefix_token(tokenizer: &Tokenizer) -> Result<u32> {
    let token = tokenizer.bos().or_else(|| tokenizer.eos());
    token.ok_or_else(|| Error::Tokenizer("has neither a beginning-of-text nor an end-of-text token".to_string()))
}
