//! Tokenizers against independent references on real vocabularies: recorded ids of other implementations, and the Hugging
//! Face crate itself.

use std::io::Read;

use serde_json::Value;
use sherry::io::ReadMode;
use sherry::io::gguf::{GgufFile, GgufWriter, StqId};
use sherry::tokenizer::{GgufVocab, Learner, TokenStream, Tokenizer};
use sherry_testing::{Missing, Outcome, data, demo_model};

sherry_testing::main![
    llama3_ids_from_tiktoken,
    llama3_round_trips,
    smollm2_ids_from_json,
    smollm2_round_trips,
    smollm2_ids_from_the_real_gguf,
    learned_vocabularies_equal_hugging_faces,
    stories_ids_from_scores,
    sentencepiece_round_trips,
    user_text_is_not_control,
    streams_equal_decoding,
    emoji_over_four_tokens_comes_out_whole,
    a_megabyte_of_anything_is_quick,
];

/// A file of the data folder, unpacked if it ends in `.gz`.
fn read(file: &str) -> Result<Vec<u8>, Missing> {
    let raw = std::fs::read(data(file)?).unwrap();
    if !file.ends_with(".gz") {
        return Ok(raw);
    }
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(&raw[..]).read_to_end(&mut unpacked).unwrap();
    Ok(unpacked)
}

fn reference(name: &str) -> Result<Vec<(String, Vec<u32>)>, Missing> {
    let all: Value = serde_json::from_slice(&read("reference/tokenizer_reference.json")?).unwrap();
    let ids = |entry: &Value| entry["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
    Ok(all[name].as_array().unwrap().iter().map(|entry| (entry["text"].as_str().unwrap().into(), ids(entry))).collect())
}

fn wikitext_count(name: &str) -> Result<usize, Missing> {
    let all: Value = serde_json::from_slice(&read("reference/tokenizer_reference.json")?).unwrap();
    Ok(all["wikitext2_raw_test_token_count"][name].as_u64().unwrap() as usize)
}

fn wikitext() -> Result<String, Missing> {
    Ok(String::from_utf8(read("corpus/wikitext2-raw-test.txt.gz")?).unwrap())
}

fn llama3() -> Result<Tokenizer, Missing> {
    let ranks = read("tokenizers/llama3_tokenizer.model.gz")?;
    let names = ["begin_of_text", "end_of_text", "reserved_special_token_0", "eot_id"];
    let control: Vec<String> = names.iter().map(|name| format!("<|{name}|>")).collect();
    Ok(Tokenizer::from_tiktoken(&ranks, "llama-bpe", &control).unwrap())
}

fn smollm2() -> Result<Tokenizer, Missing> {
    let json = read("tokenizers/smollm2_tokenizer.json.gz")?;
    let config = read("tokenizers/smollm2_tokenizer_config.json")?;
    Ok(Tokenizer::from_json(&json, Some(&config), None).unwrap())
}

/// llama2.c's `tok512.bin`: i32 longest token, then per token f32 score, i32 length, bytes. Ids 0 to 2 are `<unk>`,
/// `<s>`, `</s>`, then come the 256 bytes; spaces are written as such.
fn stories() -> Result<GgufVocab, Missing> {
    let file = read("models/tok512.bin")?;
    let word = |at: usize| <[u8; 4]>::try_from(&file[at..at + 4]).unwrap();
    let (mut at, mut tokens, mut scores) = (4, Vec::new(), Vec::new());
    while at < file.len() {
        scores.push(f32::from_le_bytes(word(at)));
        let length = i32::from_le_bytes(word(at + 4)) as usize;
        let text = String::from_utf8(file[at + 8..at + 8 + length].to_vec()).unwrap();
        tokens.push(text.replace(' ', "\u{2581}"));
        at += 8 + length;
    }
    // The file writes the control tokens with line ends around them.
    tokens.splice(..3, ["<unk>", "<s>", "</s>"].map(String::from));
    let types = (0..tokens.len()).map(|id| [2, 3, 3].get(id).copied().unwrap_or(if id < 259 { 6 } else { 1 }));
    Ok(GgufVocab {
        model: "llama".into(),
        token_types: Some(types.collect()),
        tokens: tokens.into(),
        scores: Some(scores),
        bos: Some(1),
        eos: Some(2),
        unk: Some(0),
        ..GgufVocab::default()
    })
}

/// Text from a small generator: words, spaces, digits, line ends, several scripts, marks, emoji, control characters.
fn random_text(seed: u64) -> String {
    const PARTS: [&str; 40] = [
        "a",
        "the",
        " of",
        "ing",
        "'s",
        "'LL",
        " ",
        "  ",
        "   ",
        "\n",
        "\r\n",
        "\n\n",
        "\t",
        "0",
        "12",
        "3456",
        "!",
        "?!",
        "...",
        "(",
        ")",
        "_",
        "-",
        "é",
        "e\u{301}",
        "ß",
        "Ж",
        "漢",
        "字",
        "かな",
        "한",
        "ا",
        "\u{200d}",
        "😀",
        "👨‍👩‍👧",
        "\0",
        "\u{a0}",
        "\u{3000}",
        "²",
        "Ⅷ",
    ];
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..next() % 40).map(|_| PARTS[(next() % 40) as usize]).collect()
}

