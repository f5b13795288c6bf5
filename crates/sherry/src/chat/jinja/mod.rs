//! The part of Jinja that chat templates use, as an interpreter that cannot be made to misbehave.
//!
//! Templates come with models and are untrusted. General template engines bound steps and recursion but not memory: a
//! list that holds itself twice, forty levels deep, costs nothing to build and a terabyte to print. Here every byte
//! of every string and every slot of every list made is paid for before it is made, every comparison and every step
//! too, and nesting is bounded everywhere. Values are immutable except for namespaces, which no value can hold, so there
//! are no cycles. There is nothing in the language that reaches files, the environment or other templates.
//!
//! Follows Jinja2 as `transformers` sets it up: `trim_blocks`, `lstrip_blocks`, loop controls, `generation` blocks,
//! undefined values print as nothing. What is not supported (inheritance, includes, `call`, string formatting with
//! `%`) is an error when the template is compiled or reached, never wrong output.

mod eval;
mod lexer;
mod library;
mod operators;
mod parser;
mod value;

/// How much one rendering may use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    /// Steps: expressions, statements, items visited.
    pub steps: u64,
    /// Bytes of all strings and lists that are made, whether or not they live to the end.
    pub bytes: u64,
}

/// What is wrong, and in which line of the template (0: not known).
#[derive(Debug)]
pub(super) struct Fault {
    pub message: String,
    pub line: u32,
    /// The template itself said so, through `raise_exception`.
    pub raised: bool,
}

impl Fault {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), line: 0, raised: false }
    }
}

type Result<T> = std::result::Result<T, Fault>;

/// A compiled template.
pub(super) struct Template {
    body: Vec<parser::Node>,
}

/// What a template sees.
pub(super) struct Globals<'g> {
    /// Variables by name.
    pub variables: &'g [(String, serde_json::Value)],
    /// `strftime_now`.
    pub strftime: &'g dyn Fn(&str) -> std::result::Result<String, String>,
}

impl Template {
    /// Compiles `source`.
    pub fn new(source: &str) -> Result<Self> {
        Ok(Self { body: parser::parse(lexer::lex(source)?)? })
    }

    /// The text that the template makes.
    pub fn render(&self, globals: &Globals<'_>, budget: Budget) -> Result<String> {
        eval::Interpreter::new(globals, budget)?.run(&self.body)
    }
}
