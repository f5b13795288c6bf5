//! Fields that may have more than one JSON form. Each says by hand what it takes, so that an error names the place
//! inside the field, and nothing is kept twice while it is read.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::json;
use utoipa::ToSchema;

use super::json::Json;

/// Writes the schema of a type that is read by hand. What it names must be what the type takes.
macro_rules! described {
    ($($type:ident = $schema:tt;)*) => {$(
        impl utoipa::PartialSchema for $type {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                let schema: Result<utoipa::openapi::schema::Schema, _> = serde_json::from_value(json!($schema));
                // A test reads them all.
                schema.unwrap_or_default().into()
            }
        }
        impl ToSchema for $type {}
    )*};
}

described! {
    Content = { "description": "A text, or parts of texts, which are joined by line ends", "oneOf": [
        { "type": "string" },
        { "type": "array", "items": {
            "type": "object", "required": ["text"],
            "properties": { "type": { "type": "string", "enum": ["text"] }, "text": { "type": "string" } },
        } },
    ] };
    Stop = { "description": "One text of 1 to 256 bytes, or up to 16", "oneOf": [
        { "type": "string", "minLength": 1, "maxLength": 256 },
        { "type": "array", "maxItems": 16, "items": { "type": "string", "minLength": 1, "maxLength": 256 } },
    ] };
    Prompt = { "description": "A text, token ids, or up to 64 of either", "oneOf": [
        { "type": "string" },
        { "type": "array", "minItems": 1, "items": { "type": "integer", "minimum": 0, "maximum": 4294967295u32 } },
        { "type": "array", "minItems": 1, "maxItems": 64, "items": { "oneOf": [
            { "type": "string" },
            { "type": "array", "items": { "type": "integer", "minimum": 0, "maximum": 4294967295u32 } },
        ] } },
    ] };
    LogitBias = { "description": "Up to 1024 token ids with what is added to their logits", "type": "object",
        "maxProperties": 1024, "propertyNames": { "pattern": "^[0-9]{1,9}$" },
        "additionalProperties": { "type": "number", "minimum": -100, "maximum": 100 } };
    ToolChoice = { "description": "Which tools may or must be called", "oneOf": [
        { "type": "string", "enum": ["auto", "none", "required"] },
        { "type": "object", "required": ["function"], "properties": {
            "type": { "type": "string", "enum": ["function"] },
            "function": { "type": "object", "required": ["name"], "properties": { "name": { "type": "string" } } },
        } },
    ] };
}

/// Text of a message: a string, or parts of `{"type": "text", "text": ...}`, which are joined by newlines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content(pub String);

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;
        impl<'de> Visitor<'de> for Form {
            type Value = Content;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of parts of type 'text'")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Content, E> {
                Ok(Content(text.to_owned()))
            }
            fn visit_string<E: de::Error>(self, text: String) -> Result<Content, E> {
                Ok(Content(text))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Content, A::Error> {
                let mut text: Option<String> = None;
                while let Some(Part { text: part }) = parts.next_element()? {
                    match &mut text {
                        None => text = Some(part),
                        Some(text) => {
                            text.push('\n');
                            text.push_str(&part);
                        }
                    }
                }
                Ok(Content(text.unwrap_or_default()))
            }
        }
        deserializer.deserialize_any(Form)
    }
}

/// A part of a message. Pictures and sounds are refused: the models that are served read text.
struct Part {
    text: String,
}

impl<'de> Deserialize<'de> for Part {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        struct Fields {
            #[serde(default = "text")]
            r#type: String,
            text: Option<String>,
        }
        fn text() -> String {
            "text".to_owned()
        }
        let Fields { r#type, text } = Fields::deserialize(deserializer)?;
        match (r#type.as_str(), text) {
            ("text", Some(text)) => Ok(Self { text }),
            ("text", None) => Err(de::Error::custom("a part of type 'text' needs 'text'")),
            (other, _) => {
                let other: String = other.chars().take(32).collect();
                Err(de::Error::custom(format!("parts of type '{other}' are not read; only 'text' is")))
            }
        }
    }
}

/// `stop`: one string or several.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stop(pub Vec<String>);

/// Most stop strings, and bytes of one.
pub const STOPS: (usize, usize) = (16, 256);

impl<'de> Deserialize<'de> for Stop {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;
        fn checked<E: de::Error>(text: String) -> Result<String, E> {
            match (1..=STOPS.1).contains(&text.len()) {
                true => Ok(text),
                false => Err(E::custom(format!("a stop string has {} bytes; expected 1 to {}", text.len(), STOPS.1))),
            }
        }
        impl<'de> Visitor<'de> for Form {
            type Value = Stop;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a string or up to {} strings", STOPS.0)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Stop, E> {
                Ok(Stop(vec![checked(text.to_owned())?]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut texts: A) -> Result<Stop, A::Error> {
                let mut stops = Vec::new();
                while let Some(text) = texts.next_element::<String>()? {
                    if stops.len() == STOPS.0 {
                        return Err(de::Error::custom(format!("more than {} stop strings", STOPS.0)));
                    }
                    stops.push(checked(text)?);
                }
                Ok(Stop(stops))
            }
        }
        deserializer.deserialize_any(Form)
    }
}

