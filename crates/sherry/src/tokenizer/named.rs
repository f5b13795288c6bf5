//! Pre-tokenizers that GGUF files know by name (`tokenizer.ggml.pre`), after llama.cpp's table.

use super::pre::PreStep;
use super::split::{Behavior, DIGIT, DIGITS, GPT2, Pattern, Split};
use crate::{Error, Result};

/// LLaMA-3's pattern.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen-2's pattern: LLaMA-3's with single digits.
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// The last of DeepSeek-V3's three patterns.
const DEEPSEEK3: &str = concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"##,
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
);
/// The first of Falcon's patterns: runs of punctuation and signs.
const FALCON: &str = r"[\p{P}\$\+<=>\^~\|`]+";
/// One entry of the table.
struct Named {
    name: &'static str,
    patterns: &'static [&'static str],
    /// Pieces that are a token are not split further.
    whole_pieces: bool,
    /// Text begins with the begin-of-text token unless the file says otherwise.
    adds_bos: bool,
}

const fn named(name: &'static str, patterns: &'static [&'static str]) -> Named {
    Named { name, patterns, whole_pieces: false, adds_bos: false }
}

const fn llama3(name: &'static str) -> Named {
    Named { name, patterns: &[LLAMA3], whole_pieces: true, adds_bos: true }
}

const DEEPSEEK3_ALL: &[&str] = &[r"\p{N}{1,3}", r"[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK3];
const SINGLE_DIGITS_GPT2: &[&str] = &[DIGIT, GPT2];

/// Of several names for one thing the first is the one written.
const KNOWN: &[Named] = &[
    llama3("llama-bpe"),
    llama3("llama3"),
    llama3("llama-v3"),
    llama3("falcon3"),
    named("qwen2", &[QWEN2]),
    named("deepseek-r1-qwen", &[QWEN2]),
    named("hunyuan", &[QWEN2]),
    named("hunyuan-dense", DEEPSEEK3_ALL),
    named("deepseek-v3", DEEPSEEK3_ALL),
    named("smollm", SINGLE_DIGITS_GPT2),
    named("starcoder", SINGLE_DIGITS_GPT2),
    named("refact", SINGLE_DIGITS_GPT2),
    named("command-r", SINGLE_DIGITS_GPT2),
    named("gpt-2", &[GPT2]),
    named("phi-2", &[GPT2]),
    named("olmo", &[GPT2]),
    named("dbrx", &[LLAMA3]),
    // llama.cpp writes GPT-2's pattern without its last alternative, a run of white space; what no pattern matches is a
    // piece there, and cuts at the same places.
    named("falcon", &[FALCON, GPT2, r"[0-9][0-9][0-9]"]),
    named("falcon_e", &[FALCON, GPT2, r"[0-9]"]),
    named("default", &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, DIGITS, r"[0-9][0-9][0-9]"]),
];

/// What a name in `tokenizer.ggml.pre` stands for.
pub(super) struct PreTokenizer {
    pub splits: Vec<Split>,
    pub whole_pieces: bool,
    pub adds_bos: bool,
}

impl PreTokenizer {
    /// As the steps of a byte-level `pre_tokenizer`.
    pub fn steps(self) -> Result<Vec<PreStep>> {
        let bytes = PreStep::byte_level(false, false)?;
        Ok(self.splits.into_iter().map(PreStep::Split).chain([bytes]).collect())
    }
}

/// The pre-tokenizer of that name.
pub(super) fn by_name(name: &str) -> Result<PreTokenizer> {
    let Some(known) = KNOWN.iter().find(|known| known.name == name) else {
        let names: Vec<&str> = KNOWN.iter().map(|known| known.name).collect();
        return Err(Error::Tokenizer(format!(
            "unknown pre-tokenizer {name:?} (tokenizer.ggml.pre); the model's Hugging Face folder says how text is split; known are {}",
            names.join(", ")
        )));
    };
    Ok(PreTokenizer {
        splits: known.patterns.iter().map(|pattern| Split::isolated(pattern)).collect::<Result<_>>()?,
        whole_pieces: known.whole_pieces,
        adds_bos: known.adds_bos,
    })
}

/// The GGUF name of these passes, if they have one.
pub(super) fn name_of<'s>(splits: impl Iterator<Item = &'s Split>, whole_pieces: bool) -> Option<&'static str> {
    let splits: Vec<&Split> = splits.collect();
    let same = |known: &&Named| {
        known.whole_pieces == whole_pieces
            && known.patterns.len() == splits.len()
            && known.patterns.iter().zip(&splits).all(|(pattern, split)| cuts_by(split, pattern))
    };
    KNOWN.iter().find(same).map(|known| known.name)
}

