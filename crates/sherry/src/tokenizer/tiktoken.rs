//! Vocabularies as tiktoken writes them: lines of a token's bytes in base64 and its rank, which is its id.

use super::bpe::{Bpe, Unknown, byte_alphabet, merges_from_ranks};
use super::named::by_name;
use super::vocab::{Vocab, byte_to_char};
use super::{Decoder, Model, Roles, TokenKind, Tokenizer, added_of, specials};
use crate::{Error, Result};

impl Tokenizer {
    /// A tokenizer from a tiktoken rank file (LLaMA-3's `tokenizer.model`). `pre` is the pre-tokenizer's name as in
    /// GGUF (`llama-bpe`); `control` are the control tokens, whose ids follow those of the file.
    /// `<|begin_of_text|>` and `<|end_of_text|>` among them become [`Self::bos`] and [`Self::eos`].
    ///
    /// # Errors
    /// [`Error::Tokenizer`] naming the line: not base64, ranks that are not 0, 1, 2, ...; or an unknown `pre`.
    pub fn from_tiktoken(ranks: &[u8], pre: &str, control: &[String]) -> Result<Self> {
        let pre = by_name(pre)?;
        let mut vocab = Vocab::with_capacity(1 << 17);
        for (at, line) in ranks.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).enumerate() {
            let bad = |what: &str| Error::Tokenizer(format!("line {}: {what}", at + 1));
            let line = std::str::from_utf8(line).map_err(|_| bad("not text"))?;
            let (text, rank) = line.trim_end().split_once(' ').ok_or_else(|| bad("expected a token and a rank"))?;
            if rank.parse() != Ok(at) {
                return Err(bad(&format!("rank {rank:?} where {at} was expected")));
            }
            let bytes = base64(text).filter(|bytes| !bytes.is_empty()).ok_or_else(|| bad("the token is not base64"))?;
            let text: String = bytes.iter().map(|byte| byte_to_char(*byte)).collect();
            vocab.push(&text, TokenKind::Normal)?;
        }
        let merges = merges_from_ranks(&vocab, Some)?;
        for text in control {
            vocab.push(text, TokenKind::Control)?;
        }
        let roles = Roles { bos: vocab.id("<|begin_of_text|>"), eos: vocab.id("<|end_of_text|>"), ..Roles::default() }
            .complete(&vocab, []);
        let [raw, rewritten] = specials(added_of(&vocab), &[])?;
        let unknown = Unknown::default();
        Ok(Self {
            raw,
            rewrites: Vec::new(),
            rewritten,
            prefix: roles.bos.filter(|_| pre.adds_bos).into_iter().collect(),
            pre: pre.steps()?,
            model: Model::Bpe(Bpe { merges, alphabet: byte_alphabet(&vocab), unknown, whole_pieces: true }),
            decoder: Decoder::ByteLevel,
            suffix: Vec::new(),
            vocab,
            roles,
            chat_template: None,
            notes: Vec::new(),
        })
    }
}

/// Whether `bytes` begin like a rank file: a token in base64, a space and the rank 0.
pub(super) fn is_ranks(bytes: &[u8]) -> bool {
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = std::str::from_utf8(line).unwrap_or_default();
    line.trim_end().split_once(' ').is_some_and(|(text, rank)| rank == "0" && base64(text).is_some())
}

/// The bytes of standard base64 with padding.
fn base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=').as_bytes();
    if !text.len().is_multiple_of(4) || text.len() - digits.len() > 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    let (mut bits, mut held) = (0u32, 0);
    for digit in digits {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn base64_decodes() {
        assert_eq!(base64("IHRoZQ==").as_deref(), Some(&b" the"[..]));
        assert_eq!(base64("/+8=").as_deref(), Some(&[0xFF, 0xEF][..]));
        assert_eq!(base64("").as_deref(), Some(&b""[..]));
        for bad in ["A", "AA=A", "A===", "!!!!", "é==="] {
            assert!(base64(bad).is_none(), "{bad}");
        }
    }
}
