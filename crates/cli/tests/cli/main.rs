//! The `sherry` command as a user meets it: exit codes, what goes to stdout and stderr, and what is left on disk.

mod bench;
mod documents;
mod evaluate;
mod fixture;
mod models;
mod process;
mod streams;
mod training;
mod usage;
