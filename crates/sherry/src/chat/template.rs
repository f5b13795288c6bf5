//! Chat templates as `transformers` renders them.

use serde_json::{Map, Value, json};

use super::jinja::{Budget, Dialect, Fault, Given, Globals, Template};
use super::time::LocalTime;
use super::{Message, Preset, Prompt};
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// Longest template.
const MAX_SOURCE_BYTES: usize = 256 << 10;
/// Most text in all that is given together.
const MAX_TEXT_BYTES: usize = 4 << 20;
/// Most strings, numbers, lists and mappings in all that is given together.
const MAX_VALUES: usize = 1 << 18;
/// Most messages.
const MAX_MESSAGES: usize = 1 << 14;
/// Steps of every rendering, and further steps per message.
const STEPS: (u64, u64) = (1 << 21, 1 << 11);
/// Bytes that every rendering may make, further bytes per byte of text given, and per value given.
const BYTES: (u64, u64, u64) = (32 << 20, 32, 1 << 10);

/// Marks the end of a message that is to be continued; the same text as in `transformers`.
const CONTINUE_HERE: &str = "CONTINUE_FINAL_MESSAGE_TAG";

/// What a prompt is rendered from: all that a template can look at besides the model's own tokens.
///
/// Values are passed on as they are: a `null` is Python's `None`, and a template may print it.
///
/// ```
/// use serde_json::json;
/// use sherry::chat::{ChatTemplate, Conversation};
///
/// # fn main() -> sherry::Result<()> {
/// let template = ChatTemplate::new("{{ tools|length }} {{ messages[0].content }}|{{ messages[1].tool_calls }}", None, None)?;
/// let messages = [json!({"role": "user", "content": "Hi"}), json!({"role": "assistant", "tool_calls": [7]})];
/// let tools = [json!({"type": "function", "function": {"name": "f"}})];
/// let conversation = Conversation { tools: Some(&tools), ..Conversation::new(&messages) };
/// assert_eq!(template.render_conversation(&conversation)?.text, "1 Hi|[7]");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Conversation<'c> {
    /// Mappings with `role` and whatever the template knows: `content` (a string or a list of parts), `tool_calls`,
    /// `tool_call_id`, `name`, `reasoning_content`.
    pub messages: &'c [Value],
    /// Definitions of tools; the template sees `none` without them.
    pub tools: Option<&'c [Value]>,
    /// Documents to answer from; the template sees `none` without them.
    pub documents: Option<&'c [Value]>,
    /// The prompt ends where the assistant's answer begins.
    pub add_generation_prompt: bool,
    /// The prompt ends with the last message, so that the model goes on with it. Excludes `add_generation_prompt`.
    pub continue_final_message: bool,
    /// Further variables, such as `enable_thinking`.
    pub variables: Option<&'c Map<String, Value>>,
}

impl<'c> Conversation<'c> {
    /// Nothing but messages; the prompt ends where the assistant's answer begins.
    pub fn new(messages: &'c [Value]) -> Self {
        Self { messages, add_generation_prompt: true, ..Self::default() }
    }
}

