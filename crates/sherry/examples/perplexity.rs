//! Perplexity of a text in windows of 512 tokens: `cargo run --release --example perplexity -- MODEL TEXT`
#![allow(clippy::print_stdout)] // a program

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, text] = &args[..] else { return Err("usage: perplexity MODEL TEXT".into()) };
    let mut llm = sherry::Llm::load(model)?;
    let tokens = llm.tokenizer().encode(&std::fs::read_to_string(text)?, true, false)?;
    let mut scores = Vec::new();
    for window in tokens.chunks(512) {
        scores.extend(llm.log_probs(window)?);
    }
    println!("{:.2}", (-scores.iter().sum::<f64>() / scores.len() as f64).exp());
    Ok(())
}
