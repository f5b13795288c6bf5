//! Continues the lines of a file, eight at a time: `cargo run --release --example batch -- MODEL LINES`
#![allow(clippy::print_stdout)] // a program

use sherry::{Generate, Llm, LoadOptions, NoProgress};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, lines] = &args[..] else { return Err("usage: batch MODEL LINES".into()) };
    let mut llm = Llm::load_with(model, &LoadOptions { sequences: 8, ..LoadOptions::default() }, &NoProgress)?;
    let lines = std::fs::read_to_string(lines)?;
    let prompts: Vec<&str> = lines.lines().filter(|line| !line.is_empty()).collect();
    for answer in llm.batch(&prompts, &Generate { max_tokens: Some(32), ..Generate::default() })? {
        println!("{:?}", answer.text);
    }
    Ok(())
}
