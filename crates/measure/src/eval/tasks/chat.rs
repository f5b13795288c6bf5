//! Prompts as conversations: what is asked as a user's turn, behind a model's chat template.

use sherry::chat::{ChatTemplate, Message};
use sherry::{Error, Result};

/// A solved question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Example {
    pub question: String,
    pub answer: String,
    /// Between both.
    pub delimiter: String,
    /// Behind both.
    pub between: String,
}

impl Example {
    /// As text before a question. One without an answer has nothing behind the question either, as in the harness.
    pub fn text(&self) -> String {
        let Self { question, answer, delimiter, between } = self;
        if answer.is_empty() { question.clone() } else { format!("{question}{delimiter}{answer}{between}") }
    }
}

/// A chat template, and what becomes of few-shot examples.
pub struct Chat {
    /// The template of the model that is asked.
    pub template: ChatTemplate,
    /// Whether each example is a turn of the user and one of the assistant; else they stand in one turn before the question.
    pub multiturn: bool,
}

impl Chat {
    /// What is read before the answer: the description as the system's turn, the examples, and `question` as the user's turn.
    pub(super) fn context(&self, system: &str, examples: &[Example], question: &str) -> Result<String> {
        let mut messages = Vec::new();
        if !system.is_empty() {
            messages.push(Message::new("system", system));
        }
        if self.multiturn {
            for Example { question, answer, .. } in examples {
                messages.push(Message::new("user", question));
                if !answer.is_empty() {
                    messages.push(Message::new("assistant", answer));
                }
            }
            messages.push(Message::new("user", question));
        } else {
            let before: String = examples.iter().map(Example::text).collect();
            messages.push(Message::new("user", before + question));
        }
        let rendered = match self.template.render(&messages, true) {
            // A template that refuses: perhaps it knows no system role.
            Err(Error::Template(_)) if !system.is_empty() => self.template.render(&messages[1..], true),
            other => other,
        };
        Ok(rendered?.text)
    }
}

impl std::fmt::Debug for Chat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chat").field("multiturn", &self.multiturn).finish_non_exhaustive()
    }
}
