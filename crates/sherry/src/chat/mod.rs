//! From a conversation to the prompt a model was trained on.
//!
//! Templates come out of model files and are not trusted: see [`ChatTemplate`] for what they may do and use up.
//! What users typed is not trusted either: it never becomes a control token, see [`Prompt`].

mod fields;
mod jinja;
mod preset;
mod template;
#[cfg(test)]
mod tests;
mod time;

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::tokenizer::Tokenizer;

pub use fields::FieldTemplate;
pub use preset::Preset;
pub use template::{ChatTemplate, Conversation};
pub use time::LocalTime;

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
/// Its text remembers which bytes came out of the conversation: out of messages, tools, documents and variables, through
/// whatever the template did with them. Encoding takes no control token that begins or ends in one of those, so
/// `<|im_end|>` typed by a user stays ten characters. A token that the template wrote around a word of the conversation,
/// such as `<|user|>` from the role `user`, is one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompt {
    /// The whole prompt.
    pub text: String,
    /// The bytes that came out of the conversation: sorted, disjoint ranges of `text`.
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
