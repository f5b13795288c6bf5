//! Answers of a given form: JSON by a schema, a regular expression, one of some texts, the call of a tool.
//!
//! The work is done by `llguidance`, which computes for every step which tokens may come next. A form that it cannot
//! follow is refused before anything runs; nothing that is not enforced is accepted.

use std::sync::Arc;

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};
use sherry::batch::Constraint;
use sherry::generate::TokenSet;
use sherry::tokenizer::Tokenizer;
use toktrie::{ApproximateTokEnv, InferenceCapabilities, SimpleVob, TokEnv, TokRxInfo, TokTrie};

use crate::error::ApiError;
use crate::openai::json::Json;
use crate::openai::request::{MAX_TEXTS, Tool};
use crate::tools::Style;

/// Bytes of a schema or expression, and levels inside it.
const LIMITS: (usize, usize) = (64 << 10, 32);

/// What an answer must look like.
#[derive(Clone, Debug, PartialEq)]
pub enum Rule {
    /// JSON that fits this schema.
    Json(Value),
    /// Text that this regular expression matches as a whole.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// Calls of tools: a grammar in the form that llguidance reads.
    Calls(String),
}

/// A call that the answer must be.
pub struct ForcedCall<'a> {
    /// The tools.
    pub tools: &'a [Tool],
    /// This one, or any.
    pub name: Option<&'a str>,
    /// How the model writes calls.
    pub style: Style,
    /// Several calls may follow each other.
    pub parallel: bool,
}

impl Rule {
    /// The rule for an answer that calls a tool.
    pub fn call(forced: &ForcedCall<'_>) -> Self {
        let tools = forced.tools.iter().filter(|tool| forced.name.is_none_or(|name| tool.function.name == name));
        let quoted = |text: &str| Value::from(text).to_string();
        let frame = forced.style.frame();
        let several = frame.between.filter(|_| forced.parallel && forced.name.is_none());
        let more = several.map(|between| format!(" ({} one)*", quoted(between))).unwrap_or_default();
        let literal = |text: &str| if text.is_empty() { String::new() } else { quoted(text) };
        let mut grammar = format!("start: {} one{more} {}\n", literal(frame.all.0), literal(frame.all.1));
        let (open, close) = frame.one;
        let (mut names, mut rules) = (Vec::new(), String::new());
        for (index, tool) in tools.enumerate() {
            let head = format!("{open}{{\"name\": {}, \"{}\": ", quoted(&tool.function.name), forced.style.arguments());
            let (head, tail) = (quoted(&head), quoted(&format!("}}{close}")));
            // Each schema is a rule of its own, so that its references find their definitions.
            let arguments = arguments_schema(tool.function.parameters.as_ref().map(|Json(schema)| schema));
            names.push(format!("call{index}"));
            rules.push_str(&format!(
                "call{index}: {head} arguments{index} {tail}\narguments{index}: %json {arguments}\n"
            ));
        }
        grammar.push_str(&format!("one: {}\n{rules}", names.join(" | ")));
        Self::Calls(grammar)
    }
}

/// The schema of a function's arguments: an object, written with the white space that templates write it with, since a model
/// that may write more can go on with it for ever.
fn arguments_schema(parameters: Option<&Value>) -> Value {
    let mut schema = match parameters {
        Some(Value::Object(fields)) => Value::from(fields.clone()),
        _ => json!({}),
    };
    if schema.get("type").is_none() {
        schema["type"] = json!("object");
    }
    let mut options = json!({ "whitespace_flexible": false, "item_separator": ", ", "key_separator": ": " });
    if let (Some(all), Some(Value::Object(asked))) = (options.as_object_mut(), schema.get("x-guidance")) {
        all.extend(asked.clone());
    }
    schema["x-guidance"] = options;
    schema
}

/// Makes constraints for one vocabulary.
pub struct Grammars {
    factory: ParserFactory,
    eos: u32,
    ends: Arc<[u32]>,
}

impl Grammars {
    /// For the tokens of `tokenizer`. Takes a moment with a large vocabulary.
    ///
    /// # Errors
    /// 500: the vocabulary has no token that ends a text.
    pub fn new(tokenizer: &Tokenizer, ends: &Arc<[u32]>) -> Result<Self, ApiError> {
        let fault = |error: &dyn std::fmt::Display| ApiError::internal("internal_error", format!("grammars: {error}"));
        let eos = tokenizer.eos().ok_or_else(|| fault(&"the vocabulary has no token that ends a text"))?;
        let size = tokenizer.vocab_size() as u32;
        let words: Vec<Vec<u8>> = (0..size)
            .map(|id| {
                let mut bytes = Vec::new();
                if tokenizer.is_control(id) {
                    // By llguidance's convention a byte that is no text marks control tokens, which no rule allows.
                    bytes.push(TokTrie::SPECIAL_TOKEN_MARKER);
                    bytes.extend_from_slice(tokenizer.id_to_token(id).unwrap_or_default().as_bytes());
                } else {
                    // An id without a text has no bytes and is never allowed.
                    tokenizer.token_bytes(id, &mut bytes);
                }
                bytes
            })
            .collect();
        let trie = TokTrie::from(&TokRxInfo::new(size, eos), &words);
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new(
            &env,
            InferenceCapabilities::default(),
            &llguidance::earley::SlicedBiasComputer::general_slices(),
        )
        .map_err(|error| fault(&error))?;
        factory.quiet();
        let all = ParserLimits::default();
        *factory.limits_mut() = ParserLimits {
            max_items_in_row: all.max_items_in_row / 10,
            initial_lexer_fuel: all.initial_lexer_fuel / 10,
            step_lexer_fuel: all.step_lexer_fuel / 10,
            step_max_items: all.step_max_items / 10,
            max_lexer_states: all.max_lexer_states / 10,
            max_grammar_size: all.max_grammar_size / 10,
            verbose_errors: false,
            ..all
        };
        Ok(Self { factory, eos, ends: Arc::clone(ends) })
    }

