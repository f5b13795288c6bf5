//! Configurations, tokenizers and templates.

use std::path::Path;

use sherry::chat::{ChatTemplate, Message};
use sherry::io::json;
use sherry::io::native::PackedScheme;
use sherry::model::config_hf;
use sherry::tokenizer::{TokenStream, Tokenizer};

/// Any bytes as `config.json`: an error, or a configuration and packing scheme within their bounds.
pub fn config_json(data: &[u8]) {
    let path = Path::new("config.json");
    let Ok(value) = json::parse(path, data) else { return };
    // A byte-order mark may stand before the text.
    let text = data.strip_prefix(b"\xef\xbb\xbf").unwrap_or(data);
    assert_eq!(serde_json::from_slice::<serde_json::Value>(text).ok().as_ref(), Some(&value));
    if let Ok(Some(scheme)) = PackedScheme::from_config(path, &value) {
        let mut config = value.clone();
        config["quantization_config"] = scheme.to_json();
        assert_eq!(PackedScheme::from_config(path, &config).ok(), Some(Some(scheme)));
    }
    if let Ok(config) = config_hf::parse(path, &value) {
        config.parameters();
    }
}

/// Any bytes as `tokenizer.json`: an error, or a tokenizer that encodes, decodes and can be written.
pub fn tokenizer_json(data: &[u8]) {
    let Ok(tokenizer) = Tokenizer::from_json(data, None, None) else { return };
    for text in ["", "ab ab", " <|x|>\u{0}\n\n  é漢😀 123'll"] {
        let Ok(ids) = tokenizer.encode(text, true, true) else { continue };
        let decoded = tokenizer.decode(&ids, false);
        let mut stream = TokenStream::new(&tokenizer, true);
        let mut streamed: String = ids.iter().map(|id| stream.push(*id)).collect();
        streamed.push_str(&stream.finish());
        assert_eq!(streamed, decoded);
    }
    let _ = tokenizer.to_json();
    let _ = tokenizer.to_gguf();
}

/// Any bytes as a list of ranks: an error, or a tokenizer.
pub fn tiktoken(data: &[u8]) {
    let Ok(tokenizer) = Tokenizer::from_tiktoken(data, "llama-bpe", &["<|end|>".into()]) else { return };
    if let Ok(ids) = tokenizer.encode("ab <|end|> 12é", true, true) {
        tokenizer.decode(&ids, true);
    }
}

/// Any text as a chat template, up to the first zero byte; what follows is what the user says.
pub fn chat_template(data: &[u8]) {
    let Ok(data) = std::str::from_utf8(data) else { return };
    let (source, said) = data.split_once('\0').unwrap_or((data, "hello"));
    let Ok(template) = ChatTemplate::new(source, Some("<s>"), Some("</s>")) else { return };
    let messages = [Message::new("user", said), Message::new("assistant", "b")];
    let Ok(prompt) = template.render(&messages, true) else { return };
    for range in &prompt.literal {
        assert!(prompt.text.is_char_boundary(range.start) && prompt.text.is_char_boundary(range.end));
    }
    assert!(prompt.literal.is_sorted_by(|a, b| a.end <= b.start));
}
