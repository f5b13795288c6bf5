//! Templates as text, and what they are compiled to.

pub(super) mod ast;
mod expressions;
mod lexer;
mod parser;
mod scope;
mod symbols;
mod uses;

pub(super) use scope::compile;