    /// The rule, ready to run.
    ///
    /// # Errors
    /// 400 `invalid_schema`: too large, not well-formed, or asking for what cannot be enforced.
    pub fn compile(&self, rule: &Rule) -> Result<Box<dyn Constraint>, ApiError> {
        let (param, grammar) = match rule {
            Rule::Json(schema) => {
                let param = "response_format.json_schema.schema";
                check_schema(schema, param)?;
                (param, TopLevelGrammar::from_json_schema(schema.clone()))
            }
            Rule::Regex(regex) => {
                check_size(regex.len(), "guided_regex")?;
                ("guided_regex", TopLevelGrammar::from_regex(regex))
            }
            Rule::Choice(texts) => {
                if texts.is_empty() || texts.iter().any(String::is_empty) {
                    let message = format!("guided_choice takes 1 to {MAX_TEXTS} texts that are not empty");
                    return Err(ApiError::refused("invalid_schema", "guided_choice", message));
                }
                check_size(texts.iter().map(String::len).sum(), "guided_choice")?;
                let literals: Vec<String> = texts.iter().map(|text| literal(text)).collect();
                ("guided_choice", TopLevelGrammar::from_regex(&literals.join("|")))
            }
            Rule::Calls(grammar) => {
                check_size(grammar.len(), "tools")?;
                ("tools", TopLevelGrammar::from_lark(grammar.clone()))
            }
        };
        let refuse = |error: String| ApiError::refused("invalid_schema", param, error);
        // `llguidance` reports nearly everything as an error; what it does not must not end the process.
        let parser = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.factory.create_parser(grammar)))
            .map_err(|_| refuse("the form cannot be used".to_owned()))?;
        let mut matcher = Matcher::new(parser);
        if let Some(error) = matcher.get_error() {
            return Err(refuse(error));
        }
        // A form that no text has is an error of the request, not an answer without end.
        if let Err(error) = matcher.compute_mask_or_eos() {
            return Err(refuse(error.to_string()));
        }
        Ok(Box::new(Guided { matcher, eos: self.eos, ends: Arc::clone(&self.ends) }))
    }
}

/// A regular expression for this text alone.
fn literal(text: &str) -> String {
    let mut regex = String::new();
    for c in text.chars() {
        if c.is_control() {
            regex += &format!("\\x{{{:x}}}", u32::from(c));
        } else {
            if c.is_ascii_punctuation() {
                regex.push('\\');
            }
            regex.push(c);
        }
    }
    regex
}

fn check_size(bytes: usize, param: &str) -> Result<(), ApiError> {
    match bytes <= LIMITS.0 {
        true => Ok(()),
        false => Err(ApiError::refused("invalid_schema", param, format!("{bytes} bytes; at most {}", LIMITS.0))),
    }
}

fn check_schema(schema: &Value, param: &str) -> Result<(), ApiError> {
    fn depth(value: &Value) -> usize {
        match value {
            Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
            Value::Array(list) => 1 + list.iter().map(depth).max().unwrap_or(0),
            _ => 0,
        }
    }
    if !(schema.is_object() || schema.is_boolean()) {
        return Err(ApiError::refused("invalid_schema", param, "a JSON schema is an object"));
    }
    check_size(schema.to_string().len(), param)?;
    match depth(schema) {
        levels if levels > LIMITS.1 => {
            Err(ApiError::refused("invalid_schema", param, format!("{levels} levels; at most {}", LIMITS.1)))
        }
        _ => Ok(()),
    }
}

/// A rule at work.
struct Guided {
    matcher: Matcher,
    eos: u32,
    /// Every token that ends an answer.
    ends: Arc<[u32]>,
}

impl Constraint for Guided {
    fn allow(&mut self, allowed: &mut TokenSet) -> sherry::Result<()> {
        let mut mask = match self.matcher.is_stopped() {
            true => SimpleVob::alloc(allowed.len()),
            false => self.matcher.compute_mask_or_eos().map_err(fault)?,
        };
        // Where the text may end, any token that ends an answer will do.
        if self.matcher.is_stopped() || mask.is_allowed(self.eos) {
            self.ends.iter().for_each(|&id| mask.allow_token(id));
        }
        allowed.retain_words(mask.as_slice());
        Ok(())
    }

    fn accept(&mut self, token: u32) -> sherry::Result<()> {
        if self.matcher.is_stopped() || self.ends.contains(&token) {
            return Ok(());
        }
        self.matcher.consume_token(token).map_err(fault)
    }

    fn fork(&self) -> Box<dyn Constraint> {
        Box::new(Self { matcher: self.matcher.deep_clone(), eos: self.eos, ends: Arc::clone(&self.ends) })
    }
}

fn fault(error: impl std::fmt::Display) -> sherry::Error {
    sherry::Error::Invalid(format!("the answer's form can no longer be enforced: {error}"))
}
