//! Jinja2 as `transformers` sets it up for chat templates, in bounded time and memory.
//!
//! Templates come with models and are untrusted. Here every byte of every string and every slot of every list made is
//! paid for before it is made, every comparison and every step too, and nesting is bounded everywhere. Values are
//! immutable except for namespaces, which values hold by number, so there are no cycles. Nothing in the language
//! reaches files, the environment or other templates. What is done before a budget exists, lexing and parsing, takes
//! time linear in the length of the source.
//!
//! The text is Jinja2's, or there is an error where Jinja2 has one: a sandbox that forbids changes, `trim_blocks`,
//! `lstrip_blocks`, loop controls, `generation` blocks, `tojson` as Python's `json.dumps`. Not supported, and refused
//! where it is reached: random text (`random`, `lipsum`), bytes, sets, complex numbers, lone surrogates, HTML entities
//! beyond the common ones, and what prints where an object lies in memory.
//!
//! From the bottom up: what is left of the budget ([`meter`]); characters, texts, numbers, mappings, values; the
//! compiler ([`syntax`]); the interpreter with its statements, expressions, attributes, operators and calls; methods,
//! filters, tests and formats.

mod attribute;
mod call;
mod chars;
mod checks;
mod dict;
mod eval;
mod filters;
mod format;
mod html;
mod interpreter;
mod iterate;
mod json;
mod meter;
mod methods;
mod number;
mod operators;
mod print;
mod statements;
mod syntax;
mod text;
mod value;

use std::ops::Range;

pub(super) use meter::Budget;

use interpreter::Interpreter;
use meter::Meter;

/// What is wrong, and in which line of the template (0: not known).
#[derive(Debug)]
pub(super) struct Fault {
    pub message: String,
    pub line: u32,
    /// The template itself said so, through `raise_exception`.
    pub raised: bool,
    /// A limit was reached: nothing may go on as if it were an ordinary mistake.
    limit: bool,
}

impl Fault {
    fn new(message: impl Into<String>) -> Box<Self> {
        Box::new(Self { message: message.into(), line: 0, raised: false, limit: false })
    }

    /// The template `does` too much.
    fn limit(does: &str) -> Box<Self> {
        Box::new(Self { limit: true, ..*Self::new(format!("the template {does}")) })
    }

    fn raised(message: &str) -> Box<Self> {
        Box::new(Self { raised: true, ..*Self::new(message) })
    }

    /// In this line, unless it is known better.
    fn in_line(mut self: Box<Self>, line: u32) -> Box<Self> {
        if self.line == 0 {
            self.line = line;
        }
        self
    }
}

type Result<T> = std::result::Result<T, Box<Fault>>;

/// How Jinja2 is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// As transformers does for chat templates: line ends behind blocks and blanks before them go (`trim_blocks`,
    /// `lstrip_blocks`), and one line end at the end; what is not there prints as nothing.
    Chat,
    /// As lm-evaluation-harness does for fields of tasks: the text as it is, and what is not there is an error
    /// (`StrictUndefined`; here also where Jinja2 would ask first whether it is there).
    Strict,
}

/// A compiled template.
pub(super) struct Template {
    compiled: syntax::ast::Template,
    dialect: Dialect,
}

/// A variable that a template sees.
pub(super) struct Given<'g> {
    pub name: &'g str,
    pub value: &'g serde_json::Value,
    /// Whether strings in it are marked, to be found again in the rendered text.
    pub marked: bool,
}

/// What a template sees.
pub(super) struct Globals<'g> {
    pub variables: &'g [Given<'g>],
    /// `strftime_now`.
    pub strftime: &'g dyn Fn(&str) -> std::result::Result<String, String>,
}

/// A rendered text.
pub(super) struct Rendered {
    pub text: String,
    /// Bytes that came from marked variables: sorted, disjoint.
    pub marked: Vec<Range<usize>>,
}

impl Template {
    /// Compiles `source`.
    pub fn new(source: &str, dialect: Dialect) -> Result<Self> {
        Ok(Self { compiled: syntax::compile(source, dialect)?, dialect })
    }

    /// Whether the template looks at the variable `name`.
    pub fn reads(&self, name: &str) -> bool {
        self.compiled.globals.contains(name)
    }

    /// The text that the template makes.
    pub fn render(&self, globals: &Globals<'_>, budget: Budget) -> Result<Rendered> {
        let meter = Meter::new(budget);
        let text = Interpreter::new(&self.compiled, &meter, globals, self.dialect)?.run()?;
        Ok(Rendered { text: text.as_str().to_owned(), marked: text.marks() })
    }
}
