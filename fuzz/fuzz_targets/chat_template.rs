//! Any text as a chat template, up to the first zero byte; what follows is what the user says.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sherry::chat::{ChatTemplate, Message};
use sherry::tokenizer::Tokenizer;

fuzz_target!(|data: &str| {
    let (source, said) = data.split_once('\0').unwrap_or((data, "hello"));
    let Ok(template) = ChatTemplate::new(source, Some("<s>"), Some("</s>")) else { return };
    let tokenizer =
        Tokenizer::from_tiktoken(b"YQ== 0\n", "gpt-2", &["<|im_end|>".into()]).expect("a sound vocabulary");
    let messages = [Message::new("user", said), Message::new("assistant", "b")];
    let Ok(prompt) = template.render(&tokenizer, &messages, true) else { return };
    for range in &prompt.literal {
        assert!(prompt.text.is_char_boundary(range.start) && prompt.text.is_char_boundary(range.end));
    }
    assert!(prompt.literal.is_sorted_by(|a, b| a.end <= b.start));
});
