use std::collections::HashSet;
use std::fs;
use std::io::Write;

use sherry::NoProgress;

use super::*;
use crate::rng::Rng;

fn open(folder: &Path, name: &str, length: usize) -> Result<Dataset> {
    let sources = Sources::open(&[folder.join(name)], "text", &NoProgress)?;
    Dataset::open(&sources, &Coder::Bytes, length, &folder.join("cache"), &NoProgress)
}

fn all(data: &Dataset) -> Vec<u32> {
    let mut tokens = Vec::new();
    data.tokens.extend(0..data.tokens(), &mut tokens);
    tokens
}

#[test]
fn every_token_but_the_first_is_a_target_once() {
    for count in 2..40u32 {
        for length in 1..9 {
            let data = Dataset::of_tokens(&(0..count).collect::<Vec<u32>>(), length).unwrap();
            let (mut tokens, mut targets) = (Vec::new(), Vec::new());
            for window in 0..data.windows() {
                data.push_window(window, &mut tokens, &mut targets);
            }
            assert_eq!((tokens.len(), targets.len()), (data.windows() * length, data.windows() * length));
            let live: Vec<u32> = targets.iter().copied().filter(|&t| t != IGNORED).collect();
            assert_eq!(live, (1..count).collect::<Vec<u32>>());
            assert!(tokens.iter().zip(&targets).all(|(&input, &target)| target == IGNORED || target == input + 1));
        }
    }
}

#[test]
fn the_order_visits_everything_and_resumes_anywhere() {
    let all: Vec<usize> = {
        let mut order = Order::new(3, 10, 0);
        (0..35).map(|_| order.next_window()).collect()
    };
    for pass in all.chunks_exact(10) {
        assert_eq!(pass.iter().collect::<HashSet<_>>().len(), 10);
    }
    assert_ne!(all[..10], all[10..20]);
    for start in 0..35 {
        let mut order = Order::new(3, 10, start as u64);
        assert_eq!((start..35).map(|_| order.next_window()).collect::<Vec<_>>(), all[start..]);
        assert_eq!(order.cursor(), 35);
    }
}

#[test]
fn every_container_gives_the_same_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let lines = "{\"text\": \"héllo\"}\n\n{\"id\": 1, \"text\": \"wor\\nld\"}\n{\"text\": \"\"}\n";
    fs::write(path("a.jsonl"), lines).unwrap();
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(lines.as_bytes()).unwrap();
    fs::write(path("a.jsonl.gz"), gz.finish().unwrap()).unwrap();
    fs::write(path("a.jsonl.zst"), zstd::encode_all(lines.as_bytes(), 1).unwrap()).unwrap();
    let expected: Vec<u32> =
        "héllo".bytes().map(u32::from).chain([256]).chain("wor\nld".bytes().map(u32::from)).chain([256]).collect();
    for name in ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"] {
        let data = open(folder.path(), name, 4).unwrap();
        assert_eq!(all(&data), expected, "{name}");
        let again = open(folder.path(), name, 4).unwrap();
        assert_eq!((all(&again), again.hash()), (expected.clone(), data.hash()), "from the cache");
    }
    fs::write(path("b.txt"), "wörld").unwrap();
    assert_eq!(open(folder.path(), "b.txt", 4).unwrap().tokens(), 7);
    fs::write(path("b.txt"), "other text").unwrap();
    assert_eq!(open(folder.path(), "b.txt", 4).unwrap().tokens(), 11, "a changed file is read again");
}

