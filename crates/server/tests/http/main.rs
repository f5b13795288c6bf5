//! The server over a socket: what it answers, and that nothing can hurt it.

mod answers;
mod bad_input;
mod fixture;
mod operation;
mod tools;
