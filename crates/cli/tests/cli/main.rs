//! The `sherry` command as a user meets it: exit codes, what goes to stdout and stderr, and what is left on disk.

mod bench;
mod calibrate;
mod documents;
mod evaluate;
mod fixture;
mod guides;
mod json;
mod models;
mod options;
mod process;
mod pull;
mod streams;
#[cfg(unix)]
mod terminal;
#[path = "../../src/pull/test_hub.rs"]
mod test_hub;
mod training;
mod usage;
