//! Text that models are measured on must not be text that they are fitted to.
//!
//! Known are WikiText-2 (test) and the five tasks of the evaluator (ARC easy and challenge, HellaSwag, PIQA, WinoGrande), as
//! hashes of runs of [`RUN`] words, one in [`SAMPLED`] of them: enough to notice a set, or a good part of it, in whatever
//! file format and with whatever words around it, and too little to learn anything from.

use std::collections::{BTreeMap, BTreeSet};

use sherry_kernels::SplitMix64;

/// Words of a run: runs that two texts have in common by chance are rare at this length.
const RUN: usize = 10;
/// One run in so many is known, chosen by its hash.
const SAMPLED: u64 = 256;
/// Different known runs of a set that a file may contain: quotations and stock phrases.
const TOLERATED: usize = 4;
/// For every set a number of hashes (u32), then these (u64), ascending; all little-endian.
const KNOWN: &[u8] = include_bytes!("evaluation_sets.bin");
/// Names in the order of [`KNOWN`].
const SETS: [&str; 6] = ["WikiText-2 (test)", "ARC easy", "ARC challenge", "HellaSwag", "PIQA", "WinoGrande"];

/// Looks for evaluation sets in the documents of a file.
#[derive(Debug)]
pub struct Watch {
    known: BTreeMap<u64, usize>,
    found: [BTreeSet<u64>; SETS.len()],
}

impl Default for Watch {
    fn default() -> Self {
        let mut known = BTreeMap::new();
        let mut rest = KNOWN;
        for set in 0..SETS.len() {
            let Some((count, after)) = rest.split_first_chunk() else { break };
            let count = u32::from_le_bytes(*count) as usize;
            let (hashes, after) = after.split_at_checked(8 * count).unwrap_or((after, &[]));
            known.extend(hashes.as_chunks::<8>().0.iter().map(|bytes| (u64::from_le_bytes(*bytes), set)));
            rest = after;
        }
        Self { known, found: Default::default() }
    }
}

impl Watch {
    /// Looks through `document`; the name of an evaluation set that the documents so far contain a part of.
    pub fn look(&mut self, document: &str) -> Option<&'static str> {
        sampled_runs(document, |hash| {
            if let Some(&set) = self.known.get(&hash) {
                self.found[set].insert(hash);
            }
        });
        let set = self.found.iter().position(|found| found.len() > TOLERATED)?;
        Some(SETS[set])
    }
}

/// The hashes of the runs of words in `text` that are sampled.
fn sampled_runs(text: &str, mut sampled: impl FnMut(u64)) {
    // A sum of powers of a base: what leaves on the left is subtracted, what enters on the right added.
    const BASE: u64 = 0x9e37_79b9_7f4a_7c15 | 1;
    let power = (1..RUN).fold(1u64, |power, _| power.wrapping_mul(BASE));
    let mut window = [0u64; RUN];
    let mut hash = 0u64;
    let mut count = 0;
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    for word in words {
        let word = word_hash(word);
        let place = count % RUN;
        hash = hash.wrapping_sub(window[place].wrapping_mul(power)).wrapping_mul(BASE).wrapping_add(word);
        window[place] = word;
        count += 1;
        let mixed = mix(hash);
        if count >= RUN && mixed.is_multiple_of(SAMPLED) {
            sampled(mixed);
        }
    }
}

/// FNV-1a of the word in lower case.
fn word_hash(word: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let start = 0xcbf2_9ce4_8422_2325;
    let hash = if word.is_ascii() {
        word.bytes().fold(start, |hash, byte| step(hash, byte.to_ascii_lowercase()))
    } else {
        word.to_lowercase().bytes().fold(start, step)
    };
    mix(hash)
}

