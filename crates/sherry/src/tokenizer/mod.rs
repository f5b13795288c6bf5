//! Text to token ids and back.
//!
//! One engine reads Hugging Face `tokenizer.json`, SentencePiece `tokenizer.model`, GGUF metadata (byte-level BPE and
//! SentencePiece-BPE) and tiktoken rank files, and writes the first and the third. Encoding takes time proportional to
//! the text (times a logarithm), whatever the text; nothing in a tokenizer file or a prompt makes it panic.
//!
//! The way of a text is that of the Hugging Face `tokenizers` crate: added tokens are looked for in the text as it is;
//! what lies between is rewritten by the normalizers; added tokens that ask for it are looked for in the result; the
//! rest is cut into pieces by the pre-tokenizers; and the model makes tokens of every piece.
//!
//! **Control tokens** (begin of text, end of turn) are recognised in text only on request: `parse_special`. Text typed
//! by a user never becomes one. A token is a control token when its file says so (`special`, GGUF type 3) or when it
//! looks like one (`<|...|>`), because some files forget to say so.

mod added;
mod bpe;
mod charsmap;
mod exact;
mod gguf;
mod gguf_metadata;
mod hf;
mod learn;
mod named;
mod pre;
mod rewrite;
mod sentencepiece;
mod split;
mod stream;
#[cfg(test)]
mod tests;
mod tiktoken;
mod unigram;
pub(crate) mod vocab;

use std::ops::Range;

pub(crate) use added::{Added, Specials};
use bpe::{Bpe, Scratch};
use pre::{PreStep, pieces};
use rewrite::{Rewrite, SPACE, Text};
use unigram::Unigram;
use vocab::{Vocab, char_to_byte, parse_byte};

pub use gguf::GgufVocab;
pub use learn::Learner;
pub use stream::TokenStream;
pub use vocab::{MAX_TOKEN_BYTES, MAX_TOKENS, TokenKind, byte_to_char};

use crate::progress::Watch;
use crate::{NoProgress, Progress, Result};

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
///
/// ```
/// let llm = sherry::Llm::tiny()?;
/// let ids = llm.tokenizer().encode("Hi <|im_end|>", true, false)?;
/// assert_eq!(ids.len(), 13, "typed by a user, a control token is text");
/// # Ok::<(), sherry::Error>(())
/// ```
pub struct Tokenizer {
    vocab: Vocab,
    /// Added tokens that are looked for in the text as it is.
    raw: Specials,
    rewrites: Vec<Rewrite>,
    /// Added tokens that are looked for in the rewritten text.
    rewritten: Specials,
    pre: Vec<PreStep>,
    model: Model,
    decoder: Decoder,
    /// Put around a text by `add_special`.
    prefix: Vec<u32>,
    suffix: Vec<u32>,
    roles: Roles,
    chat_template: Option<String>,
    notes: Vec<String>,
}

/// What the pieces of a text share.
struct Work<'a> {
    scratch: Scratch,
    watch: &'a Watch<'a>,
}

/// Makes tokens of a piece of text.
enum Model {
    Bpe(Bpe),
    Unigram(Unigram),
}

/// How token texts become bytes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decoder {
    /// GPT-2's printable stand-ins for bytes.
    ByteLevel,
    /// SentencePiece: U+2581 for spaces, `<0x41>` for bytes.
    Spaces(Strip),
    /// U+2581 for spaces; with `strip_first` the first token's are left out.
    Metaspace { strip_first: bool },
}