/// A chat template with the values it may use.
///
/// It is rendered as `transformers.apply_chat_template` does: Jinja2's sandbox with `trim_blocks` and `lstrip_blocks`,
/// loop controls, `raise_exception`, `strftime_now`, and `tojson` as Python's `json.dumps`. The text is Jinja2's, or
/// there is an error where Jinja2 has one, except for what would be different at every rendering (`random`, `lipsum`,
/// printing a function) and a few kinds of values no chat template uses (bytes, sets, complex numbers): those are
/// refused where they are reached.
///
/// Templates see `messages`, `tools`, `documents`, `add_generation_prompt`, and `bos_token` and `eos_token` if the model
/// has them, and whatever [`Self::with_variable`] and [`Conversation::variables`] add. They are untrusted programs: there
/// is nothing in the language that reaches files, the environment or other templates, and every rendering has a number
/// of steps (2^21, and 2^11 more per message) and of bytes made (32 MiB, 32 more per byte of text it is given and 2^10
/// per value). The source is at most 256 KiB, what it is given at most 4 MiB of text in 2^18 values and 16384 messages.
///
/// ```
/// use sherry::chat::{ChatTemplate, Message};
/// let llm = sherry::Llm::tiny()?;
/// let template = ChatTemplate::for_tokenizer(llm.tokenizer())?;
/// let prompt = template.render(&[Message::new("user", "Hi!")], true)?;
/// assert!(prompt.text.ends_with("<|im_start|>assistant\n"));
/// # Ok::<(), sherry::Error>(())
/// ```
pub struct ChatTemplate {
    template: Template,
    source: String,
    tokens: Vec<(&'static str, Value)>,
    variables: Map<String, Value>,
    now: Option<LocalTime>,
}

impl ChatTemplate {
    /// Compiles `source`, for a model with these begin-of-text and end-of-text tokens.
    ///
    /// # Errors
    /// [`Error::Template`]: too long, or not a template; with the line.
    pub fn new(source: &str, bos: Option<&str>, eos: Option<&str>) -> Result<Self> {
        if source.len() > MAX_SOURCE_BYTES {
            return Err(Error::Template(format!("has {} bytes, more than {MAX_SOURCE_BYTES}", source.len())));
        }
        let token = |name, text: Option<&str>| text.map(|text| (name, json!(text)));
        Ok(Self {
            template: Template::new(source, Dialect::Chat).map_err(|fault| explain(*fault))?,
            source: source.to_owned(),
            tokens: [token("bos_token", bos), token("eos_token", eos)].into_iter().flatten().collect(),
            variables: Map::new(),
            now: None,
        })
    }

    /// The template that belongs to `tokenizer`: its own, or the preset that its control tokens speak for.
    ///
    /// # Errors
    /// As [`Self::new`]; also if there is no template and none of the presets fits.
    pub fn for_tokenizer(tokenizer: &Tokenizer) -> Result<Self> {
        let preset = || {
            Preset::detect(tokenizer).map(Preset::source).ok_or_else(|| {
                Error::Template("the model has none, and its control tokens are of no known family".into())
            })
        };
        let source = tokenizer.chat_template().map_or_else(preset, Ok)?;
        let text = |id: Option<u32>| id.and_then(|id| tokenizer.id_to_token(id));
        Self::new(source, text(tokenizer.bos()), text(tokenizer.eos()))
    }

    /// Adds a variable that the template may look at in every conversation, such as `enable_thinking`.
    #[must_use]
    pub fn with_variable(mut self, name: impl Into<String>, value: Value) -> Self {
        self.variables.insert(name.into(), value);
        self
    }

    /// Fixes the time that the template sees; otherwise it is the system's, in its time zone.
    #[must_use]
    pub fn with_time(mut self, now: LocalTime) -> Self {
        self.now = Some(now);
        self
    }

    /// The template as it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the template looks at a variable: one that never looks at `tools` knows no tools.
    pub fn reads(&self, variable: &str) -> bool {
        self.template.reads(variable)
    }

    /// The prompt for `messages`; with `add_generation_prompt` it ends where the assistant's answer begins.
    ///
    /// # Errors
    /// As [`Self::render_conversation`].
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<Prompt> {
        let messages: Vec<Value> =
            messages.iter().map(|message| json!({"role": message.role, "content": message.content})).collect();
        self.render_conversation(&Conversation { add_generation_prompt, ..Conversation::new(&messages) })
    }

    /// The prompt for a conversation. Control tokens in what the conversation says stay text: see [`Prompt`].
    ///
    /// # Errors
    /// [`Error::Template`]: what the template raised, what it did wrong, which limit it or the conversation went over, or
    /// that the final message cannot be continued.
    pub fn render_conversation(&self, conversation: &Conversation<'_>) -> Result<Prompt> {
        let list = |values: Option<&[Value]>| values.map_or(Value::Null, |values| json!(values));
        let mut messages = conversation.messages.to_vec();
        let mut last_words = None;
        if conversation.continue_final_message {
            last_words = Some(self.continue_final_message(&mut messages, conversation.add_generation_prompt)?);
        }
        let (messages, tools, documents) = (json!(messages), list(conversation.tools), list(conversation.documents));
        let prompt = json!(conversation.add_generation_prompt);
        let given = |name, value, marked| Given { name, value, marked };
        let more = self.variables.iter().chain(conversation.variables.into_iter().flatten());
        // Later ones replace earlier ones; the model's tokens are its own words, everything else is somebody's.
        let variables: Vec<Given<'_>> = (self.tokens.iter().map(|(name, value)| given(*name, value, false)))
            .chain([
                given("messages", &messages, true),
                given("tools", &tools, true),
                given("documents", &documents, true),
                given("add_generation_prompt", &prompt, true),
            ])
            .chain(more.map(|(name, value)| given(name.as_str(), value, true)))
            .collect();
        let budget = budget(&variables, conversation.messages.len())?;
        let strftime = |format: &str| {
            let now = self.now.or_else(LocalTime::now);
            now.ok_or_else(|| "strftime_now: there is no clock here".to_owned())?.format(format)
        };
        let globals = Globals { variables: &variables, strftime: &strftime };
        let rendered = self.template.render(&globals, budget).map_err(|fault| explain(*fault))?;
        let prompt = Prompt { text: rendered.text, literal: rendered.marked };
        match last_words {
            Some(last_words) => cut_at_mark(prompt, &last_words),
            None => Ok(prompt),
        }
    }

