//! Any bytes as a tokenizer.json: an error, or a tokenizer that encodes, decodes and can be written.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sherry::tokenizer::{TokenStream, Tokenizer};

fuzz_target!(|data: &[u8]| {
    let Ok(tokenizer) = Tokenizer::from_json(data, None, None) else { return };
    for text in ["", "ab ab", " <|x|>\u{0}\n\n  é漢😀 123'll"] {
        let Ok(ids) = tokenizer.encode(text, true, true) else { continue };
        let decoded = tokenizer.decode(&ids, false).expect("ids that encoding gave");
        let mut stream = TokenStream::new(&tokenizer, true);
        let mut streamed: String = ids.iter().map(|id| stream.push(*id).expect("an id that encoding gave")).collect();
        streamed.push_str(&stream.finish());
        assert_eq!(streamed, decoded);
    }
    let _ = tokenizer.to_json();
    let _ = tokenizer.to_gguf();
});
