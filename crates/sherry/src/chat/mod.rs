//! From a conversation to the prompt a model was trained on.
//!
//! Templates come out of model files and are not trusted: see [`ChatTemplate`] for what they may do and use up.
//! What users typed is not trusted either: it never becomes a control token, see [`Prompt`].

mod guard;
mod jinja;
mod preset;
mod template;
#[cfg(test)]
mod tests;

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::tokenizer::Tokenizer;

pub use preset::Preset;
pub use template::{ChatTemplate, Date};

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant` or what else the template knows.
    pub role: String,
    /// What was said.
    pub content: String,
}

impl Message {
    /// A message of `role`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// A rendered conversation.
///
/// In its text, control tokens count only where the template wrote them. Wherever a message contains a control token's
/// text, or ends or begins with a part of one, those bytes are listed in `literal`, and encoding takes no control
/// token that touches them. So `<|im_end|>` typed by a user stays ten characters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompt {
    /// The whole prompt.
    pub text: String,
    /// Sorted, disjoint byte ranges of `text` that are not control tokens whatever they look like.
    pub literal: Vec<Range<usize>>,
}

impl Prompt {
    /// The token ids. Templates write the begin-of-text token themselves, so none is added.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode(&self, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
        tokenizer.encode_prompt(&self.text, &self.literal)
    }
}
