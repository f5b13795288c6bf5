//! From messages, tools and variables of a request to the prompt that the model reads.

use serde_json::{Map, Value, json};
use sherry::chat::{ChatTemplate, Conversation};

use crate::error::ApiError;
use crate::model::Served;
use crate::openai::json::{self, Json};
use crate::openai::request::{Message, Tool, ToolCall};

/// Most bytes of all messages of a conversation together.
const MAX_BYTES: usize = 4 << 20;
/// Variables that the request and the model set by themselves.
const OWN_VARIABLES: [&str; 6] =
    ["messages", "tools", "add_generation_prompt", "continue_final_message", "bos_token", "eos_token"];

/// What a request says of a conversation.
#[derive(Clone, Copy, Default)]
pub struct Asked<'a> {
    /// What was said.
    pub messages: &'a [Message],
    /// Tools that the model may call.
    pub tools: &'a [Tool],
    /// Further variables of the template.
    pub variables: Option<&'a Json>,
    /// The model goes on with the last message instead of answering it.
    pub go_on: bool,
}

/// A conversation as the model reads it.
pub struct Rendered {
    /// The text.
    pub text: String,
    /// Its tokens.
    pub tokens: Vec<u32>,
}

/// Renders a conversation with the model's template.
///
/// # Errors
/// 400: a message, tool or variable of the wrong form, no template, or what the template objects to.
pub fn render(served: &Served, asked: &Asked<'_>) -> Result<Rendered, ApiError> {
    let template = template(served)?;
    let tools = tool_values(template, asked.tools)?;
    let variables = match asked.variables {
        None | Some(Json(Value::Null)) => None,
        Some(Json(Value::Object(variables))) => Some(variables),
        Some(_) => return Err(ApiError::invalid("chat_template_kwargs", "expected an object of variables")),
    };
    if let Some(name) = variables.into_iter().flat_map(Map::keys).find(|name| OWN_VARIABLES.contains(&&***name)) {
        let message = "the request and the model set this variable themselves";
        return Err(ApiError::invalid(format!("chat_template_kwargs.{name}"), message));
    }
    let render = |form| {
        let messages = json::limited(|| message_values(template, asked.messages, form))?;
        let conversation = Conversation {
            tools: (!tools.is_empty()).then_some(&tools[..]),
            add_generation_prompt: !asked.go_on,
            continue_final_message: asked.go_on,
            variables,
            ..Conversation::new(&messages)
        };
        let refuse = |error: sherry::Error| ApiError::refused("template_error", "messages", error.to_string());
        template.render_conversation(&conversation).map_err(refuse)
    };
    let calls = asked.messages.iter().any(|message| message.tool_calls.as_ref().is_some_and(|calls| !calls.is_empty()));
    let prompt = match render(Arguments::Object) {
        // Some templates put the arguments between other texts, which fails with an object.
        Err(error) if calls => render(Arguments::Text).map_err(|_| error)?,
        result => result?,
    };
    let tokens = prompt.encode(&served.tokenizer).map_err(|error| ApiError::invalid("messages", error.to_string()))?;
    Ok(Rendered { text: prompt.text, tokens })
}

/// The model's chat template.
///
/// # Errors
/// 400 `no_chat_template`.
pub fn template(served: &Served) -> Result<&ChatTemplate, ApiError> {
    served.template.as_ref().ok_or_else(|| {
        let message = "the model has no chat template: it continues texts; use /v1/completions";
        ApiError::refused("no_chat_template", "messages", message)
    })
}

/// The form in which templates get the arguments of calls.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Arguments {
    /// As they are meant to.
    Object,
    /// As JSON in a string.
    Text,
}