/// A file made by pyarrow, of the tests of the Parquet reader.
#[test]
fn parquet_rows_are_documents() {
    let golden = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../measure/tests/golden/parquet"));
    let rows: Vec<serde_json::Value> = serde_json::from_slice(&fs::read(golden.join("rows.json")).unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let open = |field| {
        let sources = Sources::open(&[golden.join("snappy.parquet")], field, &NoProgress)?;
        Dataset::open(&sources, &Coder::Bytes, 8, folder.path(), &NoProgress)
    };
    let expected: Vec<u32> =
        rows.iter().flat_map(|row| row["question"].as_str().unwrap().bytes().map(u32::from).chain([256])).collect();
    assert_eq!(all(&open("question").unwrap()), expected);
    for (field, problem) in [("text", "field 'text'"), ("label", "row 1: field 'label' is not a string")] {
        let message = open(field).unwrap_err().to_string();
        assert!(message.contains("snappy.parquet") && message.contains(problem), "{message}");
    }
}

#[test]
fn a_damaged_cache_is_noticed_and_made_again() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.txt"), "some text").unwrap();
    let data = open(folder.path(), "a.txt", 4).unwrap();
    let cached = fs::read_dir(folder.path().join("cache")).unwrap().next().unwrap().unwrap().path();
    let good = fs::read(&cached).unwrap();
    for cut in 0..good.len() {
        fs::write(&cached, &good[..cut]).unwrap();
        assert_eq!(all(&open(folder.path(), "a.txt", 4).unwrap()), all(&data));
        let mut bad = good.clone();
        bad[cut] ^= 0x40;
        fs::write(&cached, bad).unwrap();
        assert_eq!(all(&open(folder.path(), "a.txt", 4).unwrap()), all(&data));
    }
    assert_eq!(fs::read(&cached).unwrap(), good);
}

#[test]
fn bad_files_are_named_with_their_line() {
    let folder = tempfile::tempdir().unwrap();
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all("{\"text\": \"a long enough line of text\"}\n".repeat(50).as_bytes()).unwrap();
    let gz = gz.finish().unwrap();
    let zst = zstd::encode_all(&b"{\"text\": \"a\"}\n{\"text\": \"b\"}\n"[..], 1).unwrap();
    let cases: [(&str, &[u8], &str); 9] = [
        ("empty.txt", b"", "no text"),
        ("empty.jsonl", b"\n\n", "no text"),
        ("one.txt", b"", "no text"),
        ("latin.txt", b"caf\xe9", "not UTF-8 at byte 3"),
        ("broken.jsonl", b"{\"text\": \"a\"}\n{\"text\": ", "line 2"),
        ("field.jsonl", b"{\"body\": \"a\"}\n", "no field 'text'"),
        ("type.jsonl", b"{\"text\": 3}\n", "field 'text' is not a string"),
        ("cut.jsonl.gz", &gz[..gz.len() - 9], "cannot be read to its end"),
        ("cut.jsonl.zst", &zst[..zst.len() - 5], "cannot be read to its end"),
    ];
    for (name, bytes, expected) in cases {
        fs::write(folder.path().join(name), bytes).unwrap();
        let message = open(folder.path(), name, 4).unwrap_err().to_string();
        assert!(message.contains(name) && message.contains(expected), "{name}: {message}");
    }
    assert!(open(folder.path(), "absent.txt", 4).unwrap_err().to_string().contains("absent.txt"));
}

/// A text file of many random words, as JSONL with one document per line.
fn words(folder: &Path, name: &str, seed: u64, documents: usize) {
    let mut rng = Rng::new(seed, 0);
    let stems = ["water", "light", "stone", "river", "under", "cloud", "small", "green"];
    let mut lines = String::new();
    for _ in 0..documents {
        let text: Vec<&str> = (0..20).map(|_| stems[rng.below(stems.len())]).collect();
        lines += &format!("{}\n", serde_json::json!({ "text": text.join(" ") }));
    }
    fs::write(folder.join(name), lines).unwrap();
}