/// One text of a completion request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Text {
    /// As a string.
    String(String),
    /// As tokens.
    Tokens(Vec<u32>),
}

/// `prompt` of a completion request: a text, or up to 64 of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// The texts.
    pub texts: Vec<Text>,
    /// Whether they came as a list, so that an error names the element.
    pub listed: bool,
}

/// Most texts of a completion request.
pub const MAX_PROMPTS: usize = 64;

/// An element of a list of prompts, before it is known whether the list is one text of tokens or a list of texts.
enum Element {
    Token(u32),
    Text(Text),
}

struct ElementForm;

impl<'de> Visitor<'de> for ElementForm {
    type Value = Element;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a token id or a list of token ids")
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<Element, E> {
        Ok(Element::Text(Text::String(text.to_owned())))
    }
    fn visit_u64<E: de::Error>(self, id: u64) -> Result<Element, E> {
        u32::try_from(id).map(Element::Token).map_err(|_| E::custom(format!("{id} is not a token id")))
    }
    fn visit_i64<E: de::Error>(self, id: i64) -> Result<Element, E> {
        u32::try_from(id).map(Element::Token).map_err(|_| E::custom(format!("{id} is not a token id")))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut ids: A) -> Result<Element, A::Error> {
        let mut tokens = Vec::new();
        while let Some(id) = ids.next_element::<u32>()? {
            tokens.push(id);
        }
        Ok(Element::Text(Text::Tokens(tokens)))
    }
}

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ElementForm)
    }
}

impl<'de> Deserialize<'de> for Prompt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;
        impl<'de> Visitor<'de> for Form {
            type Value = Prompt;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a string, token ids, or a list of up to {MAX_PROMPTS} of either")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Prompt, E> {
                Ok(Prompt { texts: vec![Text::String(text.to_owned())], listed: false })
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Prompt, A::Error> {
                let mut tokens = Vec::new();
                let mut texts = Vec::new();
                while let Some(element) = elements.next_element()? {
                    match element {
                        Element::Token(id) if texts.is_empty() => tokens.push(id),
                        Element::Text(_) if !tokens.is_empty() || texts.len() == MAX_PROMPTS => {
                            return Err(de::Error::custom(match texts.len() {
                                MAX_PROMPTS => format!("more than {MAX_PROMPTS} prompts"),
                                _ => "a list of token ids holds nothing else".to_owned(),
                            }));
                        }
                        Element::Text(text) => texts.push(text),
                        Element::Token(_) => {
                            return Err(de::Error::custom("a list of texts holds no token ids of its own"));
                        }
                    }
                }
                Ok(match texts.is_empty() {
                    true => Prompt { texts: vec![Text::Tokens(tokens)], listed: false },
                    false => Prompt { texts, listed: true },
                })
            }
        }
        deserializer.deserialize_any(Form)
    }
}

/// `logit_bias`: what is added to the logits of some tokens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogitBias(pub Vec<(u32, f32)>);

/// Most tokens with a bias.
const MAX_BIASES: usize = 1024;

impl<'de> Deserialize<'de> for LogitBias {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;
        impl<'de> Visitor<'de> for Form {
            type Value = LogitBias;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "an object of up to {MAX_BIASES} token ids with numbers from -100 to 100")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<LogitBias, A::Error> {
                let mut biases = Vec::new();
                while let Some((id, bias)) = entries.next_entry::<String, f64>()? {
                    let id: u32 = id.parse().map_err(|_| {
                        let id: String = id.chars().take(32).collect();
                        de::Error::custom(format!("'{id}' is not a token id"))
                    })?;
                    if !(-100.0..=100.0).contains(&bias) {
                        return Err(de::Error::custom(format!("{bias} for token {id}; expected -100 to 100")));
                    }
                    if biases.len() == MAX_BIASES {
                        return Err(de::Error::custom(format!("more than {MAX_BIASES} tokens")));
                    }
                    biases.push((id, bias as f32));
                }
                // Of two entries for a token the last counts, as in JSON objects everywhere.
                biases.sort_by_key(|(id, _)| *id);
                biases.reverse();
                biases.dedup_by_key(|(id, _)| *id);
                biases.reverse();
                Ok(LogitBias(biases))
            }
        }
        deserializer.deserialize_map(Form)
    }
}

