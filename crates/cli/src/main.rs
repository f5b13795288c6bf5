//! The `sherry` command.
fn main() {}