#[test]
fn a_learned_tokenizer_is_kept_and_made_again_for_other_text() {
    let folder = tempfile::tempdir().unwrap();
    words(folder.path(), "a.jsonl", 1, 50);
    let cache = folder.path().join("cache");
    let coder = |vocab| {
        let sources = Sources::open(&[folder.path().join("a.jsonl")], "text", &NoProgress).unwrap();
        Coder::learned(&sources, vocab, &cache, &NoProgress).unwrap()
    };
    let folders = || fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let first = coder(290);
    assert_eq!((first.vocab(), first.files().len(), folders().len()), (290, 2, 1));
    let json = folders()[0].join("tokenizer.json");
    let written = fs::metadata(&json).unwrap().modified().unwrap();
    assert_eq!(coder(290).fingerprint(), first.fingerprint());
    assert_eq!(fs::metadata(&json).unwrap().modified().unwrap(), written, "read, not learned again");
    fs::write(&json, "{}").unwrap();
    assert_eq!(coder(290).fingerprint(), first.fingerprint(), "damaged, so learned again");
    coder(280);
    assert_eq!(folders().len(), 2);

    // What it says comes back, with a separator after each document.
    let sources = Sources::open(&[folder.path().join("a.jsonl")], "text", &NoProgress).unwrap();
    let data = Dataset::open(&sources, &first, 16, &cache, &NoProgress).unwrap();
    let Coder::Model { tokenizer, separator, .. } = &first else { panic!("not a tokenizer") };
    let tokens = all(&data);
    let documents: Vec<String> = tokens.split(|id| id == separator).map(|ids| tokenizer.decode(ids, true)).collect();
    let lines = fs::read_to_string(folder.path().join("a.jsonl")).unwrap();
    let expected: Vec<String> = lines
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["text"].as_str().unwrap().to_owned())
        .chain([String::new()])
        .collect();
    assert_eq!(documents, expected);
    words(folder.path(), "a.jsonl", 2, 50);
    coder(290);
    assert_eq!(fs::read_dir(&cache).unwrap().count(), 4, "three tokenizers and the tokens");
}

#[test]
fn the_same_text_under_another_name_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    for (name, seed) in [("a.jsonl", 1), ("b.jsonl", 2), ("c.jsonl", 1)] {
        words(folder.path(), name, seed, 3);
    }
    let sources = |names: &[&str]| {
        let files: Vec<PathBuf> = names.iter().map(|name| folder.path().join(name)).collect();
        Sources::open(&files, "text", &NoProgress).unwrap()
    };
    assert!(sources(&["b.jsonl"]).shared_with(&sources(&["a.jsonl", "c.jsonl"])).is_none());
    let (a, c) = (folder.path().join("a.jsonl"), folder.path().join("c.jsonl"));
    assert_eq!(sources(&["b.jsonl", "a.jsonl"]).shared_with(&sources(&["c.jsonl"])), Some((&*a, &*c)));
}

#[test]
fn the_tokenizer_of_bytes_gives_the_ids_of_the_trainer() {
    let folder = tempfile::tempdir().unwrap();
    for (name, contents) in Coder::Bytes.files() {
        fs::write(folder.path().join(name), contents).unwrap();
    }
    let tokenizer = sherry::tokenizer::Tokenizer::from_folder(folder.path()).unwrap();
    assert_eq!((tokenizer.vocab_size(), tokenizer.eos(), tokenizer.bos()), (257, Some(256), Some(256)));
    assert!(tokenizer.is_control(256));
    let mut rng = Rng::new(1, 1);
    for _ in 0..300 {
        let text: String = (0..rng.below(40))
            .map(|_| {
                loop {
                    // Ascii, Latin, and anything.
                    let range = [0x80, 0x800, 0x11_0000][rng.below(3)];
                    if let Some(c) = char::from_u32(rng.below(range) as u32) {
                        break c;
                    }
                }
            })
            .collect();
        let ids = tokenizer.encode(&text, false, false).unwrap();
        assert_eq!(ids, text.bytes().map(u32::from).collect::<Vec<_>>(), "{text:?}");
        assert_eq!([&ids[..], &[256]].concat(), Coder::Bytes.encode(&text, &NoProgress).unwrap());
        assert_eq!(tokenizer.decode(&ids, false), text);
    }
    for byte in 0..=255u8 {
        let mut bytes = Vec::new();
        tokenizer.token_bytes(byte.into(), &mut bytes);
        assert_eq!(bytes, [byte]);
    }
    assert!(matches!(Coder::open(folder.path()).unwrap(), Coder::Bytes), "told by its contents");
    // Written by somebody else, with other white space.
    let path = folder.path().join("tokenizer.json");
    let json: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    fs::write(&path, json.to_string()).unwrap();
    assert!(matches!(Coder::open(&path).unwrap(), Coder::Bytes));
}