/// Which spaces at the beginning of a text were put there by the tokenizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Strip {
    None,
    One,
    /// The first one of every token until there is text.
    All,
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
        self.encode_long(text, add_special, parse_special, &NoProgress)
    }

    /// [`encode`](Self::encode) for a text that may take long: `progress` can stop it.
    ///
    /// # Errors
    /// As there; [`Error::Interrupted`](crate::Error::Interrupted).
    pub fn encode_long(
        &self,
        text: &str,
        add_special: bool,
        parse_special: bool,
        progress: &dyn Progress,
    ) -> Result<Vec<u32>> {
        let mut ids = Vec::with_capacity(text.len() / 3 + 2);
        if add_special {
            ids.extend(&self.prefix);
        }
        self.encode_into(text, parse_special, &[], &mut ids, &Watch::new(progress))?;
        if add_special {
            ids.extend(&self.suffix);
        }
        Ok(ids)
    }

    /// Token ids of a rendered prompt: control tokens are recognised, except those that begin or end in a byte of
    /// `literal` (sorted, disjoint byte ranges: text that a user typed). Nothing is added around it.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_prompt(&self, text: &str, literal: &[Range<usize>]) -> Result<Vec<u32>> {
        let mut ids = Vec::with_capacity(text.len() / 3 + 2);
        self.encode_into(text, true, literal, &mut ids, &Watch::new(&NoProgress))?;
        Ok(ids)
    }

    fn encode_into(
        &self,
        text: &str,
        control: bool,
        literal: &[Range<usize>],
        ids: &mut Vec<u32>,
        watch: &Watch<'_>,
    ) -> Result<()> {
        let mut work = Work { scratch: Scratch::default(), watch };
        for stretch in self.raw.split(text, control, literal) {
            match stretch.id {
                Some(id) => ids.push(id),
                None => self.encode_rewritten(text, stretch.range, control, literal, &mut work, ids)?,
            }
        }
        Ok(())
    }

    /// The stretch `range` of `text`, which holds no added tokens as it is.
    fn encode_rewritten(
        &self,
        text: &str,
        range: Range<usize>,
        control: bool,
        literal: &[Range<usize>],
        work: &mut Work<'_>,
        ids: &mut Vec<u32>,
    ) -> Result<()> {
        let first = range.start == 0;
        let stretch = &text[range.clone()];
        if self.rewrites.is_empty() && self.rewritten.is_empty() {
            return self.encode_plain(stretch, first, work, ids);
        }
        let mut source = Text { text: stretch.to_owned(), typed: Vec::new() };
        if control && self.rewritten.have_control() {
            let first = literal.partition_point(|typed| typed.end <= range.start);
            for typed in literal[first..].iter().take_while(|typed| typed.start < range.end) {
                source.typed.resize(stretch.len(), false);
                source.typed[typed.start.max(range.start) - range.start..typed.end.min(range.end) - range.start]
                    .fill(true);
            }
        }
        let Text { text, typed } = source.rewritten(&self.rewrites)?;
        for stretch in self.rewritten.split(&text, control, &ranges(&typed)) {
            match stretch.id {
                Some(id) => ids.push(id),
                None => {
                    let first = first && stretch.range.start == 0;
                    self.encode_plain(&text[stretch.range], first, work, ids)?;
                }
            }
        }
        Ok(())
    }

    /// Text without added tokens.
    fn encode_plain(&self, text: &str, first: bool, work: &mut Work<'_>, ids: &mut Vec<u32>) -> Result<()> {
        let pieces = pieces(&self.pre, text, first, work.watch)?;
        for range in pieces.ranges {
            let piece = &pieces.text[range];
            match &self.model {
                Model::Bpe(bpe) => bpe.encode(piece, &self.vocab, &mut work.scratch, ids, work.watch)?,
                Model::Unigram(unigram) => unigram.encode(piece, ids, work.watch)?,
            }
        }
        Ok(())
    }

    /// Text of `ids`; control tokens are left out unless `keep_control`. Bytes that are not UTF-8 become U+FFFD; ids
    /// without a text stand for nothing, so that a model whose embedding has more rows than there are tokens can say
    /// anything.
    pub fn decode(&self, ids: &[u32], keep_control: bool) -> String {
        let mut bytes = Vec::with_capacity(ids.len() * 4);
        let mut at_start = true;
        for id in ids.iter().filter(|id| keep_control || !self.is_control(**id)) {
            self.push_text(*id, &mut at_start, &mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// [`token_bytes`](Self::token_bytes), without the space that SentencePiece puts before a text while `at_start`.
    fn push_text(&self, id: u32, at_start: &mut bool, out: &mut Vec<u8>) {
        let before = out.len();
        self.token_bytes(id, out);
        if !*at_start {
            return;
        }
        match self.decoder {
            Decoder::ByteLevel => *at_start = false,
            Decoder::Spaces(strip) => {
                if strip != Strip::None && out.get(before) == Some(&b' ') {
                    out.remove(before);
                    *at_start = strip == Strip::All;
                }
                *at_start &= out.len() == before;
            }
            Decoder::Metaspace { strip_first } => {
                if strip_first {
                    out.truncate(before);
                    out.extend(self.vocab.text(id).unwrap_or_default().replace(SPACE, "").as_bytes());
                }
                *at_start = false;
            }
        }
    }

    /// Appends the bytes that a token stands for: part of a character, perhaps. Holes and ids beyond the vocabulary
    /// stand for nothing.
    pub fn token_bytes(&self, id: u32, out: &mut Vec<u8>) {
        let (Some(text), Some(kind)) = (self.vocab.text(id), self.vocab.kind(id)) else { return };
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
            (_, TokenKind::Byte) => out.extend(parse_byte(text)),
            _ => {
                let mut utf8 = [0; 4];
                for c in text.chars() {
                    let c = if c == SPACE { ' ' } else { c };
                    out.extend(c.encode_utf8(&mut utf8).as_bytes());
                }
            }
        }
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

    /// What a user should know about the tokenizer's files: what they leave open, and what was made of it.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// All added tokens.
    fn added(&self) -> impl Iterator<Item = &Added> {
        self.raw.iter().chain(self.rewritten.iter())
    }
}

/// Where `marks` are set.
fn ranges(marks: &[bool]) -> Vec<Range<usize>> {
    let runs = marks.chunk_by(|a, b| a == b).scan(0, |end, run| {
        *end += run.len();
        Some((*end - run.len()..*end, run[0]))
    });
    runs.filter(|(_, marked)| *marked).map(|(range, _)| range).collect()
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

/// The tokens looked for in the text as it is, and those looked for in what `rewrites` make of it.
///
/// # Errors
/// As [`Specials::new`].
fn specials(added: Vec<Added>, rewrites: &[Rewrite]) -> Result<[Specials; 2]> {
    let (rewritten, raw): (Vec<Added>, Vec<Added>) = added.into_iter().partition(|token| token.normalized);
    let text = |token: &Added| Ok(Text { text: token.text.clone(), typed: Vec::new() }.rewritten(rewrites)?.text);
    let texts = rewritten.iter().map(text).collect::<Result<Vec<_>>>()?;
    Ok([Specials::new(raw)?, Specials::searched_as(rewritten, &texts)?])
}