/// The messages as templates know them.
fn message_values(template: &ChatTemplate, messages: &[Message], form: Arguments) -> Result<Vec<Value>, ApiError> {
    if messages.is_empty() {
        return Err(ApiError::invalid("messages", "there must be at least one message"));
    }
    let mut bytes = 0;
    let mut values = Vec::with_capacity(messages.len());
    for (index, message) in messages.iter().enumerate() {
        let at = |field: &str| format!("messages[{index}].{field}");
        let role = match message.role.as_deref() {
            None if message.content.is_none() => {
                return Err(ApiError::invalid(format!("messages[{index}]"), "a message has a role and content"));
            }
            None => return Err(ApiError::invalid(at("role"), "a message has a role")),
            Some("developer") => "system",
            Some(role @ ("system" | "user" | "assistant" | "tool")) => role,
            Some(other) => {
                let other: String = other.chars().take(32).collect();
                let message = format!("'{other}' is no role; expected system, developer, user, assistant or tool");
                return Err(ApiError::invalid(at("role"), message));
            }
        };
        let calls = message.tool_calls.as_deref().unwrap_or_default();
        if !calls.is_empty() && role != "assistant" {
            return Err(ApiError::invalid(at("tool_calls"), "only the assistant calls tools"));
        }
        if !calls.is_empty() && !template.source().contains("tool_calls") {
            let message = "the model's chat template does not know calls of tools";
            return Err(ApiError::refused("tools_not_supported", &at("tool_calls"), message));
        }
        // Beside calls there may be nothing to say.
        let text = match &message.content {
            Some(content) => content.0.as_str(),
            None if !calls.is_empty() => "",
            None => return Err(ApiError::invalid(at("content"), "a message needs content")),
        };
        bytes += text.len();
        if bytes > MAX_BYTES {
            return Err(ApiError::invalid("messages", format!("more than {MAX_BYTES} bytes of text")));
        }
        let mut value = json!({ "role": role, "content": text });
        let extra = [
            ("name", &message.name),
            ("tool_call_id", &message.tool_call_id),
            ("reasoning_content", &message.reasoning_content),
        ];
        for (key, text) in extra.into_iter().filter_map(|(key, text)| Some((key, text.as_ref()?))) {
            value[key] = json!(text);
        }
        if !calls.is_empty() {
            let calls = calls.iter().enumerate().map(|(call, value)| {
                call_value(value, form).map_err(|problem| {
                    ApiError::invalid(at(&format!("tool_calls[{call}].function.arguments")), problem)
                })
            });
            value["tool_calls"] = calls.collect::<Result<Value, _>>()?;
        }
        values.push(value);
    }
    Ok(values)
}

/// A call as templates know it.
fn call_value(call: &ToolCall, form: Arguments) -> Result<Value, String> {
    let arguments = match call.function.arguments.as_ref().map(|Json(arguments)| arguments) {
        None | Some(Value::Null) => json!({}),
        Some(Value::String(text)) if text.trim().is_empty() => json!({}),
        Some(Value::String(text)) => {
            serde_json::from_str::<Json>(text).map_err(|error| format!("is no JSON: {error}"))?.0
        }
        Some(other) => other.clone(),
    };
    if !arguments.is_object() {
        return Err("expected a JSON object, as a string or as it is".to_owned());
    }
    let arguments = match form {
        Arguments::Object => arguments,
        Arguments::Text => Value::from(arguments.to_string()),
    };
    let mut value = json!({ "type": "function", "function": { "name": call.function.name, "arguments": arguments } });
    if let Some(id) = &call.id {
        value["id"] = json!(id);
    }
    Ok(value)
}

/// The tools as templates know them.
fn tool_values(template: &ChatTemplate, tools: &[Tool]) -> Result<Vec<Value>, ApiError> {
    check_tools(tools)?;
    if !tools.is_empty() && !template.reads("tools") {
        let message = "the model's chat template does not know tools";
        return Err(ApiError::refused("tools_not_supported", "tools", message));
    }
    let value = |tool: &Tool| {
        let mut function = json!({ "name": tool.function.name });
        if let Some(description) = &tool.function.description {
            function["description"] = json!(description);
        }
        if let Some(Json(parameters)) = &tool.function.parameters {
            function["parameters"] = parameters.clone();
        }
        json!({ "type": "function", "function": function })
    };
    Ok(tools.iter().map(value).collect())
}

/// Refuses tools of the wrong form.
///
/// # Errors
/// 400 naming the first.
pub fn check_tools(tools: &[Tool]) -> Result<(), ApiError> {
    for (index, tool) in tools.iter().enumerate() {
        if tool.r#type != "function" {
            return Err(ApiError::invalid(format!("tools[{index}].type"), "expected 'function'"));
        }
        let name = &tool.function.name;
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if name.is_empty() || name.len() > 64 || !name.chars().all(good) {
            let message = "a function's name has 1 to 64 letters, digits, '_', '-' or '.'";
            return Err(ApiError::invalid(format!("tools[{index}].function.name"), message));
        }
        if tool.function.parameters.as_ref().is_some_and(|Json(parameters)| !parameters.is_object()) {
            return Err(ApiError::invalid(format!("tools[{index}].function.parameters"), "expected a JSON schema"));
        }
    }
    Ok(())
}