/// `tool_choice`: which tools may or must be called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// The model decides.
    #[default]
    Auto,
    /// None.
    None,
    /// Some tool.
    Required,
    /// This one.
    Named(String),
}

impl<'de> Deserialize<'de> for ToolChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;
        impl<'de> Visitor<'de> for Form {
            type Value = ToolChoice;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("'auto', 'none', 'required' or {\"type\": \"function\", \"function\": {\"name\": ...}}")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<ToolChoice, E> {
                match text {
                    "auto" => Ok(ToolChoice::Auto),
                    "none" => Ok(ToolChoice::None),
                    "required" => Ok(ToolChoice::Required),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ToolChoice, A::Error> {
                #[derive(serde::Deserialize)]
                struct Function {
                    name: String,
                }
                #[derive(serde::Deserialize)]
                struct Named {
                    function: Function,
                }
                let named = Named::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(ToolChoice::Named(named.function.name))
            }
        }
        deserializer.deserialize_any(Form)
    }
}

/// `response_format`: the form that an answer must have.
#[derive(Clone, Debug, PartialEq, serde::Deserialize, ToSchema)]
pub struct ResponseFormat {
    /// Which form.
    pub r#type: FormatKind,
    /// With `json_schema`: the schema.
    #[serde(default)]
    pub json_schema: Option<NamedSchema>,
}

/// The kinds of forms that an answer can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FormatKind {
    /// Any text.
    Text,
    /// A JSON object.
    JsonObject,
    /// JSON that a schema describes.
    JsonSchema,
}

/// A JSON schema with its name. It is always enforced, whatever `strict` says.
#[derive(Clone, Debug, PartialEq, serde::Deserialize, ToSchema)]
pub struct NamedSchema {
    /// For people.
    #[serde(default)]
    pub name: Option<String>,
    /// The schema; any object when absent.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub schema: Option<Json>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse<T: de::DeserializeOwned>(json: &str) -> Result<T, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn content_is_text_or_parts_of_text() {
        for (json, text) in [
            (r#""hi""#, "hi"),
            (r#"[{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]"#, "a\nb"),
            ("[]", ""),
        ] {
            assert_eq!(parse::<Content>(json).unwrap().0, text);
        }
        let error = parse::<Content>(r#"[{"type": "image_url", "image_url": {"url": "x"}}]"#).unwrap_err();
        assert!(error.contains("image_url"), "{error}");
        for bad in ["5", "{}", "true", r#"[{"type": "text"}]"#, "[5]", "null"] {
            assert!(parse::<Content>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn prompts_are_one_text_or_many() {
        let one = |text| Prompt { texts: vec![text], listed: false };
        assert_eq!(parse::<Prompt>(r#""a""#).unwrap(), one(Text::String("a".into())));
        assert_eq!(parse::<Prompt>("[1, 2]").unwrap(), one(Text::Tokens(vec![1, 2])));
        assert_eq!(parse::<Prompt>("[]").unwrap(), one(Text::Tokens(vec![])));
        let many = Prompt { texts: vec![Text::Tokens(vec![1]), Text::String("b".into())], listed: true };
        assert_eq!(parse::<Prompt>(r#"[[1], "b"]"#).unwrap(), many);
        let long = format!("[{}\"x\"]", "\"x\",".repeat(64));
        for bad in [r#"["a", 1]"#, r#"[1, "a"]"#, "[-1]", "[4294967296]", "[1.5]", "5", "[[[1]]]", &long] {
            assert!(parse::<Prompt>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn biases_and_stops_keep_their_bounds() {
        assert_eq!(parse::<LogitBias>(r#"{"7": 1, "3": -100, "7": 2.5}"#).unwrap().0, [(3, -100.0), (7, 2.5)]);
        for bad in [r#"{"x": 1}"#, r#"{"1": 101}"#, r#"{"1": "a"}"#, "[]", r#"{"-1": 0}"#] {
            assert!(parse::<LogitBias>(bad).is_err(), "{bad}");
        }
        assert_eq!(parse::<Stop>(r#""x""#).unwrap().0, ["x"]);
        let long = format!("\"{}\"", "x".repeat(257));
        let many = format!("[{}\"x\"]", "\"x\",".repeat(16));
        for bad in [r#""""#, "5", "[5]", r#"[""]"#, &long, &many] {
            assert!(parse::<Stop>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn choices_of_tools() {
        let named = r#"{"type": "function", "function": {"name": "f"}}"#;
        assert_eq!(parse::<ToolChoice>(named).unwrap(), ToolChoice::Named("f".into()));
        assert_eq!(parse::<ToolChoice>(r#""required""#).unwrap(), ToolChoice::Required);
        assert!(parse::<ToolChoice>(r#""sometimes""#).is_err());
    }
}
