//! Text to token ids and back.
//!
//! One engine reads Hugging Face `tokenizer.json`, GGUF metadata (byte-level BPE and SentencePiece-BPE) and tiktoken
//! rank files, and writes the first two. Encoding takes time proportional to the text (times a logarithm), whatever
//! the text; nothing in a tokenizer file or a prompt makes it panic.
//!
//! **Control tokens** (begin of text, end of turn) are recognised in text only on request: `parse_special`. Text typed
//! by a user never becomes one. A token is a control token when its file says so (`special`, GGUF type 3) or when it
//! looks like one (`<|...|>`), because some files forget to say so.

mod bpe;
mod gguf;
mod gguf_metadata;
mod hf;
mod hf_write;
mod learn;
mod normalize;
mod special;
mod split;
mod stream;
#[cfg(test)]
mod tests;
mod tiktoken;
pub(crate) mod vocab;

use std::ops::Range;

use bpe::{Bpe, Scratch};
use normalize::{Normalizer, SPACE, normalize};
pub(crate) use special::{Added, Specials};
use split::{Split, split_all};
use vocab::{Vocab, char_to_byte, parse_byte};

pub use gguf::GgufVocab;
pub use learn::Learner;
pub use stream::TokenStream;
pub use vocab::{MAX_TOKEN_BYTES, MAX_TOKENS, TokenKind};

use crate::{Error, Result};

/// Texts of control tokens that end a turn, in every family this program knows.
const END_OF_TURN: [&str; 8] = [
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<end_of_turn>",
    "<｜hy_place▁holder▁no▁2｜>",
];

/// Text to token ids and back. See the [module documentation](self).
pub struct Tokenizer {
    vocab: Vocab,
    normalizers: Vec<Normalizer>,
    splits: Vec<Split>,
    bpe: Bpe,
    specials: Specials,
    decoder: Decoder,
    /// Put around a text by `add_special`.
    prefix: Vec<u32>,
    suffix: Vec<u32>,
    roles: Roles,
    chat_template: Option<String>,
}

/// How token texts become bytes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decoder {
    /// GPT-2's printable stand-ins for bytes.
    ByteLevel,
    /// SentencePiece: U+2581 for spaces, `<0x41>` for bytes; text begins with a space that was not there.
    Spaces { strip_first: bool },
}

/// Ids with a meaning of their own.
#[derive(Clone, Debug, Default)]
struct Roles {
    bos: Option<u32>,
    eos: Option<u32>,
    unknown: Option<u32>,
    padding: Option<u32>,
    /// Every token that ends the model's answer, `eos` first.
    ends: Vec<u32>,
}

impl Tokenizer {
    /// Token ids of `text`. `add_special` adds the tokens that the model expects around a text (begin of text);
    /// `parse_special` recognises control tokens in it.
    ///
    /// # Errors
    /// Text that the vocabulary cannot express at all.
    pub fn encode(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<u32>> {
        let mut ids = Vec::with_capacity(text.len() / 3 + 2);
        if add_special {
            ids.extend(&self.prefix);
        }
        self.encode_into(text, parse_special, &[], &mut ids)?;
        if add_special {
            ids.extend(&self.suffix);
        }
        Ok(ids)
    }

    /// Token ids of a rendered prompt: control tokens are recognised, except those that begin or end in a byte
    /// of `literal` (sorted, disjoint byte ranges: text that a user typed). Nothing is added around it.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_prompt(&self, text: &str, literal: &[Range<usize>]) -> Result<Vec<u32>> {
        let mut ids = Vec::with_capacity(text.len() / 3 + 2);
        self.encode_into(text, true, literal, &mut ids)?;
        Ok(ids)
    }

    fn encode_into(&self, text: &str, control: bool, literal: &[Range<usize>], ids: &mut Vec<u32>) -> Result<()> {
        let mut scratch = Scratch::default();
        let mut at = 0;
        while at < text.len() {
            let found = self.specials.find(text, at, control, literal);
            let end = found.as_ref().map_or(text.len(), |found| found.range.start);
            self.encode_plain(&text[at..end], at == 0, &mut scratch, ids)?;
            at = text.len();
            if let Some(found) = found {
                ids.push(found.id);
                at = found.range.end;
            }
        }
        Ok(())
    }

    /// Text without added tokens.
    fn encode_plain(&self, text: &str, first: bool, scratch: &mut Scratch, ids: &mut Vec<u32>) -> Result<()> {
        let normalized;
        let text = if self.normalizers.is_empty() {
            text
        } else {
            normalized = normalize(&self.normalizers, text, first)?;
            &normalized
        };
        if text.is_empty() {
            return Ok(());
        }
        for piece in split_all(&self.splits, text)? {
            self.bpe.encode(&text[piece], scratch, ids)?;
        }
        Ok(())
    }

