//! Conversations.

use super::{Event, Generate, Generated, Generation, Llm};
use crate::Result;
use crate::batch::Finish;
use crate::chat::{ChatTemplate, Message};

/// A conversation with a model.
///
/// ```no_run
/// use sherry::{Chat, Llm};
/// let mut chat = Chat::new(Llm::load("model.gguf")?)?;
/// for piece in chat.say("Why is the sky blue?")? {
///     print!("{}", piece?);
/// }
/// let shorter = chat.say("In one sentence, please.")?.complete()?;
/// # Ok::<(), sherry::Error>(())
/// ```
///
/// It remembers all that was said. When that no longer fits into the context, [`say`](Self::say) refuses with
/// [`Error::ContextFull`](crate::Error::ContextFull), and an answer that fills it ends with [`Finish::ContextFull`]: nothing is ever left out silently.
/// [`clear`](Self::clear) starts anew.
pub struct Chat {
    llm: Llm,
    template: ChatTemplate,
    /// How answers are generated.
    pub options: Generate,
    /// What was said, a system message first if there is one.
    messages: Vec<Message>,
}

impl Chat {
    /// An empty conversation.
    ///
    /// # Errors
    /// [`Error::Template`](crate::Error::Template) for models [without a chat template](Llm::can_chat), which continue texts only, and when the
    /// template does not compile.
    pub fn new(llm: Llm) -> Result<Self> {
        let template = ChatTemplate::for_tokenizer(llm.tokenizer())?;
        Ok(Self { llm, template, options: Generate::default(), messages: Vec::new() })
    }

    /// The same conversation with another template.
    #[must_use]
    pub fn with_template(self, template: ChatTemplate) -> Self {
        Self { template, ..self }
    }

    /// Sets the instructions that precede the conversation, or removes them.
    pub fn set_system(&mut self, instructions: Option<&str>) {
        self.messages.retain(|message| message.role != "system");
        if let Some(instructions) = instructions {
            self.messages.insert(0, Message::new("system", instructions));
        }
    }

    /// Says something; the answer appears as it is pulled. Both are remembered, the answer as far as it was pulled, but not
    /// when something goes wrong.
    ///
    /// # Errors
    /// [`Error::ContextFull`](crate::Error::ContextFull) when the conversation no longer fits into the context, [`Error::Template`](crate::Error::Template) when the template
    /// refuses it.
    pub fn say(&mut self, text: &str) -> Result<Answer<'_>> {
        let Self { llm, template, options, messages } = self;
        messages.push(Message::new("user", text));
        match begin(llm, template, options, messages) {
            Ok(generation) => Ok(Answer { generation, messages, failed: false }),
            Err(error) => {
                messages.pop();
                Err(error)
            }
        }
    }

    /// What was said.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Goes on from another conversation, for example one that was saved.
    pub fn set_messages(&mut self, messages: Vec<Message>) {
        self.messages = messages;
    }

    /// Tokens of the prompt if `text` were said now.
    ///
    /// # Errors
    /// [`Error::Template`](crate::Error::Template) when the template refuses the conversation.
    pub fn prompt_tokens(&self, text: &str) -> Result<usize> {
        let mut messages = self.messages.clone();
        messages.push(Message::new("user", text));
        Ok(self.template.render(&messages, true)?.encode(self.llm.tokenizer())?.len())
    }

    /// Takes back what was said last, the answer to it included, and returns it.
    pub fn take_back(&mut self) -> Option<String> {
        let last = self.messages.iter().rposition(|message| message.role == "user")?;
        self.messages.drain(last..).next().map(|message| message.content)
    }

    /// Forgets the oldest turn (something that was said, and the answer to it) but for the first `keep` ones. Whether there
    /// was one. The instructions stay.
    pub fn forget_oldest(&mut self, keep: usize) -> bool {
        let starts: Vec<usize> =
            (0..self.messages.len()).filter(|index| self.messages[*index].role == "user").skip(keep).take(2).collect();
        let Some(start) = starts.first() else { return false };
        self.messages.drain(*start..*starts.get(1).unwrap_or(&self.messages.len()));
        true
    }

    /// Forgets everything but the instructions.
    pub fn clear(&mut self) {
        self.messages.retain(|message| message.role == "system");
    }

    /// The model.
    pub fn llm(&self) -> &Llm {
        &self.llm
    }

    /// The model, for other work.
    pub fn into_llm(self) -> Llm {
        self.llm
    }
}

/// Begins the answer to `messages`.
fn begin<'l>(
    llm: &'l mut Llm,
    template: &ChatTemplate,
    options: &Generate,
    messages: &[Message],
) -> Result<Generation<'l>> {
    let prompt = template.render(messages, true)?.encode(llm.tokenizer())?;
    llm.generate_tokens(&prompt, options)
}

/// An answer in the making: a [`Generation`] that becomes part of the conversation when it is dropped.
pub struct Answer<'c> {
    generation: Generation<'c>,
    messages: &'c mut Vec<Message>,
    failed: bool,
}

impl Answer<'_> {
    /// As [`Generation::step`].
    ///
    /// # Errors
    /// As there.
    pub fn step(&mut self) -> Option<Result<Event>> {
        let event = self.generation.step();
        self.failed |= matches!(event, Some(Err(_)));
        event
    }

    /// What there is so far.
    pub fn so_far(&self) -> &Generated {
        self.generation.so_far()
    }

    /// Why it ended, once it has.
    pub fn finish(&self) -> Option<Finish> {
        self.generation.finish()
    }

    /// Generates to the end, `observe` seeing every event.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn run(mut self, mut observe: impl FnMut(&Event)) -> Result<Generated> {
        while let Some(event) = self.step() {
            observe(&event?);
        }
        Ok(self.so_far().clone())
    }

    /// Generates to the end.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn complete(self) -> Result<Generated> {
        self.run(|_| {})
    }
}

impl Iterator for Answer<'_> {
    type Item = Result<String>;

    /// The next piece of text.
    fn next(&mut self) -> Option<Self::Item> {
        let piece = self.generation.next();
        self.failed |= matches!(piece, Some(Err(_)));
        piece
    }
}

impl Drop for Answer<'_> {
    fn drop(&mut self) {
        if self.failed {
            self.messages.pop();
        } else {
            self.messages.push(Message::new("assistant", self.generation.so_far().text.as_str()));
        }
    }
}
