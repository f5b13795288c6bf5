//! What `tokenizer.ggml.*` cannot say of a tokenizer: the key [`KEY`](super::GgufVocab::EXACT_KEY) of our GGUF files.
//!
//! GGUF names a pre-tokenizer and lists tokens, kinds, merges or scores; normalizers, flags of added tokens, tokens
//! around a text other than begin and end, and a few more have no place there. Where the tokenizer that GGUF's keys
//! describe is not the one that was written, this key holds the missing parts as `tokenizer.json` spells them. Tokens
//! and merges are not repeated, so it stays at a few kilobytes.

use std::collections::HashSet;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::bpe::{Alphabet, Merges, Unknown, merges_from_pairs};
use super::hf::{AddedJson, Parts};
use super::named::name_of;
use super::pre::PreStep;
use super::rewrite::Rewrite;
use super::split::Pattern;
use super::vocab::{TokenKind, Vocab};
use super::{Added, GgufVocab, Model, Roles, Tokenizer};
use crate::io::json;
use crate::{Error, Result};

/// The parsed value of the key.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Exact {
    normalizer: Value,
    pre_tokenizer: Value,
    post_processor: Value,
    decoder: Value,
    /// All of them, with their flags.
    added_tokens: Vec<AddedJson>,
    /// Added tokens that are no part of the model.
    beside: Vec<u32>,
    unk_token_id: Option<u32>,
    fuse_unk: bool,
    byte_fallback: bool,
    ignore_merges: bool,
    /// Where scores cannot say them.
    merges: Option<Vec<(String, String)>>,
}

impl Exact {
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |problem: String| Error::Tokenizer(format!("{}: {problem}", GgufVocab::EXACT_KEY));
        json::check_text(text.as_bytes()).map_err(bad)?;
        serde_json::from_str(text).map_err(|error| bad(json::plain_words(&error)))
    }

    /// The added tokens by id: text and kind of these stand here.
    pub fn added(&self, id: u32) -> Option<&str> {
        // Written in the order of ids.
        let at = self.added_tokens.binary_search_by_key(&id, |token| token.id).ok()?;
        Some(&self.added_tokens[at].content)
    }

    /// Whether texts like `<0x41>` stand for bytes.
    pub const fn has_bytes(&self) -> bool {
        self.byte_fallback
    }

    /// The tokenizer made of these parts, `vocab` with the texts of [`added`](Self::added), and the merges that GGUF's
    /// keys describe.
    pub fn tokenizer(
        &self,
        mut vocab: Vocab,
        roles: Roles,
        merges: Merges,
        chat_template: Option<String>,
    ) -> Result<Tokenizer> {
        let known = |id: u32| match (id as usize) < vocab.len() {
            true => Ok(()),
            false => Err(Error::Tokenizer(format!(
                "{}: token id {id}, but there are {} tokens",
                GgufVocab::EXACT_KEY,
                vocab.len()
            ))),
        };
        self.beside.iter().chain(&self.unk_token_id).copied().try_for_each(known)?;
        self.added_tokens.iter().try_for_each(|token| known(token.id))?;
        self.beside.iter().for_each(|id| vocab.set_beside(*id));
        let merges = match &self.merges {
            Some(pairs) => {
                merges_from_pairs(&vocab, pairs.iter().map(|(left, right)| Ok((left.as_str(), right.as_str()))))?
            }
            None => merges,
        };
        let parts = Parts {
            normalizer: &self.normalizer,
            pre_tokenizer: &self.pre_tokenizer,
            post_processor: &self.post_processor,
            decoder: &self.decoder,
            unknown: self.unk_token_id,
            fuse_unk: self.fuse_unk,
            byte_fallback: self.byte_fallback,
            ignore_merges: self.ignore_merges,
        };
        let added = self.added_tokens.iter().map(|token| token.added(token.special)).collect();
        let tokenizer = parts.tokenizer(vocab, added, merges, |_, _| roles)?;
        Ok(Tokenizer { chat_template, ..tokenizer })
    }
}