    /// Text of `ids`; control tokens are left out unless `keep_control`. Bytes that are not UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// An id outside the vocabulary.
    pub fn decode(&self, ids: &[u32], keep_control: bool) -> Result<String> {
        let mut bytes = Vec::with_capacity(ids.len() * 4);
        let mut at_start = true;
        for id in ids {
            let control = self.is_control(*id);
            let before = bytes.len();
            if !control || keep_control {
                self.token_bytes(*id, &mut bytes)?;
            }
            if at_start && bytes.len() > before {
                if !control {
                    self.strip_first_space(&mut bytes, before);
                }
                at_start = false;
            }
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Takes away the space that SentencePiece puts before a text, at position `at` of `bytes`.
    fn strip_first_space(&self, bytes: &mut Vec<u8>, at: usize) {
        if self.decoder == (Decoder::Spaces { strip_first: true }) && bytes.get(at) == Some(&b' ') {
            bytes.remove(at);
        }
    }

    /// Appends the bytes that a token stands for: part of a character, perhaps. Holes stand for nothing.
    ///
    /// # Errors
    /// An id outside the vocabulary.
    pub fn token_bytes(&self, id: u32, out: &mut Vec<u8>) -> Result<()> {
        let (Some(text), Some(kind)) = (self.vocab.text(id), self.vocab.kind(id)) else {
            return Err(Error::Tokenizer(format!("token id {id} is not in the vocabulary of {}", self.vocab.len())));
        };
        match (self.decoder, kind) {
            (_, TokenKind::Unused) => {}
            (_, TokenKind::Control | TokenKind::Unknown) => out.extend(text.as_bytes()),
            (Decoder::ByteLevel, TokenKind::Normal) => {
                let start = out.len();
                for c in text.chars() {
                    let Some(byte) = char_to_byte(c) else {
                        // Not written in the byte alphabet: stands for itself.
                        out.truncate(start);
                        out.extend(text.as_bytes());
                        break;
                    };
                    out.push(byte);
                }
            }
            (Decoder::ByteLevel, _) => out.extend(text.as_bytes()),
            (Decoder::Spaces { .. }, TokenKind::Byte) => out.extend(parse_byte(text)),
            (Decoder::Spaces { .. }, _) => {
                let mut utf8 = [0; 4];
                for c in text.chars() {
                    let c = if c == SPACE { ' ' } else { c };
                    out.extend(c.encode_utf8(&mut utf8).as_bytes());
                }
            }
        }
        Ok(())
    }

    /// The token's text as the vocabulary writes it (`Ġthe`, `▁the`, `<0x0A>`).
    pub fn id_to_token(&self, id: u32) -> Option<&str> {
        self.vocab.text(id)
    }

    /// The id of a token by the text that the vocabulary writes for it.
    pub fn token_to_id(&self, text: &str) -> Option<u32> {
        self.vocab.id(text)
    }

    /// What kind of token `id` is.
    pub fn kind(&self, id: u32) -> Option<TokenKind> {
        self.vocab.kind(id)
    }

    /// Whether `id` steers the model and is not part of the text.
    pub fn is_control(&self, id: u32) -> bool {
        matches!(self.vocab.kind(id), Some(TokenKind::Control | TokenKind::Unknown))
    }

    /// Number of ids, holes included. The model's embedding may have more rows.
    pub fn vocab_size(&self) -> usize {
        self.vocab.len()
    }

    /// Begin of text.
    pub fn bos(&self) -> Option<u32> {
        self.roles.bos
    }

    /// End of text.
    pub fn eos(&self) -> Option<u32> {
        self.roles.eos
    }

    /// All tokens that end an answer: end of text, end of turn.
    pub fn end_ids(&self) -> &[u32] {
        &self.roles.ends
    }

    /// Whether [`Self::encode`] with `add_special` puts [`Self::bos`] first.
    pub fn adds_bos(&self) -> bool {
        self.roles.bos.is_some() && self.prefix.first() == self.roles.bos.as_ref()
    }

    /// Whether `id` stands for a token. The others, in the middle of the vocabulary or beyond its end, are rows of an
    /// embedding that was filled up to a round size: no model should choose them.
    pub fn is_token(&self, id: u32) -> bool {
        self.vocab.kind(id).is_some_and(|kind| kind != TokenKind::Unused)
    }

    /// The chat template that came with the tokenizer.
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// Replaces the chat template (a folder may hold it in a file of its own).
    pub fn set_chat_template(&mut self, template: Option<String>) {
        self.chat_template = template;
    }
}

/// Whether a token is written like a control token. Files of some families mark them as ordinary added tokens.
fn looks_like_control(text: &str) -> bool {
    (text.len() > 4 && text.starts_with("<|") && text.ends_with("|>"))
        || (text.starts_with("<｜") && text.ends_with("｜>"))
        || ["<start_of_turn>", "<end_of_turn>", "<bos>", "<eos>", "<pad>", "<s>", "</s>"].contains(&text)
}

impl Roles {
    /// Adds the end-of-turn tokens of the vocabulary to the explicit ones.
    fn complete(mut self, vocab: &Vocab, explicit: impl IntoIterator<Item = u32>) -> Self {
        let known = END_OF_TURN
            .iter()
            .filter_map(|text| vocab.id(text))
            .filter(|id| vocab.kind(*id) == Some(TokenKind::Control));
        for id in self.eos.into_iter().chain(explicit).chain(known) {
            if !self.ends.contains(&id) {
                self.ends.push(id);
            }
        }
        self
    }
}

/// The added tokens of a vocabulary without further flags.
fn added_of(vocab: &Vocab) -> Vec<Added> {
    vocab
        .iter()
        .filter_map(|(id, text, kind)| match kind {
            TokenKind::Control | TokenKind::Unknown => Some(Added::new(text, id, true)),
            TokenKind::UserDefined => Some(Added::new(text, id, false)),
            _ => None,
        })
        .collect()
}
