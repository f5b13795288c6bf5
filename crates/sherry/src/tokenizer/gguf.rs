//! Tokenizers in GGUF metadata (`tokenizer.ggml.*`), both ways.

use super::bpe::{
    Bpe, Merges, Unknown, byte_alphabet, byte_tokens, char_alphabet, merges_from_pairs, merges_from_scores,
};
use super::exact::Exact;
use super::named::{by_name, name_of};
use super::pre::PreStep;
use super::rewrite::{Rewrite, SPACE};
use super::split::Pattern;
use super::vocab::Vocab;
use super::{Decoder, Model, Roles, Strip, TokenKind, Tokenizer, added_of, looks_like_control, specials};
use crate::io::gguf::Strings;
use crate::{Error, Result};

/// The pre-tokenizer of files that name none, as in llama.cpp.
const DEFAULT_PRE: &str = "default";

/// A tokenizer as GGUF metadata spells it; the field names are those of `tokenizer.ggml.*`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GgufVocab {
    /// `gpt2` (byte-level BPE) or `llama` (SentencePiece BPE with scores).
    pub model: String,
    /// Which pre-tokenizer a `gpt2` vocabulary uses: `llama-bpe`, `qwen2`, ...; empty if the key is missing.
    pub pre: String,
    /// Texts by id.
    pub tokens: Strings,
    /// Scores by id; needed by `llama`.
    pub scores: Option<Vec<f32>>,
    /// Kinds by id, numbered as [`TokenKind`]; all normal if missing.
    pub token_types: Option<Vec<i32>>,
    /// Pairs `left right`, best first; needed by `gpt2`.
    pub merges: Option<Strings>,
    /// Begin of text.
    pub bos: Option<u32>,
    /// End of text.
    pub eos: Option<u32>,
    /// End of turn.
    pub eot: Option<u32>,
    /// End of message.
    pub eom: Option<u32>,
    /// Unknown text.
    pub unk: Option<u32>,
    /// Padding.
    pub pad: Option<u32>,
    /// Whether a text begins with `bos`; the default depends on `model` and `pre`.
    pub add_bos: Option<bool>,
    /// Whether a text ends with `eos`; default no.
    pub add_eos: Option<bool>,
    /// Whether `llama` puts a space before a text; default yes.
    pub add_space_prefix: Option<bool>,
    /// `tokenizer.chat_template`.
    pub chat_template: Option<String>,
    /// [`EXACT_KEY`](Self::EXACT_KEY): the parts of the tokenizer that the other keys cannot hold, if there are any.
    pub exact: Option<String>,
    /// Which parts these are, as messages name them; not a key.
    pub beyond: Vec<&'static str>,
}

impl GgufVocab {
    /// The key for what `tokenizer.ggml.*` cannot hold; see FORMAT.md.
    pub const EXACT_KEY: &str = "sherry.tokenizer";
}

impl Tokenizer {
    /// The tokenizer that a GGUF file describes.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] naming the key: unknown model or pre-tokenizer, arrays of different lengths, ids outside
    /// the vocabulary, malformed byte tokens or merges.
    pub fn from_gguf(gguf: &GgufVocab) -> Result<Self> {
        let exact = gguf.exact.as_deref().map(Exact::parse).transpose()?;
        let vocab = read_vocab(gguf, exact.as_ref())?;
        let check = |key: &str, id: Option<u32>| match id {
            Some(id) if id as usize >= vocab.len() => Err(Error::Tokenizer(format!(
                "tokenizer.ggml.{key}_token_id is {id}, but there are {} tokens",
                vocab.len()
            ))),
            id => Ok(id),
        };
        let roles = Roles {
            bos: check("bos", gguf.bos)?,
            eos: check("eos", gguf.eos)?,
            unknown: check("unknown", gguf.unk)?,
            padding: check("padding", gguf.pad)?,
            ends: Vec::new(),
        }
        .complete(&vocab, check("eot", gguf.eot)?.into_iter().chain(check("eom", gguf.eom)?));

        if let Some(exact) = exact {
            let merges = match gguf.model.as_str() {
                "gpt2" => read_merges(gguf, &vocab)?,
                "llama" => merges_from_scores(&vocab, scores(gguf)?)?,
                other => return Err(unknown_model(other)),
            };
            return exact.tokenizer(vocab, roles, merges, gguf.chat_template.clone());
        }
        let mut notes = Vec::new();
        let mut rewrites = Vec::new();
        let (bpe, pre, decoder, adds_bos) = match gguf.model.as_str() {
            "gpt2" => {
                if gguf.pre.is_empty() {
                    notes.push(format!(
                        "the file does not say how its tokenizer cuts text (tokenizer.ggml.pre is missing): \
                         \"{DEFAULT_PRE}\" is taken, as in llama.cpp. If the model was trained with other pieces its answers \
                         are worse; a newer conversion of the model names them"
                    ));
                }
                let pre = by_name(if gguf.pre.is_empty() { DEFAULT_PRE } else { &gguf.pre })?;
                let merges = read_merges(gguf, &vocab)?;
                let whole_pieces = pre.whole_pieces;
                let unknown = Unknown { id: roles.unknown, ..Unknown::default() };
                let bpe = Bpe { merges, alphabet: byte_alphabet(&vocab), unknown, whole_pieces };
                let adds_bos = pre.adds_bos;
                (bpe, pre.steps()?, Decoder::ByteLevel, adds_bos)
            }
            "llama" => {
                let prefix = gguf.add_space_prefix.unwrap_or(true);
                if prefix {
                    rewrites.push(Rewrite::Prepend(SPACE.into()));
                }
                rewrites.push(Rewrite::Replace { from: " ".into(), to: SPACE.into() });
                let has_bytes = vocab.iter().any(|(_, _, kind)| kind == TokenKind::Byte);
                let bytes = if has_bytes { Some(byte_tokens(&vocab)?) } else { None };
                let bpe = Bpe {
                    merges: merges_from_scores(&vocab, scores(gguf)?)?,
                    alphabet: char_alphabet(&vocab),
                    unknown: Unknown { bytes, id: roles.unknown, fuse: false },
                    whole_pieces: false,
                };
                (bpe, Vec::new(), Decoder::Spaces(if prefix { Strip::One } else { Strip::None }), true)
            }
            other => return Err(unknown_model(other)),
        };
        let around = |wanted: bool, id: Option<u32>| id.filter(|_| wanted).into_iter().collect();
        let [raw, rewritten] = specials(added_of(&vocab), &rewrites)?;
        Ok(Self {
            prefix: around(gguf.add_bos.unwrap_or(adds_bos), roles.bos),
            suffix: around(gguf.add_eos.unwrap_or(false), roles.eos),
            vocab,
            raw,
            rewrites,
            rewritten,
            pre,
            model: Model::Bpe(bpe),
            decoder,
            roles,
            chat_template: gguf.chat_template.clone(),
            notes,
        })
    }