/// A part of a tokenizer in which two of them can differ, as messages name it.
const MERGES: &str = "merges";

impl Tokenizer {
    /// The value of the key; with the merges where `differences` names them.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] for parts that `tokenizer.json` cannot spell either.
    pub(super) fn to_exact(&self, differences: &[&str]) -> Result<String> {
        let Model::Bpe(bpe) = &self.model else {
            return Err(Error::Tokenizer("a unigram tokenizer has no GGUF form here".into()));
        };
        let mut added: Vec<&Added> = self.added().collect();
        added.sort_by_key(|token| token.id);
        let added = added.into_iter().map(|token| {
            let mut fields = Map::new();
            fields.insert("id".into(), token.id.into());
            fields.insert("content".into(), token.text.as_str().into());
            let flags = [
                ("special", token.control),
                ("single_word", token.single_word),
                ("lstrip", token.lstrip),
                ("rstrip", token.rstrip),
            ];
            for (name, _) in flags.into_iter().filter(|(_, flag)| *flag) {
                fields.insert(name.into(), true.into());
            }
            if token.normalized == token.control {
                fields.insert("normalized".into(), token.normalized.into());
            }
            Value::Object(fields)
        });
        let beside = self.vocab.iter().filter(|(id, ..)| self.vocab.is_beside(*id)).map(|(id, ..)| id);
        let merges = differences.contains(&MERGES).then(|| self.merges_by_rank());
        let document = json!({
            "normalizer": self.json_normalizer()?,
            "pre_tokenizer": self.json_pre_tokenizer(),
            "post_processor": self.json_post_processor(),
            "decoder": self.json_decoder(),
            "added_tokens": added.collect::<Vec<_>>(),
            "beside": beside.collect::<Vec<_>>(),
            "unk_token_id": bpe.unknown.id,
            "fuse_unk": bpe.unknown.fuse,
            "byte_fallback": bpe.unknown.bytes.is_some(),
            "ignore_merges": bpe.whole_pieces,
            "merges": merges,
        });
        Ok(document.to_string())
    }

    /// The parts in which `other` is another tokenizer than this one: the two make the same of every text when there are
    /// none.
    pub(super) fn differences(&self, other: &Self) -> Vec<&'static str> {
        let (Model::Bpe(a), Model::Bpe(b)) = (&self.model, &other.model) else { return vec!["model"] };
        let parts = [
            ("tokens", self.same_tokens(other)),
            ("normalizer", self.rewrites == other.rewrites),
            ("pre-tokenizer", self.same_cuts(other)),
            (MERGES, same_merges(&a.merges, &b.merges)),
            ("alphabet", same_alphabet(&a.alphabet, &b.alphabet) && a.whole_pieces == b.whole_pieces),
            ("unknown text", same_unknown(&a.unknown, &b.unknown)),
            ("added tokens", self.recognised() == other.recognised()),
            ("decoder", self.decoder == other.decoder),
            ("tokens around a text", (&self.prefix, &self.suffix) == (&other.prefix, &other.suffix)),
            ("roles of tokens", self.same_roles(other)),
            ("chat template", self.chat_template == other.chat_template),
        ];
        parts.into_iter().filter(|(_, same)| !same).map(|(name, _)| name).collect()
    }

    fn same_tokens(&self, other: &Self) -> bool {
        self.vocab.len() == other.vocab.len()
            && self.vocab.iter().zip(other.vocab.iter()).all(|((_, text, kind), (_, other, other_kind))| {
                // Texts of holes mean nothing.
                kind == other_kind && (text == other || kind == TokenKind::Unused)
            })
    }

    fn same_roles(&self, other: &Self) -> bool {
        let ends = |roles: &Roles| {
            let mut ends = roles.ends.clone();
            ends.sort_unstable();
            ends
        };
        let (a, b) = (&self.roles, &other.roles);
        (a.bos, a.eos, a.unknown, a.padding) == (b.bos, b.eos, b.unknown, b.padding) && ends(a) == ends(b)
    }

    /// Whether texts are cut alike: by the same steps, or by steps for which GGUF has one name.
    fn same_cuts(&self, other: &Self) -> bool {
        let name = |of: &Self| match &of.model {
            Model::Bpe(bpe) if !of.cuts().any(PreStep::rewrites) => {
                name_of(of.cuts().filter_map(PreStep::split), bpe.whole_pieces)
            }
            _ => None,
        };
        self.cuts().eq(other.cuts()) || name(self).is_some() && name(self) == name(other)
    }

    /// The steps that cut a text. One at spaces cuts nothing where the normalizer has replaced them all.
    fn cuts(&self) -> impl Iterator<Item = &PreStep> {
        let replaces =
            |step: &Rewrite| matches!(step, Rewrite::Replace { from, to } if from == " " && !to.contains(' '));
        let no_spaces = self.rewrites.iter().any(replaces);
        self.pre.iter().filter(move |step| match step {
            PreStep::Split(split) => !(no_spaces && split.pattern == Pattern::Literal(" ".into())),
            _ => true,
        })
    }

    /// The added tokens by id. Where nothing is rewritten it does not matter whether they are looked for before or after.
    fn recognised(&self) -> Vec<Added> {
        let mut added: Vec<Added> = self.added().cloned().collect();
        added.sort_by_key(|token| token.id);
        if self.rewrites.is_empty() {
            added.iter_mut().for_each(|token| token.normalized = false);
        }
        added
    }
}