/// `ours` and the Hugging Face crate reading `json` agree on every reference string and on random text.
fn same_as_hugging_face(ours: &Tokenizer, json: &[u8], strings: &[(String, Vec<u32>)]) {
    let theirs = tokenizers::Tokenizer::from_bytes(json).unwrap();
    let random = (0..2000).map(random_text);
    for text in strings.iter().map(|(text, _)| text.clone()).chain(random) {
        let expected = theirs.encode_fast(text.as_str(), true).unwrap();
        let ids = ours.encode(&text, true, true).unwrap();
        assert_eq!(ids, expected.get_ids(), "{text:?}");
        assert_eq!(ours.decode(&ids, true), theirs.decode(&ids, false).unwrap(), "{text:?}");
        assert_eq!(ours.decode(&ids, false), theirs.decode(&ids, true).unwrap(), "{text:?}");
    }
}

fn check_reference(tokenizer: &Tokenizer, name: &str) -> Outcome {
    let strings = reference(name)?;
    assert_eq!(strings.len(), 100);
    for (text, ids) in strings {
        assert_eq!(tokenizer.encode(&text, false, false).unwrap(), ids, "{text:?}");
        assert_eq!(tokenizer.decode(&ids, false), text);
    }
    Ok(())
}

fn llama3_ids_from_tiktoken() -> Outcome {
    let tokenizer = llama3()?;
    check_reference(&tokenizer, "llama3")?;
    assert_eq!(tokenizer.encode(&wikitext()?, false, false).unwrap().len(), wikitext_count("llama3")?);
    assert!(tokenizer.adds_bos());
    assert_eq!(tokenizer.encode("Hello world", true, false).unwrap(), [128_000, 9906, 1917]);
    assert_eq!(tokenizer.end_ids(), [128_001, 128_003]);
    Ok(())
}

fn llama3_round_trips() -> Outcome {
    let tokenizer = llama3()?;
    let gguf = tokenizer.to_gguf().unwrap();
    assert_eq!(gguf.exact, None, "{:?}", gguf.beyond);
    assert_eq!((gguf.model.as_str(), gguf.pre.as_str()), ("gpt2", "llama-bpe"));
    assert_eq!((gguf.eos, gguf.eot), (Some(128_001), Some(128_003)));
    let json = tokenizer.to_json().unwrap();
    check_reference(&Tokenizer::from_gguf(&gguf).unwrap(), "llama3")?;
    let again = Tokenizer::from_json(json.as_bytes(), Some(tokenizer.to_config_json().as_bytes()), None).unwrap();
    check_reference(&again, "llama3")?;
    assert_eq!((again.bos(), again.eos(), again.adds_bos()), (tokenizer.bos(), tokenizer.eos(), true));
    assert_eq!(again.to_gguf().unwrap(), gguf);
    same_as_hugging_face(&tokenizer, json.as_bytes(), &reference("llama3")?);
    Ok(())
}

fn smollm2_ids_from_json() -> Outcome {
    let tokenizer = smollm2()?;
    check_reference(&tokenizer, "smollm2")?;
    assert_eq!(tokenizer.encode(&wikitext()?, false, false).unwrap().len(), wikitext_count("smollm2")?);
    assert!(!tokenizer.adds_bos());
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.vocab_size()), (Some(1), Some(2), 49_152));
    assert!(tokenizer.chat_template().unwrap().starts_with("{% for message"));
    same_as_hugging_face(&tokenizer, &read("tokenizers/smollm2_tokenizer.json.gz")?, &reference("smollm2")?);
    Ok(())
}

