//! A context that is full: the oldest turns go, but not silently.

use anyhow::Result;

use super::{Options, Session};

impl Options {
    /// `error` with what can be done about it, if it is about the size of the context, which is `context` tokens.
    pub fn with_way_out(&self, error: anyhow::Error, context: usize) -> anyhow::Error {
        way_out(error, context, self.trained_context)
    }
}

/// `error` with what can be done about it, if it is that a prompt does not fit into a context of `context` tokens for a model
/// that was made for `trained`.
pub fn way_out(error: anyhow::Error, context: usize, trained: usize) -> anyhow::Error {
    match error.downcast_ref() {
        Some(sherry::Error::ContextFull { .. }) => anyhow::anyhow!("{error}; {}", larger(context, trained)),
        _ => error,
    }
}

/// How to get a larger context.
fn larger(context: usize, trained: usize) -> String {
    if context < trained {
        format!("--ctx-size gives more, up to the {trained} that the model was made for")
    } else {
        format!("the model was made for no more than {trained}")
    }
}

impl Session<'_> {
    /// What to say when the context is full.
    pub(super) fn context_full(&self) -> String {
        let context = self.speaker.llm().context();
        let turns = if self.speaker.chat().is_some() {
            "your next message may leave out the oldest turns, /clear forgets all; "
        } else {
            ""
        };
        format!("the context of {context} tokens is full; {turns}{}", larger(context, self.options.trained_context))
    }

    /// Sees to it that there is room for `text` and an answer. Whether to go on: if not, nothing has changed.
    pub(super) fn make_room(&mut self, text: &str) -> Result<bool> {
        let (capacity, keep) = (self.speaker.llm().context(), self.settings.keep);
        let most = self.settings.generate.max_tokens.unwrap_or(usize::MAX);
        let Some(chat) = self.speaker.chat_mut() else { return Ok(true) };
        let before = chat.messages().to_vec();
        let mut needed = chat.prompt_tokens(text)?;
        // Less than this is not worth beginning an answer.
        if needed + most.min(capacity / 16).max(1) <= capacity {
            return Ok(true);
        }
        let mut turns = 0;
        // Once turns go, enough of them do for a while.
        while needed + most.min(capacity / 4) > capacity && chat.forget_oldest(keep.unwrap_or(0)) {
            turns += 1;
            needed = chat.prompt_tokens(text)?;
        }
        let fits = needed <= capacity;
        if !fits || turns == 0 {
            chat.set_messages(before);
            return Ok(true); // what is too long by itself is an error, what fits barely gets a short answer
        }
        let oldest = if turns == 1 { "oldest turn".to_owned() } else { format!("oldest {turns} turns") };
        let which = match keep {
            Some(keep) if keep > 0 => format!("{oldest} after the first {keep}"),
            _ => oldest,
        };
        let full = format!("The context of {capacity} tokens is full.");
        if keep.is_some() {
            self.note(&format!("({full} The {which} no longer count: --keep)"));
            return Ok(true);
        }
        if self.input.ask(&format!("{full} Leave out the {which}?"), true)? {
            return Ok(true);
        }
        if let Some(chat) = self.speaker.chat_mut() {
            chat.set_messages(before);
        }
        self.tell(&format!(
            "Nothing was left out, and the message was not sent. /save keeps the conversation, /clear forgets it; {}.",
            larger(capacity, self.options.trained_context)
        ));
        Ok(false)
    }
}