    /// This tokenizer as GGUF metadata. What is written is read back: where the keys of GGUF describe another tokenizer,
    /// [`GgufVocab::exact`] holds what they lack.
    ///
    /// # Errors
    /// What GGUF cannot say: a pre-tokenizer without a name there, a unigram model, SentencePiece's own normalizer.
    pub fn to_gguf(&self) -> Result<GgufVocab> {
        let mut gguf = self.to_ggml_keys()?;
        gguf.beyond = self.differences(&Self::from_gguf(&gguf)?);
        if !gguf.beyond.is_empty() {
            gguf.exact = Some(self.to_exact(&gguf.beyond)?);
            let rest = self.differences(&Self::from_gguf(&gguf)?);
            if !rest.is_empty() {
                return Err(Error::Tokenizer(format!("GGUF cannot hold all of this tokenizer: {}", rest.join(", "))));
            }
        }
        Ok(gguf)
    }

    /// The keys that every reader of GGUF knows.
    fn to_ggml_keys(&self) -> Result<GgufVocab> {
        let Model::Bpe(bpe) = &self.model else {
            return Err(Error::Tokenizer("a unigram tokenizer has no GGUF form here".into()));
        };
        let byte_level = self.decoder == Decoder::ByteLevel;
        let mut tokens = Strings::with_capacity(self.vocab.len());
        let mut token_types = Vec::with_capacity(self.vocab.len());
        for (id, text, kind) in self.vocab.iter() {
            // Every text is a key in other programs: holes need texts of their own.
            let hole = kind == TokenKind::Unused && text.is_empty();
            match kind {
                _ if hole => tokens.push(&format!("[PAD{id}]")),
                // GGUF readers look for these in the text as it is, before its spaces become U+2581.
                TokenKind::UserDefined if !byte_level => tokens.push(&text.replace(SPACE, " ")),
                _ => tokens.push(text),
            }
            token_types
                .push(if !byte_level && super::parse_byte(text).is_some() { TokenKind::Byte } else { kind } as i32);
        }
        let pre = if byte_level {
            let unsupported = || {
                Error::Tokenizer("the pre-tokenizer of this tokenizer has no name in GGUF (tokenizer.ggml.pre)".into())
            };
            name_of(self.pre.iter().filter_map(PreStep::split), bpe.whole_pieces).ok_or_else(unsupported)?
        } else {
            if !self.splits_are_spaces() {
                return Err(Error::Tokenizer("a SentencePiece tokenizer with a pre-tokenizer has no GGUF form".into()));
            }
            DEFAULT_PRE
        };
        let strip_first = self.decoder == Decoder::Spaces(Strip::One);
        let eos = self.roles.eos;
        Ok(GgufVocab {
            model: if byte_level { "gpt2" } else { "llama" }.into(),
            pre: pre.into(),
            scores: (!byte_level).then(|| self.scores(&bpe.merges)),
            merges: byte_level.then(|| self.merges_by_rank().iter().map(|(l, r)| format!("{l} {r}")).collect()),
            tokens,
            token_types: Some(token_types),
            bos: self.roles.bos,
            eos,
            eot: self.roles.ends.iter().copied().find(|id| Some(*id) != eos && !self.ends_text(*id)),
            eom: None,
            unk: self.roles.unknown,
            pad: self.roles.padding,
            add_bos: Some(self.adds_bos()),
            add_eos: Some(!self.suffix.is_empty()),
            add_space_prefix: (!byte_level).then_some(strip_first),
            chat_template: self.chat_template.clone(),
            exact: None,
            beyond: Vec::new(),
        })
    }