/// A text cut off in its tokens' cache, or beside it, is swept away by the next process.
#[test]
fn what_a_killed_process_left_in_the_cache_goes() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.txt"), "some text").unwrap();
    let cache = folder.path().join("cache");
    fs::create_dir(&cache).unwrap();
    let left = cache.join(".0123456789abcdef.tokens.tmp-00000000000000aa");
    fs::write(&left, "half").unwrap();
    open(folder.path(), "a.txt", 4).unwrap();
    assert!(!left.exists());
    assert_eq!(fs::read_dir(&cache).unwrap().count(), 1);
}

#[test]
fn documents_are_separated_as_in_pretraining() {
    // Control tokens besides the bytes from id 256 on, begin and end of text in the configuration, and the separator.
    type Case = (&'static [&'static str], Option<&'static str>, Option<&'static str>, Option<u32>);
    let cases: [Case; 6] = [
        // Tuned to follow instructions: turns end otherwise than documents.
        (&["<|endoftext|>", "<|im_start|>", "<|im_end|>"], Some("<|im_start|>"), Some("<|im_end|>"), Some(256)),
        (
            &["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"],
            Some("<|begin_of_text|>"),
            Some("<|eot_id|>"),
            Some(257),
        ),
        (&["<|endoftext|>"], Some("<|endoftext|>"), Some("<|endoftext|>"), Some(256)),
        (&["<bos>", "<eos>"], Some("<bos>"), Some("<eos>"), Some(257)),
        (&["<bos>"], Some("<bos>"), None, Some(256)),
        (&[], None, None, None),
    ];
    for (names, bos, eos, expected) in cases {
        let folder = tempfile::tempdir().unwrap();
        let mut json: serde_json::Value = serde_json::from_slice(&Coder::Bytes.files()[0].1).unwrap();
        json["model"]["vocab"].as_object_mut().unwrap().remove("<|endoftext|>");
        json["post_processor"] = serde_json::Value::Null;
        let template = json["added_tokens"][0].clone();
        let added = names.iter().enumerate().map(|(i, name)| {
            let mut token = template.clone();
            (token["id"], token["content"]) = ((256 + i).into(), (*name).into());
            token
        });
        json["added_tokens"] = added.collect();
        let config = serde_json::json!({ "bos_token": bos, "eos_token": eos });
        for (name, value) in [("tokenizer.json", json), ("tokenizer_config.json", config)] {
            fs::write(folder.path().join(name), value.to_string()).unwrap();
        }
        let found = match Coder::open(folder.path()) {
            Ok(Coder::Model { separator, .. }) => Some(separator),
            Ok(Coder::Bytes) => panic!("{names:?}: bytes"),
            Err(error) => {
                assert!(error.to_string().contains("no end-of-text token"), "{error}");
                None
            }
        };
        assert_eq!(found, expected, "{names:?}");
    }
}

#[test]
fn a_document_is_held_out_for_what_it_says_and_not_for_where_it_stands() {
    let folder = tempfile::tempdir().unwrap();
    let documents: Vec<String> = (0..400).map(|i| format!("document number {i} of four hundred")).collect();
    let line = |text: &String| format!("{}\n", serde_json::json!({ "content": text }));
    let (first, second) = documents.split_at(150);
    fs::write(folder.path().join("a.jsonl"), first.iter().map(line).collect::<String>()).unwrap();
    fs::write(folder.path().join("b.jsonl"), second.iter().map(line).collect::<String>()).unwrap();
    fs::write(folder.path().join("all.jsonl"), documents.iter().rev().map(line).collect::<String>()).unwrap();
    let texts = |files: &[&str], is_valid: bool| {
        let data = crate::config::Data {
            train: files.iter().map(|name| folder.path().join(name)).collect(),
            valid: Vec::new(),
            valid_fraction: 0.1,
            max_tokens: None,
            tokenizer: None,
            text_field: "content".to_owned(),
            cache: None,
        };
        let (train, valid) = Sources::of_run(&data, &NoProgress).unwrap();
        let sources = if is_valid { valid.unwrap() } else { train };
        let data = Dataset::open(&sources, &Coder::Bytes, 8, &folder.path().join("cache"), &NoProgress).unwrap();
        let bytes =
            all(&data).split(|&token| token == 256).map(|text| text.iter().map(|&b| b as u8).collect()).collect();
        let bytes: Vec<Vec<u8>> = bytes;
        bytes.into_iter().filter(|text| !text.is_empty()).map(|t| String::from_utf8(t).unwrap()).collect::<HashSet<_>>()
    };
    let [train, valid] = [false, true].map(|is_valid| texts(&["a.jsonl", "b.jsonl"], is_valid));
    assert!((20..60).contains(&valid.len()), "{} of 400", valid.len());
    assert!(train.is_disjoint(&valid) && train.len() + valid.len() == 400);
    // Another order, another cut into files.
    assert_eq!(texts(&["all.jsonl"], true), valid);
    assert_eq!(texts(&["all.jsonl"], false), train);
    // What belongs where is part of the format: SHA-256 of the text, its first eight bytes, little-endian.
    let split = Split { fraction: 0.1, is_valid: true };
    let hash = Sha256::digest(&documents[0]);
    let number = u64::from_le_bytes(hash[..8].try_into().unwrap());
    assert_eq!(split.takes(&documents[0]), (number as f64) < 0.1 * 2f64.powi(64));
}

