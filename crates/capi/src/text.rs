//! Text to tokens and back, conversations to prompts.

use std::ffi::c_char;

use serde_json::{Map, Value};
use sherry::chat::Conversation;

use crate::failure::{Failure, Outcome, Status, guard};
use crate::model::SherryModel;
use crate::pointers::{handle, text, values, write};

/// `SHERRY_ADD_SPECIAL`: tokens that the model wants around a text.
const ADD_SPECIAL: u32 = 1;
/// `SHERRY_PARSE_SPECIAL`: control tokens written out in the text are tokens, and written out when text is made of them.
const PARSE_SPECIAL: u32 = 2;

fn check(flags: u32) -> Outcome<()> {
    match flags & !(ADD_SPECIAL | PARSE_SPECIAL) {
        0 => Ok(()),
        unknown => Err(Failure::invalid(format!("unknown flags: {unknown:#x}"))),
    }
}

/// Text to tokens.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sherry_tokenize(
    model: *const SherryModel,
    start: *const c_char,
    len: usize,
    flags: u32,
    tokens: *mut u32,
    capacity: usize,
    count: *mut usize,
) -> Status {
    guard(|| {
        check(flags)?;
        // SAFETY: the caller's promises about handles and pointers.
        let (model, text) = unsafe { (handle(model, "model")?, text(start, len, "text")?) };
        let found = model.0.tokenizer.encode(text, flags & ADD_SPECIAL != 0, flags & PARSE_SPECIAL != 0)?;
        // SAFETY: the caller's promises about pointers.
        unsafe { write(&found, tokens, capacity, count) }
    })
}

/// Tokens to text.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sherry_detokenize(
    model: *const SherryModel,
    tokens: *const u32,
    len: usize,
    flags: u32,
    out: *mut c_char,
    capacity: usize,
    count: *mut usize,
) -> Status {
    guard(|| {
        check(flags)?;
        // SAFETY: the caller's promises about handles and pointers.
        let (model, tokens) = unsafe { (handle(model, "model")?, values(tokens, len, "tokens")?) };
        let found = model.0.tokenizer.decode(tokens, flags & PARSE_SPECIAL != 0);
        // SAFETY: the caller's promises about pointers.
        unsafe { write(found.as_bytes(), out.cast::<u8>(), capacity, count) }
    })
}

/// A conversation, as JSON, to the tokens of a prompt.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sherry_apply_template(
    model: *const SherryModel,
    json: *const c_char,
    len: usize,
    tokens: *mut u32,
    capacity: usize,
    count: *mut usize,
) -> Status {
    guard(|| {
        // SAFETY: the caller's promises about handles and pointers.
        let (model, json) = unsafe { (handle(model, "model")?, text(json, len, "conversation")?) };
        let found = prompt(model, json)?;
        // SAFETY: the caller's promises about pointers.
        unsafe { write(&found, tokens, capacity, count) }
    })
}

fn prompt(model: &SherryModel, json: &str) -> Outcome<Vec<u32>> {
    let wrong = |problem: String| Failure::invalid(format!("conversation: {problem}"));
    let fields = match serde_json::from_str(json).map_err(|error| wrong(error.to_string()))? {
        Value::Object(fields) => fields,
        // Nothing but messages.
        messages @ Value::Array(_) => Map::from_iter([("messages".to_owned(), messages)]),
        _ => return Err(wrong("expected an object with messages, or an array of them".to_owned())),
    };
    let list = |name: &str| match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(values)) => Ok(Some(values.as_slice())),
        Some(_) => Err(wrong(format!("{name} is no array"))),
    };
    let flag = |name: &str| match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(value)) => Ok(Some(*value)),
        Some(_) => Err(wrong(format!("{name} is neither true nor false"))),
    };
    let variables = match fields.get("variables") {
        None | Some(Value::Null) => None,
        Some(Value::Object(values)) => Some(values),
        Some(_) => return Err(wrong("variables is no object".to_owned())),
    };
    const KNOWN: [&str; 6] =
        ["messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "variables"];
    if let Some(unknown) = fields.keys().find(|key| !KNOWN.contains(&key.as_str())) {
        return Err(wrong(format!("unknown field '{unknown}'; known: {}", KNOWN.join(", "))));
    }
    let continued = flag("continue_final_message")?.unwrap_or(false);
    let conversation = Conversation {
        messages: list("messages")?.ok_or_else(|| wrong("messages are missing".to_owned()))?,
        tools: list("tools")?,
        documents: list("documents")?,
        add_generation_prompt: flag("add_generation_prompt")?.unwrap_or(!continued),
        continue_final_message: continued,
        variables,
    };
    Ok(model.0.render(&conversation)?.encode(&model.0.tokenizer)?)
}
