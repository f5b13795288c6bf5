//! Continues a text: `cargo run --release --example generate -- MODEL "Once upon a time"`
#![allow(clippy::print_stdout)] // a program

use sherry::{Generate, Llm};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let mut llm = Llm::load(args.next().ok_or("usage: generate MODEL [PROMPT]")?)?;
    let prompt = args.next().unwrap_or("Once upon a time".to_owned());
    for piece in llm.generate(&prompt, &Generate { max_tokens: Some(64), ..Generate::default() })? {
        print!("{}", piece?);
    }
    Ok(())
}