    /// Whether `id` ends a whole text, or only a message, rather than a turn.
    fn ends_text(&self, id: u32) -> bool {
        matches!(self.vocab.text(id), Some("<|end_of_text|>" | "<|endoftext|>" | "<|eom_id|>"))
    }

    /// Whether the only split is Gemma's: at spaces, which the normalizer has already replaced.
    fn splits_are_spaces(&self) -> bool {
        self.pre.iter().all(|step| match step {
            PreStep::Split(split) => split.pattern == Pattern::Literal(" ".into()),
            PreStep::Metaspace { split: None, .. } => true,
            _ => false,
        })
    }

    /// Scores that order merges as the ranks do. Tokens that no merge builds get the lowest.
    fn scores(&self, merges: &Merges) -> Vec<f32> {
        let mut best = vec![None; self.vocab.len()];
        for merge in merges.values() {
            let slot: &mut Option<u32> = &mut best[merge.id as usize];
            *slot = Some(slot.map_or(merge.rank, |rank| rank.min(merge.rank)));
        }
        // Ranks renumbered without gaps, so that they stay exact in f32.
        let mut ranks: Vec<u32> = best.iter().flatten().copied().collect();
        ranks.sort_unstable();
        ranks.dedup();
        let score = |rank: &u32| -(ranks.partition_point(|other| other < rank) as f32);
        best.iter().map(|rank| rank.as_ref().map_or(-(ranks.len() as f32), score)).collect()
    }

    /// The merges as pairs of texts, best first.
    pub(super) fn merges_by_rank(&self) -> Vec<(&str, &str)> {
        let Model::Bpe(Bpe { merges, .. }) = &self.model else { return Vec::new() };
        let mut merges: Vec<_> = merges.iter().collect();
        merges.sort_unstable_by_key(|((left, right), merge)| (merge.rank, *left, *right));
        let text = |id: u32| self.vocab.text(id).unwrap_or_default();
        merges.into_iter().map(|((left, right), _)| (text(*left), text(*right))).collect()
    }
}

fn unknown_model(name: &str) -> Error {
    Error::Tokenizer(format!(
        "tokenizer.ggml.model is {name:?}; supported are \"gpt2\" (byte-level BPE) and \"llama\" (SentencePiece)"
    ))
}

fn scores(gguf: &GgufVocab) -> Result<&[f32]> {
    gguf.scores.as_deref().ok_or_else(|| Error::Tokenizer("tokenizer.ggml.scores is missing".into()))
}

fn read_vocab(gguf: &GgufVocab, exact: Option<&Exact>) -> Result<Vocab> {
    let count = gguf.tokens.len();
    let same_length = |key: &str, length: Option<usize>| match length {
        Some(length) if length != count => {
            Err(Error::Tokenizer(format!("tokenizer.ggml.{key} has {length} entries, but there are {count} tokens")))
        }
        _ => Ok(()),
    };
    same_length("scores", gguf.scores.as_ref().map(Vec::len))?;
    same_length("token_type", gguf.token_types.as_ref().map(Vec::len))?;
    let mut vocab = Vocab::with_capacity(count.min(super::MAX_TOKENS));
    for (id, text) in gguf.tokens.iter().enumerate() {
        let number = gguf.token_types.as_ref().and_then(|types| types.get(id)).copied().unwrap_or(1);
        let mut kind = TokenKind::from_gguf(number).ok_or_else(|| {
            Error::Tokenizer(format!("tokenizer.ggml.token_type of token {id} is {number}; known are 1 to 6"))
        })?;
        let text = exact.and_then(|exact| exact.added(id as u32)).unwrap_or(text);
        if matches!(kind, TokenKind::Normal | TokenKind::UserDefined) && looks_like_control(text) {
            kind = TokenKind::Control;
        }
        if kind == TokenKind::Byte && exact.is_some_and(|exact| !exact.has_bytes()) {
            kind = TokenKind::Normal;
        }
        vocab.push(text, kind)?;
    }
    Ok(vocab)
}

fn read_merges(gguf: &GgufVocab, vocab: &Vocab) -> Result<Merges> {
    let merges = gguf.merges.as_ref().ok_or_else(|| Error::Tokenizer("tokenizer.ggml.merges is missing".into()))?;
    let pairs = merges.iter().enumerate().map(|(at, merge)| {
        // A token may itself be written with a space, but not begin with one.
        let cut = merge.char_indices().skip(1).find(|(_, c)| *c == ' ').map(|(cut, _)| cut);
        let pair = cut.map(|cut| (&merge[..cut], &merge[cut + 1..])).filter(|(_, right)| !right.is_empty());
        pair.ok_or_else(|| Error::Tokenizer(format!("tokenizer.ggml.merges[{at}] is not two tokens and a space")))
    });
    merges_from_pairs(vocab, pairs)
}