/// Whether every match of `pattern` becomes a piece, and what lies between.
fn cuts_by(split: &Split, pattern: &str) -> bool {
    // These match all of a text, so that dropping what they do not match changes nothing.
    let covers = || [GPT2, LLAMA3, QWEN2].contains(&pattern);
    // Neighbouring matches of this one do not touch: joining them changes nothing.
    let runs = || pattern == DIGITS;
    matches!(&split.pattern, Pattern::Regex(text) if text == pattern)
        && match (split.behavior, split.invert) {
            (Behavior::Isolated, _) => true,
            (Behavior::Removed, true) => covers(),
            (Behavior::Contiguous, _) => runs(),
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::super::split::split_all;
    use super::*;

    fn pieces<'t>(name: &str, text: &'t str) -> Vec<&'t str> {
        split_all(&by_name(name).unwrap().splits, text).unwrap().into_iter().map(|range| &text[range]).collect()
    }

    #[test]
    fn known_patterns_cut_as_documented() {
        assert_eq!(
            pieces("gpt-2", "Hi  you're 123!\n\n x "),
            ["Hi", " ", " you", "'re", " 123", "!", "\n\n", " x", " "]
        );
        assert_eq!(pieces("smollm", "in 2024"), ["in", " ", "2", "0", "2", "4"]);
        assert_eq!(pieces("llama-bpe", "it'S 12345\r\n  \n  x"), ["it", "'S", " ", "123", "45", "\r\n  \n", " ", " x"]);
        assert_eq!(pieces("qwen2", "a12 \n"), ["a", "1", "2", " \n"]);
        assert_eq!(pieces("hunyuan-dense", "漢字kana 1234,b"), ["漢字", "kana", " ", "123", "4", ",b"]);
        assert_eq!(pieces("default", "a, b12345"), ["a", ",", " b", "123", "45"]);
        assert_eq!(
            pieces("falcon_e", "a  b\n\nc\n``12!? 7"),
            ["a", " ", " b", "\n", "\n", "c", "\n", "``", "1", "2", "!?", " ", "7"]
        );
        assert_eq!(pieces("falcon", "a ` 1234"), ["a", " ", "`", " ", "123", "4"]);
        assert_eq!(pieces("gpt-2", ""), [""; 0]);
    }

    #[test]
    fn unknown_names_are_refused() {
        assert!(by_name("klingon").err().unwrap().to_string().contains("llama-bpe"));
    }

    #[test]
    fn names_are_found_again() {
        for known in KNOWN {
            let pre = by_name(known.name).unwrap();
            let name = name_of(pre.splits.iter(), pre.whole_pieces).unwrap();
            assert_eq!(KNOWN.iter().find(|other| other.name == name).unwrap().patterns, known.patterns);
        }
        let removed = |pattern: &str| Split::new(Pattern::Regex(pattern.into()), Behavior::Removed, true).unwrap();
        assert_eq!(name_of([removed(QWEN2)].iter(), false), Some("qwen2"));
        // Here the rest is not empty.
        assert_eq!(name_of([removed(DIGIT), removed(GPT2)].iter(), false), None);
    }
}