fn same_alphabet(a: &Alphabet, b: &Alphabet) -> bool {
    match (a, b) {
        (Alphabet::Bytes(a), Alphabet::Bytes(b)) => a == b,
        (Alphabet::Chars(a), Alphabet::Chars(b)) => a == b,
        _ => false,
    }
}

/// With a token for every byte no text is unknown.
fn same_unknown(a: &Unknown, b: &Unknown) -> bool {
    a.bytes == b.bytes && (a.bytes.is_some() || (a.id, a.fuse) == (b.id, b.fuse))
}

/// A pair, what it becomes, and its rank on both sides.
type Ranked = ((u32, u32), u32, [u32; 2]);

/// Whether `b` joins the same pairs in the same order as `a`. Pairs of equal rank go leftmost first. Where `b` has one
/// rank for two that `a` orders, that is another order if they can overlap, the right token of one being the left one of
/// the other. Where it is `a` that has one rank (tiktoken, SentencePiece), any order of a list serves, as in the lists
/// that Hugging Face's converters make of such files.
fn same_merges(a: &Merges, b: &Merges) -> bool {
    if a.len() != b.len() || a.iter().any(|(pair, merge)| b.get(pair).is_none_or(|other| other.id != merge.id)) {
        return false;
    }
    let mut pairs: Vec<Ranked> = a.iter().map(|(pair, merge)| (*pair, merge.id, [merge.rank, b[pair].rank])).collect();
    pairs.sort_unstable_by_key(|(_, _, ranks)| *ranks);
    let same_order = pairs.windows(2).all(|two| two[0].2[1] <= two[1].2[1]);
    same_order && pairs.chunk_by(|x, y| x.2[1] == y.2[1]).all(keeps_order)
}

/// Whether pairs that go leftmost first, given in the order they had, still win where they overlap.
fn keeps_order(tied: &[Ranked]) -> bool {
    let mut left_tokens = HashSet::new();
    tied.chunk_by(|x, y| x.2[0] == y.2[0]).all(|equal| {
        // In a text the right token of this pair would be the left one of an earlier pair, and this one would now win.
        let wins = equal.iter().any(|((_, right), ..)| left_tokens.contains(right));
        left_tokens.extend(equal.iter().map(|((left, _), ..)| *left));
        !wins
    })
}
