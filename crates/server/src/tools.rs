//! Calls of tools in what a model writes.
//!
//! Families write them in their own ways. Text before a call goes out as it comes; from the marker on it is held back
//! until the call is complete. What looks like a call and is none goes out as the text that it is.

use serde_json::Value;

use crate::openai::answer::AnswerFunction;

/// How a family writes calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`: Qwen, Hermes, SmolLM.
    Hermes,
    /// `<tool_calls>[{"name": ..., "arguments": {...}}, ...]</tool_calls>`: Hunyuan.
    Hunyuan,
    /// The whole answer is `{"name": ..., "parameters": {...}}`, perhaps behind `<|python_tag|>`: LLaMA 3.
    Llama3,
}

/// What stands around calls and between them, where a style has several in one answer.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// Before the first call, and behind the last.
    pub all: (&'static str, &'static str),
    /// Before the JSON of each call, and behind it.
    pub one: (&'static str, &'static str),
    /// Between two calls.
    pub between: Option<&'static str>,
}

impl Style {
    /// The style of a chat template that knows tools.
    pub fn of_template(source: &str) -> Self {
        let llama = source.contains("python_tag") || source.contains("ipython") || source.contains("\"parameters\"");
        if source.contains("<tool_calls>") {
            Self::Hunyuan
        } else if llama && !source.contains("<tool_call>") {
            Self::Llama3
        } else {
            Self::Hermes
        }
    }

    /// What stands around the JSON of calls.
    pub fn frame(self) -> Frame {
        match self {
            Self::Hermes => Frame { all: ("", ""), one: ("<tool_call>\n", "\n</tool_call>"), between: Some("\n") },
            Self::Hunyuan => Frame { all: ("<tool_calls>[", "]</tool_calls>"), one: ("", ""), between: Some(", ") },
            Self::Llama3 => Frame { all: ("", ""), one: ("", ""), between: None },
        }
    }

    /// The name of the field with the arguments.
    pub fn arguments(self) -> &'static str {
        match self {
            Self::Hermes | Self::Hunyuan => "arguments",
            Self::Llama3 => "parameters",
        }
    }

    /// What a call begins and ends with, where text may stand around it.
    fn markers(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Hermes => Some(("<tool_call>", "</tool_call>")),
            Self::Hunyuan => Some(("<tool_calls>", "</tool_calls>")),
            Self::Llama3 => None,
        }
    }
}

/// Longest call that is held back.
const MAX_CALL_BYTES: usize = 256 << 10;

/// Looks for calls in text that arrives in pieces.
#[derive(Debug)]
pub struct CallParser {
    style: Style,
    /// More than one call may be made.
    parallel: bool,
    /// A call was found.
    called: bool,
    held: String,
    /// Something other than white space went out: a LLaMA call can only be the whole answer.
    spoken: bool,
    /// A call has just ended: white space that follows belongs to the frame of calls.
    after_call: bool,
}

/// What a piece of text became.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// Text for the reader.
    pub text: String,
    /// Calls that became complete.
    pub calls: Vec<AnswerFunction>,
}

impl CallParser {
    /// A parser at the beginning of an answer, for one call or for several.
    pub fn new(style: Style, parallel: bool) -> Self {
        Self { style, parallel, called: false, held: String::new(), spoken: false, after_call: false }
    }

    /// Takes the next piece.
    pub fn push(&mut self, piece: &str) -> Parsed {
        self.held.push_str(piece);
        let mut out = Parsed::default();
        match self.style.markers() {
            Some((open, close)) => self.marked(open, close, &mut out),
            None => {
                // The whole answer decides; what cannot become a call goes out at once.
                let start = self.held.trim_start();
                let start = start.strip_prefix("<|python_tag|>").unwrap_or(start);
                let may_be = start.is_empty() || start.starts_with('{') || "<|python_tag|>".starts_with(start);
                if self.spoken || !may_be || self.held.len() > MAX_CALL_BYTES {
                    self.speak(&mut out, self.held.len());
                }
            }
        }
        self.limited(out)
    }

    /// Of several calls where one was allowed the first is made.
    fn limited(&mut self, mut parsed: Parsed) -> Parsed {
        if !self.parallel {
            parsed.calls.truncate(usize::from(!self.called));
        }
        self.called |= !parsed.calls.is_empty();
        parsed
    }