#[test]
fn nothing_is_left_to_validate_with_in_a_single_document() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.txt"), "one document").unwrap();
    let sources = Sources::open(&[folder.path().join("a.txt")], "text", &NoProgress).unwrap();
    let problems = [true, false].map(|is_valid| {
        let part = sources.part(Split { fraction: 0.01, is_valid });
        Dataset::open(&part, &Coder::Bytes, 8, folder.path(), &NoProgress).err().map(|error| error.to_string())
    });
    let problem = problems.into_iter().flatten().next().unwrap();
    assert!(problem.contains("a.txt") && problem.contains("data.valid_fraction 0.01"), "{problem}");
}

#[test]
fn patterns_stand_for_files_by_name() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in
        [("s-2.txt", "two"), ("s-10.txt", "ten"), ("s-1.txt", "one"), ("[x].txt", "literal"), (".s-0.txt", "-")]
    {
        fs::write(folder.path().join(name), text).unwrap();
    }
    fs::create_dir(folder.path().join("s-3.txt")).unwrap();
    let text = |name: &str| {
        let tokens = all(&open(folder.path(), name, 4)?);
        Ok::<_, Error>(tokens.iter().map(|&t| if t == 256 { ' ' } else { t as u8 as char }).collect::<String>())
    };
    assert_eq!(text("s-*.txt").unwrap(), "one ten two ");
    assert_eq!(text("s-?.txt").unwrap(), "one two ");
    assert_eq!(text("s-[12].txt").unwrap(), "one two ");
    assert_eq!(text("[x].txt").unwrap(), "literal ", "a file of that very name comes first");
    assert!(text("t-*.txt").unwrap_err().to_string().contains("no file has a name of this pattern"));
    assert!(text("s-[.txt").unwrap_err().to_string().contains("is no pattern"));
}

#[test]
fn a_limit_ends_with_a_document_and_reads_no_further() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.jsonl"), "{\"text\": \"abc\"}\n{\"text\": \"defgh\"}\n{\"text\": \"ij\"}\n")
        .unwrap();
    fs::write(folder.path().join("b.jsonl"), "{\"text\": \"klm\"}\nno JSON\n").unwrap();
    let tokens = |limit: Option<u64>| {
        let files = ["a.jsonl", "b.jsonl"].map(|name| folder.path().join(name));
        let mut sources = Sources::open(&files, "text", &NoProgress)?;
        sources.max_tokens = limit;
        Ok::<_, Error>(Dataset::open(&sources, &Coder::Bytes, 4, &folder.path().join("cache"), &NoProgress)?.tokens())
    };
    assert_eq!(tokens(Some(4)).unwrap(), 4);
    assert_eq!(tokens(Some(5)).unwrap(), 10, "no document is cut");
    assert_eq!(tokens(Some(13)).unwrap(), 13);
    assert!(tokens(None).unwrap_err().to_string().contains("b.jsonl: line 2"));
    assert!(tokens(Some(14)).is_err());
}
