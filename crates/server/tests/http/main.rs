//! The server over a socket: what it answers, and that nothing can hurt it.

mod answers;
mod bad_input;
mod client;
mod connections;
mod faults;
mod fixture;
mod operation;
mod templates;
mod text;
mod tools;