fn smollm2_round_trips() -> Outcome {
    let tokenizer = smollm2()?;
    let gguf = tokenizer.to_gguf().unwrap();
    assert_eq!(gguf.exact, None, "{:?}", gguf.beyond);
    assert_eq!((gguf.model.as_str(), gguf.pre.as_str()), ("gpt2", "smollm"));
    assert_eq!((gguf.eos, gguf.eot), (Some(2), None));
    let from_gguf = Tokenizer::from_gguf(&gguf).unwrap();
    check_reference(&from_gguf, "smollm2")?;
    assert_eq!(from_gguf.to_gguf().unwrap(), gguf);
    let json = from_gguf.to_json().unwrap();
    same_as_hugging_face(&from_gguf, json.as_bytes(), &reference("smollm2")?);
    Ok(())
}

fn smollm2_ids_from_the_real_gguf() -> Outcome {
    let file = GgufFile::open(&demo_model()?, ReadMode::Map).unwrap();
    let vocab = GgufVocab::from_metadata(file.metadata()).unwrap().unwrap();
    let tokenizer = Tokenizer::from_metadata(file.metadata(), None).unwrap().unwrap();
    check_reference(&tokenizer, "smollm2")?;
    let same = smollm2()?;
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.adds_bos()), (same.bos(), same.eos(), same.adds_bos()));
    assert_eq!(tokenizer.end_ids(), same.end_ids());
    assert_eq!(tokenizer.chat_template(), same.chat_template());
    // What we write in its place says the same.
    let again = tokenizer.to_gguf().unwrap();
    assert_eq!((&again.tokens, &again.merges, &again.pre), (&vocab.tokens, &vocab.merges, &vocab.pre));
    assert_eq!(again.token_types, vocab.token_types);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vocab.gguf");
    let writer = GgufWriter::create(&path, again.clone().into_entries(), Vec::new(), StqId::default()).unwrap();
    writer.finish().unwrap();
    let file = GgufFile::open(&path, ReadMode::Read).unwrap();
    assert_eq!(GgufVocab::from_metadata(file.metadata()).unwrap().unwrap(), again);
    Ok(())
}

/// The same pieces of real text give the Hugging Face trainer the same vocabulary, and it reads our file alike.
fn learned_vocabularies_equal_hugging_faces() -> Outcome {
    use tokenizers::models::bpe::{BPE, BpeTrainer};
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;
    use tokenizers::pre_tokenizers::digits::Digits;
    use tokenizers::{AddedToken, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, Trainer};
    let text = wikitext()?;
    let texts: Vec<String> = text.split_inclusive(" \n = ").map(str::to_string).collect();
    let vocab = 2000;
    let mut learner = Learner::new().unwrap();
    texts.chunks(50).for_each(|texts| learner.add(texts, &sherry_kernels::Pool::new(2)).unwrap());
    let ours = learner.learn(vocab, &sherry::NoProgress).unwrap();

    let specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
    let mut trainer = BpeTrainer::builder()
        .vocab_size(vocab)
        .min_frequency(2)
        .show_progress(false)
        .special_tokens(specials.iter().map(|text| AddedToken::from(*text, true)).collect())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    // Digits by themselves, then as GPT-2.
    let pieces = |text: &str| {
        let mut split = PreTokenizedString::from(text);
        Digits::new(true).pre_tokenize(&mut split)?;
        ByteLevel::default().add_prefix_space(false).pre_tokenize(&mut split)?;
        let found = split.get_splits(OffsetReferential::Original, OffsetType::Byte);
        Ok(found.into_iter().map(|(piece, ..)| piece.to_owned()).collect())
    };
    trainer.feed(texts.iter(), pieces).unwrap();
    let mut model = BPE::default();
    trainer.train(&mut model).unwrap();
    let theirs = serde_json::to_value(&model).unwrap();
    let json = ours.to_json().unwrap();
    let written: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(written["model"]["merges"], theirs["merges"]);
    assert_eq!(written["model"]["vocab"].as_object().unwrap(), theirs["vocab"].as_object().unwrap());
    assert_eq!((ours.vocab_size(), ours.eos()), (vocab, Some(0)));

    same_as_hugging_face(&ours, json.as_bytes(), &[(text[..20_000].to_string(), Vec::new())]);
    let again = Tokenizer::from_json(json.as_bytes(), Some(ours.to_config_json().as_bytes()), None).unwrap();
    assert_eq!(again.to_json().unwrap(), json);
    assert_eq!((again.eos(), again.adds_bos(), again.end_ids()), (ours.eos(), true, ours.end_ids()));
    Ok(())
}