    fn marked(&mut self, open: &str, close: &str, out: &mut Parsed) {
        loop {
            if self.after_call {
                let blank = self.held.len() - self.held.trim_start().len();
                self.held.drain(..blank);
                self.after_call = self.held.is_empty();
            }
            let Some(begin) = self.held.find(open) else {
                // The beginning of a marker waits for its rest.
                let keep = (1..open.len()).rev().find(|&n| self.held.ends_with(&open[..n])).unwrap_or(0);
                self.speak(out, self.held.len() - keep);
                return;
            };
            self.speak(out, begin);
            let found = self.held.match_indices(close).find_map(|(end, _)| {
                match serde_json::from_str::<Value>(self.held[open.len()..end].trim()) {
                    // The marker stands inside a text.
                    Err(error) if error.is_eof() => None,
                    value => Some((end + close.len(), value.ok().and_then(|value| one_or_more(&value)))),
                }
            });
            match found {
                Some((end, Some(calls))) => {
                    out.calls.extend(calls);
                    self.held.drain(..end);
                    self.after_call = true;
                }
                Some((end, None)) => self.speak(out, end),
                None if self.held.len() > MAX_CALL_BYTES => self.speak(out, self.held.len()),
                None => return,
            }
        }
    }

    fn speak(&mut self, out: &mut Parsed, bytes: usize) {
        let text: String = self.held.drain(..bytes).collect();
        self.spoken |= !text.trim().is_empty();
        out.text.push_str(&text);
    }

    /// What is left when the answer has ended.
    pub fn finish(mut self) -> Parsed {
        let mut out = Parsed::default();
        if self.style == Style::Llama3 && !self.spoken {
            let text = self.held.trim();
            let text = text.strip_prefix("<|python_tag|>").unwrap_or(text);
            if let Some(calls) = calls(text) {
                return self.limited(Parsed { text: String::new(), calls });
            }
        }
        self.speak(&mut out, self.held.len());
        out
    }
}

/// The calls that a JSON value describes: one, or a list of them.
fn one_or_more(value: &Value) -> Option<Vec<AnswerFunction>> {
    match value {
        Value::Array(values) if !values.is_empty() => values.iter().map(call).collect(),
        _ => Some(vec![call(value)?]),
    }
}

/// The call that a JSON value describes.
fn call(value: &Value) -> Option<AnswerFunction> {
    let name = value.get("name")?.as_str()?.to_owned();
    let arguments = value.get("arguments").or_else(|| value.get("parameters"))?;
    let arguments = match arguments {
        // Some models write the arguments as a string of JSON.
        Value::String(text) if serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok() => text.clone(),
        Value::Object(_) => arguments.to_string(),
        _ => return None,
    };
    Some(AnswerFunction { name, arguments })
}

