//! A conversation, each answer shown as it appears: `cargo run --release --example chat -- MODEL`
#![allow(clippy::print_stdout)] // a program

use std::io::Write as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = std::env::args().nth(1).ok_or("usage: chat MODEL")?;
    let mut chat = sherry::Chat::new(sherry::Llm::load(model)?)?;
    for line in std::io::stdin().lines() {
        for piece in chat.say(&line?)? {
            print!("{}", piece?);
            std::io::stdout().flush()?;
        }
        println!();
    }
    Ok(())
}