/// The finalizer of SplitMix64: output 0 adds nothing to the seed before it.
fn mix(z: u64) -> u64 {
    SplitMix64::output(z, 0)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::path::{Path, PathBuf};

    use serde_json::Value;

    use super::*;

    fn data() -> Option<PathBuf> {
        let path = std::env::var_os("SHERRY_DATA").map_or_else(
            || Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data")).to_path_buf(),
            PathBuf::from,
        );
        path.join("eval").is_dir().then_some(path)
    }

    /// The texts of each set: of WikiText the lines, of tasks every string of an item.
    fn texts(data: &Path) -> Vec<Vec<String>> {
        let read = |name: String| {
            let base = data.join(&name);
            let mut text = String::new();
            for (suffix, zst) in [(".gz", false), (".zst", true)] {
                let path = PathBuf::from(format!("{}{suffix}", base.display()));
                let Ok(file) = File::open(path) else { continue };
                let read = match zst {
                    true => zstd::Decoder::new(file).unwrap().read_to_string(&mut text),
                    false => flate2::read::MultiGzDecoder::new(file).read_to_string(&mut text),
                };
                read.unwrap();
            }
            assert!(!text.is_empty(), "{name}");
            text
        };
        let mut sets = vec![vec![read("corpus/wikitext2-raw-test.txt".to_owned())]];
        for name in [
            "arc_easy_test",
            "arc_challenge_test",
            "hellaswag_validation",
            "piqa_validation",
            "winogrande_xl_validation",
        ] {
            let lines = read(format!("eval/{name}.jsonl"));
            sets.push(lines.lines().flat_map(|line| strings(serde_json::from_str(line).unwrap())).collect());
        }
        sets
    }

    fn strings(value: Value) -> Vec<String> {
        match value {
            Value::String(text) => vec![text],
            Value::Array(values) => values.into_iter().flat_map(strings).collect(),
            Value::Object(fields) => fields.into_iter().flat_map(|(_, value)| strings(value)).collect(),
            _ => Vec::new(),
        }
    }

    /// `SHERRY_BLESS=1` writes the file anew.
    #[test]
    fn the_hashes_are_those_of_the_sets() {
        let Some(data) = data() else { return eprintln!("skipped: no evaluation data (SHERRY_DATA)") };
        let mut bytes = Vec::new();
        for texts in texts(&data) {
            let mut hashes = BTreeSet::new();
            texts.iter().for_each(|text| sampled_runs(text, |hash| _ = hashes.insert(hash)));
            assert!(hashes.len() > 2 * TOLERATED);
            bytes.extend((hashes.len() as u32).to_le_bytes());
            hashes.iter().for_each(|hash| bytes.extend(hash.to_le_bytes()));
        }
        if std::env::var_os("SHERRY_BLESS").is_some() {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/data/evaluation_sets.bin");
            std::fs::write(path, &bytes).unwrap();
        }
        assert!(bytes == KNOWN, "evaluation_sets.bin is not what the sets give");
    }

    #[test]
    fn sets_are_found_whatever_surrounds_them_and_other_text_is_not() {
        let Some(data) = data() else { return eprintln!("skipped: no evaluation data (SHERRY_DATA)") };
        for (set, texts) in texts(&data).iter().enumerate() {
            let mut watch = Watch::default();
            let found = texts.iter().find_map(|text| {
                let words: Vec<&str> = text.split_whitespace().collect();
                watch.look(&format!("# Some heading\n\n{}\nand more", words.join("   ").to_uppercase()))
            });
            // Questions of both parts of ARC are found as either.
            assert!(found.is_some_and(|found| found == SETS[set]), "{set}: {found:?}");
        }
        let mut watch = Watch::default();
        let text = "the quick brown fox jumps over the lazy dog and then it sleeps for a while ".repeat(1000);
        assert_eq!(watch.look(&text), None);
    }

    #[test]
    fn a_run_has_the_same_hash_wherever_it_stands() {
        let words: Vec<String> = (0..4000).map(|i| format!("w{}", i * 7919 % 1009)).collect();
        let of = |text: String| {
            let mut hashes = Vec::new();
            sampled_runs(&text, |hash| hashes.push(hash));
            hashes
        };
        let whole = of(words.join(" "));
        assert!(!whole.is_empty() && of(words[..RUN - 1].join(" ")).is_empty());
        let tail = of(words[1000..].join(" - "));
        assert!(tail.len() > 3 && whole.ends_with(&tail));
    }
}