/// The calls that a text consists of, with `;` between them.
fn calls(text: &str) -> Option<Vec<AnswerFunction>> {
    let mut calls = Vec::new();
    let mut rest = text;
    loop {
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
        calls.push(call(&values.next()?.ok()?)?);
        rest = rest[values.byte_offset()..].trim_start();
        match rest.strip_prefix(';').map(str::trim_start) {
            _ if rest.is_empty() => return Some(calls),
            Some("") => return Some(calls),
            Some(next) => rest = next,
            None => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(style: Style, pieces: &[&str]) -> (String, Vec<(String, String)>) {
        let mut parser = CallParser::new(style, true);
        let mut all = Parsed::default();
        for piece in pieces {
            let part = parser.push(piece);
            all.text.push_str(&part.text);
            all.calls.extend(part.calls);
        }
        let part = parser.finish();
        all.text.push_str(&part.text);
        all.calls.extend(part.calls);
        (all.text, all.calls.into_iter().map(|call| (call.name, call.arguments)).collect())
    }

    fn call(name: &str, arguments: &str) -> (String, String) {
        (name.to_owned(), arguments.to_owned())
    }

    #[test]
    fn calls_are_found_however_the_text_is_cut() {
        let text = "I look.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": 1}}\n</tool_call>\n\
            <tool_call>{\"name\": \"g\", \"arguments\": \"{}\"}</tool_call>";
        let expected = ("I look.\n".to_owned(), vec![call("f", r#"{"x":1}"#), call("g", "{}")]);
        for at in 0..=text.len() {
            assert_eq!(run(Style::Hermes, &[&text[..at], &text[at..]]), expected, "{at}");
        }
        let one_by_one: Vec<String> = text.chars().map(String::from).collect();
        assert_eq!(run(Style::Hermes, &one_by_one.iter().map(String::as_str).collect::<Vec<_>>()), expected);
    }

    #[test]
    fn hunyuan_calls_are_a_list() {
        let text = "I look. <tool_calls>[{\"name\": \"f\", \"arguments\": {\"x\": \"</tool_calls>\"}}, \
            {\"name\": \"g\", \"arguments\": {}}]</tool_calls> ";
        let expected = ("I look. ".to_owned(), vec![call("f", r#"{"x":"</tool_calls>"}"#), call("g", "{}")]);
        for at in 0..=text.len() {
            assert_eq!(run(Style::Hunyuan, &[&text[..at], &text[at..]]), expected, "{at}");
        }
        for text in ["<tool_calls>[]</tool_calls>", "<tool_calls>[{}]</tool_calls>", "<tool_calls>[", "a <tool_call>"] {
            assert_eq!(run(Style::Hunyuan, &[text]), (text.to_owned(), vec![]), "{text}");
        }
        assert_eq!(Style::of_template("{{ '<tool_calls>' }}"), Style::Hunyuan);
    }

    #[test]
    fn what_is_no_call_stays_text() {
        for text in [
            "<tool_call>{broken</tool_call> x",
            "a <tool_",
            "<tool_call>{\"name\": 5}</tool_call>",
            "<tool_call>{\"name\": \"f\"",
            "a < b",
        ] {
            assert_eq!(run(Style::Hermes, &[text]), (text.to_owned(), vec![]), "{text}");
        }
        for text in ["Hello {", "{\"a\": 1}", "{", "  plain"] {
            assert_eq!(run(Style::Llama3, &[text]), (text.to_owned(), vec![]), "{text}");
        }
    }

    #[test]
    fn llama_calls_are_the_whole_answer() {
        let one = r#"<|python_tag|>{"name": "f", "parameters": {"x": "a;b"}}"#;
        assert_eq!(run(Style::Llama3, &[one]), (String::new(), vec![call("f", r#"{"x":"a;b"}"#)]));
        let two = r#"{"name": "f", "parameters": {}}; {"name": "g", "parameters": {}}"#;
        assert_eq!(run(Style::Llama3, &[two]), (String::new(), vec![call("f", "{}"), call("g", "{}")]));
    }

    #[test]
    fn markers_inside_of_arguments_end_nothing() {
        let text = r#"<tool_call>{"name": "f", "arguments": {"x": "</tool_call>"}}</tool_call>"#;
        for at in 0..=text.len() {
            let expected = (String::new(), vec![call("f", r#"{"x":"</tool_call>"}"#)]);
            assert_eq!(run(Style::Hermes, &[&text[..at], &text[at..]]), expected, "{at}");
        }
        let two = r#"{"name": "f", "parameters": {"x": "a;b"}};{"name": "g", "parameters": {"x": "}; {"}}"#;
        let expected = vec![call("f", r#"{"x":"a;b"}"#), call("g", r#"{"x":"}; {"}"#)];
        assert_eq!(run(Style::Llama3, &[two]), (String::new(), expected));
    }

    #[test]
    fn one_call_is_made_where_one_is_allowed() {
        let hermes = r#"a<tool_call>{"name": "f", "arguments": {}}</tool_call><tool_call>{"name": "g", "arguments": {}}</tool_call>b"#;
        let llama = r#"{"name": "f", "parameters": {}}; {"name": "g", "parameters": {}}"#;
        for (style, text, rest) in [(Style::Hermes, hermes, "ab"), (Style::Llama3, llama, "")] {
            let mut parser = CallParser::new(style, false);
            let (first, second) = (parser.push(text), parser.finish());
            let calls: Vec<_> = first.calls.iter().chain(&second.calls).map(|call| call.name.as_str()).collect();
            assert_eq!((calls, first.text + &second.text), (vec!["f"], rest.to_owned()));
        }
    }

    #[test]
    fn text_before_a_marker_is_not_held() {
        let mut parser = CallParser::new(Style::Hermes, true);
        assert_eq!(parser.push("Hello <").text, "Hello ");
        assert_eq!(parser.push("b>").text, "<b>");
    }
}