    /// Marks the end of the final message, and returns what it says.
    fn continue_final_message(&self, messages: &mut [Value], add_generation_prompt: bool) -> Result<String> {
        let refused = |why: &str| Error::Template(format!("the final message cannot be continued: {why}"));
        if add_generation_prompt {
            return Err(refused("a generation prompt was asked for as well"));
        }
        if !self.source.contains("content") {
            return Err(refused("the template does not look at the content of messages"));
        }
        let content = messages.last_mut().and_then(|message| message.get_mut("content"));
        let text = match content.ok_or_else(|| refused("it has no content"))? {
            text @ Value::String(_) => text,
            Value::Array(parts) => {
                let texts = parts.iter_mut().rev().filter_map(|part| part.get_mut("text"));
                texts.into_iter().next().ok_or_else(|| refused("it has no text"))?
            }
            _ => return Err(refused("its content is neither text nor parts")),
        };
        let Value::String(text) = text else { return Err(refused("its text is not a string")) };
        let words = text.clone();
        text.push_str(CONTINUE_HERE);
        text.push(' ');
        Ok(words)
    }
}

/// The prompt up to where the final message ends.
fn cut_at_mark(mut prompt: Prompt, last_words: &str) -> Result<Prompt> {
    let end = prompt.text.rfind(CONTINUE_HERE).filter(|_| prompt.text.contains(last_words.trim()));
    let mut end = end.ok_or_else(|| {
        Error::Template("the final message cannot be continued: the template changes or leaves out what it says".into())
    })?;
    // A template that trims messages would also have trimmed this one.
    if !prompt.text[end + CONTINUE_HERE.len()..].starts_with(' ') {
        end = prompt.text[..end].trim_end().len();
    }
    prompt.text.truncate(end);
    prompt.literal.retain_mut(|range| {
        range.end = range.end.min(end);
        range.start < range.end
    });
    Ok(prompt)
}

/// What a rendering may use up, from how much it is given.
pub(super) fn budget(variables: &[Given<'_>], messages: usize) -> Result<Budget> {
    let (mut bytes, mut values) = (0usize, 0usize);
    let mut open: Vec<&Value> = variables.iter().map(|variable| variable.value).collect();
    while let Some(value) = open.pop() {
        values += 1;
        match value {
            Value::String(text) => bytes += text.len(),
            Value::Array(items) => open.extend(items),
            Value::Object(entries) => {
                values += entries.len();
                bytes += entries.keys().map(String::len).sum::<usize>();
                open.extend(entries.values());
            }
            _ => {}
        }
    }
    if bytes > MAX_TEXT_BYTES || values > MAX_VALUES || messages > MAX_MESSAGES {
        return Err(Error::Template(format!(
            "{messages} messages, all together {bytes} bytes of text in {values} values; at most {MAX_MESSAGES}, \
             {MAX_TEXT_BYTES} and {MAX_VALUES} are allowed"
        )));
    }
    Ok(Budget {
        steps: STEPS.0 + STEPS.1 * messages as u64,
        bytes: BYTES.0 + BYTES.1 * bytes as u64 + BYTES.2 * values as u64,
    })
}

pub(super) fn explain(fault: Fault) -> Error {
    let Fault { message, line, raised, .. } = fault;
    Error::Template(if raised || line == 0 { message } else { format!("line {line}: {message}") })
}