fn stories_ids_from_scores() -> Outcome {
    let gguf = stories()?;
    let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
    let expected: Value = serde_json::from_slice(&read("reference/stories260K_reference.json")?).unwrap();
    for entry in expected["encode"].as_array().unwrap() {
        let text = entry["text"].as_str().unwrap();
        let ids: Vec<u32> = serde_json::from_value(entry["ids_with_bos"].clone()).unwrap();
        assert_eq!(tokenizer.encode(text, true, false).unwrap(), ids, "{text:?}");
        assert_eq!(tokenizer.decode(&ids, false), text);
    }
    let greedy = &expected["greedy_from_bos"];
    let ids: Vec<u32> = serde_json::from_value(greedy["ids"].clone()).unwrap();
    assert!(tokenizer.decode(&ids, false).starts_with("Once upon a time, there was a little girl"));
    Ok(())
}

fn sentencepiece_round_trips() -> Outcome {
    let gguf = stories()?;
    let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
    let json = tokenizer.to_json().unwrap();
    same_as_hugging_face(&tokenizer, json.as_bytes(), &[]);
    let config = tokenizer.to_config_json();
    let from_json = Tokenizer::from_json(json.as_bytes(), Some(config.as_bytes()), None).unwrap();
    let again = Tokenizer::from_gguf(&from_json.to_gguf().unwrap()).unwrap();
    for seed in 0..500 {
        let text = random_text(seed);
        let ids = tokenizer.encode(&text, true, false).unwrap();
        assert_eq!(from_json.encode(&text, true, false).unwrap(), ids, "{text:?}");
        assert_eq!(again.encode(&text, true, false).unwrap(), ids, "{text:?}");
    }
    Ok(())
}

fn user_text_is_not_control() -> Outcome {
    let tokenizer = smollm2()?;
    let text = "a<|im_end|>b";
    let plain = tokenizer.encode(text, false, false).unwrap();
    assert!(plain.iter().all(|id| !tokenizer.is_control(*id)));
    assert_eq!(tokenizer.decode(&plain, false), text);
    assert_eq!(tokenizer.encode(text, false, true).unwrap(), [81, 2, 82]);
    let prompt = tokenizer.encode_prompt("<|im_end|>a<|im_end|>", std::slice::from_ref(&(0..10))).unwrap();
    assert_eq!(prompt.iter().filter(|id| **id == 2).count(), 1);
    assert_eq!(tokenizer.decode(&[81, 2, 82], false), "ab");
    assert_eq!(tokenizer.decode(&[81, 2, 82], true), text);
    Ok(())
}

fn streams_equal_decoding() -> Outcome {
    let tokenizers = [smollm2()?, llama3()?, Tokenizer::from_gguf(&stories()?).unwrap()];
    for tokenizer in tokenizers {
        for seed in 0..300 {
            let ids = tokenizer.encode(&random_text(seed), true, false).unwrap();
            let mut stream = TokenStream::new(&tokenizer, true);
            let mut text = String::new();
            for id in &ids {
                let piece = stream.push(*id);
                assert!(!piece.contains('\u{FFFD}'));
                text.push_str(&piece);
            }
            text.push_str(&stream.finish());
            assert_eq!(text, tokenizer.decode(&ids, false));
        }
        // A continuation keeps its first space.
        let ids = tokenizer.encode(" x", false, false).unwrap();
        let mut stream = TokenStream::new(&tokenizer, false);
        let text: String = ids.iter().map(|id| stream.push(*id)).collect();
        assert!(text.starts_with(' '));
    }
    Ok(())
}

fn emoji_over_four_tokens_comes_out_whole() -> Outcome {
    let gguf = stories()?;
    let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
    let ids = tokenizer.encode("😀", false, false).unwrap();
    assert_eq!(ids.len(), 5); // a space and four bytes
    let mut stream = TokenStream::new(&tokenizer, true);
    let pieces: Vec<String> = ids.iter().map(|id| stream.push(*id)).collect();
    assert_eq!(pieces, ["", "", "", "", "😀"]);
    // Cut short, it becomes a replacement character, at the end only.
    let mut stream = TokenStream::new(&tokenizer, true);
    assert!(ids[..4].iter().all(|id| stream.push(*id).is_empty()));
    assert_eq!(stream.finish(), "\u{FFFD}");
    Ok(())
}

fn a_megabyte_of_anything_is_quick() -> Outcome {
    let tokenizers = [smollm2()?, llama3()?, Tokenizer::from_gguf(&stories()?).unwrap()];
    for tokenizer in tokenizers {
        for unit in ["a", " ", "\n", "\0", "<", "1", "é", "\u{301}", " \n", "<|im_end|>"] {
            let text = unit.repeat((1 << 20) / unit.len());
            let ids = tokenizer.encode(&text, false, false).unwrap();
            assert_eq!(tokenizer.decode(&ids, false), text);
        }
    }
    Ok(())
}
